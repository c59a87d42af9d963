import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.test_util import check_grads

from resnet_jax.models.layers import (
    ACTIVATIONS,
    GroupedBatchNorm,
    Layers,
    SqueezeExcitation,
    average_pool,
    blur_pool,
    he_normal_fan_out,
    partial_identity,
)


def make_layers(**settings) -> Layers:
    defaults = {
        "train": False,
        "dtype": jnp.float32,
        "norm_name": "batch_norm",
        "activation": "relu",
        "norm_momentum": 0.9,
        "norm_epsilon": 1e-5,
        "norm_group_size": 0,
        "weight_standardization": False,
        "blur_pool": False,
    }
    return Layers(**(defaults | settings))


class Wrapper(nn.Module):
    """A module that calls `apply_layer(layers, x)`."""

    layers: Layers
    apply_layer: object

    @nn.compact
    def __call__(self, x):
        return self.apply_layer(self.layers, x)


def random_images(*shape):
    return jax.random.normal(jax.random.key(7), shape)


def test_he_normal_fan_out_has_variance_two_over_fan_out():
    kernel = he_normal_fan_out(jax.random.key(0), (3, 3, 64, 128), jnp.float32)
    assert float(kernel.var()) == pytest.approx(2 / (3 * 3 * 128), rel=0.02)
    assert float(jnp.abs(kernel).max() / kernel.std()) > 4  # The normal is not truncated.


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 6), (6, 4), (5, 5)])
def test_partial_identity_passes_on_as_many_channels_as_there_are_inputs_and_outputs(inputs, outputs):
    kernel = partial_identity(jax.random.key(0), (3, 3, inputs, outputs))
    images = random_images(2, 5, 5, inputs)
    result = nn.Conv(outputs, (3, 3), use_bias=False).apply({"params": {"kernel": kernel}}, images)
    same = min(inputs, outputs)
    np.testing.assert_array_equal(result[..., :same], images[..., :same])
    assert (result[..., same:] != 0).all()


def test_partial_identity_draws_the_other_outputs_as_pytorch_does():
    kernel = partial_identity(jax.random.key(0), (3, 3, 64, 256))[..., 64:]
    limit = 1 / math.sqrt(3 * 3 * 64)
    assert float(jnp.abs(kernel).max()) == pytest.approx(limit, rel=1e-3)
    assert float(kernel.std()) == pytest.approx(limit / math.sqrt(3), rel=0.01)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("relu", [0.0, 0.0, 2.0]), ("gelu", [-0.15865525, 0.0, 1.9544997]), ("silu", [-0.26894143, 0.0, 1.7615942])],
)
def test_activations_have_their_values_at_minus_one_zero_and_two(name, expected):
    """GELU is x times the normal distribution function, SiLU x times the logistic function."""
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.array([-1.0, 0.0, 2.0])), expected, rtol=1e-6)


def test_weight_standardization_makes_kernels_of_mean_zero_and_variance_one():
    layer = Wrapper(make_layers(weight_standardization=True), lambda layers, x: layers.conv(x, 5, 3, name="conv"))
    images = random_images(1, 6, 6, 8)
    variables = layer.init(jax.random.key(0), images)
    kernel = np.asarray(variables["params"]["conv"]["kernel"], np.float64)
    assert kernel.std() < 0.5  # The stored kernel is not standardized.
    standardized = (kernel - kernel.mean((0, 1, 2))) / kernel.std((0, 1, 2))
    plain = Wrapper(make_layers(), layer.apply_layer)
    expected = plain.apply({"params": {"conv": {"kernel": jnp.asarray(standardized, jnp.float32)}}}, images)
    np.testing.assert_allclose(layer.apply(variables, images), expected, rtol=1e-4, atol=1e-5)


def test_weight_standardization_ignores_scale_and_shift_of_the_kernel():
    layer = Wrapper(make_layers(weight_standardization=True), lambda layers, x: layers.conv(x, 5, 3, name="conv"))
    images = random_images(1, 6, 6, 8)
    variables = layer.init(jax.random.key(0), images)
    moved = jax.tree.map(lambda kernel: 3 * kernel + 2, variables)
    np.testing.assert_allclose(layer.apply(moved, images), layer.apply(variables, images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (16, 16), (48, 16)])
