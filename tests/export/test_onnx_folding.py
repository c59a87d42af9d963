"""Run folded and unfolded models in ONNX Runtime and compare them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("onnx")

from resnet_jax.export.onnx_from_jaxpr import convert
from tests.export.conftest import small_model

CHANNELS = 4
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, CHANNELS)).astype(np.float32)
PER_CHANNEL = np.array([0.5, -2.0, 3.0, 0.1], np.float32)


def convolve(images):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(images, KERNEL, (1, 1), "SAME", dimension_numbers=numbers)


def operators(model):
    return [node.op_type for node in model.graph.node]


def convert_both_ways(function, image_shape):
    """Return a model without and one with folding."""
    return [convert(lambda images: [function(images)], image_shape, ["y"], np.float32, fold=f) for f in (False, True)]


def assert_same_outputs(run_onnx, plain, folded, image_shape):
    images = np.random.default_rng(1).normal(size=(3, *image_shape)).astype(np.float32)
    (expected,), (actual,) = run_onnx(plain, images), run_onnx(folded, images)
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()


# The number of BatchNorms in a model of three blocks, and how many of them directly follow a convolution.
@pytest.mark.parametrize(
    ("name", "norms", "after_convolutions"),
    [
        ("resnet20", 7, 7),  # stem, 3 * 2
        ("resnet50", 12, 12),  # stem, 3 * 3, two shortcuts
        ("resnetv2_18", 7, 3),  # 3 * 2 and one at the end; the first of each block and the last one follow a sum.
        ("airbench94", 6, 3),  # 3 * 2; the first of each block follows a max-pool.
    ],
)
def test_batch_norms_after_convolutions_are_folded(name, norms, after_convolutions, run_onnx):
    """A BatchNorm is three nodes. The nodes of all others remain."""
    model, variables = small_model(name)
    plain, folded = convert_both_ways(lambda images: model.apply(variables, images, train=False), (16, 16, 3))
    assert len(jax.tree.leaves(variables["batch_stats"])) == 2 * norms
    whitening_bias = 1 if name == "airbench94" else 0
    assert len(operators(plain)) - len(operators(folded)) == 3 * after_convolutions + whitening_bias
    assert operators(plain).count("Conv") == operators(folded).count("Conv")
    assert_same_outputs(run_onnx, plain, folded, (16, 16, 3))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: convolve(x) * PER_CHANNEL,
        lambda x: PER_CHANNEL + convolve(x),
        lambda x: convolve(x) - PER_CHANNEL,
        lambda x: PER_CHANNEL - convolve(x),
        lambda x: convolve(x) / PER_CHANNEL,
        lambda x: 2 * convolve(x) + 1,
        lambda x: ((convolve(x) - PER_CHANNEL) * PER_CHANNEL + 1) / 3 - PER_CHANNEL,
    ],
)
def test_scales_and_biases_are_folded(function, run_onnx):
    plain, folded = convert_both_ways(function, (5, 6, 3))
    assert operators(folded) == ["Transpose", "Conv", "Transpose", "Identity"]
    assert_same_outputs(run_onnx, plain, folded, (5, 6, 3))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: PER_CHANNEL / convolve(x),
        lambda x: convolve(x) * PER_CHANNEL[:, None],  # a factor per column of the image
        lambda x: jnp.maximum(convolve(x), 0),
        lambda x: convolve(x) * convolve(x),
        lambda x: jnp.square(convolve(x)),
    ],
)
def test_other_operations_are_kept(function):
    plain, folded = convert_both_ways(function, (5, CHANNELS, 3))
    assert operators(plain) == operators(folded)


def test_value_that_is_read_twice_is_kept(run_onnx):
    """The bias can be folded into the convolution, but the scale cannot: the sum before it is needed, too."""

    def function(images):
        y = convolve(images) + PER_CHANNEL
        return y * PER_CHANNEL + jnp.tanh(y)

    plain, folded = convert_both_ways(function, (5, 6, 3))
    assert operators(plain).count("Add") == 2
    assert operators(folded).count("Add") == 1
    assert operators(folded).count("Mul") == 1
    assert_same_outputs(run_onnx, plain, folded, (5, 6, 3))


def test_unused_value_does_not_prevent_folding():
    def function(images):
        y = convolve(images)
        jnp.tanh(y)
        return y * PER_CHANNEL

    _, folded = convert_both_ways(function, (5, 6, 3))
    assert operators(folded) == ["Transpose", "Conv", "Transpose", "Identity"]


def test_output_of_the_model_is_kept(run_onnx):
    def function(images):
        y = convolve(images)
        return [y, y * PER_CHANNEL]

    folded = convert(function, (5, 6, 3), ["y", "scaled"], np.float32)
    y, scaled = run_onnx(folded, np.ones((2, 5, 6, 3), np.float32))
    np.testing.assert_allclose(scaled, y * PER_CHANNEL, rtol=1e-6)
    np.testing.assert_allclose(y, convolve(np.ones((2, 5, 6, 3), np.float32)), rtol=1e-5)
