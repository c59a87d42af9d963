"""Augmentations that erase a box of an image, so that the model learns not to depend on any single region."""

import jax
import jax.numpy as jnp

from resnet_jax.data.augment import boxes
from resnet_jax.data.augment.pixels import Fill, fill_where


def random_erasing(
    key: jax.Array,
    images: jax.Array,
    probability: float,
    fill: Fill,
    scale: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> jax.Array:
    """Erase a random box of an image with some probability (Zhong et al. 2017, "Random Erasing Data Augmentation").

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255].
      probability: probability with which an image loses a box.
      fill: value of the erased pixels.
      scale: smallest and largest fraction of the area; uniform between them.
      ratio: smallest and largest aspect ratio, width over height; log-uniform over those ratios between them at which
        the box fits into the image (see `boxes.random_boxes`).

    Returns:
      Images of the same shape and dtype.
    """
    batch, height, width, _ = images.shape
    chosen_key, box_key = jax.random.split(key)
    chosen = jax.random.bernoulli(chosen_key, probability, (batch, 1, 1, 1))
    erased = boxes.mask(boxes.random_boxes(box_key, batch, height, width, scale, ratio), height, width)
    return fill_where(images, chosen & erased, fill)


def cutout(key: jax.Array, images: jax.Array, size: int, fill: Fill) -> jax.Array:
    """Erase a square of every image (DeVries and Taylor 2017, "Improved Regularization ... with Cutout").

    The center of the square is uniform over the image, so the square may extend beyond the border. The authors found it
    important that some images stay almost whole.

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255].
      size: side of the square in pixels.
      fill: value of the erased pixels.

    Returns:
      Images of the same shape and dtype.
    """
    batch, height, width, _ = images.shape
    center = jax.random.randint(key, (batch, 2), 0, jnp.array([height, width]))
    square = jnp.concatenate([center - size // 2, jnp.full_like(center, size)], axis=-1)
    return fill_where(images, boxes.mask(square, height, width), fill)
