"""Affine warps of images, and the matrices that rotate, shear and translate them.

A matrix maps (x, y, 1) of an output pixel to the (x, y) of the input image from which it is taken. Both are measured in
pixels from the center of the image, x to the right and y downwards, so every warp is about the center.

The interpolation is our own because `jax.scipy.ndimage.map_coordinates` blends the border of an image with the fill
value, which PIL does not. Tests compare the warps with those of PIL: they agree within one of the 256 levels.
"""

import jax
import jax.numpy as jnp

from resnet_jax.data.augment.pixels import Fill, fill_where, to_dtype


def warp(images: jax.Array, matrices: jax.Array, fill: Fill) -> jax.Array:
    """Warp each image, with bilinear interpolation.

    As in PIL, an output pixel gets the `fill` value if its center comes from outside the input image, and is
    interpolated if it comes from inside. The outermost input pixels extend to the border of the image, which is half a
    pixel from their centers.

    Args:
      images: [batch, height, width, channels] in [0, 255].
      matrices: float32 [batch, 2, 3].
      fill: value of the pixels that come from outside.

    Returns:
      Images of the same shape and dtype; unchanged where the matrix is the identity.
    """
    height, width = images.shape[1:3]
    x, y = jnp.meshgrid(jnp.arange(width) + 0.5 - width / 2, jnp.arange(height) + 0.5 - height / 2)

    def sample(image: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
        source_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] + width / 2
        source_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] + height / 2
        outside = (source_x < 0) | (source_x >= width) | (source_y < 0) | (source_y >= height)
        left, top = jnp.floor(source_x - 0.5), jnp.floor(source_y - 0.5)
        right_weight, bottom_weight = (source_x - 0.5 - left)[..., None], (source_y - 0.5 - top)[..., None]

        def pixels(rows: jax.Array, columns: jax.Array) -> jax.Array:
            rows, columns = rows.astype(jnp.int32).clip(0, height - 1), columns.astype(jnp.int32).clip(0, width - 1)
            return image[rows, columns].astype(jnp.float32)

        above = (1 - right_weight) * pixels(top, left) + right_weight * pixels(top, left + 1)
        below = (1 - right_weight) * pixels(top + 1, left) + right_weight * pixels(top + 1, left + 1)
        return (1 - bottom_weight) * above + bottom_weight * below, outside[..., None]

    warped, outside = jax.vmap(sample)(images, matrices)
    return fill_where(to_dtype(warped, images.dtype), outside, fill)


def identity(batch: int) -> jax.Array:
    """Return matrices [batch, 2, 3] that leave images unchanged.

    Example:
      >>> identity(1).tolist()
      [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
    """
    return _matrices(jnp.ones(batch), 0, 0, 0, 1, 0)


def rotation(degrees: jax.Array) -> jax.Array:
    """Return matrices [batch, 2, 3] that rotate images counterclockwise by `degrees` [batch]."""
    cosine, sine = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    return _matrices(cosine, -sine, 0, sine, cosine, 0)


def shear_x(slope: jax.Array) -> jax.Array:
    """Return matrices [batch, 2, 3] that move each row left, by `slope` [batch] pixels more than the row above it."""
    return _matrices(1, slope, 0, 0, 1, 0)


def shear_y(slope: jax.Array) -> jax.Array:
    """Return matrices [batch, 2, 3] that move each column up, by `slope` [batch] pixels more than the one before it."""
    return _matrices(1, 0, 0, slope, 1, 0)


def translation(right: jax.Array | float, down: jax.Array | float) -> jax.Array:
    """Return matrices [batch, 2, 3] that move images by these numbers of pixels.

    At least one of the two arguments has shape [batch].
    """
    return _matrices(1, 0, -right, 0, 1, -down)


def _matrices(*entries: jax.Array | float) -> jax.Array:
    return jnp.stack(jnp.broadcast_arrays(*entries), axis=-1).astype(jnp.float32).reshape(-1, 2, 3)
