"""Run converted functions in ONNX Runtime and compare them with JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("onnx")

from resnet_jax.data.preprocess import Preprocess
from resnet_jax.export.onnx_from_jaxpr import convert
from resnet_jax.export.onnx_rules import RULES
from resnet_jax.models.variants import VARIANTS
from resnet_jax.runtime import parallel
from tests.export.conftest import FAMILIES, random_images, relative_difference, size_for, small_model

ONLY_SIZES = ("stage_sizes", "stage_widths", "width", "head_init", "scan_blocks")


def check_function(function, images, run_onnx, tolerance=1e-5):
    """Convert a function of images to an array, and compare its outputs. Return the model."""
    expected = np.asarray(jax.jit(function)(images))
    model = convert(lambda images: [function(images)], images.shape[1:], ["output"], images.dtype)
    (actual,) = run_onnx(model, images)
    assert relative_difference(actual, expected) < tolerance
    return model


def operators(model):
    return [node.op_type for node in model.graph.node]


def family(name):
    """Return the settings of a variant, without those that change only sizes and initial values."""
    settings = {key: value for key, value in VARIANTS[name].make.keywords.items() if key not in ONLY_SIZES}
    residual = settings.pop("residual", None)
    if isinstance(residual, functools.partial):
        settings["grouped"] = residual.keywords["groups"] > 1
        residual = residual.func
    return frozenset({"grouped": False, **settings, "residual": residual}.items())


# ---- Models ----------------------------------------------------------------------------------------------------------


def test_families_cover_all_variants():
    covered = {family(name) for name in FAMILIES}
    assert [name for name in VARIANTS if name != "tiny" and family(name) not in covered] == []


@pytest.mark.parametrize("name", ["resnet20", "antialiased_resnet50"])
def test_logits_match_flax(name, run_onnx):
    check_logits(name, False, run_onnx)


@pytest.mark.slow
@pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_of_all_families_match_flax(name, odd, run_onnx):
    """Sizes are 32, 16, 8, 4 or 33, 17, 9, 5 from the image to stage 2, and fewer for the variants for CIFAR."""
    check_logits(name, odd, run_onnx)


def check_logits(name, odd, run_onnx):
    """Compare the file of a variant with the model, for three batch sizes."""
    height, width = size_for(name, odd)
    model, variables = small_model(name)

    def logits(images):
        return model.apply(variables, images, train=False)

    images = random_images(32, height, width, 3)
    expected = np.asarray(jax.jit(logits)(images))
    assert np.ptp(expected, axis=0).max() > 0.1 * np.abs(expected).max()  # The images make a difference.
    converted = convert(lambda images: [logits(images)], (height, width, 3), ["logits"], np.float32)
    for batch_size in (1, 3, 32):
        (actual,) = run_onnx(converted, images[:batch_size])
        assert relative_difference(actual, expected[:batch_size]) < 1e-4


def test_blocks_in_a_loop_match_flax(run_onnx):
    model, variables = small_model("resnet20", stage_sizes=(4,), scan_blocks=True, remat=True)
    images = random_images(3, 8, 8, 3)
    converted = check_function(lambda images: model.apply(variables, images, train=False), images, run_onnx)
    assert operators(converted).count("Conv") == 1 + 4 * 2


def test_preprocessing_and_probabilities_match_jax(run_onnx):
    """Gray uint8 images are resized, get three channels and are normalized inside the model."""
    model, variables = small_model("resnet20", stage_sizes=(1,))
    preprocess = Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), image_size=8)

    def outputs(images):
        logits, features = model.apply(variables, preprocess(images), train=False, return_features=True)
        return jax.nn.softmax(logits), features["pooled"]

    images = np.random.default_rng(0).integers(0, 256, (3, 12, 7, 1), np.uint8)
    expected_probabilities, expected_features = map(np.asarray, jax.jit(outputs)(images))
    converted = convert(outputs, (12, 7, 1), ["probabilities", "features"], metadata={"classes": "a b"})
    probabilities, features = run_onnx(converted, images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert np.abs(probabilities - expected_probabilities).max() < 1e-5
    assert relative_difference(features, expected_features) < 1e-5


def test_variables_may_be_on_several_devices(mesh):
    model, variables = small_model("resnet20", stage_sizes=(1,))
    replicated = jax.device_put(variables, parallel.replicated(mesh))
    converted, expected = (
        convert(lambda images, v=v: [model.apply(v, images, train=False)], (8, 8, 3), ["logits"])
        for v in (replicated, variables)
    )
    assert converted == expected


def test_model_describes_itself():
    """Opset and file format are those that older runtimes read."""
    converted = convert(lambda images: [images + 1], (8, 9, 3), ["brighter"], metadata={"classes": "cat, dog"})
    assert [(prop.key, prop.value) for prop in converted.metadata_props] == [("classes", "cat, dog")]
    assert (converted.opset_import[0].version, converted.ir_version) == (18, 8)
    for value, name in ((converted.graph.input[0], "images"), (converted.graph.output[0], "brighter")):
        batch, *sizes = value.type.tensor_type.shape.dim
        assert value.name == name
        assert batch.dim_param == "batch"
        assert [size.dim_value for size in sizes] == [8, 9, 3]


def test_nodes_are_named_after_layers():
    model, variables = small_model("resnet20")
    converted = convert(lambda images: [model.apply(variables, images, train=False)], (8, 8, 3), ["logits"])
    names = [node.name.rpartition("_")[0] for node in converted.graph.node]
    assert "ResNet/stage2_block1/conv2/Conv" in names
    assert "ResNet/stage1_block1/Relu" in names


@pytest.mark.parametrize("name", ["resnet18", "resnet18d", "antialiased_resnet18", "airbench94"])
def test_only_the_image_is_transposed(name):
    model, variables = small_model(name)
    converted = convert(lambda images: [model.apply(variables, images, train=False)], (32, 32, 3), ["logits"])
    assert operators(converted).count("Transpose") == 1


def test_group_norm_transposes_no_large_array():
    """Only the image and the statistics of the groups are transposed."""
    model, variables = small_model("bit_r50x1", stage_sizes=(1,))
    converted = convert(lambda images: [model.apply(variables, images, train=False)], (32, 32, 3), ["logits"])
    transposed = {node.input[0] for node in converted.graph.node if node.op_type == "Transpose"}
    producers = {node.output[0]: node.op_type for node in converted.graph.node}
    assert {producers.get(name, "image") for name in transposed} <= {"image", "Cast", "Mul", "Unsqueeze"}


# ---- Batch size ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_sizes_equal_to_the_batch_size_are_kept(batch_size, run_onnx):
    """All sizes are 8: height, width, channels and classes. None is mistaken for the batch size."""
    kernel = random_images(3, 3, 8, 8)

    def function(images):
        y = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.transpose(y.reshape(-1, 64, 8), (0, 2, 1)).max(axis=2) @ kernel[0, 0]

    check_function(function, random_images(batch_size, 8, 8, 8), run_onnx)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.reshape(-1, 3), r"a size that depends on the batch size \(shape \('64\*batch', 3\)\)"),
        (lambda x: x[1:], "a size that depends on the batch size"),
        (lambda x: x - x.mean(axis=0), "a value that depends on the batch size"),
        (lambda x: jnp.ones((x.shape[0], 3)), "a value that is the same for all images"),
        (lambda x: jnp.sort(x), "the primitive 'sort' in the function"),
        (lambda x: x.astype(jnp.bfloat16), "bfloat16"),
        (lambda x: jax.lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0)]), "padding between values"),
        (lambda x: jnp.einsum("bijc,bijd->bcd", x, x), "the product of shapes"),
        (
            lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 1, 3), (1,) * 4, "VALID"),
            "pooling over",
        ),
        (lambda x: jax.lax.scan(lambda y, _: (y, y), x, length=2)[1], "a scan over anything but constants"),
    ],
)
def test_unsupported_function_is_refused(function, message):
    with pytest.raises(NotImplementedError, match=f"cannot convert {message}"):
        convert(lambda images: [function(images)], (8, 8, 3), ["output"], np.float32)


def test_unsupported_setting_is_refused():
    def dilate(images):
        kernel = jnp.ones((3, 3, 3, 4))
        numbers = ("NHWC", "HWIO", "NHWC")
        return [jax.lax.conv_general_dilated(images, kernel, (1, 1), [(1, 1)] * 2, (2, 2), None, numbers)]

    with pytest.raises(NotImplementedError, match=r"conv_general_dilated with lhs_dilation=\(2, 2\)"):
        convert(dilate, (8, 8, 3), ["output"], np.float32)


def test_unknown_primitive_inside_a_model_names_the_layer():
    model, variables = small_model("resnet20")
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(RULES, "conv_general_dilated")
        with pytest.raises(NotImplementedError, match="'conv_general_dilated' in ResNet/stem_conv"):
            convert(lambda images: [model.apply(variables, images, train=False)], (8, 8, 3), ["logits"])


def test_every_output_needs_a_name():
    with pytest.raises(ValueError, match="zip"):
        convert(lambda images: [images, images], (8, 8, 3), ["output"])


# ---- Rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 2 * x - x / 3,
        lambda x: -jnp.abs(x),
        lambda x: jnp.maximum(x, 0.5),
        lambda x: jnp.maximum(0, x),
        lambda x: jnp.minimum(x, 0.5),
        lambda x: jnp.maximum(x, -x),
        jnp.exp,
        jnp.square,
        jnp.tanh,
        jax.nn.silu,
        jax.scipy.special.erf,
        jax.scipy.special.erfc,
        lambda x: jnp.log(x * x + 1),
        lambda x: jnp.sqrt(x * x + 1),
        lambda x: jax.lax.rsqrt(x * x + 1),
        lambda x: jax.lax.stop_gradient(x).astype(jnp.int32).astype(jnp.float32),
    ],
)
def test_elementwise_operations_match_jax(function, run_onnx):
    check_function(function, random_images(2, 3, 4, 5), run_onnx)


def channels_first(images):
    """Return an array whose channels are first in ONNX, because it comes from a convolution."""
    kernel = np.random.default_rng(2).normal(size=(1, 1, images.shape[-1], 4)).astype(np.float32)
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: jnp.transpose(x, (0, 3, 1, 2)),
        lambda x: jnp.transpose(x, (0, 2, 1, 3)) * jnp.arange(4.0),
        lambda x: x.reshape(x.shape[0], -1),
        lambda x: x.reshape(*x.shape[:3], 2, 2),
        lambda x: x.reshape(*x.shape[:3], 2, 2).sum(axis=(1, 4)),
        lambda x: x.reshape(x.shape[0], 3, 2, *x.shape[2:]).max(axis=1),
        lambda x: jnp.flip(jax.lax.slice(x, (0, 1, 0, 2), x.shape), axis=2),
        lambda x: jax.lax.slice(x, (0, 1, 0, 0), x.shape, (1, 2, 1, 3)),
        lambda x: jnp.pad(x, [(0, 0), (1, 2), (0, 0), (3, 0)], constant_values=7),
        lambda x: jnp.pad(x, [(0, 0), (1, 2), (0, 0), (0, 1)], mode="reflect"),
        lambda x: jnp.concatenate([x, 2 * x], axis=3),
        lambda x: x.sum(axis=(1, 3)),
        lambda x: x.max(axis=(2, 3), keepdims=True) + x,
        lambda x: jnp.broadcast_to(x.sum(axis=(1, 2), keepdims=True), x.shape).sum(axis=1),
        lambda x: jnp.broadcast_to(jax.lax.slice(x, (0, 0, 0, 0), (x.shape[0], 1, 5, 4)), x.shape).sum(axis=1),
        lambda x: jnp.repeat(x.sum(axis=(1, 2)), 2, axis=1).reshape(-1, 2, 4),
        lambda x: x + jnp.zeros_like(x),
        lambda x: x @ jnp.ones((4, 3)),
        lambda x: jnp.tensordot(jnp.arange(12.0).reshape(6, 2), x, axes=[[0], [1]]),
        lambda x: jnp.einsum("bhwc,hk->bwck", x, jnp.ones((6, 2))),
        lambda x: jax.lax.scan(lambda y, factor: (y * factor + x, None), x, jnp.arange(3.0))[0],
    ],
)
def test_operations_on_shapes_match_jax(function, run_onnx):
    """They give the same result for arrays with channels last and channels first in ONNX."""
    images = random_images(2, 6, 5, 4)
    check_function(function, images, run_onnx)
    check_function(lambda images: function(channels_first(images)), images, run_onnx)


def test_convolution_settings_match_jax(run_onnx):
    """Height and width, and the borders before and after, all differ."""
    kernel = random_images(3, 2, 2, 6)

    def convolve(images):
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            window_strides=(2, 1),
            padding=[(0, 1), (3, 2)],
            rhs_dilation=(1, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )

    check_function(convolve, random_images(2, 7, 6, 4), run_onnx)
