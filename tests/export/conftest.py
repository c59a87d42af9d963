import jax
import numpy as np
import pytest

from resnet_jax.models.factory import create_model
from resnet_jax.models.variants import VARIANTS
from resnet_jax.trained_model import abstract_variables

CLASSES = 10
# One variant for each combination of the settings that change the program.
FAMILIES = [
    "resnet18",
    "resnet50",
    "resnetv2_18",
    "resnetv2_50",
    "resnext50_32x4d",
    "seresnet18",
    "seresnet50",
    "seresnext50_32x4d",
    "resnet18d",
    "resnet50d",
    "antialiased_resnet18",
    "antialiased_resnet50",
    "bit_r50x1",
    "fixup_resnet50",
    "resnet20",
    "resnetv2_110",
    "resnetv2_164",
    "wide_resnet16_4",
    "resnext29_8x64d",
    "fixup_resnet110",
    "airbench94",
    "airbench94_plain",
    "airbench96",
]


@pytest.fixture
def run_onnx():
    """A function that runs an ONNX model on images, on one thread, and returns its outputs."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    def run(model, images):
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, {"images": images})

    return run


def small_model(name, **settings):
    """Return a variant with few blocks and channels, and random variables for it.

    Stage 1 has one block. Stage 2 has a block that changes the shape and one that does not.
    """
    narrow = {"stage_widths": (16, 32)} if name.startswith("airbench") else {"width": 32 if "wide" in name else 16}
    model = create_model(name, CLASSES, **{"stage_sizes": (1, 2), **narrow, **settings})
    return model, random_variables(model, channels=3)


def random_variables(model, channels):
    """Draw all parameters and statistics, so that none is zero and no norm is the identity."""
    random = np.random.default_rng(0)

    def draw(path, array):
        if array.ndim > 1:
            fan_in = np.prod(array.shape[:-1])
            values = random.normal(0, np.sqrt(2 / fan_in), array.shape)
        elif path[-1].key in ("scale", "var"):
            values = random.uniform(0.5, 1.5, array.shape)
        else:
            values = random.normal(0, 0.3, array.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(model, channels))


def size_for(name, odd):
    """Return a small height and width for a variant: odd numbers that differ, or a power of two."""
    if VARIANTS[name].dataset == "CIFAR-10":
        return (9, 13) if odd else (16, 16)
    return (33, 45) if odd else (32, 32)


def random_images(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def relative_difference(actual, expected):
    """Return the largest difference, relative to the largest expected value."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    return np.abs(actual - expected).max() / np.abs(expected).max()
