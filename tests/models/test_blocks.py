import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models.blocks import BasicBlock, BottleneckBlock, he_normal_fan_out


def make_block(kind, stride, shortcut="projection", zero_init_residual=False):
    norm = functools.partial(nn.BatchNorm, use_running_average=True)
    return kind(
        width=8,
        stride=stride,
        norm=norm,
        shortcut=shortcut,
        zero_init_residual=zero_init_residual,
        dtype=jnp.float32,
    )


def test_zero_init_makes_a_block_the_identity():
    images = jax.random.uniform(jax.random.key(0), (2, 6, 6, 8))
    block = make_block(BasicBlock, 1, zero_init_residual=True)
    output, variables = block.init_with_output(jax.random.key(1), images)
    np.testing.assert_array_equal(output, images)
    assert not variables["params"]["norm2"]["scale"].any()
    assert variables["params"]["norm1"]["scale"].all()


def test_option_a_strides_and_pads_with_zero_channels_on_both_sides():
    images = jax.random.uniform(jax.random.key(0), (2, 6, 6, 4))
    block = make_block(BasicBlock, 2, shortcut="pad", zero_init_residual=True)
    output, variables = block.init_with_output(jax.random.key(1), images)
    np.testing.assert_array_equal(output[..., 2:6], images[:, ::2, ::2])
    assert not output[..., :2].any()
    assert not output[..., 6:].any()
    assert not any("shortcut" in name for name in variables["params"])


def test_bottleneck_strides_in_its_3x3():
    """Version 1.5; the original paper's code strides in the first 1x1."""
    images = jnp.zeros((1, 6, 6, 4))
    _, seen = make_block(BottleneckBlock, 2).init_with_output(
        jax.random.key(0), images, capture_intermediates=True, mutable=True
    )
    sizes = {name: seen["intermediates"][name]["__call__"][0].shape[1:] for name in ("conv1", "conv2", "conv3")}
    assert sizes == {"conv1": (6, 6, 8), "conv2": (3, 3, 8), "conv3": (3, 3, 32)}


@pytest.mark.parametrize("kind", [BasicBlock, BottleneckBlock])
def test_shortcut_is_the_identity_where_nothing_changes(kind):
    images = jnp.zeros((1, 6, 6, 8 * kind.expansion))
    variables = make_block(kind, 1).init(jax.random.key(0), images)
    assert not any("shortcut" in name for name in variables["params"])


def test_he_initialisation_has_variance_two_over_fan_out():
    kernel = he_normal_fan_out(jax.random.key(0), (3, 3, 64, 128), jnp.float32)
    assert float(kernel.var()) == pytest.approx(2 / (3 * 3 * 128), rel=0.02)
    assert float(jnp.abs(kernel).max() / kernel.std()) > 4  # A normal that is not truncated.
