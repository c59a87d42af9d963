"""Helpers for pixel values in [0, 255]: conversion to the dtype of the images, fill values, one number per image."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Fill = float | Sequence[float]  # a pixel value in [0, 255], either one for all channels or one per channel


def to_dtype(values: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Clip pixel values of any shape to [0, 255] and convert them to `dtype`, rounding to nearest for integers.

    Example:
      >>> to_dtype(jnp.array([-3.0, 0.6, 300.0]), jnp.uint8).tolist()
      [0, 1, 255]
    """
    values = jnp.clip(values, 0, 255)
    return (values if jnp.issubdtype(dtype, jnp.floating) else jnp.round(values)).astype(dtype)


def fill_where(images: jax.Array, mask: jax.Array, fill: Fill) -> jax.Array:
    """Replace pixels of `images` [batch, height, width, channels] by `fill` where `mask` is true.

    The mask is bool [batch, height, width, 1].
    """
    return jnp.where(mask, to_dtype(jnp.asarray(fill, jnp.float32), images.dtype), images)


def per_image(values: jax.Array | float) -> jax.Array:
    """Reshape a number, or one number per image [batch], to [1 or batch, 1, 1, 1], which broadcasts over images."""
    return jnp.reshape(jnp.asarray(values, jnp.float32), (-1, 1, 1, 1))
