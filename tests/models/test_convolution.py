import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resnet_jax import cpu
from resnet_jax.models import convolution
from resnet_jax.models.creation import create_model

NHWC = lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC"))


def gradients_of(convolve, size, kernel, stride, padding):
    """A function from pictures and kernel to both gradients of a number, and such arguments."""
    random = np.random.default_rng(0)
    x = random.normal(size=(4, *size, 5)).astype(np.float32)
    weights = random.normal(size=(*kernel, 5, 6)).astype(np.float32)

    def number(x, weights):
        return jnp.sum(jnp.sin(convolve(x, weights, (stride, stride), [padding] * 2, dimension_numbers=NHWC)))

    return jax.jit(jax.grad(number, (0, 1))), (x, weights)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((9, 7), (3, 3), 1, (1, 1)),
        ((9, 8), (3, 3), 2, (1, 1)),
        ((8, 8), (1, 1), 1, (0, 0)),
        ((9, 8), (1, 1), 2, (0, 0)),
        ((17, 16), (7, 7), 2, (3, 3)),
        ((8, 9), (3, 5), 1, (2, 1)),
        ((8, 9), (2, 4), 3, (0, 1)),
    ],
)
def test_gradients_are_those_of_xla(size, kernel, stride, padding):
    """Even and odd sizes, borders that see no window, and others that are not the same on both sides."""
    ours, arguments = gradients_of(convolution.conv_general_dilated, size, kernel, stride, padding)
    by_xla, _ = gradients_of(lax.conv_general_dilated, size, kernel, stride, padding)
    for found, expected in zip(ours(*arguments), by_xla(*arguments), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("platform", "products"), [("cpu", 1), ("tpu", 0), ("cuda", 0)])
def test_it_is_a_product_on_a_cpu_alone(platform, products):
    """And then with one convolution less: forward, to the kernel and to the pictures they are three."""
    ours, arguments = gradients_of(convolution.conv_general_dilated, (8, 8), (3, 3), 1, (1, 1))
    program = ours.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    assert program.count("stablehlo.dot_general") == products
    assert program.count("stablehlo.convolution") == 3 - products


@pytest.mark.parametrize(
    ("name", "kernels"),
    [("resnet20", 3), ("resnext50_32x4d", 4)],  # The stem's, the block's, and that of the shortcut where there is one.
)
def test_networks_take_it_where_the_cpu_is_tuned_and_groups_are_not_convolved_apart(name, kernels, monkeypatch):
    def products():
        model, images = create_model(name, 10, stage_sizes=(1,)), jnp.zeros((2, 32, 32, 3))
        variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
        gradient = jax.grad(lambda variables: model.apply(variables, images, train=False).sum())
        return str(jax.make_jaxpr(gradient)(variables)).count("platform_index")

    assert products() == 0
    monkeypatch.setattr(cpu, "_is_tuned", True)
    assert products() == kernels
