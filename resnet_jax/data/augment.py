"""Augmentation of batches on the device: pure functions of `(key, images)`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

Augment = Callable[[jax.Array, jax.Array], jax.Array]


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Pads each picture with black and cuts its size out again at a random place (He et al. 2015, 4.2, with padding 4).

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels].
      padding: pixels on each side.

    Returns:
      As `images`; every offset in [0, 2 * padding] is equally likely, in each direction and for each picture.
    """
    batch, height, width, channels = images.shape
    padded = jnp.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    offsets = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def random_horizontal_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each picture of [batch, height, width, channels] left to right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def from_config(augment: ConfigDict) -> Augment:
    """All that `config.augment` asks for, one after another, each with a key of its own."""

    def apply(key: jax.Array, images: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        if augment.crop_padding:
            images = random_crop(crop_key, images, augment.crop_padding)
        if augment.horizontal_flip:
            images = random_horizontal_flip(flip_key, images)
        return images

    return apply
