"""What eight devices say to each other in a train step, read in the compiled program."""

import functools
import math
from collections import Counter

import jax
import pytest

from resnet_jax.data.sources import open_sources
from resnet_jax.data.unreadable_images import UnreadableImages
from resnet_jax.diagnostics.hlo import collectives
from resnet_jax.models import variants
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import Variant
from resnet_jax.training import experiment as setups

CHANNELS = 8


def compile_step(config, mesh):
    """The state's shapes, and the collectives of the compiled step."""
    small = functools.partial(ResNet, stage_sizes=(1,), width=CHANNELS, stem="cifar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(variants.VARIANTS, "one_block", Variant(small, "no paper", "digits", 8, 10))
        config.model.name = "one_block"
        experiment = setups.prepare(config, mesh, open_sources("digits"), UnreadableImages(0, print))
        return experiment.abstract_state(), collectives(experiment.compile_steps()[1].as_text())


def summed(found):
    """Sizes of all arrays that are summed over the devices, once it is sure that nothing else is done with any."""
    assert {each.kind for each in found} == {"all-reduce"}  # No gathering, no exchange of data or parameters.
    arrays = [array for each in found for array in each.arrays]
    assert {dtype for dtype, _ in arrays} == {"f32"}  # No pictures, which are uint8, and no labels or order.
    return Counter(math.prod(shape) for _, shape in arrays)


def of_a_step(state):
    """Sizes of what every step must sum: gradients, what running statistics move towards, the loss and the accuracy."""
    leaves = jax.tree.leaves((state.params, state.batch_stats))
    return Counter(leaf.size for leaf in leaves) + Counter({1: 2})


@pytest.mark.parametrize("group_size", [0, 16])
def test_statistics_over_several_devices_are_summed_and_no_example_is_sent(tiny_config, mesh, group_size):
    """Devices wait for each other at every norm, on the way there and back, and exchange a number a channel."""
    tiny_config.batch_norm.group_size = group_size
    state, exchanged = compile_step(tiny_config, mesh)
    found, expected = summed(exchanged), of_a_step(state)
    assert not expected - found
    assert set(found - expected) == {CHANNELS}
    norms = len(jax.tree.leaves(state.batch_stats)) // 2
    assert len(exchanged) >= 2 * norms


def test_groups_within_a_device_wait_for_no_other(tiny_config, mesh):
    """All that is summed is summed at once, when the backward pass is done."""
    tiny_config.batch_norm.group_size = 8
    state, exchanged = compile_step(tiny_config, mesh)
    assert len(exchanged) == 1
    assert summed(exchanged) == of_a_step(state)


def test_a_batch_in_parts_is_split_without_moving_data(tiny_config, mesh):
    tiny_config.batch_norm.group_size, tiny_config.optimizer.accumulate_steps = 4, 2
    state, exchanged = compile_step(tiny_config, mesh)
    assert summed(exchanged) == of_a_step(state) + of_a_step(state)  # Those of each part.
