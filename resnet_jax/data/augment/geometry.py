"""Which part of a picture is seen, and how it lies: crops, mirroring, rotation."""

import jax
import jax.numpy as jnp

from resnet_jax.data.augment import affine, boxes
from resnet_jax.data.augment.pixels import Fill, to_dtype


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


def random_rotation(key: jax.Array, images: jax.Array, degrees: float, fill: Fill = 0) -> jax.Array:
    """Turns each picture about its centre, by an angle uniform in [-degrees, degrees], with bilinear interpolation.

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255].
      degrees: the largest angle.
      fill: what comes into the corners.

    Returns:
      As `images`.
    """
    angles = jax.random.uniform(key, images.shape[:1], minval=-degrees, maxval=degrees)
    return affine.warp(images, affine.rotation(angles), fill)


def random_resized_crop(
    key: jax.Array,
    images: jax.Array,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    size: int | None = None,
) -> jax.Array:
    """Cuts a random rectangle out of each picture and resizes it.

    Szegedy et al. 2014, "Going deeper with convolutions", section 6.

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255].
      scale: smallest and largest share of the area that is cut out; the share is uniform between them.
      ratio: smallest and largest width over height; log-uniform between them, as far as the rectangle fits into the
        picture (see `boxes.draw`).
      size: as for `resized_crop`.

    Returns:
      As `images`, in that size.
    """
    return resized_crop(images, boxes.draw(key, *images.shape[:3], scale, ratio), size)


def resized_crop(images: jax.Array, crops: jax.Array, size: int | None = None) -> jax.Array:
    """Resizes a rectangle of each picture: bilinear, and without aliasing where it becomes smaller.

    Args:
      images: [batch, height, width, channels] in [0, 255].
      crops: float32 [batch, 4]: top, left, height and width of the rectangles in pixels, wholly within the picture.
      size: pixels on a side of what comes out; unset: the height and width of the pictures.

    Returns:
      As `images`, in that size.
    """
    height, width = (size, size) if size else images.shape[1:3]

    def crop(image: jax.Array, box: jax.Array) -> jax.Array:
        zoom = jnp.array([height, width], jnp.float32) / box[2:]
        shape = height, width, image.shape[-1]
        return jax.image.scale_and_translate(image, shape, (0, 1), zoom, -zoom * box[:2], "linear")

    return to_dtype(jax.vmap(crop)(images.astype(jnp.float32), crops), images.dtype)
