import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax
from resnet_jax import randomness
from resnet_jax.data.sources import open_sources
from resnet_jax.models import variants
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import Variant
from resnet_jax.randomness import Use
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import TrainedModel
from resnet_jax.training import experiment as experiments
from resnet_jax.training.distillation import make_teacher
from resnet_jax.training.train_step import (
    SINGLE_STEP,
    compile_train_steps,
    mean_over_microbatches,
    split_into_microbatches,
    update_ema,
)
from resnet_jax.workdir.workdir import WorkDir


def build(config, mesh):
    return experiments.build(config, mesh, open_sources("digits"), Reporter(active=False, max_unreadable=0))


def concatenated(metrics_by_call):
    return {name: np.concatenate([metrics[name] for metrics in metrics_by_call]) for name in metrics_by_call[0]}


def take_steps(config, mesh, calls, steps_per_call=1):
    """Return the state after `calls` calls, and the metrics of each step."""
    config.steps_per_call = steps_per_call
    experiment = build(config, mesh)
    state, inputs = experiment.initial_state(), experiment.feed.inputs(0)
    step, metrics = compile_train_steps(experiment)[experiment.call(0)], []
    for _ in range(calls):
        state, metric = step(state, inputs)
        metrics.append(parallel.fetch(metric))
    return parallel.fetch(state), concatenated(metrics)


@pytest.mark.parametrize(
    ("devices", "settings"),
    [
        (8, {"model.name": "tiny"}),
        pytest.param(
            8, {"model.name": "tiny", "model.stochastic_depth": 0.5, "model.dropout": 0.2}, marks=pytest.mark.slow
        ),
        pytest.param(8, {"model.name": "tiny", "batch_norm.group_size": 8}, marks=pytest.mark.slow),
        pytest.param(2, {"model.name": "tiny"}, marks=pytest.mark.slow),
        pytest.param(2, {"model.name": "tiny", "batch_norm.group_size": 8}, marks=pytest.mark.slow),
        pytest.param(8, {"model.name": "tiny", "batch_norm.group_size": 32}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_losses_are_the_same_on_any_number_of_devices(tiny_config, single_device, devices, settings):
    """BatchNorm sees the whole batch or group on any number of devices; later steps differ by accumulated rounding."""
    tiny_config.update_from_flattened_dict(settings)
    _, on_several_devices = take_steps(tiny_config, parallel.make_mesh(jax.devices()[:devices]), 3)
    _, on_one_device = take_steps(tiny_config, single_device, 3)
    np.testing.assert_allclose(on_several_devices["loss"], on_one_device["loss"], rtol=1e-5)
    np.testing.assert_allclose(on_several_devices["gradient_norm"], on_one_device["gradient_norm"], rtol=1e-3)


@pytest.mark.slow
def test_step_with_progressive_resizing_equals_one_that_resizes_to_this_size(tiny_config, single_device):
    tiny_config.dataset.update(mean=(0.3,), std=(0.4,), feed="resident")
    tiny_config.augment.progressive_resizing = ("6=0.5",)
    early, metrics_early = take_steps(tiny_config, single_device, 2)
    tiny_config.augment.progressive_resizing, tiny_config.dataset.image_size = (), 6
    small, metrics_small = take_steps(tiny_config, single_device, 2)
    jax.tree.map(np.testing.assert_array_equal, (early, metrics_early), (small, metrics_small))


def test_call_of_several_steps_equals_single_steps(tiny_config, single_device):
    together, metrics_together = take_steps(tiny_config, single_device, 1, steps_per_call=4)
    singly, metrics_singly = take_steps(tiny_config, single_device, 4)
    assert together.step == singly.step == 4
    for name in metrics_singly:
        np.testing.assert_allclose(metrics_together[name], metrics_singly[name], rtol=1e-4, err_msg=name)
    for actual, expected in zip(jax.tree.leaves(together.params), jax.tree.leaves(singly.params), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_stochastic_depth_is_a_function_of_seed_and_step(tiny_config, single_device):
    """With one batch per epoch and almost no learning rate, only the masks change from step to step."""
    tiny_config.model.stochastic_depth, tiny_config.batch_size, tiny_config.augment.crop_padding = 0.5, 360, 0
    tiny_config.optimizer.learning_rate = 1e-30
    _, once = take_steps(tiny_config, single_device, 3)
    _, again = take_steps(tiny_config, single_device, 3)
    assert len(set(once["loss"])) == 3
    np.testing.assert_array_equal(once["loss"], again["loss"])
    tiny_config.model.stochastic_depth = 0.0
    _, without = take_steps(tiny_config, single_device, 3)
    np.testing.assert_allclose(without["loss"], without["loss"][0], rtol=1e-6)


def test_metrics_belong_to_their_step(tiny_config, single_device):
    tiny_config.schedule.warmup_epochs = 1.0
    experiment = build(tiny_config, single_device)
    _, metrics = take_steps(tiny_config, single_device, 2)
    assert metrics.keys() == {"loss", "top1", "learning_rate", "gradient_norm"}
    assert metrics["learning_rate"] == pytest.approx([0.0, 0.1 / experiment.feed.steps_per_epoch])
    assert metrics["loss"][0] == pytest.approx(np.log(10), rel=0.05)
    assert 0 <= metrics["top1"][0] <= 0.5


def test_step_changes_every_parameter_unless_the_learning_rate_is_zero(tiny_config, single_device):
    """The first step of a warm-up has a learning rate of zero. It changes only the statistics of BatchNorm."""
    tiny_config.schedule.warmup_epochs = 1.0
    experiment = build(tiny_config, single_device)
    before = parallel.fetch(experiment.initial_state())
    still, _ = take_steps(tiny_config, single_device, 1)
    moved, _ = take_steps(tiny_config, single_device, 2)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, still.params)
    assert not any(jax.tree.leaves(changed))
    assert (before.batch_stats["stem_norm"]["mean"] != still.batch_stats["stem_norm"]["mean"]).any()
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, moved.params)
    assert all(jax.tree.leaves(changed))


# --- Moving averages ---


@pytest.mark.parametrize(("step", "decay"), [(0, 1 / 10), (8, 9 / 18), (1000, 0.6)])
def test_decay_of_averages_is_low_in_the_first_steps(tiny_config, single_device, step, decay):
    tiny_config.ema_decay = 0.6
    assert build(tiny_config, single_device).ema_decay(step) == pytest.approx(decay)


def test_update_ema_matches_values_computed_by_hand():
    averages = update_ema({"kernel": jnp.array([2.0])}, {"kernel": jnp.array([10.0])}, 0.6)
    np.testing.assert_allclose(averages["kernel"], [0.6 * 2 + 0.4 * 10], rtol=1e-6)


def test_state_holds_the_average_of_its_past_values(tiny_config, single_device):
    tiny_config.ema_decay = 0.15  # Applies from the second step on, where (1 + step) / (10 + step) is larger.
    experiment = build(tiny_config, single_device)
    state, step = experiment.initial_state(), compile_train_steps(experiment)[SINGLE_STEP]
    states = [parallel.fetch(state)]
    for _ in range(3):
        state, _ = step(state, experiment.feed.inputs(0))
        states.append(parallel.fetch(state))
    expected = {"params": states[0].params, "batch_stats": states[0].batch_stats}
    for number, decay in enumerate([0.1, 0.15, 0.15], 1):
        now = {"params": states[number].params, "batch_stats": states[number].batch_stats}
        expected = jax.tree.map(lambda old, new, decay=decay: decay * old + (1 - decay) * new, expected, now)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), states[-1].ema, expected)
    assert states[-1].variables is states[-1].ema


