"""RandAugment (Cubuk et al. 2019): a few random operations per image, all with the same magnitude.

The operations are those of `image_operations`, and their ranges are those of AutoAugment (Cubuk et al. 2018).
"""

import jax
import jax.numpy as jnp

from resnet_jax.data.augment.image_operations import OPERATIONS, Ranges, apply_operations
from resnet_jax.data.augment.pixels import Fill

RANGES = Ranges(
    solarize=256, posterize=4, factor=0.9, rotate=30, shear=0.3, translate_share=0.45, translate_pixels=0
)  # at magnitude 10


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
        return apply_operations(images, which, strength, RANGES, fill), None

    # A loop, because XLA on CPU would fuse unrolled operations: it would compute the result of the first one again
    # wherever the second one reads it.
    images, _ = jax.lax.scan(augment, images, jax.random.split(key, num_ops))
    return images
