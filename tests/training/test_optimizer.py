import jax
import numpy as np
import optax
import pytest

from resnet_jax import config as settings
from resnet_jax.errors import UserError
from resnet_jax.training import optimizer

STEPS_PER_EPOCH = 10


def schedule_of(**changed):
    config = settings.default()
    config.schedule.update(changed)
    return optimizer.make_schedule(config, STEPS_PER_EPOCH)


class TestSchedule:
    """Ten epochs of ten steps, with a peak of 0.1."""

    def test_warms_up_linearly_from_zero_and_then_decays_as_a_cosine_to_zero(self):
        schedule = schedule_of(warmup_epochs=2.0)
        assert [float(schedule(step)) for step in (0, 5, 10, 20)] == pytest.approx([0, 0.025, 0.05, 0.1])
        halfway = 20 + 40
        assert float(schedule(halfway)) == pytest.approx(0.05)
        assert float(schedule(30)) == pytest.approx(0.1 * (1 + np.cos(np.pi / 8)) / 2)
        assert float(schedule(100)) == pytest.approx(0, abs=1e-9)

    def test_linear(self):
        schedule = schedule_of(name="linear")
        assert [float(schedule(step)) for step in (0, 25, 100)] == pytest.approx([0.1, 0.075, 0])

    @pytest.mark.parametrize("warmup_epochs", [0.0, 2.0])
    def test_step_counts_its_epochs_from_the_start_of_the_run(self, warmup_epochs):
        schedule = schedule_of(name="step", step_epochs=(5, 8.5), warmup_epochs=warmup_epochs)
        steps = (49, 50, 84, 85)
        assert [float(schedule(step)) for step in steps] == pytest.approx([0.1, 0.01, 0.01, 0.001])

    def test_two_steps_at_once_count_twice(self):
        schedule = schedule_of(name="step", step_epochs=(5, 5))
        assert float(schedule(50)) == pytest.approx(0.001)

    @pytest.mark.parametrize("name", optimizer.SCHEDULES)
    def test_a_warm_up_of_nearly_the_whole_run_leaves_a_step(self, name):
        schedule = schedule_of(name=name, warmup_epochs=9.99, step_epochs=(5,))
        assert all(np.isfinite(float(schedule(step))) for step in range(101))

    def test_constant(self):
        schedule = schedule_of(name="constant", warmup_epochs=1.0)
        assert [float(schedule(step)) for step in (5, 10, 99)] == pytest.approx([0.05, 0.1, 0.1])


PARAMS = {
    "conv": {"kernel": np.full((2, 2), 2.0, np.float32)},
    "norm": {"scale": np.full(2, 3.0, np.float32), "bias": np.full(2, 1.0, np.float32)},
}
GRADIENTS = jax.tree.map(lambda leaf: np.full_like(leaf, 0.5), PARAMS)
ZEROS = jax.tree.map(np.zeros_like, PARAMS)


def updates_of(count, params=PARAMS, gradients=GRADIENTS, **changed):
    """The updates of `count` steps with constant parameters and gradients and a constant rate of 0.1."""
    config = settings.default()
    config.optimizer.update({"weight_decay": 0.0, **changed})
    transformation = optimizer.make_optimizer(config, optax.constant_schedule(0.1))
    state, updates = transformation.init(params), []
    for _ in range(count):
        update, state = transformation.update(gradients, state, params)
        updates.append(update)
    return updates


def test_momentum_accumulates():
    first, second, third = updates_of(3, nesterov=False)
    expected = [-0.1 * 0.5, -0.1 * (0.5 + 0.9 * 0.5), -0.1 * (0.5 + 0.9 * 0.95)]
    assert [float(update["conv"]["kernel"][0, 0]) for update in (first, second, third)] == pytest.approx(expected)


def test_nesterov_looks_one_step_ahead():
    """As PyTorch has it: velocity = momentum * velocity + gradient; update = gradient + momentum * velocity."""
    first, second = updates_of(2)
    expected = [-0.1 * (0.5 + 0.9 * 0.5), -0.1 * (0.5 + 0.9 * 0.95)]
    assert [float(update["conv"]["kernel"][0, 0]) for update in (first, second)] == pytest.approx(expected)


def test_adam_takes_steps_of_the_learning_rate():
    """With constant gradients Adam's normalised step is the sign of the gradient."""
    for update in updates_of(3, name="adam"):
        np.testing.assert_allclose(update["conv"]["kernel"], -0.1, rtol=1e-4)


