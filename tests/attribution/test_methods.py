"""The table of methods, applied to every kind of model."""

from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.attribution import gradients, perturbation
from resnet_jax.attribution.attribution_model import AttributionModel
from resnet_jax.attribution.methods import METHODS, SinglePosition, attribute, check_stage_resolution
from resnet_jax.models.factory import create_model
from resnet_jax.models.variants import VARIANTS
from resnet_jax.runtime import parallel

# Together, these models have every kind of block, stem, shortcut, norm and activation of the table.
REPRESENTATIVES = [
    "resnet18",
    "resnet20",
    "resnetv2_50",
    "wide_resnet16_4",
    "resnext50_32x4d",
    "seresnet18",
    "resnet50d",
    "antialiased_resnet18",
    "bit_r50x1",
    "fixup_resnet50",
    "airbench94",
    "airbench94_plain",
    "airbench96",
]
QUICK = ("resnet20", "wide_resnet16_4")
# Convolutions with a stride use every second pixel only, so the map of a mirrored image differs from the mirrored map.
# Their correlation, averaged over images, exceeds this bound. Without mirroring the map, it is lower. RISE and
# SmoothGrad are left out, because their masks and noise are not mirrored with the images.
MIRRORED = {
    "grad_cam": 0.8,
    "grad_cam_plus_plus": 0.8,
    "hires_cam": 0.8,
    "layer_cam": 0.8,
    "input_gradient": 0.35,
    "integrated_gradients": 0.35,
    "guided_backpropagation": 0.7,
    "occlusion": 0.65,
}


def kinds(name):
    """Return the settings of a model that decide which operations it consists of."""
    model = create_model(name, 10)
    convolutions = model.residual(64, 1)
    settings = ("block", "stem", "shortcut", "norm", "activation", "weight_standardization", "blur_pool")
    return {(setting, getattr(model, setting)) for setting in settings} | {
        ("convolutions", len(convolutions)),
        ("grouped", any(convolution.groups > 1 for convolution in convolutions)),
        ("squeeze_excitation", model.squeeze_excitation),
    }


