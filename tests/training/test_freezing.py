import jax
import numpy as np
import pytest

from resnet_jax.data.sources import open_sources
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.training import experiment as experiments
from resnet_jax.training.freezing import Freezing, merge
from resnet_jax.training.train_step import compile_train_steps

PARAMS = {
    "stem_conv": {"kernel": 1},
    "stage1_block1": {"conv1": {"kernel": 2}, "norm1": {"scale": 3}},
    "head": {"bias": 4},
}


def test_split_selects_parameters_by_name_and_merge_restores_the_tree():
    trained, frozen = Freezing(("stem*", "*/norm1/*")).split(PARAMS)
    assert trained == {"stage1_block1": {"conv1": {"kernel": 2}}, "head": {"bias": 4}}
    assert frozen == {"stem_conv": {"kernel": 1}, "stage1_block1": {"norm1": {"scale": 3}}}
    assert merge(trained, frozen) == PARAMS


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("stage2*",), r"no parameter matches 'stage2\*'. Names begin with one of: stem_conv, stage1_block1, head\."),
        (("*",), "leaves nothing to train"),
    ],
)
def test_pattern_that_matches_no_parameter_or_all_is_an_error(patterns, message):
    with pytest.raises(UserError, match=message):
        Freezing(patterns).check(PARAMS)


def test_freeze_with_scan_blocks_is_an_error(tiny_config, single_device):
    tiny_config.model.name, tiny_config.freeze = "resnetv2_1001", ("stem*",)
    with pytest.raises(UserError, match=r"freeze does not work with model\.scan_blocks"):
        experiments.check(tiny_config, single_device)


def train(config, mesh, steps=2):
    """Return the state before and after `steps` steps, and the FLOPs of a call."""
    experiment = experiments.build(config, mesh, open_sources("digits"), Reporter(active=False, max_unreadable=0))
    state, size = experiment.initial_state(), experiment.config.steps_per_call
    before, step = parallel.fetch(state), compile_train_steps(experiment)[experiment.call(0)]
    for _ in range(steps // size):
        state, _ = step(state, experiment.feed.inputs(0))
    return before, parallel.fetch(state), step.cost_analysis()["flops"]


def test_batch_norm_statistics_are_frozen_only_if_all_its_parameters_are(tiny_config, single_device):
    for patterns, is_frozen in ((("stem_norm/scale",), False), (("stem_norm/*",), True)):
        tiny_config.freeze = patterns
        before, after, _ = train(tiny_config, single_device, 1)
        same = np.array_equal(before.batch_stats["stem_norm"]["mean"], after.batch_stats["stem_norm"]["mean"])
        assert same == is_frozen
        assert np.array_equal(before.params["stem_norm"]["scale"], after.params["stem_norm"]["scale"])


@pytest.mark.slow
def test_several_steps_per_call_give_the_same_frozen_parameters_and_averages_as_single_steps(
    tiny_config, single_device
):
    tiny_config.ema_decay, tiny_config.freeze = 0.9, ("stem*",)
    _, single_steps, _ = train(tiny_config, single_device)
    tiny_config.steps_per_call = 2
    before, one_call, _ = train(tiny_config, single_device)
    assert one_call.step == single_steps.step == 2
    assert np.array_equal(before.params["stem_conv"]["kernel"], one_call.params["stem_conv"]["kernel"])
    jax.tree.map(
        lambda actual, expected: np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5),
        one_call,
        single_steps,
    )


def test_frozen_layers_stay_bit_identical_and_need_no_backward_pass(tiny_config, single_device):
    tiny_config.augment.crop_padding = 0
    _, _, flops_unfrozen = train(tiny_config, single_device)
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
    # Backward passes are two thirds of the work. Those of the stem and of stage 1, half of the model, are not needed.
    assert flops < 0.75 * flops_unfrozen


def test_training_only_the_head_costs_little_more_than_evaluation(tiny_config, single_device):
    tiny_config.augment.crop_padding = 0
    _, _, flops_unfrozen = train(tiny_config, single_device)
    tiny_config.freeze = ("stem*", "stage*")
    _, _, flops = train(tiny_config, single_device)
    assert flops < 0.4 * flops_unfrozen
