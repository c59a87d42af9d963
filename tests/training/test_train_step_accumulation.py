import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import randomness
from resnet_jax.data.sources import open_sources
from resnet_jax.data.unreadable_images import UnreadableImages
from resnet_jax.models import variants
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import Variant
from resnet_jax.randomness import Use
from resnet_jax.runtime import parallel
from resnet_jax.trained_model import TrainedModel
from resnet_jax.training import experiment as setups
from resnet_jax.training.train_step import mean_over_parts, split_into_parts

FREEZE_MIX_AND_AVERAGE = {"freeze": ("stem*",), "augment.mixup": 0.4, "ema_decay": 0.9}


def meshes(size):
    return parallel.make_mesh(jax.devices()[:size])


@pytest.fixture(autouse=True)
def one_block(tiny_config, monkeypatch):
    """Each part is compiled by itself on CPU, so the network is even smaller than the tiny one."""
    small = functools.partial(ResNet, stage_sizes=(1,), width=8, stem="cifar")
    monkeypatch.setitem(variants.VARIANTS, "one_block", Variant(small, "no paper", "digits", 8, 10))
    tiny_config.model.name = "one_block"


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(1, [[0, 1, 2, 3], [4, 5, 6, 7]]), (2, [[0, 1, 4, 5], [2, 3, 6, 7]]), (4, [[0, 2, 4, 6], [1, 3, 5, 7]])],
)
def test_a_part_has_the_same_share_of_every_device_and_no_example_moves(devices, expected):
    mesh = meshes(devices)
    batch = parallel.place(np.arange(8, dtype=np.uint8).reshape(8, 1), parallel.batch_sharded(mesh))
    split = jax.jit(lambda array: split_into_parts(array, 2, mesh)).lower(batch).compile()
    parts = split(batch)
    assert parts[:, :, 0].tolist() == expected
    for shard in parts.addressable_shards:
        own = 8 // devices * shard.device.id
        assert sorted(shard.data.ravel().tolist()) == list(range(own, own + 8 // devices))
    text = split.as_text()
    assert not any(word in text for word in ("all-", "collective", "reduce-scatter"))


def test_the_mean_over_one_part_is_the_function_itself(single_device):
    assert mean_over_parts(lambda batch, part: (batch, part), "batch", 1, single_device) == ("batch", None)


def test_every_part_is_told_its_number(single_device):
    """From which its dropout is drawn."""
    mean = mean_over_parts(lambda batch, part: (batch.sum(), 2.0**part), jnp.arange(9.0), 3, single_device)
    np.testing.assert_allclose(mean, [36 / 3, (1 + 2 + 4) / 3], rtol=1e-6)


def test_the_mean_of_equal_values_is_that_value_to_the_last_bit(single_device):
    """A sum over three parts divided by three is not, and frozen statistics would drift."""
    values = jax.random.normal(jax.random.key(0), (1000,))
    mean = mean_over_parts(lambda batch, part: values, jnp.arange(3), 3, single_device)
    assert ((values + values + values) / 3 != values).any()
    np.testing.assert_array_equal(mean, values)


def take_steps(config, mesh, parts, steps=1, taught=False):
    """The state before and after, and the metrics."""
    config.optimizer.accumulate_steps = parts
    setups.check(config, mesh)
    experiment = setups.prepare(config, mesh, open_sources("digits"), UnreadableImages(0, print))
    if taught:
        shape = jax.ShapeDtypeStruct((1, *experiment.feed.image_shape), jnp.float32)
        variables = experiment.model.lazy_init(randomness.key(9, Use.INITIAL_WEIGHTS), shape, train=False)
        variables = parallel.place(variables, parallel.replicated(mesh))
        run = TrainedModel(
            experiment.config, experiment.classes, experiment.model, variables, experiment.preprocess, None, mesh
        )
        experiment = dataclasses.replace(experiment, teacher=run)
    state, metrics = experiment.initial_state(), []
    before, step = parallel.fetch(state), experiment.compile_steps()[1]
    for _ in range(steps):
        state, metric = step(state, experiment.feed.inputs(0))
        metrics.append(parallel.fetch(metric))
    return before, parallel.fetch(state), {name: np.concatenate([m[name] for m in metrics]) for name in metrics[0]}


def assert_close(one, other):
    """Each array to 1e-5 of its largest value."""

    def compare(path, a, b):
        error = np.abs(a - b).max(initial=0) / np.abs(b).max(initial=1e-9)
        assert error < 1e-5, f"{jax.tree_util.keystr(path)}: {error}"

    jax.tree_util.tree_map_with_path(compare, one, other)


@pytest.mark.parametrize(
    ("devices", "parts", "settings"),
    [
        (2, 2, FREEZE_MIX_AND_AVERAGE),
        pytest.param(2, 4, FREEZE_MIX_AND_AVERAGE, marks=pytest.mark.slow),
        pytest.param(1, 4, {}, marks=pytest.mark.slow),
        pytest.param(8, 2, {"batch_norm.group_size": 4}, marks=pytest.mark.slow),
        pytest.param(1, 4, {"model.norm": "group_norm", "batch_norm.group_size": 0}, marks=pytest.mark.slow),
    ],
    ids=["frozen, mixed, averaged, taught", "the same in four parts", "one device", "eight devices", "group norm"],
)
def test_a_batch_in_parts_makes_the_step_of_the_batch_at_once(tiny_config, single_device, devices, parts, settings):
    """Where BatchNorm's groups lie within what a device has of a part."""
    tiny_config.batch_norm.group_size = 8
    tiny_config.update_from_flattened_dict(settings)
    taught = settings is FREEZE_MIX_AND_AVERAGE
    _, at_once, metrics_at_once = take_steps(tiny_config, single_device, 1, taught=taught)
    before, in_parts, metrics = take_steps(tiny_config, meshes(devices), parts, taught=taught)
    assert_close(in_parts, at_once)
    for name in metrics_at_once:
        np.testing.assert_allclose(metrics[name], metrics_at_once[name], rtol=1e-5, err_msg=name)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), in_parts.params["head"], before.params["head"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.slow
def test_parts_that_groups_are_larger_than_have_statistics_of_their_own(tiny_config, single_device):
    """Running statistics move towards the mean of the parts', and the loss is another one than at once."""
    _, at_once, metrics_at_once = take_steps(tiny_config, single_device, 1)
    _, in_parts, metrics = take_steps(tiny_config, single_device, 2)
    assert metrics["loss"] != pytest.approx(metrics_at_once["loss"], rel=1e-5)
    mean = [state.batch_stats["stem_norm"]["mean"] for state in (in_parts, at_once)]
    np.testing.assert_allclose(*mean, rtol=1e-4, atol=1e-6)  # Means are the same; the variances of parts are smaller.
    var = [state.batch_stats["stem_norm"]["var"] for state in (in_parts, at_once)]
    assert var[0].sum() < var[1].sum()
