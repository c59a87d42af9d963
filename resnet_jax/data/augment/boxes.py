"""Upright rectangles in pictures: drawn at random, and as masks."""

import jax
import jax.numpy as jnp


def draw(
    key: jax.Array, batch: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> jax.Array:
    """Draws one rectangle a picture that lies wholly within it.

    The share of the picture's area is uniform in `scale`, the aspect ratio (width over height) log-uniform in `ratio`,
    the place uniform over those where the rectangle fits. Others draw again until the rectangle fits, which a compiled
    program does not like and which makes large ones rarer than asked for. Here the range of ratios is first clamped to
    those at which a rectangle of the drawn area fits, of which there always is one: the area stays exactly uniform.

    Args:
      key: a PRNG key.
      batch: how many to draw.
      height, width: of the pictures, in pixels.
      scale: smallest and largest share of the area, 0 < low <= high <= 1.
      ratio: smallest and largest aspect ratio.

    Returns:
      float32 [batch, 4]: top, left, height and width in pixels, not rounded.
    """
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = height * width * jax.random.uniform(area_key, (batch,), minval=scale[0], maxval=scale[1])
    lowest, highest = (jnp.log(jnp.clip(limit, area / height**2, width**2 / area)) for limit in ratio)
    aspect = jnp.exp(jax.random.uniform(ratio_key, (batch,), minval=lowest, maxval=highest))
    # What fits exactly may be a rounding error too large.
    size = jnp.minimum(jnp.sqrt(jnp.stack([area / aspect, area * aspect], axis=-1)), jnp.array([height, width]))
    corner = jax.random.uniform(place_key, (batch, 2)) * (jnp.array([height, width]) - size)
    return jnp.concatenate([corner, size], axis=-1)


def mask(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Which pixels' centres lie in a rectangle.

    Args:
      boxes: [batch, 4]: top, left, height and width in pixels; what reaches over the picture's border is cut off.
      height, width: of the pictures, in pixels.

    Returns:
      bool [batch, height, width, 1].
    """
    top, left, box_height, box_width = boxes.T[..., None]
    rows, columns = jnp.arange(height) + 0.5, jnp.arange(width) + 0.5
    in_rows = (top <= rows) & (rows < top + box_height)
    in_columns = (left <= columns) & (columns < left + box_width)
    return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]
