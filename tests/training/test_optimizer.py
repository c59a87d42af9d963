import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import config as settings
from resnet_jax.errors import UserError
from resnet_jax.models.factory import create_model
from resnet_jax.training import optimizer

STEPS_PER_EPOCH = 10


def make_schedule(**changes):
    config = settings.default()
    config.schedule.update(changes)
    return optimizer.make_schedule(config, STEPS_PER_EPOCH)


class TestSchedule:
    """Schedules of ten epochs of ten steps, with a peak of 0.1."""

    def test_warm_up_is_linear_from_zero_and_cosine_decays_to_zero(self):
        schedule = make_schedule(warmup_epochs=2.0)
        assert [float(schedule(step)) for step in (0, 5, 10, 20)] == pytest.approx([0, 0.025, 0.05, 0.1])
        halfway = 20 + 40
        assert float(schedule(halfway)) == pytest.approx(0.05)
        assert float(schedule(30)) == pytest.approx(0.1 * (1 + np.cos(np.pi / 8)) / 2)
        assert float(schedule(100)) == pytest.approx(0, abs=1e-9)

    def test_linear_decays_to_zero(self):
        schedule = make_schedule(name="linear")
        assert [float(schedule(step)) for step in (0, 25, 100)] == pytest.approx([0.1, 0.075, 0])

    @pytest.mark.parametrize("warmup_epochs", [0.0, 2.0])
    def test_step_epochs_count_from_the_start_of_the_run(self, warmup_epochs):
        schedule = make_schedule(name="step", step_epochs=(5, 8.5), warmup_epochs=warmup_epochs)
        steps = (49, 50, 84, 85)
        assert [float(schedule(step)) for step in steps] == pytest.approx([0.1, 0.01, 0.01, 0.001])

    def test_step_epoch_that_occurs_twice_counts_twice(self):
        schedule = make_schedule(name="step", step_epochs=(5, 5))
        assert float(schedule(50)) == pytest.approx(0.001)

    @pytest.mark.parametrize("name", optimizer.SCHEDULES)
    def test_warm_up_of_nearly_the_whole_run_leaves_one_step_for_the_decay(self, name):
        schedule = make_schedule(name=name, warmup_epochs=9.99, step_epochs=(5,))
        assert all(np.isfinite(float(schedule(step))) for step in range(101))

    @pytest.mark.parametrize("warmup_epochs", [10.0, 50.0])
    def test_warm_up_that_covers_the_run_is_shortened_to_a_tenth_of_it(self, warmup_epochs, caplog):
        with caplog.at_level("INFO"):
            schedule = make_schedule(warmup_epochs=warmup_epochs)
        assert [float(schedule(step)) for step in (0, 5, 10, 55, 100)] == pytest.approx([0, 0.05, 0.1, 0.05, 0])
        assert f"schedule.warmup_epochs ({warmup_epochs:g}) is not less than num_epochs (10)" in caplog.text

    def test_constant_keeps_the_peak_after_the_warm_up(self):
        schedule = make_schedule(name="constant", warmup_epochs=1.0)
        assert [float(schedule(step)) for step in (5, 10, 99)] == pytest.approx([0.05, 0.1, 0.1])


PARAMS = {
    "conv": {"kernel": np.full((2, 2), 2.0, np.float32)},
    "norm": {"scale": np.full(2, 3.0, np.float32), "bias": np.full(2, 1.0, np.float32)},
}
GRADIENTS = jax.tree.map(lambda leaf: np.full_like(leaf, 0.5), PARAMS)
ZEROS = jax.tree.map(np.zeros_like, PARAMS)


def take_steps(steps, params=PARAMS, gradients=GRADIENTS, **changes):
    """Return the updates of `steps` steps with constant parameters, gradients and learning rate (0.1)."""
    config = settings.default()
    config.optimizer.update({"weight_decay": 0.0, **changes})
    transformation = optimizer.make_optimizer(config, optax.constant_schedule(0.1))
    state, updates = transformation.init(params), []
    for _ in range(steps):
        update, state = transformation.update(gradients, state, params)
        updates.append(update)
    return updates


def test_sgd_accumulates_momentum():
    first, second, third = take_steps(3, nesterov=False)
    expected = [-0.1 * 0.5, -0.1 * (0.5 + 0.9 * 0.5), -0.1 * (0.5 + 0.9 * 0.95)]
    assert [float(update["conv"]["kernel"][0, 0]) for update in (first, second, third)] == pytest.approx(expected)