@pytest.mark.parametrize(("exempt", "norm_decay"), [(False, 0.01), (True, 0.0)])
def test_weight_decay_is_added_to_the_gradient_and_can_spare_norms_and_biases(exempt, norm_decay):
    (update,) = updates_of(1, weight_decay=0.01, exempt_norm_and_bias=exempt, momentum=0.0)
    np.testing.assert_allclose(update["conv"]["kernel"], -0.1 * (0.5 + 0.01 * 2), rtol=1e-6)
    np.testing.assert_allclose(update["norm"]["scale"], -0.1 * (0.5 + norm_decay * 3), rtol=1e-6)
    np.testing.assert_allclose(update["norm"]["bias"], -0.1 * (0.5 + norm_decay * 1), rtol=1e-6)


# By optimizer, what weight decay alone takes off the kernel in a step, as a function of (decay, kernel): trust ratios
# and Adam's second moment are there so that the step does not depend on the size of the gradient.
DECAYED = {
    "sgd": lambda decay, kernel: 0.1 * decay * kernel,
    "adam": lambda decay, kernel: 0.1 * np.sign(kernel),
    "adamw": lambda decay, kernel: 0.1 * decay * kernel,
    "lamb": lambda decay, kernel: 0.1 * kernel,
    "lars": lambda decay, kernel: 0.1 * 0.001 * kernel,
}


@pytest.mark.parametrize("decay", [0.01, 0.3])
@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_without_a_gradient_weight_decay_moves_kernels_and_nothing_that_is_exempt(name, decay):
    (update,) = updates_of(1, gradients=ZEROS, name=name, weight_decay=decay, exempt_norm_and_bias=True, nesterov=False)
    np.testing.assert_allclose(update["conv"]["kernel"], -DECAYED[name](decay, PARAMS["conv"]["kernel"]), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, update["norm"], ZEROS["norm"])


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_without_a_gradient_or_weight_decay_nothing_moves(name):
    (update,) = updates_of(1, gradients=ZEROS, name=name)
    jax.tree.map(np.testing.assert_array_equal, update, ZEROS)


@pytest.mark.parametrize(("name", "trust_ratio"), [("adamw", 1), ("lamb", 5 / 6), ("lars", 0.001 * 5 / 6)])
def test_the_first_step_by_hand(name, trust_ratio):
    """The kernel's norm is 5. Adam's first step is the sign of the gradient, here the gradient itself. Weight decay of
    one makes it gradient + kernel = [[1, 1], [3, 5]], the norm of which is 6."""
    kernel, gradient = np.float32([[1, 2], [2, 4]]), np.float32([[0, -1], [1, 1]])
    (update,) = updates_of(1, {"kernel": kernel}, {"kernel": gradient}, name=name, weight_decay=1.0, nesterov=False)
    np.testing.assert_allclose(update["kernel"], -0.1 * trust_ratio * np.array([[1, 1], [3, 5]]), rtol=1e-5)


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
        weights = weights - (step + 0.9 * velocity)  # as Nesterov has it
    return weights


@pytest.mark.parametrize("exempt", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("definition", [adamw, lamb, lars])
def test_several_steps_equal_the_definition(definition, decay, exempt):
    """In float64, with a learning rate that changes. What is exempt has neither weight decay nor trust ratio."""
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
        spared = exempt and name == "bias"
        given = [gradient[name] for gradient in gradients]
        expected = definition(start[name], given, rates, 0.0 if spared else decay, adapt=not spared)
        np.testing.assert_allclose(params[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_grad_clip_bounds_the_gradient_before_anything_else_sees_it(name):
    clipped = jax.tree.map(lambda leaf: leaf * np.float32(0.1 / optax.global_norm(GRADIENTS)), GRADIENTS)
    for given, expected in zip(
        updates_of(2, name=name, weight_decay=0.3, grad_clip=0.1),
        updates_of(2, gradients=clipped, name=name, weight_decay=0.3),
        strict=True,
    ):
        jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-5), given, expected)


@pytest.mark.parametrize(
    ("section", "name", "message"),
    [
        ("optimizer", "adm", "unknown optimizer 'adm': did you mean adam"),
        ("schedule", "cosin", "unknown schedule 'cosin': did you mean cosine"),
    ],
)
def test_unknown_names_are_refused(section, name, message):
    config = settings.default()
    config[section].name = name
    with pytest.raises(UserError, match=message):
        optimizer.check(config)
