"""Augmentations that move the content of an image: crops, flips and rotations."""

import jax
import jax.numpy as jnp

from resnet_jax.data.augment import affine, boxes
from resnet_jax.data.augment.pixels import Fill, to_dtype

BORDERS = {"black": "constant", "reflect": "reflect"}  # modes of `jnp.pad` by the value of `augment.crop_border`


def random_crop(key: jax.Array, images: jax.Array, padding: int, border: str = "black") -> jax.Array:
    """Add a border to each image and crop it to its original size at a random position.

    He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2, with padding 4.

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels].
      padding: width of the border in pixels.
      border: "black", or "reflect" for the image mirrored at its outermost pixels.

    Returns:
      Images of the same shape and dtype. In each direction and for each image, every offset in [0, 2 * padding] is
      equally likely.
    """
    batch, height, width, channels = images.shape
    padded = jnp.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)], BORDERS[border])
    offsets = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def random_horizontal_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image of [batch, height, width, channels] left to right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def alternating_flip(key: jax.Array, images: jax.Array, examples: jax.Array, epoch: jax.Array) -> jax.Array:
    """Mirror each image left to right in every other epoch. A random bit per example chooses the even or odd epochs.

    So two epochs in a row show each example both ways (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
    "alternating flip").

    Args:
      key: a PRNG key, the same in all epochs.
      images: [batch, height, width, channels].
      examples: int32 [batch], the number that identifies each image in all epochs.
      epoch: int32, the number of the epoch.

    Returns:
      Images of the same shape and dtype.
    """
    in_odd_epochs = jax.vmap(lambda example: jax.random.bernoulli(jax.random.fold_in(key, example)))(examples)
    mirrored = in_odd_epochs == (epoch % 2 == 1)
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def random_rotation(key: jax.Array, images: jax.Array, degrees: float, fill: Fill = 0) -> jax.Array:
    """Rotate each image about its center by an angle uniform in [-degrees, degrees], with bilinear interpolation.

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255].
      degrees: the largest angle.
      fill: value of the pixels that come from outside the image.

    Returns:
      Images of the same shape and dtype.
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
    """Crop a random box out of each image and resize it.

    Szegedy et al. 2014, "Going deeper with convolutions", section 6.

    The distribution of the boxes is torchvision's, and the same as on the host (`crops.random_box`): the first of ten
    random boxes that fits into the image.

    If a streaming feed resizes images, the host crops instead, because images may differ in size. The host draws from
    (seed, epoch, place in the epoch) with NumPy's Philox, whose 64-bit integers the devices lack. The device draws from
    (seed, step). So crops on the host and on the device have the same distribution, but are not the same crops.

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255].
      scale: smallest and largest fraction of the area to crop; uniform between them.
      ratio: smallest and largest aspect ratio, width over height; log-uniform between them.
      size: see `resized_crop`.

    Returns:
      Images of the same dtype, in the requested size.
    """
    batch, height, width, _ = images.shape
    return resized_crop(images, boxes.random_crop_boxes(key, batch, height, width, scale, ratio), size)


def resized_crop(images: jax.Array, crop_boxes: jax.Array, size: int | None = None) -> jax.Array:
    """Crop a box out of each image and resize it, bilinear, with anti-aliasing where it shrinks.

    Args:
      images: [batch, height, width, channels] in [0, 255].
      crop_boxes: float32 [batch, 4]: top, left, height and width in pixels; each box lies wholly within the image.
      size: height and width of the result in pixels; by default those of `images`.

    Returns:
      Images of the same dtype, in the requested size.
    """
    height, width = (size, size) if size else images.shape[1:3]

    def crop(image: jax.Array, box: jax.Array) -> jax.Array:
        zoom = jnp.array([height, width], jnp.float32) / box[2:]
        shape = height, width, image.shape[-1]
        return jax.image.scale_and_translate(image, shape, (0, 1), zoom, -zoom * box[:2], "linear")

    return to_dtype(jax.vmap(crop)(images.astype(jnp.float32), crop_boxes), images.dtype)