def test_group_norm_has_32_groups_or_the_most_that_divide_the_channels(channels, groups):
    layer = Wrapper(make_layers(norm_name="group_norm"), lambda layers, x: layers.norm(x, name="norm"))
    images = 3 * random_images(2, 4, 4, channels) + 1
    output, _ = layer.init_with_output(jax.random.key(0), images)
    grouped = np.asarray(output, np.float64).reshape(2, 16, groups, -1)
    np.testing.assert_allclose(grouped.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(grouped.var((1, 3)), 1, rtol=1e-3)


@pytest.mark.parametrize(("norm", "shape"), [("bias", (8,)), ("scalar_bias", ())])
def test_bias_norms_add_a_bias_of_the_expected_shape(norm, shape):
    layer = Wrapper(make_layers(norm_name=norm), lambda layers, x: layers.norm(x, name="norm"))
    images = random_images(1, 2, 2, 8)
    bias = jax.random.normal(jax.random.key(1), shape)
    assert jax.tree.map(jnp.shape, layer.init(jax.random.key(0), images)) == {"params": {"norm": {"bias": shape}}}
    output = layer.apply({"params": {"norm": {"bias": bias}}}, images)
    np.testing.assert_array_equal(output, images + bias)


def test_dropout_keeps_the_mean_in_training_and_is_off_in_evaluation():
    layer = Wrapper(make_layers(train=True), lambda layers, x: layers.dropout(x, 0.3))
    output = layer.apply({}, jnp.ones((200, 10, 10, 10)), rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(output)) == {np.float32(0), np.float32(1 / 0.7)}
    assert float(output.mean()) == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(Wrapper(make_layers(), layer.apply_layer).apply({}, jnp.ones((2, 2, 2, 2))), 1)


def test_squeeze_excitation_matches_hand_computed_values():
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
def test_blur_pool_is_the_binomial_filter_with_a_stride(size, stride):
    images = np.asarray(random_images(2, *size, 3))
    blurred = images
    # An even filter reaches one value to the left and two to the right. SciPy's origin has the opposite sign.
    for axis in (1, 2):
        blurred = scipy.ndimage.correlate1d(blurred, np.array([1, 3, 3, 1]) / 8, axis, mode="mirror", origin=-1)
    np.testing.assert_allclose(blur_pool(images, stride), blurred[:, ::stride, ::stride], rtol=1e-5, atol=1e-6)


def test_blur_pool_keeps_a_constant_image_and_removes_a_checkerboard():
    np.testing.assert_allclose(blur_pool(jnp.full((1, 6, 6, 1), 3.0), 2), 3.0)
    checkerboard = jnp.indices((8, 8)).sum(0)[None, :, :, None] % 2 * 2.0 - 1
    assert float(jnp.abs(blur_pool(checkerboard, 2)).max()) < 1e-6


@pytest.mark.parametrize("pool", [average_pool, blur_pool])
def test_pooling_keeps_the_dtype(pool):
    assert pool(jnp.ones((1, 5, 5, 1), jnp.bfloat16), 2).dtype == jnp.bfloat16


def test_average_pool_averages_only_values_inside_the_border():
    images = jnp.arange(15.0).reshape(1, 3, 5, 1)
    expected = [[(0 + 1 + 5 + 6) / 4, (2 + 3 + 7 + 8) / 4, (4 + 9) / 2], [(10 + 11) / 2, (12 + 13) / 2, 14]]
    np.testing.assert_allclose(average_pool(images, 2)[0, :, :, 0], expected)


# ---- GroupedBatchNorm ------------------------------------------------------------------------------------------------

SHAPE = (12, 3, 2, 5)
GROUP_SIZE = 4


def grouped_images():
    """Return examples that differ in mean and std, so that the groups differ too."""
    level = jnp.arange(12.0).reshape(12, 1, 1, 1)
    return (1 + 0.1 * level) * jax.random.normal(jax.random.key(0), SHAPE) + level


def grouped_norm_variables():
    """Return parameters and running statistics that all differ from their initial values."""
    keys = jax.random.split(jax.random.key(1), 4)
    scale, bias, mean, var = (jax.random.uniform(key, (5,), minval=0.5, maxval=2.0) for key in keys)
    return {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}


def grouped_norm(group_size=GROUP_SIZE, **settings):
    return GroupedBatchNorm(group_size=group_size, momentum=0.8, epsilon=1e-3, **settings)


def train_norm(norm, x):
    return norm.apply(grouped_norm_variables(), x, use_running_average=False, mutable=["batch_stats"])


def test_grouped_batch_norm_normalizes_each_group_and_averages_statistics_over_groups():
    before = jax.tree.map(np.float64, grouped_norm_variables())
    groups = np.asarray(grouped_images(), np.float64).reshape(3, GROUP_SIZE, 3, 2, 5)
    mean, var = groups.mean((1, 2, 3)), groups.var((1, 2, 3))
    expected = np.concatenate([(groups[i] - mean[i]) / np.sqrt(var[i] + 1e-3) for i in range(3)])
    output, updated = train_norm(grouped_norm(), grouped_images())
    params, statistics = before["params"], before["batch_stats"]
    np.testing.assert_allclose(output, expected * params["scale"] + params["bias"], rtol=1e-4, atol=1e-5)
    assert updated["batch_stats"].keys() == {"mean", "var"}
    for name, group_statistics in (("mean", mean), ("var", var)):
        moved = 0.8 * statistics[name] + 0.2 * group_statistics.mean(0)
        np.testing.assert_allclose(updated["batch_stats"][name], moved, rtol=1e-5)


def test_grouped_batch_norm_gradients_match_finite_differences():
    def output(params, x):
        changed = grouped_norm_variables() | {"params": params}
        return grouped_norm().apply(changed, x, use_running_average=False, mutable=["batch_stats"])[0]

    arguments = (grouped_norm_variables()["params"], grouped_images())
    check_grads(output, arguments, order=1, modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)


def test_grouped_batch_norm_with_one_group_equals_batch_norm():
    plain = nn.BatchNorm(momentum=0.8, epsilon=1e-3)
    actual = train_norm(grouped_norm(12), grouped_images())
    expected = train_norm(plain, grouped_images())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), actual, expected)