def test_sgd_with_nesterov_adds_the_momentum_of_the_next_step():
    """As in PyTorch: velocity = momentum * velocity + gradient; update = gradient + momentum * velocity."""
    first, second = take_steps(2)
    expected = [-0.1 * (0.5 + 0.9 * 0.5), -0.1 * (0.5 + 0.9 * 0.95)]
    assert [float(update["conv"]["kernel"][0, 0]) for update in (first, second)] == pytest.approx(expected)


def test_adam_with_constant_gradients_takes_steps_of_the_learning_rate():
    """Adam divides the mean gradient by the root mean square: with constant gradients, this gives their sign."""
    for update in take_steps(3, name="adam"):
        np.testing.assert_allclose(update["conv"]["kernel"], -0.1, rtol=1e-4)


@pytest.mark.parametrize(("exempt", "norm_decay"), [(False, 0.01), (True, 0.0)])
def test_sgd_adds_weight_decay_to_the_gradient_except_for_exempt_norms_and_biases(exempt, norm_decay):
    (update,) = take_steps(1, weight_decay=0.01, exempt_norm_and_bias=exempt, momentum=0.0)
    np.testing.assert_allclose(update["conv"]["kernel"], -0.1 * (0.5 + 0.01 * 2), rtol=1e-6)
    np.testing.assert_allclose(update["norm"]["scale"], -0.1 * (0.5 + norm_decay * 3), rtol=1e-6)
    np.testing.assert_allclose(update["norm"]["bias"], -0.1 * (0.5 + norm_decay * 1), rtol=1e-6)


# By optimizer: what weight decay alone subtracts from the kernel in one step, as a function of (decay, kernel). With
# trust ratios (LAMB, LARS) or Adam's second moment, the size of a step does not depend on the size of the gradient.
DECAY_STEP = {
    "sgd": lambda decay, kernel: 0.1 * decay * kernel,
    "adam": lambda decay, kernel: 0.1 * np.sign(kernel),
    "adamw": lambda decay, kernel: 0.1 * decay * kernel,
    "lamb": lambda decay, kernel: 0.1 * kernel,
    "lars": lambda decay, kernel: 0.1 * 0.001 * kernel,
    "muon": lambda decay, kernel: 0.1 * decay * kernel,
}


@pytest.mark.parametrize("decay", [0.01, 0.3])
@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_weight_decay_without_gradient_moves_kernels_and_nothing_exempt(name, decay):
    (update,) = take_steps(1, gradients=ZEROS, name=name, weight_decay=decay, exempt_norm_and_bias=True, nesterov=False)
    np.testing.assert_allclose(update["conv"]["kernel"], -DECAY_STEP[name](decay, PARAMS["conv"]["kernel"]), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, update["norm"], ZEROS["norm"])


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_nothing_moves_without_gradient_and_weight_decay(name):
    (update,) = take_steps(1, gradients=ZEROS, name=name)
    jax.tree.map(np.testing.assert_array_equal, update, ZEROS)


@pytest.mark.parametrize(("name", "trust_ratio"), [("adamw", 1), ("lamb", 5 / 6), ("lars", 0.001 * 5 / 6)])
def test_first_step_equals_a_value_computed_by_hand(name, trust_ratio):
    """Adam's first step is the sign of the gradient, which here is the gradient itself.

    The kernel has a norm of 5. With a weight decay of 1, the step before the trust ratio is gradient + kernel =
    [[1, 1], [3, 5]], which has a norm of 6.
    """
    kernel, gradient = np.float32([[1, 2], [2, 4]]), np.float32([[0, -1], [1, 1]])
    (update,) = take_steps(1, {"kernel": kernel}, {"kernel": gradient}, name=name, weight_decay=1.0, nesterov=False)
    np.testing.assert_allclose(update["kernel"], -0.1 * trust_ratio * np.array([[1, 1], [3, 5]]), rtol=1e-5)


# ---- Muon ------------------------------------------------------------------------------------------------------------


def newton_schulz(gradient):
    """Return the approximately orthogonal matrix of Jordan 2024, by its definition: five quintic steps."""
    matrix = gradient / np.linalg.norm(gradient)
    for _ in range(5):
        gram = matrix @ matrix.T
        matrix = 3.4445 * matrix + (-4.7750 * gram + 2.0315 * gram @ gram) @ matrix
    return matrix


CONVOLUTIONS = {
    "stem_conv": {"kernel": np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32)},
    "head": {"kernel": np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32), "bias": np.ones(3, np.float32)},
}
CONVOLUTION_GRADIENTS = jax.tree.map(lambda leaf: (leaf**2 - 1).astype(np.float32), CONVOLUTIONS)


