import functools

import numpy as np
import pytest

from resnet_jax.data.sources import open_sources
from resnet_jax.models import variants
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import Variant
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.training import experiment as experiments
from resnet_jax.training.nan_triage import first_not_finite, triage


def triage_first_step(config, mesh, spoil=lambda params: None):
    """Triage the first step of a run, after `spoil` has changed its parameters."""
    experiment = experiments.build(config, mesh, open_sources("digits"), Reporter(active=False, max_unreadable=0))
    state = parallel.fetch(experiment.initial_state())
    spoil(state.params)
    images, labels = parallel.place(parallel.fetch(experiment.batch_at(0)), parallel.batch_sharded(mesh))
    state = parallel.place(state, parallel.replicated(mesh))
    return triage(experiment, state, images, labels)


def overflow(params):
    """Give a convolution finite weights whose products overflow."""
    params["stage2_block1"]["conv1"]["kernel"][:] = 3e38


def test_triage_finds_the_layer_whose_output_overflows(tiny_config, mesh):
    """Remat, which does not keep activations, makes no difference."""
    tiny_config.model.remat, tiny_config.model.dropout = True, 0.2
    values = triage_first_step(tiny_config, mesh, overflow)
    first = first_not_finite(values)
    assert (first.kind, str(first)) == ("layer", "stage2_block1/conv1")
    before, after = values[: values.index(first)], values[values.index(first) + 1 :]
    assert [value.name for value in before if value.kind == "layer"] == [
        "stem_conv", "stem_norm", "stage1_block1/conv1", "stage1_block1/norm1", "stage1_block1/conv2",
        "stage1_block1/norm2", "stage1_block1",
    ]  # fmt: skip
    assert max(value.largest for value in before if value.kind == "variable") == pytest.approx(3e38)
    assert next(value for value in after if value.name == "loss").not_finite == 1


@pytest.mark.slow
def test_triage_lists_scanned_blocks_one_by_one(tiny_config, mesh, monkeypatch):
    scanned = functools.partial(ResNet, stage_sizes=(4,), width=8, stem="cifar", shortcut="pad")
    monkeypatch.setitem(variants.VARIANTS, "scanned", Variant(scanned, "no paper", "digits", 8, 10))
    tiny_config.model.name, tiny_config.model.scan_blocks = "scanned", True

    def spoil(params):
        params["stage1_block3"]["conv2"]["kernel"][:] = 3e38

    assert str(first_not_finite(triage_first_step(tiny_config, mesh, spoil))) == "stage1_block3/conv2"


def test_triage_finds_a_gradient_that_overflows_after_a_finite_forward_pass(tiny_config, mesh):
    """A norm amplifies the tiny output of a convolution, and in the backward pass a gradient that is already large."""

    def spoil(params):
        params["stage2_block1"]["conv2"]["kernel"][:] *= 1e-10
        params["stage2_block1"]["norm2"]["scale"][:] = 1e8
        params["head"]["kernel"][:] *= 1e34

    values = triage_first_step(tiny_config, mesh, spoil)
    first = first_not_finite(values)
    assert (first.kind, str(first)) == ("gradient", "the gradient of stage2_block1/conv2/kernel")
    assert all(value.not_finite == 0 for value in values if value.kind not in ("gradient", "norm"))


@pytest.mark.slow
def test_triage_finds_a_norm_that_overflows_although_no_gradient_does(tiny_config, mesh):
    def spoil(params):
        params["head"]["kernel"][:] *= 1e25

    first = first_not_finite(triage_first_step(tiny_config, mesh, spoil))
    assert (first.kind, str(first)) == ("norm", "gradient_norm")


def test_triage_finds_a_non_finite_parameter_before_any_layer(tiny_config, mesh):
    def spoil(params):
        params["stage1_block1"]["norm2"]["bias"][3] = np.nan

    first = first_not_finite(triage_first_step(tiny_config, mesh, spoil))
    assert (first.kind, first.name, first.not_finite) == ("variable", "stage1_block1/norm2/bias", pytest.approx(1 / 8))


def test_triage_of_a_finite_step_lists_all_values(tiny_config, mesh):
    """The step has soft labels, frozen parameters and floating-point images."""
    tiny_config.augment.mixup, tiny_config.freeze = 0.2, ("stem*",)
    values = triage_first_step(tiny_config, mesh)
    assert first_not_finite(values) is None
    largest = {(value.kind, value.name): value.largest for value in values}
    assert len(largest) == len(values)
    assert 200 < largest["batch", "images"] <= 255
    assert 0.5 < largest["batch", "labels"] <= 1
    assert largest["result", "loss"] == pytest.approx(np.log(10), rel=0.1)
    assert largest["variable", "stem_norm/var"] == 1
    gradients = [value.name for value in values if value.kind == "gradient"]
    assert set(gradients[:2]) == {"head/bias", "head/kernel"}
    assert gradients[-1] == "stage1_block1/conv1/kernel"
    assert not any(name.startswith("stem") for name in gradients)