def test_grouped_batch_norm_equals_batch_norm_in_initial_variables_and_in_evaluation():
    plain = nn.BatchNorm(momentum=0.8, epsilon=1e-3)
    plain_initial = plain.init(jax.random.key(0), grouped_images(), use_running_average=True)
    for training in (True, False):
        initial = grouped_norm().init(jax.random.key(0), grouped_images(), use_running_average=not training)
        jax.tree.map(np.testing.assert_array_equal, initial, plain_initial)
    evaluated = [
        norm.apply(grouped_norm_variables(), grouped_images(), use_running_average=True)
        for norm in (grouped_norm(), plain)
    ]
    np.testing.assert_array_equal(*evaluated)


def test_grouped_batch_norm_computes_bfloat16_statistics_in_float32():
    """In bfloat16, a mean of 200 would be off by up to 0.5, and so would the normalized values."""
    shifted = (200 + grouped_images()).astype(jnp.bfloat16)
    output, updated = train_norm(grouped_norm(dtype=jnp.bfloat16), shifted)
    expected, expected_update = train_norm(grouped_norm(), shifted.astype(jnp.float32))
    assert output.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(output.astype(np.float32), expected, rtol=1e-2, atol=1e-2)
    jax.tree.map(np.testing.assert_array_equal, updated, expected_update)


def test_grouped_batch_norm_refuses_a_batch_not_divisible_by_the_group_size():
    with pytest.raises(TypeError, match="reshape"):
        train_norm(grouped_norm(5), grouped_images())
