import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.models.factory import create_model
from resnet_jax.pretrained import naming

TORCHVISION = ["conv1.weight", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight", "fc.weight"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (TORCHVISION, naming.TORCHVISION),
        ([*TORCHVISION, "layer2.0.downsample.2.weight"], naming.TIMM_RESNET_D),
        ([*TORCHVISION, "layer1.0.bias1a"], naming.FIXUP),
        (["conv1.weight", "layer1.0.conv1.weight", "linear.weight"], naming.AKAMASTER),
        (["stem.conv.weight", "stages.0.blocks.0.conv1.weight", "head.fc.weight"], naming.TIMM_PRE_ACTIVATION),
        (["resnet.embedder.embedder.convolution.weight", "classifier.1.weight"], naming.HUGGING_FACE),
    ],
)
def test_detect_scheme_identifies_the_library(names, expected):
    assert naming.detect_scheme(dict.fromkeys(names, np.zeros(1))) is expected


def test_detect_scheme_refuses_names_of_other_models():
    arrays = dict.fromkeys(["features.0.weight", "features.0.bias"], np.zeros(1))
    with pytest.raises(UserError, match=r"features\.0\.weight, features\.0\.bias.* Give weights from torchvision"):
        naming.detect_scheme(arrays)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", naming.TORCHVISION),
        ("resnet20", naming.TORCHVISION),
        ("antialiased_resnet18", naming.TORCHVISION),
        ("resnet50d", naming.TIMM_RESNET_D),
        ("resnetv2_50", naming.TIMM_PRE_ACTIVATION),
        ("bit_r50x1", naming.TIMM_PRE_ACTIVATION),
        ("fixup_resnet50", naming.FIXUP),
    ],
)
def test_scheme_for_model_is_that_of_a_library_with_the_model(name, expected):
    assert naming.scheme_for_model(create_model(name, 10)) is expected


@pytest.mark.parametrize(
    ("path", "shape", "scheme", "expected_name", "expected_shape"),
    [
        (("stage2_block1", "conv2", "kernel"), (3, 3, 8, 16), "TORCHVISION", "layer2.0.conv2.weight", (16, 8, 3, 3)),
        (("stage1_block3", "norm1", "scale"), (8,), "TORCHVISION", "layer1.2.bn1.weight", (8,)),
        (("stem_conv2", "kernel"), (3, 3, 8, 8), "TIMM_RESNET_D", "conv1.3.weight", (8, 8, 3, 3)),
        (("head", "kernel"), (8, 10), "TORCHVISION", "fc.weight", (10, 8)),
        (("head", "kernel"), (8, 10), "TIMM_PRE_ACTIVATION", "head.fc.weight", (10, 8, 1, 1)),
        (("stage1_block1", "scale"), (), "FIXUP", "layer1.0.scale", (1,)),
        (("stage1_block1", "bias2a", "bias"), (), "FIXUP", "layer1.0.bias2a", (1,)),
        (("stem_norm", "bias"), (), "FIXUP", "bias1", (1,)),
        (("stage1_block1", "residual_scale"), (), "TORCHVISION", "layer1.0.residual_scale", (1,)),
    ],
)
def test_scheme_maps_name_and_shape(path, shape, scheme, expected_name, expected_shape):
    scheme = getattr(naming, scheme)
    path = ("params", *path)
    assert scheme.array_name(path, shape) == expected_name
    assert scheme.array_shape(path, shape) == expected_shape