def test_trained_model_uses_the_averages(tiny_config, tmp_path):
    tiny_config.ema_decay = 0.9
    resnet_jax.train(tiny_config, str(tmp_path))
    model, directory = resnet_jax.load_run(str(tmp_path)), WorkDir(str(tmp_path))
    wanted = parallel.abstract(model.variables, parallel.replicated(model.mesh))
    with directory.open_checkpoints(2, "top1", read_only=True) as checkpoints:
        items, _ = checkpoints.restore(model.step, {**wanted, "ema": wanted})
    jax.tree.map(np.testing.assert_array_equal, model.variables, items["ema"])
    assert (model.variables["params"]["head"]["kernel"] != items["params"]["head"]["kernel"]).any()


# --- Microbatches ---

FREEZE_MIX_AND_AVERAGE = {"freeze": ("stem*",), "augment.mixup": 0.4, "ema_decay": 0.9}


def mesh_of(size):
    return parallel.make_mesh(jax.devices()[:size])


@pytest.fixture
def one_block_config(tiny_config, monkeypatch):
    """A model of one block, because on CPU every microbatch is compiled on its own."""
    small = functools.partial(ResNet, stage_sizes=(1,), width=8, stem="cifar")
    monkeypatch.setitem(variants.VARIANTS, "one_block", Variant(small, "no paper", "digits", 8, 10))
    tiny_config.model.name = "one_block"
    return tiny_config


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(1, [[0, 1, 2, 3], [4, 5, 6, 7]]), (2, [[0, 1, 4, 5], [2, 3, 6, 7]]), (4, [[0, 2, 4, 6], [1, 3, 5, 7]])],
)
def test_microbatch_takes_the_same_share_of_every_device_and_moves_no_example(devices, expected):
    mesh = mesh_of(devices)
    batch = parallel.place(np.arange(8, dtype=np.uint8).reshape(8, 1), parallel.batch_sharded(mesh))
    split = jax.jit(lambda array: split_into_microbatches(array, 2, mesh)).lower(batch).compile()
    microbatches = split(batch)
    assert microbatches[:, :, 0].tolist() == expected
    for shard in microbatches.addressable_shards:
        own = 8 // devices * shard.device.id
        assert sorted(shard.data.ravel().tolist()) == list(range(own, own + 8 // devices))
    text = split.as_text()
    assert not any(word in text for word in ("all-", "collective", "reduce-scatter"))


def test_mean_over_one_microbatch_is_the_result_of_the_function(single_device):
    assert mean_over_microbatches(lambda batch, index: (batch, index), "batch", 1, single_device) == ("batch", None)


def test_microbatch_receives_its_index(single_device):
    """Each microbatch's dropout key is derived from its index."""
    mean = mean_over_microbatches(lambda batch, index: (batch.sum(), 2.0**index), jnp.arange(9.0), 3, single_device)
    np.testing.assert_allclose(mean, [36 / 3, (1 + 2 + 4) / 3], rtol=1e-6)


def test_mean_of_equal_values_is_exact(single_device):
    """A sum of three equal values divided by three may differ from the value, and frozen statistics would drift."""
    values = jax.random.normal(jax.random.key(0), (1000,))
    mean = mean_over_microbatches(lambda batch, index: values, jnp.arange(3), 3, single_device)
    assert ((values + values + values) / 3 != values).any()
    np.testing.assert_array_equal(mean, values)


def take_accumulated_steps(config, mesh, count, steps=1, distilled=False):
    """Return the state before and after `steps` steps of `count` microbatches each, and the metrics."""
    config.optimizer.accumulate_steps = count
    experiments.check(config, mesh)
    experiment = build(config, mesh)
    if distilled:
        shape = jax.ShapeDtypeStruct((1, *experiment.feed.image_shape), jnp.float32)
        variables = experiment.model.lazy_init(randomness.key(9, Use.INITIAL_WEIGHTS), shape, train=False)
        variables = parallel.place(variables, parallel.replicated(mesh))
        trained = TrainedModel(
            experiment.config, experiment.classes, experiment.model, variables, experiment.preprocess, None, mesh
        )
        experiment = dataclasses.replace(experiment, teacher=make_teacher(experiment.config.loss, trained))
    state, metrics = experiment.initial_state(), []
    before, step = parallel.fetch(state), compile_train_steps(experiment)[SINGLE_STEP]
    for _ in range(steps):
        state, metric = step(state, experiment.feed.inputs(0))
        metrics.append(parallel.fetch(metric))
    return before, parallel.fetch(state), concatenated(metrics)


def assert_close(actual, expected):
    """Check that each array differs by less than 1e-5 of its largest value."""

    def compare(path, a, b):
        error = np.abs(a - b).max(initial=0) / np.abs(b).max(initial=1e-9)
        assert error < 1e-5, f"{jax.tree_util.keystr(path)}: {error}"

    jax.tree_util.tree_map_with_path(compare, actual, expected)


@pytest.mark.parametrize(
    ("devices", "count", "settings"),
    [
        pytest.param(2, 2, FREEZE_MIX_AND_AVERAGE, marks=pytest.mark.slow),
        pytest.param(2, 4, FREEZE_MIX_AND_AVERAGE, marks=pytest.mark.slow),
        (1, 4, {}),
        pytest.param(8, 2, {"batch_norm.group_size": 4}, marks=pytest.mark.slow),
        pytest.param(1, 4, {"model.norm": "group_norm", "batch_norm.group_size": 0}, marks=pytest.mark.slow),
    ],
    ids=["frozen, mixed, averaged, distilled", "four microbatches", "one device", "eight devices", "group norm"],
)
def test_accumulated_step_equals_the_step_of_the_whole_batch(one_block_config, single_device, devices, count, settings):
    """Holds because the groups of BatchNorm lie within a device's share of a microbatch."""
    config = one_block_config
    config.batch_norm.group_size = 8
    config.update_from_flattened_dict(settings)
    distilled = settings is FREEZE_MIX_AND_AVERAGE
    _, whole, metrics_of_whole = take_accumulated_steps(config, single_device, 1, distilled=distilled)
    before, accumulated, metrics = take_accumulated_steps(config, mesh_of(devices), count, distilled=distilled)
    assert_close(accumulated, whole)
    for name in metrics_of_whole:
        np.testing.assert_allclose(metrics[name], metrics_of_whole[name], rtol=1e-5, err_msg=name)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), accumulated.params["head"], before.params["head"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.slow
def test_microbatches_smaller_than_groups_have_their_own_statistics(one_block_config, single_device):
    """Running statistics move towards the mean over the microbatches, and the loss differs from the whole batch's."""
    _, whole, metrics_of_whole = take_accumulated_steps(one_block_config, single_device, 1)
    _, accumulated, metrics = take_accumulated_steps(one_block_config, single_device, 2)
    assert metrics["loss"] != pytest.approx(metrics_of_whole["loss"], rel=1e-5)
    mean = [state.batch_stats["stem_norm"]["mean"] for state in (accumulated, whole)]
    np.testing.assert_allclose(*mean, rtol=1e-4, atol=1e-6)  # The means agree; variances of microbatches are smaller.
    var = [state.batch_stats["stem_norm"]["var"] for state in (accumulated, whole)]
    assert var[0].sum() < var[1].sum()
