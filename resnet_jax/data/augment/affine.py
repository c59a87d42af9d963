"""Affine warps of pictures, and the matrices that rotate, shear and move them.

A matrix takes (x, y, 1) of a pixel in the picture that comes out to (x, y) in the one that goes in, both measured from
the centre of the picture in pixels, x to the right and y downwards: every warp is about the centre.
"""

import jax
import jax.numpy as jnp

from resnet_jax.data.augment.pixels import Fill, filled, to_dtype


def warp(images: jax.Array, matrices: jax.Array, fill: Fill) -> jax.Array:
    """Moves the content of each picture, with bilinear interpolation.

    As in PIL, a pixel is filled if its centre comes from outside the picture, and interpolated if it comes from inside,
    where the outermost pixels are continued by half a pixel.

    Args:
      images: [batch, height, width, channels] in [0, 255].
      matrices: float32 [batch, 2, 3].
      fill: what pixels are filled with that come from outside.

    Returns:
      As `images`; unchanged where the matrix is the identity.
    """
    height, width = images.shape[1:3]
    x, y = jnp.meshgrid(jnp.arange(width) + 0.5 - width / 2, jnp.arange(height) + 0.5 - height / 2)

    def sample(image: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
        source_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] + width / 2
        source_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] + height / 2
        outside = (source_x < 0) | (source_x >= width) | (source_y < 0) | (source_y >= height)
        left, top = jnp.floor(source_x - 0.5), jnp.floor(source_y - 0.5)
        right_share, bottom_share = (source_x - 0.5 - left)[..., None], (source_y - 0.5 - top)[..., None]

        def pixels(rows: jax.Array, columns: jax.Array) -> jax.Array:
            rows, columns = rows.astype(jnp.int32).clip(0, height - 1), columns.astype(jnp.int32).clip(0, width - 1)
            return image[rows, columns].astype(jnp.float32)

        above = (1 - right_share) * pixels(top, left) + right_share * pixels(top, left + 1)
        below = (1 - right_share) * pixels(top + 1, left) + right_share * pixels(top + 1, left + 1)
        return (1 - bottom_share) * above + bottom_share * below, outside[..., None]

    warped, outside = jax.vmap(sample)(images, matrices)
    return filled(to_dtype(warped, images.dtype), outside, fill)


def identity(batch: int) -> jax.Array:
    """Matrices [batch, 2, 3] that leave pictures as they are."""
    return _matrices(jnp.ones(batch), 0, 0, 0, 1, 0)


def rotation(degrees: jax.Array) -> jax.Array:
    """Matrices [batch, 2, 3] that turn pictures anticlockwise by `degrees` [batch]."""
    cosine, sine = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    return _matrices(cosine, -sine, 0, sine, cosine, 0)


def shear_x(slope: jax.Array) -> jax.Array:
    """Matrices [batch, 2, 3] that move each row to the left, by `slope` [batch] pixels more than the row above it."""
    return _matrices(1, slope, 0, 0, 1, 0)


def shear_y(slope: jax.Array) -> jax.Array:
    """Matrices [batch, 2, 3] that move each column up, by `slope` [batch] pixels more than the column to its left."""
    return _matrices(1, 0, 0, slope, 1, 0)


def translation(right: jax.Array | float, down: jax.Array | float) -> jax.Array:
    """Matrices [batch, 2, 3] that move pictures by so many pixels; at least one of the two is [batch]."""
    return _matrices(1, 0, -right, 0, 1, -down)


def _matrices(*entries: jax.Array | float) -> jax.Array:
    return jnp.stack(jnp.broadcast_arrays(*entries), axis=-1).astype(jnp.float32).reshape(-1, 2, 3)
