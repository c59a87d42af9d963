"""The 14 operations from which RandAugment and TrivialAugment draw, each with a strength from 0 to 1.

The list is that of RandAugment (Cubuk et al. 2019). How far an operation goes at strength 1 is a choice of the method
(`Ranges`). In all but the first row, operations grow with the strength s, and ± stands for its sign:

| operation | at strength s |
| --- | --- |
| identity, autocontrast, equalize | the same at every strength |
| solarize | inverts values of at least `solarize` (1 - s) |
| posterize | keeps 8 - `posterize` s bits, rounded |
| color, contrast, brightness, sharpness | factor 1 ± `factor` s |
| rotate | ± `rotate` s degrees |
| shear x, shear y | ± `shear` s pixels per pixel, about the center |
| translate x, translate y | ± (`translate_share` of the width or height + `translate_pixels`) s |
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from resnet_jax.data.augment import affine, color
from resnet_jax.data.augment.pixels import Fill


class Ranges(NamedTuple):
    """How far the operations go at strength 1; see the table above."""

    solarize: float
    posterize: float
    factor: float
    rotate: float
    shear: float
    translate_share: float
    translate_pixels: float


# Functions of images, signed strengths [batch] in [-1, 1] and ranges, which return images.
COLOR_OPERATIONS: dict[str, Callable[[jax.Array, jax.Array, Ranges], jax.Array]] = {
    "identity": lambda images, strength, ranges: images,
    "autocontrast": lambda images, strength, ranges: color.autocontrast(images),
    "equalize": lambda images, strength, ranges: color.equalize(images),
    "solarize": lambda images, strength, ranges: color.solarize(images, ranges.solarize * (1 - jnp.abs(strength))),
    "posterize": lambda images, strength, ranges: color.posterize(
        images, 8 - jnp.round(ranges.posterize * jnp.abs(strength))
    ),
    "color": lambda images, strength, ranges: color.adjust_saturation(images, 1 + ranges.factor * strength),
    "contrast": lambda images, strength, ranges: color.adjust_contrast(images, 1 + ranges.factor * strength),
    "brightness": lambda images, strength, ranges: color.adjust_brightness(images, 1 + ranges.factor * strength),
    "sharpness": lambda images, strength, ranges: color.adjust_sharpness(images, 1 + ranges.factor * strength),
}
# Functions of signed strengths [batch] in [-1, 1], ranges, height and width, which return matrices for `affine.warp`.
WARPS: dict[str, Callable[[jax.Array, Ranges, int, int], jax.Array]] = {
    "rotate": lambda strength, ranges, height, width: affine.rotation(ranges.rotate * strength),
    "shear_x": lambda strength, ranges, height, width: affine.shear_x(ranges.shear * strength),
    "shear_y": lambda strength, ranges, height, width: affine.shear_y(ranges.shear * strength),
    "translate_x": lambda strength, ranges, height, width: affine.translation(_distance(strength, ranges, width), 0),
    "translate_y": lambda strength, ranges, height, width: affine.translation(0, _distance(strength, ranges, height)),
}
OPERATIONS = (*COLOR_OPERATIONS, *WARPS)


def apply_operations(
    images: jax.Array, which: jax.Array, strength: jax.Array, ranges: Ranges, fill: Fill = 0
) -> jax.Array:
    """Apply one operation to each image.

    Every image goes through all color operations and through one warp, whose matrix depends on the operation chosen for
    the image. Of these results, only that of the chosen operation is kept.

    The alternatives are worse. A switch under vmap also computes all operations, with a separate warp for each of the
    five warp operations. A loop over the images with a switch computes only what is kept and is faster on CPU, but it
    would leave an accelerator idle, and each of several devices would have to fetch the whole batch.

    Args:
      images: [batch, height, width, channels] in [0, 255].
      which: int32 [batch], indices into `OPERATIONS`.
      strength: float32 [batch] in [-1, 1]; the sign is the direction.
      ranges: how far the operations go at strength 1.
      fill: value of the pixels that a warp takes from outside the image.

    Returns:
      Images of the same shape and dtype.
    """
    height, width = images.shape[1:3]
    matrices = affine.identity(len(images))
    for index, warp_matrices in enumerate(WARPS.values(), start=len(COLOR_OPERATIONS)):
        chosen = (which == index)[:, None, None]
        matrices = jnp.where(chosen, warp_matrices(strength, ranges, height, width), matrices)
    result = affine.warp(images, matrices, fill)
    for index, recolor in enumerate(COLOR_OPERATIONS.values()):
        chosen = (which == index)[:, None, None, None]
        result = jnp.where(chosen, recolor(images, strength, ranges), result)
    return result


def _distance(strength: jax.Array, ranges: Ranges, side: int) -> jax.Array:
    return strength * (ranges.translate_share * side + ranges.translate_pixels)
