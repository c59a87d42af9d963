"""Conversion of weights from and to other libraries."""

import dataclasses
import math
import re

import jax
import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.models.factory import create_model
from resnet_jax.pretrained import convert, copies, naming, weight_files
from resnet_jax.trained_model import abstract_variables

CLASSES = 10
SMALL = {"width": 32, "stem_width": 32}
FAMILIES = [
    "resnet18",
    "resnet50",
    "wide_resnet50_2",
    "resnext50_32x4d",
    "seresnet18",
    "seresnext50_32x4d",
    "resnet18d",
    "resnet50d",
    "antialiased_resnet18",
    "antialiased_resnet50",
    "resnetv2_18",
    "resnetv2_50",
    "bit_r50x1",
    "fixup_resnet50",
    "resnet20",
    "resnetv2_164",
    "wide_resnet16_4",
    "resnext29_8x64d",
    "fixup_resnet110",
]


def random_variables(model):
    """Return variables with He-normal kernels and random other values."""
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            value = generator.normal(scale=math.sqrt(2 / math.prod(leaf.shape[:-1])), size=leaf.shape)
        elif kind in ("scale", "var"):
            value = generator.uniform(0.5, 1.5, leaf.shape)
        else:
            value = generator.normal(scale=0.3, size=leaf.shape)
        return np.asarray(value, np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(model, 3))


def load(arrays, model, channels=3):
    return convert.to_variables(arrays, naming.find_schemes(arrays)[""], abstract_variables(model, channels))


def exported(name, **settings):
    """Return the exported arrays of a model with random variables."""
    model = create_model(name, CLASSES, **settings)
    return convert.from_variables(random_variables(model), model)


