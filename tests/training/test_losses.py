import jax
import numpy as np
import pytest
from scipy import special
from sklearn.utils.class_weight import compute_class_weight

from resnet_jax import config as settings
from resnet_jax.errors import UserError
from resnet_jax.training import losses

LOGITS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 4, 0], np.int32)
SOFT = np.random.default_rng(1).dirichlet(np.full(5, 0.3), size=6).astype(np.float32)
SOFTMAX_LOSSES = ("softmax_cross_entropy", "softmax_cross_entropy_one_hot")


def smooth(labels, smoothing):
    """Return smoothed targets in float64: 1 - smoothing + smoothing / 5 for the true class, smoothing / 5 elsewhere."""
    one_hot = np.eye(5)[labels] if labels.ndim == 1 else labels.astype(np.float64)
    return (1 - smoothing) * one_hot + smoothing / 5


def binary_cross_entropy_by_definition(targets):
    """Return the binary cross-entropy of `LOGITS`, in float64."""
    probabilities = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    return -(targets * np.log(probabilities) + (1 - targets) * np.log(1 - probabilities)).mean(-1)


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["integer", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
class TestValue:
    @pytest.mark.parametrize("name", SOFTMAX_LOSSES)
    def test_softmax_equals_the_definition(self, name, smoothing, labels):
        log_probabilities = LOGITS - np.log(np.exp(LOGITS.astype(np.float64)).sum(-1, keepdims=True))
        expected = -(smooth(labels, smoothing) * log_probabilities).sum(-1)
        np.testing.assert_allclose(losses.LOSSES[name](LOGITS, labels, smoothing), expected, rtol=1e-5)

    def test_binary_equals_the_definition(self, smoothing, labels):
        expected = binary_cross_entropy_by_definition(smooth(labels, smoothing))
        np.testing.assert_allclose(losses.binary_cross_entropy(LOGITS, labels, smoothing), expected, rtol=1e-5)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_one_hot_and_integer_labels_give_the_same_loss(name):
    loss = losses.LOSSES[name](LOGITS, np.eye(5, dtype=np.float32)[LABELS], 0.1)
    np.testing.assert_array_equal(loss, losses.LOSSES[name](LOGITS, LABELS, 0.1))


def test_target_threshold_counts_only_strictly_greater_targets():
    mixed = np.float32([[0.2, 0.8, 0, 0, 0], [0.21, 0.79, 0, 0, 0], [1, 0, 0, 0, 0]]).repeat(2, axis=0)
    expected = np.float64([[0, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).repeat(2, axis=0)
    loss = losses.binary_cross_entropy(LOGITS, mixed, target_threshold=0.2)
    np.testing.assert_allclose(loss, binary_cross_entropy_by_definition(expected), rtol=1e-5)


def test_target_threshold_applies_to_smoothed_targets():
    """A smoothing of 0.1 raises a target of 0.19 to 0.191."""
    mixed = np.float32([[0.19, 0.81, 0, 0, 0]]).repeat(6, axis=0)
    loss = losses.binary_cross_entropy(LOGITS, mixed, 0.1, target_threshold=0.1905)
    np.testing.assert_allclose(loss, binary_cross_entropy_by_definition(np.float64([[1, 1, 0, 0, 0]])), rtol=1e-5)


def test_target_threshold_of_zero_counts_every_positive_target():
    loss = losses.binary_cross_entropy(LOGITS, LABELS, target_threshold=0.0)
    np.testing.assert_allclose(loss, binary_cross_entropy_by_definition(np.eye(5)[LABELS]), rtol=1e-5)


def test_from_config_returns_the_mean_of_the_named_loss():
    config = settings.default().loss
    config.label_smoothing = 0.2
    loss = losses.from_config(config)(LOGITS, LABELS)
    np.testing.assert_allclose(loss, losses.softmax_cross_entropy(LOGITS, LABELS, 0.2).mean(), rtol=1e-6)


def test_from_config_passes_the_target_threshold_on():
    config = settings.default().loss
    config.update(name="binary_cross_entropy", label_smoothing=0.2, target_threshold=0.3)
    loss = losses.from_config(config)(LOGITS, SOFT)
    np.testing.assert_allclose(
        loss, losses.binary_cross_entropy(LOGITS, SOFT, 0.2, target_threshold=0.3).mean(), rtol=1e-6
    )


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["integer", "soft"])
class TestGradient:
    def test_softmax_gradient_is_probability_minus_target(self, labels):
        gradient = jax.grad(lambda logits: losses.softmax_cross_entropy(logits, labels).sum())(LOGITS)
        np.testing.assert_allclose(gradient, jax.nn.softmax(LOGITS) - smooth(labels, 0), atol=1e-6)

    def test_binary_gradient_is_sigmoid_minus_target_divided_by_the_number_of_classes(self, labels):
        gradient = jax.grad(lambda logits: losses.binary_cross_entropy(logits, labels, 0.1).sum())(LOGITS)
        np.testing.assert_allclose(gradient, (jax.nn.sigmoid(LOGITS) - smooth(labels, 0.1)) / 5, atol=1e-6)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_extreme_logits_give_finite_losses_and_gradients(name):
    logits = np.float32([[300, -300, 0, 0, 0]])
    loss, gradient = jax.value_and_grad(lambda logits: losses.LOSSES[name](logits, np.array([1])).sum())(logits)
    assert loss >= 100
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
class TestFocalLoss:
    def test_softmax_equals_the_definition(self, gamma):
        probabilities = special.softmax(LOGITS.astype(np.float64), axis=-1)[np.arange(6), LABELS]
        expected = -((1 - probabilities) ** gamma) * np.log(probabilities)
        loss = losses.softmax_cross_entropy(LOGITS, LABELS, focal_gamma=gamma)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)

    def test_binary_equals_the_definition(self, gamma):
        targets = np.eye(5)[LABELS]
        sigmoid = special.expit(LOGITS.astype(np.float64))
        probabilities = np.where(targets == 1, sigmoid, 1 - sigmoid)
        expected = (-((1 - probabilities) ** gamma) * np.log(probabilities)).mean(-1)
        loss = losses.binary_cross_entropy(LOGITS, LABELS, focal_gamma=gamma)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)

    @pytest.mark.parametrize("name", losses.LOSSES)
    @pytest.mark.parametrize("label", [0, 1])
    def test_extreme_logits_give_finite_losses_and_gradients(self, gamma, name, label):
        logits = np.float32([[300, -300, 0, 0, 0]])
        loss, gradient = jax.value_and_grad(
            lambda logits: losses.LOSSES[name](logits, np.array([label]), focal_gamma=gamma).sum()
        )(logits)
        assert np.isfinite(loss) and np.isfinite(gradient).all()