def test_muon_takes_the_newton_schulz_step_of_a_kernel_as_a_matrix_of_inputs_by_outputs():
    first, second = take_steps(2, CONVOLUTIONS, CONVOLUTION_GRADIENTS, name="muon", momentum=0.6)
    matrix = CONVOLUTION_GRADIENTS["stem_conv"]["kernel"].reshape(18, 4)
    expected = -0.1 * newton_schulz(matrix.T).T.reshape(3, 3, 2, 4)  # at most one output per input: factor 1
    np.testing.assert_allclose(first["stem_conv"]["kernel"], expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(second["stem_conv"]["kernel"], expected, rtol=1e-3, atol=1e-5)  # the same gradient
    singular_values = np.linalg.svd(expected.reshape(18, 4) / 0.1, compute_uv=False)
    assert (np.abs(singular_values - 1) < 0.4).all()


def test_muon_updates_head_and_biases_by_sgd():
    muon, sgd = (
        take_steps(3, CONVOLUTIONS, CONVOLUTION_GRADIENTS, name=name, momentum=0.6) for name in ("muon", "sgd")
    )
    for update, expected in zip(muon, sgd, strict=True):
        jax.tree.map(np.testing.assert_array_equal, update["head"], expected["head"])


def test_weight_decay_of_muon_shrinks_all_parameters_at_the_rate_of_the_schedule():
    """Neither the momentum nor `rate_factors` change it, unlike the L2 penalty of SGD."""
    plain, decayed = (
        take_steps(3, CONVOLUTIONS, CONVOLUTION_GRADIENTS, name="muon", weight_decay=decay, rate_factors=("head/*=7",))[
            -1
        ]
        for decay in (0.0, 0.3)
    )
    difference = jax.tree.map(np.subtract, decayed, plain)
    shrunk = jax.tree.map(lambda leaf: -0.1 * 0.3 * leaf, CONVOLUTIONS)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6), difference, shrunk)


def test_fixed_kernel_norm_rescales_convolution_kernels_before_the_update():
    plain, fixed = (take_steps(1, CONVOLUTIONS, CONVOLUTION_GRADIENTS, fixed_kernel_norm=on)[0] for on in (False, True))
    kernel = CONVOLUTIONS["stem_conv"]["kernel"]
    rescaled = kernel + fixed["stem_conv"]["kernel"] - plain["stem_conv"]["kernel"]
    assert np.linalg.norm(rescaled) == pytest.approx(2.0, rel=1e-5)  # the root of four outputs
    np.testing.assert_allclose(rescaled / kernel, rescaled[0, 0, 0, 0] / kernel[0, 0, 0, 0], rtol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, plain["head"], fixed["head"])


# ---- Learning rates by name ------------------------------------------------------------------------------------------


def test_rate_factors_scale_the_updates_of_the_last_pattern_that_matches():
    plain, scaled = (
        take_steps(1, CONVOLUTIONS, jax.tree.map(np.ones_like, CONVOLUTIONS), rate_factors=factors)[0]
        for factors in ((), ("*/kernel=0.5", "head*=4"))
    )
    np.testing.assert_allclose(scaled["stem_conv"]["kernel"], 0.5 * plain["stem_conv"]["kernel"])
    np.testing.assert_allclose(scaled["head"]["kernel"], 4 * plain["head"]["kernel"])
    np.testing.assert_allclose(scaled["head"]["bias"], 4 * plain["head"]["bias"])


@pytest.mark.parametrize("entry", ["head*", "head*=two", "head*=-1", "head*=nan", "a=b=1", 3])
def test_rate_factor_of_another_form_is_refused(entry):
    with pytest.raises(UserError, match="entry of the wrong form"):
        optimizer.parse_rate_factors((entry,))


def test_rate_factor_without_a_parameter_is_refused():
    with pytest.raises(UserError, match=r"no parameter matches 'heat\*'.*stem_conv, head"):
        optimizer.check_rate_factors(("heat*=2",), CONVOLUTIONS)


def adam_with_decoupled_decay(weights, gradients, rates, decay, adapt, epsilon):
    mean, square = 0, 0
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        update = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + epsilon) + decay * weights
        trust_ratio = np.linalg.norm(weights) / np.linalg.norm(update) if adapt else 1
        weights = weights - rate * trust_ratio * update
    return weights


def adamw(weights, gradients, rates, decay, adapt):
    return adam_with_decoupled_decay(weights, gradients, rates, decay, adapt=False, epsilon=1e-8)


def lamb(weights, gradients, rates, decay, adapt):
    return adam_with_decoupled_decay(weights, gradients, rates, decay, adapt, epsilon=1e-6)