def assert_identical(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_same_logits(torch_model, model, variables):
    """Compare our float32 logits with PyTorch's float64 logits."""
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    expected = torch_logits(torch_model, images)
    actual = jax.jit(lambda variables, images: model.apply(variables, images, train=False))(variables, images)
    assert np.abs(actual - expected).max() / np.abs(expected).max() < 1e-5


def torch_logits(torch_model, images):
    import torch

    with torch.no_grad():
        output = torch_model.double().eval()(torch.from_numpy(images).double().permute(0, 3, 1, 2))
    return getattr(output, "logits", output).numpy()


@pytest.mark.parametrize("name", FAMILIES)
def test_round_trip_through_pytorch_is_bit_exact(name, tmp_path):
    """Our variables go through a file into PyTorch, which computes the same logits, and back."""
    pytest.importorskip("torch")
    from safetensors.torch import load_file

    from tests.models import torch_reference as reference

    model = create_model(name, CLASSES, stage_sizes=(1, 2), **SMALL)
    variables = random_variables(model)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(weight_files.safetensors_bytes(convert.from_variables(variables, model)))
    architecture = dataclasses.replace(reference.ARCHITECTURES[name], sizes=(1, 2), **SMALL)
    torch_model = reference.make_model(architecture, CLASSES)
    torch_model.load_state_dict(load_file(path), strict=True)
    arrays = {name: array.numpy() for name, array in torch_model.state_dict().items() if array.ndim > 0}
    returned, report = load(arrays, model)
    assert_identical(returned, variables)
    assert not report.differences()
    assert_same_logits(torch_model, model, variables)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_hugging_face_weights_give_the_same_logits(kind):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    sizes = {"basic": [64, 128], "bottleneck": [256, 512]}[kind]
    settings = transformers.ResNetConfig(depths=[1, 2], hidden_sizes=sizes, layer_type=kind, num_labels=CLASSES)
    torch_model = transformers.ResNetForImageClassification(settings)
    for array in torch_model.state_dict().values():
        if array.is_floating_point() and array.ndim == 1:
            array.uniform_(0.5, 1.5)
    model = create_model({"basic": "resnet18", "bottleneck": "resnet50"}[kind], CLASSES, stage_sizes=(1, 2))
    arrays = {name: array.numpy() for name, array in torch_model.state_dict().items() if array.ndim > 0}
    variables, report = load(arrays, model)
    assert not report.differences()
    assert report.scheme is naming.HUGGING_FACE
    assert_same_logits(torch_model, model, variables)


def test_published_akamaster_file_loads_completely(test_data):
    """Every array is loaded, and the logits match PyTorch's."""
    pytest.importorskip("torch")
    import torch

    from tests.models import torch_reference as reference

    path = str(test_data / "weights" / "resnet20-12fca82f.th")
    arrays = copies.choose(weight_files.read(path), path).arrays
    model = create_model("resnet20", CLASSES)
    variables, report = load(arrays, model)
    convert.require_all_but_head(report)
    assert report.scheme is naming.AKAMASTER
    assert len(report.loaded) == len(arrays)

    torch_model = reference.make_model(reference.ARCHITECTURES["resnet20"], CLASSES)
    renamed = {name.replace("linear.", "fc."): torch.from_numpy(array) for name, array in arrays.items()}
    torch_model.load_state_dict(renamed, strict=True)
    assert_same_logits(torch_model, model, variables)


def test_conversion_keeps_the_dtype():
    arrays = {name: array.astype(np.float64) for name, array in exported("tiny").items()}
    variables, _ = load(arrays, create_model("tiny", CLASSES))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float64")}


def test_new_head_is_accepted_and_left_out():
    variables, report = load(exported("tiny"), create_model("tiny", 7))
    convert.require_all_but_head(report)
    assert "head" not in variables["params"]
    assert variables["params"]["stem_conv"]["kernel"].shape == (3, 3, 3, 8)
    assert report.mismatched == {"fc.weight": ((10, 16), (7, 16)), "fc.bias": ((10,), (7,))}


def test_report_names_every_array_that_was_not_loaded():
    arrays = exported("tiny") | {"projector.weight": np.zeros((3, 2))}
    del arrays["bn1.bias"]
    _, report = load(arrays, create_model("tiny", 7))
    assert report.missing == {"bn1.bias": (8,)}
    assert report.unexpected == {"projector.weight": (3, 2)}
    assert len(report.loaded) == len(arrays) - 3
    assert str(report).splitlines() == [
        f"{len(report.loaded)} of {len(arrays)} arrays loaded (named as in torchvision)",
        "  fc.bias has shape (10,), not (7,)",
        "  fc.weight has shape (10, 16), not (7, 16)",
        "  bn1.bias (8,) is missing",
        "  projector.weight (3, 2) is unexpected",
    ]


@pytest.mark.parametrize("pattern", ["head/*", "fc.*"])
def test_skip_patterns_match_our_names_and_those_of_the_library(pattern):
    arrays, model = exported("tiny"), create_model("tiny", CLASSES)
    variables, report = convert.to_variables(arrays, naming.TORCHVISION, abstract_variables(model, 3), [pattern])
    assert "head" not in variables["params"]
    assert set(report.skipped) == {"fc.weight", "fc.bias"}


def test_report_counts_only_arrays_of_the_model_as_needed():
    arrays, model = exported("tiny") | {"projector.weight": np.zeros((3, 2))}, create_model("tiny", CLASSES)
    skip = ["projector.*"]
    _, report = convert.to_variables(arrays, naming.TORCHVISION, abstract_variables(model, 3), skip)
    assert str(report).splitlines() == [
        "27 of 27 arrays loaded (named as in torchvision)",
        "  projector.weight is skipped",
    ]


def test_skip_pattern_that_matches_nothing_is_refused():
    model = create_model("tiny", CLASSES)
    with pytest.raises(UserError, match=r"'classifier\.\*' in init_skip matches no array"):
        convert.to_variables(exported("tiny"), naming.TORCHVISION, abstract_variables(model, 3), ["classifier.*"])


@pytest.mark.parametrize(
    ("weights", "model", "remedy"),
    [
        (("resnet34", {}), ("resnet18", {}), "Set model.name to the model of the weights, which is deeper."),
        (("resnet18", {}), ("resnet34", {}), "Set model.name to the model of the weights, which is shallower."),
        (("resnet18", {}), ("resnet50", {}), "Set model.name to the model of the weights."),
        (("resnet18", {}), ("seresnet18", {}), "Set model.name to a model without squeeze-and-excitation."),
        (
            ("resnet18", {}),
            ("resnet18", {"stem": "cifar"}),
            "Set model.stem to the stem of the weights, whose first convolution is 7x7.",
        ),
        (
            ("resnet20", {}),
            ("resnet20", {"shortcut": "projection"}),
            "Set model.shortcut to the shortcut of the weights.",
        ),
        (("resnet18", {}), ("resnet18", {"norm": "group_norm"}), "Set model.norm to the norm of the weights."),
    ],
)
def test_weights_of_another_architecture_are_refused_with_a_remedy(weights, model, remedy):
    name, settings = weights
    arrays = exported(name, **settings)
    name, settings = model
    _, report = load(arrays, create_model(name, CLASSES, **settings))
    with pytest.raises(UserError, match=f"{remedy}$") as error:
        convert.require_all_but_head(report)
    assert "\n" not in str(error.value)
    assert report.differences()[0] in str(error.value)


@pytest.mark.parametrize("stem", ["imagenet", "cifar", "deep"])
def test_weights_for_color_images_do_not_fit_gray_images(stem):
    _, report = load(exported("tiny", stem=stem), create_model("tiny", CLASSES, stem=stem), channels=1)
    with pytest.raises(UserError, match="The weights need images of 3 channels"):
        convert.require_all_but_head(report)


@pytest.mark.parametrize(
    ("heads", "patterns", "purpose"),
    [
        ([], ("fc*",), ", and to train a new head"),
        (["fc.0.weight", "fc.2.weight"], ("fc*",), ", and to train a new head"),
        (["projection_head.0.bias", "prototypes.weight"], ("fc*", "projection_head*", "prototypes*"), ", and to train"),
        (["fc.weight", "fc.bias", "fc_aux.weight"], ("fc_aux*",), r"\.$"),
    ],
)
def test_other_heads_are_refused_with_the_patterns_to_skip_them(heads, patterns, purpose):
    arrays, model = exported("tiny"), create_model("tiny", CLASSES)
    backbone = {name: array for name, array in arrays.items() if not name.startswith("fc.")}
    arrays = backbone | {name: arrays.get(name, np.zeros((4, 2))) for name in heads}
    _, report = load(arrays, model)
    advice = rf'Set --config.init_skip="{re.escape(str(patterns))}" to leave these arrays out{purpose}'
    with pytest.raises(UserError, match=advice):
        convert.require_all_but_head(report)
    _, report = convert.to_variables(arrays, naming.TORCHVISION, abstract_variables(model, 3), patterns)
    convert.require_all_but_head(report)
