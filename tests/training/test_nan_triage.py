import functools

import numpy as np
import pytest

from resnet_jax.data.sources import open_sources
from resnet_jax.models import variants
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import Variant
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.training import experiment as setups
from resnet_jax.training.nan_triage import first_not_finite, triage


def take_apart(config, mesh, spoil=lambda params: None):
    """A run's first step, after `spoil` has changed the parameters."""
    experiment = setups.build(config, mesh, open_sources("digits"), Reporter(active=False, max_unreadable=0))
    state = parallel.fetch(experiment.initial_state())
    spoil(state.params)
    images, labels = parallel.place(parallel.fetch(experiment.batch_at(0)), parallel.batch_sharded(mesh))
    state = parallel.place(state, parallel.replicated(mesh))
    return triage(experiment.config, experiment.model, experiment.preprocess, experiment.teacher, state, images, labels)


def overflow(params):
    """The second stage's first convolution is given finite weights, of which the products are not."""
    params["stage2_block1"]["conv1"]["kernel"][:] = 3e38


def test_the_layer_whose_output_overflows_is_the_first(tiny_config, mesh):
    """Also where activations are not kept."""
    tiny_config.model.remat, tiny_config.model.dropout = True, 0.2
    parts = take_apart(tiny_config, mesh, overflow)
    first = first_not_finite(parts)
    assert (first.kind, str(first)) == ("layer", "stage2_block1/conv1")
    before, after = parts[: parts.index(first)], parts[parts.index(first) + 1 :]
    assert [part.name for part in before if part.kind == "layer"] == [
        "stem_conv", "stem_norm", "stage1_block1/conv1", "stage1_block1/norm1", "stage1_block1/conv2",
        "stage1_block1/norm2", "stage1_block1",
    ]  # fmt: skip
    assert max(part.largest for part in before if part.kind == "variable") == pytest.approx(3e38)
    assert next(part for part in after if part.name == "loss").not_finite == 1


@pytest.mark.slow
def test_blocks_in_a_loop_are_told_apart(tiny_config, mesh, monkeypatch):
    looped = functools.partial(ResNet, stage_sizes=(4,), width=8, stem="cifar", shortcut="pad")
    monkeypatch.setitem(variants.VARIANTS, "looped", Variant(looped, "no paper", "digits", 8, 10))
    tiny_config.model.name, tiny_config.model.scan_blocks = "looped", True

    def spoil(params):
        params["stage1_block3"]["conv2"]["kernel"][:] = 3e38

    assert str(first_not_finite(take_apart(tiny_config, mesh, spoil))) == "stage1_block3/conv2"


def test_a_gradient_may_overflow_where_all_before_it_is_finite(tiny_config, mesh):
    """A convolution gives next to nothing, which its norm makes much of: so it does of the gradient, large already."""

    def spoil(params):
        params["stage2_block1"]["conv2"]["kernel"][:] *= 1e-10
        params["stage2_block1"]["norm2"]["scale"][:] = 1e8
        params["head"]["kernel"][:] *= 1e34

    parts = take_apart(tiny_config, mesh, spoil)
    first = first_not_finite(parts)
    assert (first.kind, str(first)) == ("gradient", "the gradient of stage2_block1/conv2/kernel")
    assert all(part.not_finite == 0 for part in parts if part.kind != "gradient")


def test_parameters_that_are_spoilt_already_are_told_before_any_layer(tiny_config, mesh):
    def spoil(params):
        params["stage1_block1"]["norm2"]["bias"][3] = np.nan

    first = first_not_finite(take_apart(tiny_config, mesh, spoil))
    assert (first.kind, first.name, first.not_finite) == ("variable", "stage1_block1/norm2/bias", pytest.approx(1 / 8))


def test_a_finite_step_gives_the_figures_of_all_its_values(tiny_config, mesh):
    """Soft labels, a part that is frozen and floating-point pictures among them."""
    tiny_config.augment.mixup, tiny_config.freeze = 0.2, ("stem*",)
    parts = take_apart(tiny_config, mesh)
    assert first_not_finite(parts) is None
    figures = {(part.kind, part.name): part.largest for part in parts}
    assert len(figures) == len(parts)
    assert 200 < figures["batch", "pictures"] <= 255
    assert 0.5 < figures["batch", "labels"] <= 1
    assert figures["result", "loss"] == pytest.approx(np.log(10), rel=0.1)
    assert figures["variable", "stem_norm/var"] == 1
    gradients = [part.name for part in parts if part.kind == "gradient"]
    assert set(gradients[:2]) == {"head/bias", "head/kernel"}
    assert gradients[-1] == "stage1_block1/conv1/kernel"
    assert not any(name.startswith("stem") for name in gradients)
