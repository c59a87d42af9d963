"""Erasing a part of a picture, so that the network learns to do without it."""

import jax
import jax.numpy as jnp

from resnet_jax.data.augment import boxes
from resnet_jax.data.augment.pixels import Fill, filled


def random_erasing(
    key: jax.Array,
    images: jax.Array,
    probability: float,
    fill: Fill,
    scale: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> jax.Array:
    """Erases a random rectangle of some of the pictures (Zhong et al. 2017, "Random Erasing Data Augmentation").

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255].
      probability: how likely a picture is to lose a rectangle.
      fill: what takes its place.
      scale: smallest and largest share of the area; uniform between them.
      ratio: smallest and largest width over height; log-uniform between them, as far as it fits (see `boxes.draw`).

    Returns:
      As `images`.
    """
    batch, height, width, _ = images.shape
    chosen_key, box_key = jax.random.split(key)
    chosen = jax.random.bernoulli(chosen_key, probability, (batch, 1, 1, 1))
    erased = boxes.mask(boxes.draw(box_key, batch, height, width, scale, ratio), height, width)
    return filled(images, chosen & erased, fill)


def cutout(key: jax.Array, images: jax.Array, size: int, fill: Fill) -> jax.Array:
    """Erases a square of every picture (DeVries and Taylor 2017, "Improved Regularization ... with Cutout").

    The square's centre is uniform over the picture, so that it may reach over the border: the authors found it
    important that some pictures are seen almost whole.

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255].
      size: pixels on a side of the square.
      fill: what takes its place.

    Returns:
      As `images`.
    """
    batch, height, width, _ = images.shape
    centre = jax.random.randint(key, (batch, 2), 0, jnp.array([height, width]))
    square = jnp.concatenate([centre - size // 2, jnp.full_like(centre, size)], axis=-1)
    return filled(images, boxes.mask(square, height, width), fill)
