import jax
import numpy as np
import pytest

from resnet_jax.data.sources import open_sources
from resnet_jax.data.unreadable_images import UnreadableImages
from resnet_jax.runtime import parallel
from resnet_jax.training import experiment as setups

UNREADABLE = UnreadableImages(0, print)


def take_steps(config, mesh, calls, steps_per_call=1):
    config.steps_per_call = steps_per_call
    experiment = setups.prepare(config, mesh, open_sources("digits"), UNREADABLE)
    state, inputs = experiment.initial_state(), experiment.feed.inputs(0)
    step, metrics = experiment.compile_steps()[steps_per_call], []
    for _ in range(calls):
        state, metric = step(state, inputs)
        metrics.append(parallel.fetch(metric))
    return parallel.fetch(state), {name: np.concatenate([metric[name] for metric in metrics]) for name in metrics[0]}


@pytest.mark.parametrize(
    ("devices", "settings"),
    [
        pytest.param(8, {"model.name": "resnet20"}, marks=pytest.mark.slow),
        (8, {"model.name": "tiny"}),
        (8, {"model.name": "tiny", "model.stochastic_depth": 0.5, "model.dropout": 0.2}),
        (8, {"model.name": "tiny", "batch_norm.group_size": 8}),
        pytest.param(2, {"model.name": "tiny"}, marks=pytest.mark.slow),
        pytest.param(2, {"model.name": "tiny", "batch_norm.group_size": 8}, marks=pytest.mark.slow),
        pytest.param(8, {"model.name": "tiny", "batch_norm.group_size": 32}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_any_number_of_devices_gives_the_same_losses(tiny_config, single_device, devices, settings):
    """BatchNorm sees the whole batch or group, on however many devices; later steps drift apart by rounding."""
    tiny_config.update_from_flattened_dict(settings)
    _, several = take_steps(tiny_config, parallel.make_mesh(jax.devices()[:devices]), 3)
    _, one = take_steps(tiny_config, single_device, 3)
    np.testing.assert_allclose(several["loss"], one["loss"], rtol=1e-5)
    np.testing.assert_allclose(several["gradient_norm"], one["gradient_norm"], rtol=1e-3)


def test_several_steps_in_a_call_are_the_steps_one_by_one(tiny_config, single_device):
    together, metrics_together = take_steps(tiny_config, single_device, 1, steps_per_call=4)
    singly, metrics_singly = take_steps(tiny_config, single_device, 4)
    assert together.step == singly.step == 4
    for name in metrics_singly:
        np.testing.assert_allclose(metrics_together[name], metrics_singly[name], rtol=1e-4, err_msg=name)
    for one, other in zip(jax.tree.leaves(together.params), jax.tree.leaves(singly.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_dropout_is_a_function_of_seed_and_step(tiny_config, single_device):
    """At a learning rate of zero for one batch an epoch, nothing but the masks changes from step to step."""
    tiny_config.model.stochastic_depth, tiny_config.batch_size, tiny_config.augment.crop_padding = 0.5, 360, 0
    tiny_config.optimizer.learning_rate = 1e-30
    _, once = take_steps(tiny_config, single_device, 3)
    _, again = take_steps(tiny_config, single_device, 3)
    assert len(set(once["loss"])) == 3
    np.testing.assert_array_equal(once["loss"], again["loss"])
    tiny_config.model.stochastic_depth = 0.0
    _, without = take_steps(tiny_config, single_device, 3)
    np.testing.assert_allclose(without["loss"], without["loss"][0], rtol=1e-6)


def test_metrics_are_of_the_step(tiny_config, single_device):
    tiny_config.schedule.warmup_epochs = 1.0
    experiment = setups.prepare(tiny_config, single_device, open_sources("digits"), UNREADABLE)
    _, metrics = take_steps(tiny_config, single_device, 2)
    assert metrics.keys() == {"loss", "top1", "learning_rate", "gradient_norm"}
    assert metrics["learning_rate"] == pytest.approx([0.0, 0.1 / experiment.feed.steps_per_epoch])
    assert metrics["loss"][0] == pytest.approx(np.log(10), rel=0.05)
    assert 0 <= metrics["top1"][0] <= 0.5


def test_a_step_moves_every_array(tiny_config, single_device):
    """At a learning rate of zero, the first of a warm-up, nothing moves but BatchNorm's statistics."""
    tiny_config.schedule.warmup_epochs = 1.0
    experiment = setups.prepare(tiny_config, single_device, open_sources("digits"), UNREADABLE)
    before = parallel.fetch(experiment.initial_state())
    still, _ = take_steps(tiny_config, single_device, 1)
    moved, _ = take_steps(tiny_config, single_device, 2)
    changed = jax.tree.map(lambda one, other: bool((one != other).any()), before.params, still.params)
    assert not any(jax.tree.leaves(changed))
    assert (before.batch_stats["stem_norm"]["mean"] != still.batch_stats["stem_norm"]["mean"]).any()
    changed = jax.tree.map(lambda one, other: bool((one != other).any()), before.params, moved.params)
    assert all(jax.tree.leaves(changed))


def test_first_batch_is_what_the_first_step_sees(tiny_config, mesh):
    """Pictures shown to the user are augmented, and of the very examples of step 0."""
    tiny_config.augment.crop_padding = 0
    experiment = setups.prepare(tiny_config, mesh, open_sources("digits"), UNREADABLE)
    images, labels = experiment.batch(0)
    inputs = experiment.feed.inputs(0)
    np.testing.assert_array_equal(labels, np.asarray(inputs.labels)[inputs.order[0]])
    np.testing.assert_array_equal(images, np.asarray(inputs.pixels)[inputs.order[0]].reshape(-1, 8, 8, 1))
    assert images.dtype == np.uint8


def test_initial_state_depends_on_the_seed_alone(tiny_config, mesh, single_device):
    def kernel(devices):
        experiment = setups.prepare(tiny_config, devices, open_sources("digits"), UNREADABLE)
        return np.asarray(experiment.initial_state().params["stem_conv"]["kernel"])

    on_eight = kernel(mesh)
    np.testing.assert_array_equal(on_eight, kernel(single_device))
    tiny_config.seed = 1
    assert (on_eight != kernel(mesh)).all()
