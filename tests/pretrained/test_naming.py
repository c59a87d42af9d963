import pytest

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
        (["embedder.embedder.convolution.weight"], naming.HUGGING_FACE_BACKBONE),
        (["backbone.layer1.0.conv1.weight", "head.fc.weight"], naming.MMPRETRAIN),
        (["0.weight", "1.running_mean", "4.0.conv1.weight"], naming.SEQUENTIAL),
    ],
)
@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_find_schemes_identifies_the_library_after_any_prefix(names, expected, prefix):
    assert naming.find_schemes([f"{prefix}{name}" for name in names]) == {prefix: expected}


def test_find_schemes_finds_several_networks():
    names = [f"{prefix}{name}" for prefix in ("student.", "teacher.net.") for name in TORCHVISION]
    assert naming.find_schemes(names) == {"student.": naming.TORCHVISION, "teacher.net.": naming.TORCHVISION}


@pytest.mark.parametrize("name", ["features.0.weight", "xlayer1.0.conv1.weight", "layer1.0.conv1.weight.grad"])
def test_find_schemes_finds_nothing_among_other_names(name):
    assert naming.find_schemes([name]) == {}


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (
            "HUGGING_FACE_BACKBONE",
            ["embedder.embedder.normalization.bias", "encoder.stages.1.layers.0.layer.1.convolution.weight"],
        ),
        ("MMPRETRAIN", ["backbone.bn1.bias", "backbone.layer2.0.conv2.weight"]),
        ("SEQUENTIAL", ["1.bias", "5.0.conv2.weight"]),
    ],
)
def test_scheme_names_stem_and_blocks(scheme, expected):
    paths = [("stem_norm", "bias"), ("stage2_block1", "conv2", "kernel")]
    assert [getattr(naming, scheme).array_name(("params", *path), (8,)) for path in paths] == expected


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
