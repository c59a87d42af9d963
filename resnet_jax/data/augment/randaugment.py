"""RandAugment (Cubuk et al. 2019): a few random operations per image, all with the same magnitude.

The list of operations is the paper's, and the ranges are those of AutoAugment (Cubuk et al. 2018). In all but the first
row, operations grow stronger with the magnitude. The strength s is magnitude / 10, and ± stands for a random sign:

| operation | at strength s | at magnitude 10 |
| --- | --- | --- |
| identity, autocontrast, equalize | the same at every magnitude | |
| solarize | inverts values of at least 256 (1 - s) | the negative |
| posterize | keeps 8 - 4 s bits, rounded | 4 bits |
| color, contrast, brightness, sharpness | factor 1 ± 0.9 s | 0.1 or 1.9 |
| rotate | ± 30 s degrees | ± 30 degrees |
| shear x, shear y | ± 0.3 s pixels per pixel, about the center | ± 0.3 |
| translate x, translate y | ± 0.45 s of the width or height | ± 0.45 |
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from resnet_jax.data.augment import affine, color
from resnet_jax.data.augment.pixels import Fill

# Functions of images and signed strengths [batch] in [-1, 1], which return images.
COLOR_OPERATIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "identity": lambda images, strength: images,
    "autocontrast": lambda images, strength: color.autocontrast(images),
    "equalize": lambda images, strength: color.equalize(images),
    "solarize": lambda images, strength: color.solarize(images, 256 * (1 - jnp.abs(strength))),
    "posterize": lambda images, strength: color.posterize(images, 8 - jnp.round(4 * jnp.abs(strength))),
    "color": lambda images, strength: color.adjust_saturation(images, 1 + 0.9 * strength),
    "contrast": lambda images, strength: color.adjust_contrast(images, 1 + 0.9 * strength),
    "brightness": lambda images, strength: color.adjust_brightness(images, 1 + 0.9 * strength),
    "sharpness": lambda images, strength: color.adjust_sharpness(images, 1 + 0.9 * strength),
}
# Functions of signed strengths [batch] in [-1, 1], height and width, which return the matrices for `affine.warp`.
WARPS: dict[str, Callable[[jax.Array, int, int], jax.Array]] = {
    "rotate": lambda strength, height, width: affine.rotation(30 * strength),
    "shear_x": lambda strength, height, width: affine.shear_x(0.3 * strength),
    "shear_y": lambda strength, height, width: affine.shear_y(0.3 * strength),
    "translate_x": lambda strength, height, width: affine.translation(0.45 * strength * width, 0),
    "translate_y": lambda strength, height, width: affine.translation(0, 0.45 * strength * height),
}
OPERATIONS = (*COLOR_OPERATIONS, *WARPS)


def randaugment(
    key: jax.Array, images: jax.Array, num_ops: int, magnitude: float, magnitude_std: float = 0.0, fill: Fill = 0
) -> jax.Array:
    """Apply `num_ops` operations to each image in sequence, each drawn uniformly from the list.

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255].
      num_ops: operations per image; the same operation may be drawn again.
      magnitude: magnitude of all operations, 0 to 10.
      magnitude_std: standard deviation of normal noise on the magnitude of each operation; the sum is clipped to
        [0, 10].
      fill: value of the pixels that a warp takes from outside the image.

    Returns:
      Images of the same shape and dtype.
    """
    batch = images.shape[:1]

    def augment(images: jax.Array, operation_key: jax.Array) -> tuple[jax.Array, None]:
        which_key, noise_key, sign_key = jax.random.split(operation_key, 3)
        which = jax.random.randint(which_key, batch, 0, len(OPERATIONS))
        noise = magnitude_std * jax.random.normal(noise_key, batch)
        strength = jax.random.rademacher(sign_key, batch) * jnp.clip(magnitude + noise, 0, 10) / 10
        return apply_operations(images, which, strength, fill), None

    # A loop, because XLA on CPU would fuse unrolled operations: it would compute the result of the first one again
    # wherever the second one reads it.
    images, _ = jax.lax.scan(augment, images, jax.random.split(key, num_ops))
    return images


def apply_operations(images: jax.Array, which: jax.Array, strength: jax.Array, fill: Fill = 0) -> jax.Array:
    """Apply one operation to each image.

    Every image goes through all color operations and through one warp, whose matrix depends on the operation chosen for
    the image. Of these results, only that of the chosen operation is kept.

    The alternatives are worse. A switch under vmap also computes all operations, with a separate warp for each of the
    five warp operations. A loop over the images with a switch computes only what is kept and is faster on CPU, but it
    would leave an accelerator idle, and each of several devices would have to fetch the whole batch.

    Args:
      images: [batch, height, width, channels] in [0, 255].
      which: int32 [batch], indices into `OPERATIONS`.
      strength: float32 [batch] in [-1, 1], the magnitude / 10 with a sign.
      fill: value of the pixels that a warp takes from outside the image.

    Returns:
      Images of the same shape and dtype.
    """
    height, width = images.shape[1:3]
    matrices = affine.identity(len(images))
    for index, warp_matrices in enumerate(WARPS.values(), start=len(COLOR_OPERATIONS)):
        chosen = (which == index)[:, None, None]
        matrices = jnp.where(chosen, warp_matrices(strength, height, width), matrices)
    result = affine.warp(images, matrices, fill)
    for index, recolor in enumerate(COLOR_OPERATIONS.values()):
        chosen = (which == index)[:, None, None, None]
        result = jnp.where(chosen, recolor(images, strength), result)
    return result
