"""Pixel values in [0, 255]: computed with as float32, handed back in the dtype that the pictures came in."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Fill = float | Sequence[float]  # a pixel value in [0, 255], for all channels or one for each


def to_dtype(values: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Pixel values of any shape in `dtype`: clipped to [0, 255], and rounded to the nearest where it is an integer."""
    values = jnp.clip(values, 0, 255)
    return (values if jnp.issubdtype(dtype, jnp.floating) else jnp.round(values)).astype(dtype)


def filled(images: jax.Array, where: jax.Array, fill: Fill) -> jax.Array:
    """`images` [batch, height, width, channels] with `fill` wherever the bool [batch, height, width, 1] is true."""
    return jnp.where(where, to_dtype(jnp.asarray(fill, jnp.float32), images.dtype), images)


def per_picture(values: jax.Array | float) -> jax.Array:
    """One number, or one a picture [batch], in the shape [1 or batch, 1, 1, 1] that broadcasts over pictures."""
    return jnp.reshape(jnp.asarray(values, jnp.float32), (-1, 1, 1, 1))
