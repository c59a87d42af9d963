"""Communication between eight devices in a train step, read from the compiled program."""

import functools
import math
from collections import Counter

import jax
import pytest

from resnet_jax.data.sources import open_sources
from resnet_jax.diagnostics.hlo import parse_collectives
from resnet_jax.models import variants
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import Variant
from resnet_jax.terminal import Reporter
from resnet_jax.training import experiment as experiments
from resnet_jax.training.train_step import SINGLE_STEP, compile_train_steps

CHANNELS = 8


def compile_step(config, mesh):
    """Return the abstract state, and the collectives of the compiled step."""
    small = functools.partial(ResNet, stage_sizes=(1,), width=CHANNELS, stem="cifar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(variants.VARIANTS, "one_block", Variant(small, "no paper", "digits", 8, 10))
        config.model.name = "one_block"
        experiment = experiments.build(config, mesh, open_sources("digits"), Reporter(active=False, max_unreadable=0))
        return experiment.abstract_state(), parse_collectives(compile_train_steps(experiment)[SINGLE_STEP].as_text())


def reduced_sizes(collectives):
    """Check that all collectives are sums of float32 arrays, and return the sizes of these arrays."""
    assert {collective.kind for collective in collectives} == {"all-reduce"}  # No data or parameters are exchanged.
    arrays = [array for collective in collectives for array in collective.arrays]
    assert {dtype for dtype, _ in arrays} == {"f32"}  # No images, which are uint8, no labels and no permutation.
    return Counter(math.prod(shape) for _, shape in arrays)


def required_sizes(state):
    """Return the sizes of what every step must sum: gradients, batch statistics, the loss and the accuracy."""
    leaves = jax.tree.leaves((state.params, state.batch_stats))
    return Counter(leaf.size for leaf in leaves) + Counter({1: 2})


@pytest.mark.parametrize("group_size", [0, 16])
def test_batch_statistics_across_devices_are_summed_and_no_example_is_sent(tiny_config, mesh, group_size):
    """Each norm communicates in the forward and in the backward pass, one number per channel."""
    tiny_config.batch_norm.group_size = group_size
    state, collectives = compile_step(tiny_config, mesh)
    sizes, required = reduced_sizes(collectives), required_sizes(state)
    assert not required - sizes
    assert set(sizes - required) == {CHANNELS}
    norms = len(jax.tree.leaves(state.batch_stats)) // 2
    assert len(collectives) >= 2 * norms


def test_batch_norm_groups_within_a_device_need_one_collective_per_step(tiny_config, mesh):
    """Everything is summed at once, after the backward pass."""
    tiny_config.batch_norm.group_size = 8
    state, collectives = compile_step(tiny_config, mesh)
    assert len(collectives) == 1
    assert reduced_sizes(collectives) == required_sizes(state)


def test_microbatches_are_split_without_moving_data(tiny_config, mesh):
    tiny_config.batch_norm.group_size, tiny_config.optimizer.accumulate_steps = 4, 2
    state, collectives = compile_step(tiny_config, mesh)
    assert reduced_sizes(collectives) == required_sizes(state) + required_sizes(state)  # Once per microbatch.
