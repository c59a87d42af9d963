"""A convolution whose gradient to its kernel is quick on a CPU.

XLA makes that gradient another convolution, whose window is as large as the picture; on its CPU backend these take more
than half of a train step. Here it is one product of two matrices: the patches that the kernel saw, and what came back
for each of them (Chellapilla et al. 2006, "High Performance Convolutional Neural Networks for Document Processing").
"""

import jax
import jax.numpy as jnp
from jax import lax


def conv_general_dilated(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: list[tuple[int, int]], **settings
) -> jax.Array:
    """`jax.lax.conv_general_dilated` of one group without dilations, for `flax.linen.Conv`.

    It has no forward-mode derivative, and is compiled as any other convolution for other devices than CPUs.

    Args:
      x: [batch, height, width, channels].
      kernel: [height, width, channels, features].
      strides, padding: along height and width.
      settings: other ones of `jax.lax.conv_general_dilated`.
    """

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, strides, padding, **settings)

    def by_product(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return _kernel_gradient(x, gradient, kernel.shape[:2], strides, padding)

    def by_xla(x: jax.Array, gradient: jax.Array) -> jax.Array:
        (of_kernel,) = jax.linear_transpose(lambda kernel: convolve(x, kernel), kernel)(gradient)
        return of_kernel

    def backward(inputs: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, kernel = inputs
        (of_x,) = jax.linear_transpose(lambda x: convolve(x, kernel), x)(gradient)
        return of_x, lax.platform_dependent(x, gradient, cpu=by_product, default=by_xla)

    differentiable = jax.custom_vjp(convolve)
    differentiable.defvjp(lambda x, kernel: (convolve(x, kernel), (x, kernel)), backward)
    return differentiable(x, kernel)


def _kernel_gradient(
    x: jax.Array, gradient: jax.Array, window: tuple[int, int], strides: tuple[int, int], padding: list[tuple[int, int]]
) -> jax.Array:
    """The gradient to the kernel, from that to the output, [batch, height, width, features]."""
    (rows, columns), (_, height, width, features) = window, gradient.shape
    x = _shifted(jnp.pad(x, [(0, 0), *padding, (0, 0)]), 1, rows, strides[0], height)
    if strides[1] > 1:
        patches = _shifted(x, 2, columns, strides[1], width)
        return _matrix_product(patches, gradient).reshape(columns, rows, -1, features).swapaxes(0, 1)
    # Every column of x meets `columns` ones of the output: the latter side by side make one product, and x stays small.
    gradient = jnp.pad(gradient, [(0, 0), (0, 0), (columns - 1, columns - 1), (0, 0)])
    gradient = _shifted(gradient, 2, columns, 1, width + columns - 1)
    product = _matrix_product(x, gradient).reshape(rows, -1, columns, features)
    return jnp.flip(product, 2).swapaxes(1, 2)


def _shifted(x: jax.Array, axis: int, window: int, stride: int, places: int) -> jax.Array:
    """What a window along an axis sees at each place, side by side as channels."""
    reach = stride * (places - 1) + 1
    return jnp.concatenate(
        [lax.slice_in_dim(x, start, start + reach, stride, axis) for start in range(window)], axis=-1
    )


def _matrix_product(x: jax.Array, y: jax.Array) -> jax.Array:
    """[channels of x, channels of y], summed over all else."""
    rows = (array.reshape(-1, array.shape[-1]) for array in (x, y))
    exact = jnp.promote_types(x.dtype, jnp.float32)  # These are sums of many numbers, which may be bfloat16.
    return jnp.einsum("np,nf->pf", *rows, preferred_element_type=exact).astype(x.dtype)
