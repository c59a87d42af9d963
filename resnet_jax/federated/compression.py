"""Compression of updates on their way from the clients to the server: what arrives, and how many bytes travel."""

import math

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

COMPRESSIONS = ("none", "int8", "top_k")  # values of `federated.compression`
FLOAT_BYTES, INDEX_BYTES = 4, 4


def round_to_int8(update, key: jax.Array):
    """Round the entries of each array to 255 levels, from minus to plus its largest magnitude, at random.

    An entry is rounded up or down with probabilities that make its expected value exact (Alistarh et al. 2017, section
    3.1, with the largest magnitude in place of the norm).

    Args:
      update: a pytree of float32 arrays.
      key: a PRNG key.

    Returns:
      The update as the server decodes it.

    Example:
      >>> round_to_int8({"bias": jnp.array([-1.0, 0.0, 1.0])}, jax.random.key(0))["bias"].tolist()
      [-1.0, 0.0, 1.0]
    """
    leaves, treedef = jax.tree.flatten(update)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(treedef, [_round_array(leaf, key) for leaf, key in zip(leaves, keys, strict=True)])


def _round_array(values: jax.Array, key: jax.Array) -> jax.Array:
    largest = jnp.max(jnp.abs(values))
    levels = values / jnp.where(largest > 0, largest, 1.0) * 127
    return jnp.floor(levels + jax.random.uniform(key, values.shape)).clip(-127, 127) / 127 * largest


def keep_largest(update, share: float):
    """Keep the entries of the update with the largest magnitudes, and set all others to zero (Aji & Heafield 2017).

    What is set to zero is lost, so the update that arrives is biased.

    Args:
      update: a pytree of float32 arrays.
      share: the share of the entries to keep, rounded up.

    Example:
      >>> keep_largest({"bias": jnp.array([1.0, -3.0, 2.0])}, share=0.4)["bias"].tolist()
      [0.0, -3.0, 2.0]
    """
    flat, unravel = ravel_pytree(update)
    _, positions = jax.lax.top_k(jnp.abs(flat), math.ceil(share * flat.size))
    return unravel(jnp.zeros_like(flat).at[positions].set(flat[positions]))


def bytes_sent(tree, compression: str = "none", share: float = 1.0) -> int:
    """Return the bytes of an update, or of a model, on its way.

    Args:
      tree: a pytree of float32 arrays.
      compression: one of `COMPRESSIONS`. With "int8", each array has one float in addition; with "top_k", each entry
        has an index.
      share: as in `keep_largest`; with "top_k" only.

    Example:
      >>> update = {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}
      >>> bytes_sent(update), bytes_sent(update, "int8"), bytes_sent(update, "top_k", share=0.5)
      (48, 20, 48)
    """
    leaves = jax.tree.leaves(tree)
    entries = sum(leaf.size for leaf in leaves)
    if compression == "int8":
        return entries + FLOAT_BYTES * len(leaves)
    if compression == "top_k":
        return (FLOAT_BYTES + INDEX_BYTES) * math.ceil(share * entries)
    return FLOAT_BYTES * entries
