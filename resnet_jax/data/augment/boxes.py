"""Random axis-aligned boxes in images, and their masks.

Boxes are arrays [batch, 4] of top, left, height and width in pixels.
"""

import jax
import jax.numpy as jnp

from resnet_jax.data import crops


def random_crop_boxes(
    key: jax.Array, batch: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> jax.Array:
    """Draw one box per image to crop, from the distribution of torchvision's `RandomResizedCrop`.

    The uniform draws depend on the key alone. `crop_boxes` computes the boxes from these draws.

    Args:
      key: a PRNG key.
      batch: number of boxes.
      height, width: size of the images in pixels.
      scale: smallest and largest fraction of the area of the image.
      ratio: smallest and largest aspect ratio, width over height.

    Returns:
      float32 [batch, 4], whole pixels.
    """
    return crop_boxes(jax.random.uniform(key, (batch, crops.NUM_DRAWS)), height, width, scale, ratio)


def crop_boxes(
    draws: jax.Array, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> jax.Array:
    """Compute crop boxes from uniform draws: `crops.random_box` for a batch, on the device.

    All ten attempts are computed, and the first that fits into the image is selected.

    From the same draws, host and device compute the same box, except for rounding: the host computes in float64, and
    the device in float32. If a side or a corner is so close to a rounding boundary that the two round it to different
    whole pixels, the boxes differ, usually by one pixel. On CPU, 2 of 200,000 boxes differed for images of 224 x 224
    pixels, and none for images of 32 x 32.

    Args:
      draws: float32 [batch, `crops.NUM_DRAWS`], uniform in [0, 1).
      height, width, scale, ratio: see `random_crop_boxes`.

    Returns:
      float32 [batch, 4], whole pixels.
    """
    area_draws, ratio_draws, top_draws, left_draws = jnp.moveaxis(draws.reshape(len(draws), -1, 4), -1, 0)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area_draws)
    log_ratio = jnp.log(jnp.array(ratio, jnp.float32))
    aspect = jnp.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * ratio_draws)
    box_height, box_width = jnp.round(jnp.sqrt(area / aspect)), jnp.round(jnp.sqrt(area * aspect))
    fits = (box_height > 0) & (box_height <= height) & (box_width > 0) & (box_width <= width)
    top = jnp.floor(top_draws * (height - box_height + 1)).clip(max=height - box_height)
    left = jnp.floor(left_draws * (width - box_width + 1)).clip(max=width - box_width)
    attempts = jnp.stack([top, left, box_height, box_width], axis=-1)
    first = jnp.argmax(fits, axis=1)
    chosen = jnp.take_along_axis(attempts, first[:, None, None], axis=1)[:, 0]
    fallback = jnp.array(crops.central_box(height, width, ratio), jnp.float32)
    return jnp.where(fits.any(axis=1, keepdims=True), chosen, fallback)


def random_boxes(
    key: jax.Array, batch: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> jax.Array:
    """Draw one box per image to erase, with an exactly uniform area.

    The fraction of the area is uniform in `scale`, the aspect ratio (width over height) log-uniform in `ratio`, and the
    position uniform over all those at which the box fits. Other implementations draw again until the box fits. This
    suits compiled programs badly, and makes large boxes rarer than requested. Here the range of aspect ratios is first
    clamped to those at which a box of the drawn area fits. There always is such a ratio, so the area stays uniform.

    Args:
      key: a PRNG key.
      batch: number of boxes.
      height, width: size of the images in pixels.
      scale: smallest and largest fraction of the area, 0 < low <= high <= 1.
      ratio: smallest and largest aspect ratio.

    Returns:
      float32 [batch, 4], not rounded; each box lies wholly within the image.
    """
    area_key, ratio_key, position_key = jax.random.split(key, 3)
    area = height * width * jax.random.uniform(area_key, (batch,), minval=scale[0], maxval=scale[1])
    lowest, highest = (jnp.log(jnp.clip(limit, area / height**2, width**2 / area)) for limit in ratio)
    aspect = jnp.exp(jax.random.uniform(ratio_key, (batch,), minval=lowest, maxval=highest))
    # A box that fits exactly may be too large by a rounding error.
    size = jnp.minimum(jnp.sqrt(jnp.stack([area / aspect, area * aspect], axis=-1)), jnp.array([height, width]))
    corner = jax.random.uniform(position_key, (batch, 2)) * (jnp.array([height, width]) - size)
    return jnp.concatenate([corner, size], axis=-1)


def mask(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Return which pixels have their center inside a box.

    Args:
      boxes: [batch, 4]; parts that extend beyond the border of the image are cut off.
      height, width: size of the images in pixels.

    Returns:
      bool [batch, height, width, 1].

    Example:
      >>> mask(jnp.array([[0, 1, 1, 2]]), 2, 3)[0, :, :, 0].astype(int).tolist()
      [[0, 1, 1], [0, 0, 0]]
    """
    top, left, box_height, box_width = boxes.T[..., None]
    rows, columns = jnp.arange(height) + 0.5, jnp.arange(width) + 0.5
    in_rows = (top <= rows) & (rows < top + box_height)
    in_columns = (left <= columns) & (columns < left + box_width)
    return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]
