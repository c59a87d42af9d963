"""A batch taken in parts, one after another, so that a device keeps the activations of one part at a time.

Of every device a part has the same share of its examples, which therefore stay where they are: on 2 devices, 8 examples
are taken in the 2 parts 0, 1, 4, 5 and 2, 3, 6, 7. Each part starts from the same running statistics of BatchNorm. So
where BatchNorm's groups lie within such a share, and nothing random is drawn for examples (dropout, stochastic depth),
the mean over the parts is that of the batch taken at once, but for rounding. Where they do not, which examples share
statistics depends on the parts, and with these on the number of devices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def mean_over_parts(function: Callable, batch, parts: int, mesh: Mesh):
    """The mean of what `function` returns for the parts of a batch.

    Args:
      function: from a part of `batch` and its number, int32, to a pytree of float arrays.
      batch: a pytree of arrays [batch, ...], split over the devices.
      parts: how many; with 1, `function` gets `batch` itself, and None as the number.
      mesh: the devices; their number times `parts` divides the batch.
    """
    if parts == 1:
        return function(batch, None)

    def step(mean, numbered_part: tuple):
        number, part = numbered_part
        result = function(part, number)
        # In this form the mean of equal values, such as statistics that are frozen, is that value to the last bit.
        return jax.tree.map(lambda mean, value: mean + (value - mean) / (number + 1), mean, result), None

    split = jax.tree.map(lambda array: split_into_parts(array, parts, mesh), batch)
    shapes = jax.eval_shape(function, jax.tree.map(lambda array: array[0], split), jnp.zeros((), jnp.int32))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    # XLA makes convolutions inside a loop several times slower on CPU, so the parts are written out there.
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    mean, _ = jax.lax.scan(step, zeros, (jnp.arange(parts), split), unroll=on_cpu)
    return mean


def split_into_parts(array: jax.Array, parts: int, mesh: Mesh) -> jax.Array:
    """[batch, ...] as [parts, batch / parts, ...], both split over the devices along `batch`; no data moves."""

    def place(array: jax.Array, *axes: str | None) -> jax.Array:
        return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec(*axes)))

    by_device = place(array.reshape(mesh.size, parts, -1, *array.shape[1:]), "data")
    by_part = place(jnp.swapaxes(by_device, 0, 1), None, "data")
    return place(by_part.reshape(parts, -1, *array.shape[1:]), None, "data")
