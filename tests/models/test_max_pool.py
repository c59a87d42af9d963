"""Max-pooling has the maxima and gradients of `flax.linen.max_pool` and, except on a CPU, its program."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models.max_pool import max_pool

# Window, stride and padding: those of the stems, of BiT's stem, before blurring, between convolutions, and others.
WINDOWS = [(3, 2, 1), (3, 2, 0), (2, 1, 0), (2, 2, 0), (7, 7, 0), (3, 1, 1), (5, 2, 2), (1, 2, 0)]


def flax_max_pool(x, window, stride, padding):
    return nn.max_pool(x, (window, window), (stride, stride), [(padding, padding)] * 2)


def maxima_and_gradient(pool, x, *window):
    """Return the maxima and the gradient of a weighted sum of them. The weights are integers from 1 to 9."""
    maxima, pull_back = jax.vjp(lambda x: pool(x, *window), x)
    weights = np.random.default_rng(1).integers(1, 10, maxima.shape)
    return maxima, pull_back(jnp.asarray(weights, x.dtype))[0]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_max_pool_and_its_gradient_equal_those_of_flax(window, dtype):
    """Values from 0 to 2 make most windows have several maxima. With integers, no sum of gradients is rounded."""
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (2, 7, 10, 3)), dtype)
    actual, expected = (
        jax.jit(lambda x, pool=pool: maxima_and_gradient(pool, x, *window))(x) for pool in (max_pool, flax_max_pool)
    )
    assert {array.dtype for array in actual} == {jnp.dtype(dtype)}
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_max_pool_gradient_goes_to_the_first_of_equal_values():
    ones = jnp.ones((1, 4, 4, 1))
    expected = [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(jax.grad(lambda x: max_pool(x, 2, 2).sum())(ones)[0, :, :, 0], expected)


def test_max_pool_gradient_is_summed_without_rounding_in_between():
    """Four windows share a maximum. In bfloat16, 256 + 1 + 1 + 1 is 256 if each sum is rounded, and otherwise 260."""
    x = jnp.zeros((1, 5, 5, 1), jnp.bfloat16).at[0, 2, 2, 0].set(1)
    _, pull_back = jax.vjp(lambda x: max_pool(x, 3, 2), x)
    (actual,) = pull_back(jnp.array([256, 1, 1, 1], jnp.bfloat16).reshape(1, 2, 2, 1))
    assert actual[0, 2, 2, 0] == 260


def test_max_pool_ignores_the_padding():
    x = jnp.full((1, 3, 3, 1), -2.0)
    maxima, gradient = maxima_and_gradient(max_pool, x, 3, 2, 1)
    np.testing.assert_array_equal(maxima, np.full((1, 2, 2, 1), -2.0))
    np.testing.assert_array_equal(gradient, maxima_and_gradient(flax_max_pool, x, 3, 2, 1)[1])


# ---- The program for each device -------------------------------------------------------------------------------------

IMAGES = jnp.zeros((8, 16, 16, 4))


def stem_gradient(pool, x):
    return maxima_and_gradient(pool, x, 3, 2, 1)[1]


def test_program_for_a_cpu_has_neither_select_and_scatter_nor_a_conditional():
    program = jax.jit(functools.partial(stem_gradient, max_pool)).lower(IMAGES).compile().as_text()
    assert " select-and-scatter(" not in program
    assert " conditional(" not in program


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_program_for_other_devices_has_select_and_scatter(platform):
    traced = jax.jit(functools.partial(stem_gradient, max_pool)).trace(IMAGES)
    assert "select_and_scatter" in traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.slow
def test_compiled_program_for_a_tpu_is_that_of_flax(compile_for_tpu):
    ours, plain = (
        compile_for_tpu(functools.partial(stem_gradient, pool), IMAGES) for pool in (max_pool, flax_max_pool)
    )
    assert ours == plain
