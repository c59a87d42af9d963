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


PARAMS = {"conv": {"kernel": np.full((2, 2), 2.0)}, "norm": {"scale": np.full(2, 3.0), "bias": np.full(2, 1.0)}}
GRADIENTS = jax.tree.map(lambda leaf: np.full_like(leaf, 0.5), PARAMS)


def updates_of(count, **changed):
    """The updates of `count` steps with constant gradients and a constant rate of 0.1."""
    config = settings.default()
    config.optimizer.update({"weight_decay": 0.0, **changed})
    transformation = optimizer.make_optimizer(config, optax.constant_schedule(0.1))
    state, updates = transformation.init(PARAMS), []
    for _ in range(count):
        update, state = transformation.update(GRADIENTS, state, PARAMS)
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


def test_grad_clip_bounds_the_global_norm():
    (update,) = updates_of(1, grad_clip=0.1, momentum=0.0)
    assert float(optax.global_norm(update)) == pytest.approx(0.1 * 0.1)


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