def test_representatives_have_everything_that_occurs_in_the_table_of_models():
    assert set().union(*map(kinds, REPRESENTATIVES)) == set().union(*map(kinds, VARIANTS))


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in REPRESENTATIVES],
)
def test_every_kind_of_model_has_stage_gradients_and_guided_gradients(name, single_device):
    """Two narrow stages, the second of two blocks. Every value is random, because some models start with zeros."""
    model = create_model(name, 10, stage_sizes=(1, 2), stage_widths=(16, 32), width=16)
    images, targets = jax.random.normal(jax.random.key(1), (2, 16, 16, 3)), jnp.array([1, 2])
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    generator = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: generator.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
    variables["batch_stats"] = jax.tree.map(np.abs, variables.get("batch_stats", {}))
    attribution_model = AttributionModel(model, variables, single_device)
    for stage in attribution_model.stages:
        activations, stage_gradients = attribution_model.stage_gradients(images, targets, stage)
        assert activations.shape == stage_gradients.shape
        assert activations.shape[1:3] == attribution_model.stage_resolution(images.shape, stage)
        assert np.isfinite(stage_gradients).all() and np.abs(stage_gradients).max(axis=(1, 2, 3)).all()
    guided_gradients = attribution_model.guided_gradients(images, targets)
    assert guided_gradients.shape == images.shape
    assert np.isfinite(guided_gradients).all() and np.abs(guided_gradients).max(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("name", METHODS)
def test_mirrored_images_give_mirrored_maps(name, single_device, monkeypatch):
    """The kernels are symmetric, and no convolution has a stride, which would use every second pixel only.

    The masks of RISE and the noise of SmoothGrad are mirrored with the images.
    """
    model = create_model("tiny", 10, stage_sizes=(2,), head_init=nn.initializers.normal(1.0))
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = model.init(jax.random.key(0), images, train=False)
    symmetric = jax.tree.map(lambda leaf: (leaf + leaf[:, ::-1]) / 2 if leaf.ndim == 4 else leaf, variables)
    attribution_model = AttributionModel(model, symmetric, single_device)
    targets = jnp.array([1, 2, 3, 4])
    monkeypatch.setattr(perturbation, "NUM_MASKS", 20)
    monkeypatch.setattr(gradients, "SAMPLES", 4)
    maps = attribute(attribution_model, name, images, targets)
    assert float(jnp.abs(maps).max()) > 0
    mask, noise = perturbation._random_mask, gradients._noise
    monkeypatch.setattr(perturbation, "_random_mask", lambda *arguments: mask(*arguments)[:, ::-1])
    monkeypatch.setattr(gradients, "_noise", lambda *arguments: noise(*arguments)[:, ::-1])
    mirrored = attribute(attribution_model, name, images[:, :, ::-1], targets)
    np.testing.assert_allclose(mirrored, maps[:, :, ::-1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIRRORED)
def test_mirrored_images_give_similar_maps_on_the_published_resnet20(name, model, images, targets):
    maps, maps_of_mirrored = (
        np.asarray(attribute(model, name, array, targets)) for array in (images, images[:, :, ::-1])
    )
    same_place, mirrored_place = (
        np.mean([np.corrcoef(first.ravel(), second.ravel())[0, 1] for first, second in zip(maps, others, strict=True)])
        for others in (maps_of_mirrored, maps_of_mirrored[:, :, ::-1])
    )
    assert mirrored_place > MIRRORED[name]
    assert same_place < MIRRORED[name]


def test_scan_blocks_and_remat_give_the_same_maps(single_device):
    model = create_model("tiny", 10, stage_sizes=(3,))
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = model.init(jax.random.key(0), images, train=False)
    plain, looped = (
        attribute(AttributionModel(variant, variables, single_device), "hires_cam", images, jnp.array([1, 2]))
        for variant in (model, model.clone(scan_blocks=True, remat=True))
    )
    np.testing.assert_array_equal(plain, looped)


@pytest.fixture
def untrained_resnet18(single_device):
    """A model whose variables have only shapes."""
    model = create_model("resnet18", 10)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    return AttributionModel(model, variables, single_device)


@pytest.mark.parametrize(
    ("size", "blank_stages", "remedy"),
    [
        (32, ["stage4"], r"Choose an earlier stage \(stage1, stage2, stage3\)\."),
        (16, ["stage3", "stage4"], r"Choose an earlier stage \(stage1, stage2\)\."),
        (4, ["stage1", "stage4"], r"Choose a method that uses no stage \(input_gradient, .*, rise\)\."),
    ],
)
def test_stage_of_a_single_position_is_refused(untrained_resnet18, size, blank_stages, remedy):
    shape = (1, size, size, 3)
    for stage in blank_stages:
        message = f"{stage} is a single position for images of {size} x {size}, so the maps of Grad-CAM would be blank"
        with pytest.raises(SinglePosition, match=rf"{message}\. {remedy}$"):
            check_stage_resolution(untrained_resnet18, ("occlusion", "grad_cam"), shape, stage)
        check_stage_resolution(untrained_resnet18, ("occlusion",), shape, stage)


def test_stage_of_several_positions_is_accepted(untrained_resnet18):
    check_stage_resolution(untrained_resnet18, ("grad_cam",), (1, 32, 32, 3), "stage3")
    check_stage_resolution(untrained_resnet18, ("grad_cam",), (1, 64, 64, 3), None)
    with pytest.raises(SinglePosition, match="stage4"):  # The last stage is the default.
        check_stage_resolution(untrained_resnet18, ("grad_cam",), (1, 32, 32, 3), None)


def test_stage_resolution_traces_the_model_once_per_shape(untrained_resnet18):
    apply = AttributionModel._apply
    with mock.patch.object(AttributionModel, "_apply", autospec=True, side_effect=apply) as trace:
        for _ in range(3):
            assert untrained_resnet18.stage_resolution((1, 64, 32, 3), "stage2") == (8, 4)
            assert untrained_resnet18.stage_resolution((1, 64, 32, 3), "stage3") == (4, 2)
    assert trace.call_count == 1


def test_only_integrated_gradients_have_completeness_gaps():
    assert [name for name, method in METHODS.items() if method.completeness_gaps] == ["integrated_gradients"]


class Mean:
    """A model whose logit and probability are the mean of the image."""

    def target_logits(self, images, targets):
        return images.mean(axis=(1, 2, 3))

    target_probabilities = target_logits

    def input_gradients(self, images, targets):
        return jnp.ones_like(images)


@pytest.mark.parametrize(
    ("function", "num_calls"),
    [
        (gradients.smooth_grad, gradients.SAMPLES),
        (gradients.integrated_gradients, gradients.STEPS),
        (perturbation.occlusion, 49),
        (perturbation.rise, 20),
    ],
)
def test_loops_wait_for_the_devices(function, num_calls, monkeypatch):
    """Without that, the images of all steps would be in memory at the same time."""
    pace = mock.Mock()
    monkeypatch.setattr(parallel, "Pace", lambda: pace)
    monkeypatch.setattr(perturbation, "NUM_MASKS", 20)
    function(Mean(), jnp.ones((2, 8, 8, 3)), jnp.zeros(2, int))
    assert pace.call_count == num_calls
