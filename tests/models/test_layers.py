import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from resnet_jax.models.layers import Layers, SqueezeExcitation, average_pool, blur_pool, he_normal_fan_out


def make_layers(**settings) -> Layers:
    defaults = {
        "train": False,
        "dtype": jnp.float32,
        "norm_name": "batch_norm",
        "norm_momentum": 0.9,
        "norm_epsilon": 1e-5,
        "norm_group_size": 0,
        "weight_standardization": False,
        "blur_pool": False,
    }
    return Layers(**(defaults | settings))


class Only(nn.Module):
    """One layer as a network: `apply_layer` of the layers and the input."""

    layers: Layers
    apply_layer: object

    @nn.compact
    def __call__(self, x):
        return self.apply_layer(self.layers, x)


def pictures(*shape):
    return jax.random.normal(jax.random.key(7), shape)


def test_he_initialisation_has_variance_two_over_fan_out():
    kernel = he_normal_fan_out(jax.random.key(0), (3, 3, 64, 128), jnp.float32)
    assert float(kernel.var()) == pytest.approx(2 / (3 * 3 * 128), rel=0.02)
    assert float(jnp.abs(kernel).max() / kernel.std()) > 4  # A normal that is not truncated.


def test_weight_standardisation_makes_kernels_of_mean_zero_and_variance_one():
    layer = Only(make_layers(weight_standardization=True), lambda layers, x: layers.conv(x, 5, 3, name="conv"))
    images = pictures(1, 6, 6, 8)
    variables = layer.init(jax.random.key(0), images)
    kernel = np.asarray(variables["params"]["conv"]["kernel"], np.float64)
    assert kernel.std() < 0.5  # What is stored is as it was drawn.
    standardized = (kernel - kernel.mean((0, 1, 2))) / kernel.std((0, 1, 2))
    plain = Only(make_layers(), layer.apply_layer)
    expected = plain.apply({"params": {"conv": {"kernel": jnp.asarray(standardized, jnp.float32)}}}, images)
    np.testing.assert_allclose(layer.apply(variables, images), expected, rtol=1e-4, atol=1e-5)


def test_weight_standardisation_ignores_scale_and_shift_of_the_kernel():
    layer = Only(make_layers(weight_standardization=True), lambda layers, x: layers.conv(x, 5, 3, name="conv"))
    images = pictures(1, 6, 6, 8)
    variables = layer.init(jax.random.key(0), images)
    moved = jax.tree.map(lambda kernel: 3 * kernel + 2, variables)
    np.testing.assert_allclose(layer.apply(moved, images), layer.apply(variables, images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (16, 16), (48, 16)])
def test_group_norm_has_32_groups_or_as_many_as_go(channels, groups):
    layer = Only(make_layers(norm_name="group_norm"), lambda layers, x: layers.norm(x, name="norm"))
    images = 3 * pictures(2, 4, 4, channels) + 1
    output, _ = layer.init_with_output(jax.random.key(0), images)
    grouped = np.asarray(output, np.float64).reshape(2, 16, groups, -1)
    np.testing.assert_allclose(grouped.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(grouped.var((1, 3)), 1, rtol=1e-3)


@pytest.mark.parametrize(("norm", "shape"), [("bias", (8,)), ("scalar_bias", ())])
def test_a_bias_in_place_of_a_norm(norm, shape):
    layer = Only(make_layers(norm_name=norm), lambda layers, x: layers.norm(x, name="norm"))
    images = pictures(1, 2, 2, 8)
    bias = jax.random.normal(jax.random.key(1), shape)
    assert jax.tree.map(jnp.shape, layer.init(jax.random.key(0), images)) == {"params": {"norm": {"bias": shape}}}
    output = layer.apply({"params": {"norm": {"bias": bias}}}, images)
    np.testing.assert_array_equal(output, images + bias)


def test_dropout_keeps_the_expected_value_and_is_off_in_evaluation():
    layer = Only(make_layers(train=True), lambda layers, x: layers.dropout(x, 0.3))
    output = layer.apply({}, jnp.ones((200, 10, 10, 10)), rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(output)) == {np.float32(0), np.float32(1 / 0.7)}
    assert float(output.mean()) == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(Only(make_layers(), layer.apply_layer).apply({}, jnp.ones((2, 2, 2, 2))), 1)


def test_squeeze_and_excitation_on_numbers_worked_out_by_hand():
    """Channel means (1, 3); hidden relu(1 * 1 - 0.5 * 3 + 1) = 0.5; gates sigmoid(2 * 0.5), sigmoid(-4 * 0.5 + 2)."""
    images = jnp.array([[[[0.0, 2.0], [2.0, 4.0]]]])
    params = {
        "reduce": {"kernel": jnp.array([[1.0], [-0.5]]), "bias": jnp.array([1.0])},
        "expand": {"kernel": jnp.array([[2.0, -4.0]]), "bias": jnp.array([0.0, 2.0])},
    }
    output = SqueezeExcitation(reduction=2, dtype=jnp.float32).apply({"params": params}, images)
    np.testing.assert_allclose(output, images * np.array([1 / (1 + np.exp(-1)), 0.5]), rtol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 5)])
@pytest.mark.parametrize("stride", [1, 2])
def test_blur_pool_is_the_binomial_filter_and_a_stride(size, stride):
    images = np.asarray(pictures(2, *size, 3))
    blurred = images
    for axis in (1, 2):  # An even filter: one value to the left, two to the right. SciPy's origin counts the other way.
        blurred = scipy.ndimage.correlate1d(blurred, np.array([1, 3, 3, 1]) / 8, axis, mode="mirror", origin=-1)
    np.testing.assert_allclose(blur_pool(images, stride), blurred[:, ::stride, ::stride], rtol=1e-5, atol=1e-6)


def test_blur_pool_keeps_a_plain_picture_and_removes_a_checkerboard():
    np.testing.assert_allclose(blur_pool(jnp.full((1, 6, 6, 1), 3.0), 2), 3.0)
    checkerboard = jnp.indices((8, 8)).sum(0)[None, :, :, None] % 2 * 2.0 - 1
    assert float(jnp.abs(blur_pool(checkerboard, 2)).max()) < 1e-6


@pytest.mark.parametrize("pool", [average_pool, blur_pool])
def test_pools_keep_the_type(pool):
    assert pool(jnp.ones((1, 5, 5, 1), jnp.bfloat16), 2).dtype == jnp.bfloat16


def test_average_pool_means_what_is_left_at_the_borders():
    images = jnp.arange(15.0).reshape(1, 3, 5, 1)
    expected = [[(0 + 1 + 5 + 6) / 4, (2 + 3 + 7 + 8) / 4, (4 + 9) / 2], [(10 + 11) / 2, (12 + 13) / 2, 14]]
    np.testing.assert_allclose(average_pool(images, 2)[0, :, :, 0], expected)
