"""Max-pooling whose gradient is fast on a CPU.

XLA has a single operation for the gradient of max-pooling, select-and-scatter, which is slow on a CPU. There, we use
elementwise operations instead: we record where in each window the maximum is, and each value then sums the gradients of
the windows whose maximum it is. Maxima and gradients of finite values are those of `flax.linen.max_pool`, up to
rounding in bfloat16. On other devices, the program is that of `flax.linen.max_pool`.
"""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

OUTSIDE = -1  # in place of an index in a window


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
    """Return the maxima of square windows. Rows and columns at the end that do not fill a window are dropped.

    The gradient of a window goes to its maximum. If several values are equal to the maximum, it goes to the first of
    them, row by row. Only reverse-mode differentiation works.

    Args:
      x: [batch, height, width, channels].
      window: height and width of a window.
      stride: the distance between windows.
      padding: by how much the windows reach beyond each side of `x`. The maximum is over the values inside.

    Returns:
      [batch, (height + 2 * padding - window) // stride + 1, the same for the width, channels].

    Example:
      >>> image = jnp.array([[1.0, 3.0, 0.0], [3.0, 2.0, 4.0]]).reshape(1, 2, 3, 1)
      >>> max_pool(image, window=2, stride=1).ravel().tolist()
      [3.0, 4.0]
      >>> jax.grad(lambda image: max_pool(image, window=2, stride=1).sum())(image)[0, :, :, 0].tolist()
      [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return _max_pool(x, window, stride, padding)


def _max_pool(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    return nn.max_pool(x, (window, window), (stride, stride), [(padding, padding)] * 2)


def _forward(x: jax.Array, *settings: int) -> tuple[jax.Array, jax.Array]:
    return _max_pool(x, *settings), x


def _backward(window: int, stride: int, padding: int, x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    def on_cpu(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return _elementwise_gradient(x, gradient, window, stride, padding)

    def elsewhere(x: jax.Array, gradient: jax.Array) -> jax.Array:
        _, pull_back = jax.vjp(lambda x: _max_pool(x, window, stride, padding), x)
        return pull_back(gradient)[0]

    return (jax.lax.platform_dependent(x, gradient, cpu=on_cpu, default=elsewhere),)


max_pool.defvjp(_forward, _backward)


def _elementwise_gradient(x: jax.Array, gradient: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    """Return the gradient with respect to `x`, without select-and-scatter.

    `x` is divided into cells of `stride` x `stride` values. Along an axis, a value at position r of cell c is in the
    window c + offset if it has a position r + padding - stride * offset in [0, window) there.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # Rounding to bfloat16 is slow, so only the sums are rounded.
    batch, height, width, channels = x.shape
    cells = math.ceil(height / stride), math.ceil(width / stride)
    offsets = range(-((window - 1 - padding) // stride), (stride - 1 + padding) // stride + 1)

    def add_borders(windows: jax.Array) -> jax.Array:
        """Add zeros in place of windows that do not exist, so that each cell has a window at each offset."""
        after = [count + offsets[-1] - size for count, size in zip(cells, windows.shape[1:3], strict=True)]
        borders = [(0, 0, 0), *((-offsets[0], count, 0) for count in after), (0, 0, 0)]
        return jax.lax.pad(windows, jnp.zeros((), windows.dtype), borders)

    index_of_maximum = add_borders(_index_of_maximum(x.astype(dtype), window, stride, padding))
    gradient = add_borders(gradient.astype(dtype))
    # [batch, row of cells, row in the cell, column of cells, column in the cell, channels]
    total = jnp.zeros((), dtype)
    for row_offset, column_offset in itertools.product(offsets, offsets):
        row, column = row_offset - offsets[0], column_offset - offsets[0]
        window_of_cell = (slice(None), slice(row, row + cells[0]), None, slice(column, column + cells[1]), None)
        rows, columns = (np.arange(stride) + padding - stride * offset for offset in (row_offset, column_offset))
        index = _index_in_window(rows[:, None], columns, window)[:, None, :, None]
        total += jnp.where(index_of_maximum[window_of_cell] == index, gradient[window_of_cell], 0)
    total = total.reshape(batch, cells[0] * stride, cells[1] * stride, channels)
    return total[:, :height, :width].astype(x.dtype)


def _index_of_maximum(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    """Return row * window + column of the first maximum in each window, int32 [batch, rows, columns, channels]."""
    padded = jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)], constant_values=-jnp.inf)
    rows, columns = ((size - window) // stride + 1 for size in padded.shape[1:3])
    largest = jnp.full((x.shape[0], rows, columns, x.shape[3]), -jnp.inf, x.dtype)
    index = jnp.zeros(largest.shape, jnp.int32)
    for row, column in itertools.product(range(window), range(window)):
        values = padded[:, row::stride, column::stride][:, :rows, :columns]
        is_larger = values > largest
        largest = jnp.where(is_larger, values, largest)
        index = jnp.where(is_larger, row * window + column, index)
    return index


def _index_in_window(row: np.ndarray, column: np.ndarray, window: int) -> np.ndarray:
    """Return row * window + column, as `_index_of_maximum` does, or OUTSIDE."""
    inside = (row >= 0) & (row < window) & (column >= 0) & (column < window)
    return np.where(inside, row * window + column, OUTSIDE)
