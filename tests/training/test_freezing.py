import jax
import numpy as np
import pytest

from resnet_jax.data.sources import open_sources
from resnet_jax.data.unreadable_images import UnreadableImages
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel
from resnet_jax.training import experiment as setups
from resnet_jax.training.freezing import Freezing, merge

PARAMS = {
    "stem_conv": {"kernel": 1},
    "stage1_block1": {"conv1": {"kernel": 2}, "norm1": {"scale": 3}},
    "head": {"bias": 4},
}


def test_parameters_are_split_by_their_names_and_merged_again():
    trained, frozen = Freezing(("stem*", "*/norm1/*")).split(PARAMS)
    assert trained == {"stage1_block1": {"conv1": {"kernel": 2}}, "head": {"bias": 4}}
    assert frozen == {"stem_conv": {"kernel": 1}, "stage1_block1": {"norm1": {"scale": 3}}}
    assert merge(trained, frozen) == PARAMS


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("stage2*",), "nothing fits 'stage2\\*': the parts are stem_conv, stage1_block1, head"),
        (("*",), "nothing to train"),
    ],
)
def test_patterns_that_fit_nothing_or_all_are_refused(patterns, message):
    with pytest.raises(UserError, match=message):
        Freezing(patterns).check(PARAMS)


def test_blocks_in_a_loop_cannot_be_frozen(tiny_config, single_device):
    tiny_config.model.name, tiny_config.freeze = "resnetv2_1001", ("stem*",)
    with pytest.raises(UserError, match="freeze tells blocks apart"):
        setups.check(tiny_config, single_device)


def train(config, mesh, steps=2):
    """The state before and after some steps, and the operations of a call."""
    experiment = setups.prepare(config, mesh, open_sources("digits"), UnreadableImages(0, print))
    state, size = experiment.initial_state(), experiment.config.steps_per_call
    before, step = parallel.fetch(state), experiment.compile_steps()[size]
    for _ in range(steps // size):
        state, _ = step(state, experiment.feed.inputs(0))
    return before, parallel.fetch(state), step.cost_analysis()["flops"]


def test_a_batch_norm_is_frozen_if_all_its_parameters_are(tiny_config, single_device):
    for patterns, is_frozen in ((("stem_norm/scale",), False), (("stem_norm/*",), True)):
        tiny_config.freeze = patterns
        before, after, _ = train(tiny_config, single_device, 1)
        same = np.array_equal(before.batch_stats["stem_norm"]["mean"], after.batch_stats["stem_norm"]["mean"])
        assert same == is_frozen
        assert np.array_equal(before.params["stem_norm"]["scale"], after.params["stem_norm"]["scale"])


def test_steps_in_one_call_freeze_and_average_as_single_ones_do(tiny_config, single_device):
    tiny_config.ema_decay, tiny_config.freeze = 0.9, ("stem*",)
    _, singly, _ = train(tiny_config, single_device)
    tiny_config.steps_per_call = 2
    before, at_once, _ = train(tiny_config, single_device)
    assert at_once.step == singly.step == 2
    assert np.array_equal(before.params["stem_conv"]["kernel"], at_once.params["stem_conv"]["kernel"])
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), at_once, singly)


def test_what_is_frozen_stays_bit_for_bit_and_costs_no_backward_pass(tiny_config, single_device):
    tiny_config.augment.crop_padding = 0
    _, _, flops_of_all = train(tiny_config, single_device)
    tiny_config.freeze = ("stem*", "stage1*")
    before, after, flops = train(tiny_config, single_device)
    frozen = ("stem_conv", "stem_norm", "stage1_block1")
    for name in before.params:
        same = jax.tree.map(np.array_equal, before.params[name], after.params[name])
        assert all(jax.tree.leaves(same)) if name in frozen else not any(jax.tree.leaves(same)), name
    for name in before.batch_stats:
        same = jax.tree.map(np.array_equal, before.batch_stats[name], after.batch_stats[name])
        assert all(jax.tree.leaves(same)) if name in frozen else not any(jax.tree.leaves(same)), name
    momentum = [leaf for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim]
    assert len(momentum) == len(jax.tree.leaves({name: before.params[name] for name in before.params.keys() - frozen}))
    # Backward passes take two thirds of the work; those of the stem and of stage 1, half of the network, are gone.
    assert flops < 0.75 * flops_of_all


def test_a_head_alone_costs_hardly_more_than_to_evaluate(tiny_config, single_device):
    tiny_config.augment.crop_padding = 0
    _, _, flops_of_all = train(tiny_config, single_device)
    tiny_config.freeze = ("stem*", "stage*")
    _, _, flops = train(tiny_config, single_device)
    assert flops < 0.4 * flops_of_all