def lars(weights, gradients, rates, decay, adapt):
    velocity = 0
    for gradient, rate in zip(gradients, rates, strict=True):
        decayed = gradient + decay * weights
        trust_ratio = 0.001 * np.linalg.norm(weights) / np.linalg.norm(decayed) if adapt else 1
        step = rate * trust_ratio * decayed
        velocity = 0.9 * velocity + step
        weights = weights - (step + 0.9 * velocity)  # Nesterov momentum
    return weights


@pytest.mark.parametrize("exempt", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("definition", [adamw, lamb, lars])
def test_several_steps_equal_the_definition(definition, decay, exempt):
    """The definition is computed in float64, with a changing learning rate.

    Exempt parameters have neither weight decay nor a trust ratio.
    """
    draw = np.random.default_rng(0).normal
    start = {"kernel": draw(size=(3, 2)), "bias": draw(size=4)}
    gradients = [{"kernel": 0.01 * draw(size=(3, 2)), "bias": draw(size=4)} for _ in range(6)]
    rates = [0.1, 0.2, 0.3, 0.2, 0.1, 0.05]

    config = settings.default()
    config.optimizer.update(name=definition.__name__, weight_decay=decay, exempt_norm_and_bias=exempt)
    transformation = optimizer.make_optimizer(config, lambda step: np.float32(rates)[step])
    params = jax.tree.map(np.float32, start)
    state = transformation.init(params)
    for gradient in gradients:
        updates, state = transformation.update(jax.tree.map(np.float32, gradient), state, params)
        params = optax.apply_updates(params, updates)

    for name in ("kernel", "bias"):
        is_exempt = exempt and name == "bias"
        expected = definition(
            start[name],
            [gradient[name] for gradient in gradients],
            rates,
            0.0 if is_exempt else decay,
            adapt=not is_exempt,
        )
        np.testing.assert_allclose(params[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_grad_clip_clips_the_gradient_before_everything_else(name):
    clipped = jax.tree.map(lambda leaf: leaf * np.float32(0.1 / optax.tree.norm(GRADIENTS)), GRADIENTS)
    for update, expected in zip(
        take_steps(2, name=name, weight_decay=0.3, grad_clip=0.1),
        take_steps(2, gradients=clipped, name=name, weight_decay=0.3),
        strict=True,
    ):
        jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-5), update, expected)


@pytest.mark.parametrize(
    ("section", "name", "message"),
    [
        ("optimizer", "adm", r"unknown optimizer 'adm'\. Did you mean adam"),
        ("schedule", "cosin", r"unknown schedule 'cosin'\. Did you mean cosine"),
    ],
)
def test_unknown_name_is_an_error(section, name, message):
    config = settings.default()
    config[section].name = name
    with pytest.raises(UserError, match=message):
        optimizer.check(config)


# --- Layer-wise learning rates ----------------------------------------------------------------------------------------


def test_learning_rate_factors_fall_from_the_head_to_the_stem():
    model = create_model("resnetv2_164", 10)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))["params"]
    factors = optimizer.learning_rate_factors(params, 0.1, 0.5, model.stage_sizes)
    assert factors["head"] == {"kernel": 1.0, "bias": 1.0}
    assert factors["final_norm"]["scale"] == factors["stage3_block18"]["conv1"]["kernel"] == 0.05
    assert factors["stage3_block9"]["conv1"]["kernel"] == 0.1 * 0.5**10
    assert factors["stage2_block18"]["conv1"]["kernel"] == 0.1 * 0.5**19
    assert factors["stem_conv"]["kernel"] == 0.1 * 0.5 ** (54 + 1)


def test_learning_rate_factors_count_frozen_blocks_as_layers():
    trainable = {"stem_conv": {"kernel": 1}, "stage1_block2": {"conv1": {"kernel": 1}}, "head": {"kernel": 1}}
    factors = optimizer.learning_rate_factors(trainable, 1.0, 0.5, (2, 3))
    assert factors == {
        "stem_conv": {"kernel": 0.5**6},
        "stage1_block2": {"conv1": {"kernel": 0.5**4}},
        "head": {"kernel": 1.0},
    }


@pytest.mark.parametrize(("backbone_scale", "layer_decay"), [(0.1, 1.0), (1.0, 0.5)])
def test_scale_by_layer_multiplies_the_updates(backbone_scale, layer_decay):
    updates = {"head": {"kernel": jnp.ones(2)}, "stage1_block1": {"conv1": {"kernel": jnp.full(3, 2.0)}}}
    transformation = optimizer.scale_by_layer(backbone_scale, layer_decay, (1,))
    scaled, _ = transformation.update(updates, transformation.init(updates))
    np.testing.assert_array_equal(scaled["head"]["kernel"], 1)
    np.testing.assert_allclose(scaled["stage1_block1"]["conv1"]["kernel"], 2 * backbone_scale * layer_decay)
