"""Maps of PyTorch models with the same weights, by Captum and by the package grad-cam, must equal ours.

All computations are in float64, except that our models pool in float32 before the head. Maps are equal if they differ
by less than 1e-4 of the largest value of all maps.
"""

import dataclasses
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.attribution import cam, gradients, perturbation
from resnet_jax.attribution.attribution_model import AttributionModel
from resnet_jax.models.factory import create_model

torch = pytest.importorskip("torch")
captum = pytest.importorskip("captum.attr")

from tests.models import torch_reference as reference  # noqa: E402  It imports PyTorch.

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Setting .* hooks on ReLU activations"),  # Captum says that it will do so.
]
SIZES = {"resnet20": 16, "resnet50": 40, "resnetv2_50": 40}  # side of the images, in pixels
BLOCKS = 2  # per stage of the two larger models; further blocks only repeat them
TARGETS = [1, 2, 3]
STEPS = 8  # of integrated gradients; convolutions in float64 are slow
CAMS = {
    "GradCAM": cam.grad_cam,
    "GradCAMPlusPlus": cam.grad_cam_plus_plus,
    "HiResCAM": lambda stage: jax.nn.relu(cam.hires_cam(stage)),  # The package drops negative values.
    "LayerCAM": cam.layer_cam,
}


@dataclasses.dataclass
class Case:
    """The same model, images and targets here and in PyTorch."""

    model: AttributionModel
    images: jax.Array
    targets: jax.Array
    stage: str
    torch_model: torch.nn.Module
    torch_images: torch.Tensor
    torch_stage: torch.nn.Module

    def attributions_of(self, captum_method, **arguments):
        """Return the attributions of a method of Captum, in our layout."""
        images = self.torch_images.clone().requires_grad_()
        attributions = captum_method.attribute(images, target=torch.tensor(TARGETS), **arguments)
        return attributions.detach().numpy().transpose(0, 2, 3, 1)


@pytest.fixture(scope="module", params=SIZES)
def case(request, single_device):
    with jax.enable_x64(True):
        size = SIZES[request.param]
        images = np.random.default_rng(0).normal(size=(len(TARGETS), size, size, 3))
        architecture = reference.ARCHITECTURES[request.param]
        sizes = architecture.sizes if request.param == "resnet20" else (BLOCKS,) * len(architecture.sizes)
        torch_model = reference.make_model(dataclasses.replace(architecture, sizes=sizes), 10)
        reference.randomize(torch_model, seed=0)
        linen_model = create_model(request.param, 10, stage_sizes=sizes)
        variables = reference.to_variables(torch_model.state_dict(), linen_model)
        doubles = jax.tree.map(jnp.float64, variables)
        model = AttributionModel(linen_model.clone(dtype=jnp.float64), doubles, single_device)
        torch_model = torch_model.double().eval()
        is_v2 = request.param.startswith("resnetv2")
        torch_stage = torch_model.stages[-1] if is_v2 else list(torch_model.children())[-4]
        yield Case(
            model,
            jnp.asarray(images),
            jnp.asarray(TARGETS),
            model.stages[-1],
            torch_model,
            torch.from_numpy(images).permute(0, 3, 1, 2),
            torch_stage,
        )


def import_grad_cam(monkeypatch):
    """Import the package grad-cam without torchvision, whose builds fit only some builds of PyTorch.

    The package needs torchvision's transforms and boxes, but not for the methods that are compared here.
    """
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        monkeypatch.setitem(sys.modules, name, mock.MagicMock())
    return pytest.importorskip("pytorch_grad_cam")


def assert_equal(actual, expected):
    expected = np.asarray(expected)
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


def test_input_gradient_equals_that_of_captum(case):
    expected = case.attributions_of(captum.Saliency(case.torch_model), abs=True)
    assert_equal(gradients.input_gradient(case.model, case.images, case.targets), expected.max(axis=-1))


@pytest.mark.parametrize("case", ["resnet20"], indirect=True)  # Many gradients, and those of all cases are compared.
def test_integrated_gradients_equal_those_of_captum(case):
    method = captum.IntegratedGradients(case.torch_model)
    expected = case.attributions_of(method, method="riemann_middle", n_steps=STEPS)
    actual = gradients.integrated_gradients(case.model, case.images, case.targets, STEPS)
    assert_equal(actual, expected.sum(axis=-1))


def test_guided_backpropagation_equals_that_of_captum(case):
    expected = case.attributions_of(captum.GuidedBackprop(case.torch_model))
    actual = gradients.guided_backpropagation(case.model, case.images, case.targets)
    assert_equal(actual, np.abs(expected).max(axis=-1))


@pytest.mark.parametrize("case", ["resnet20"], indirect=True)  # Many predictions of float64 models, which take minutes.
def test_occlusion_equals_that_of_captum(case):
    window = case.images.shape[1] // perturbation.WINDOWS_PER_SIDE
    stride = window // perturbation.STEPS_PER_WINDOW
    expected = case.attributions_of(
        captum.Occlusion(case.torch_model),
        sliding_window_shapes=(3, window, window),
        strides=(3, stride, stride),
    )
    assert_equal(perturbation.occlusion(case.model, case.images, case.targets), expected[..., 0])


def test_grad_cam_equals_that_of_captum(case):
    expected = case.attributions_of(captum.LayerGradCam(case.torch_model, case.torch_stage), relu_attributions=True)
    stage = case.model.stage_gradients(case.images, case.targets, case.stage)
    assert_equal(cam.grad_cam(stage), expected[..., 0])


@pytest.mark.parametrize("name", CAMS)
def test_class_activation_maps_equal_those_of_the_package_grad_cam(case, name, monkeypatch):
    """The package enlarges maps and scales them to [0, 1], so we call its methods that compute them."""
    package = import_grad_cam(monkeypatch)
    outputs = package.utils.model_targets.ClassifierOutputTarget
    method = getattr(package, name)(model=case.torch_model, target_layers=[case.torch_stage])
    activations_and_gradients = method.activations_and_grads
    logits = activations_and_gradients(case.torch_images.clone().requires_grad_())
    sum(outputs(target)(row) for target, row in zip(TARGETS, logits, strict=True)).backward()
    activations, grads = (
        torch.cat(list(arrays)).detach().numpy()
        for arrays in (activations_and_gradients.activations, activations_and_gradients.gradients)
    )
    maps = method.get_cam_image(case.torch_images, case.torch_stage, [], activations, grads, eigen_smooth=False)
    stage = case.model.stage_gradients(case.images, case.targets, case.stage)
    assert_equal(CAMS[name](stage), np.maximum(maps, 0))