class TestClassWeights:
    def loss(self, labels, weights):
        return float(losses.from_config(settings.default().loss, weights)(LOGITS, labels))

    def test_weights_multiply_the_loss_of_each_example(self):
        weights = np.float32([1, 2, 3, 0, 5])
        expected = (weights[LABELS] * losses.softmax_cross_entropy(LOGITS, LABELS)).mean()
        assert self.loss(LABELS, weights) == pytest.approx(float(expected), rel=1e-6)
        assert self.loss(np.eye(5, dtype=np.float32)[LABELS], weights) == pytest.approx(float(expected), rel=1e-6)

    @pytest.mark.parametrize("labels", [LABELS, SOFT])
    def test_weights_work_in_a_compiled_step(self, labels):
        weights = np.float32([1, 2, 3, 0, 5])
        loss = jax.jit(losses.from_config(settings.default().loss, weights))(LOGITS, labels)
        assert float(loss) == pytest.approx(self.loss(labels, weights), rel=1e-6)

    def test_soft_labels_have_the_mean_weight_of_their_classes(self):
        weights = np.float32([1, 2, 3, 0, 5])
        expected = (SOFT @ weights * losses.softmax_cross_entropy(LOGITS, SOFT)).mean()
        assert self.loss(SOFT, weights) == pytest.approx(float(expected), rel=1e-6)

    def test_balanced_weights_equal_those_of_scikit_learn(self):
        labels = np.repeat([0, 1, 2], [70, 25, 5])
        expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
        weights = losses.resolve_class_weights("balanced", 3, labels)
        np.testing.assert_allclose(weights, expected, rtol=1e-6)
        assert weights[labels].mean() == pytest.approx(1, rel=1e-6)

    def test_given_weights_are_used_as_they_are(self):
        assert losses.resolve_class_weights("1, 0.5,4", 3, None).tolist() == [1, 0.5, 4]

    def test_no_weights_by_default(self):
        assert losses.resolve_class_weights(settings.default().loss.class_weights, 3, None) is None

    @pytest.mark.parametrize("text", ["balance", "1,-1", "0,0", "nan,1", "1,,2"])
    def test_malformed_weights_are_an_error(self, text):
        with pytest.raises(
            UserError, match=r"loss\.class_weights .* must be 'balanced', or one number of at least 0 per class"
        ):
            losses.check_class_weights(text)

    def test_wrong_number_of_weights_is_an_error(self):
        with pytest.raises(UserError, match="has 2 numbers, but there are 3 classes"):
            losses.resolve_class_weights("1,2", 3, None)


@pytest.mark.parametrize("name", SOFTMAX_LOSSES)
def test_target_threshold_with_softmax_is_an_error(name):
    config = settings.default().loss
    config.update(name=name, target_threshold=0.2)
    with pytest.raises(UserError, match=rf"requires binary_cross_entropy \(loss.name is {name}\)\. Leave it unset\.$"):
        losses.from_config(config)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_target_threshold_outside_its_range_is_an_error(threshold):
    config = settings.default().loss
    config.update(name="binary_cross_entropy", target_threshold=threshold)
    with pytest.raises(
        UserError, match=rf"target_threshold must lie in \[0, 1\) \({threshold}\)\. Correct it or leave it unset\."
    ):
        losses.from_config(config)


def test_unknown_loss_is_an_error():
    config = settings.default().loss
    config.name = "softmax_crossentropy"
    with pytest.raises(UserError, match=r"unknown loss 'softmax_crossentropy'\. Did you mean softmax_cross_entropy"):
        losses.from_config(config)
