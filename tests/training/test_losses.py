import jax
import numpy as np
import pytest

from resnet_jax import config as settings
from resnet_jax.errors import UserError
from resnet_jax.training import losses

LOGITS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 4, 0], np.int32)


@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_the_definition(name, smoothing):
    log_probabilities = LOGITS - np.log(np.exp(LOGITS.astype(np.float64)).sum(-1, keepdims=True))
    targets = (1 - smoothing) * np.eye(5)[LABELS] + smoothing / 5
    expected = -(targets * log_probabilities).sum(-1)
    np.testing.assert_allclose(losses.LOSSES[name](LOGITS, LABELS, smoothing), expected, rtol=1e-5)


def test_one_hot_labels_may_be_given_as_such():
    given = losses.softmax_cross_entropy_one_hot(LOGITS, np.eye(5, dtype=np.float32)[LABELS], 0.1)
    np.testing.assert_array_equal(given, losses.softmax_cross_entropy_one_hot(LOGITS, LABELS, 0.1))


def test_config_gives_the_mean_of_the_named_loss():
    config = settings.default().loss
    config.label_smoothing = 0.2
    loss = losses.from_config(config)(LOGITS, LABELS)
    np.testing.assert_allclose(loss, losses.softmax_cross_entropy(LOGITS, LABELS, 0.2).mean(), rtol=1e-6)


def test_gradient_is_probability_minus_target():
    gradient = jax.grad(lambda logits: losses.softmax_cross_entropy(logits, LABELS).sum())(LOGITS)
    np.testing.assert_allclose(gradient, jax.nn.softmax(LOGITS) - np.eye(5)[LABELS], atol=1e-6)


def test_unknown_name_is_refused():
    config = settings.default().loss
    config.name = "softmax_crossentropy"
    with pytest.raises(UserError, match="unknown loss 'softmax_crossentropy': did you mean softmax_cross_entropy"):
        losses.from_config(config)
