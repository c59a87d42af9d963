"""TrivialAugment (Müller & Hutter 2021): one random operation per image, with a random strength.

The operations are those of `image_operations`. Their ranges are the paper's "wide" ones, as in torchvision's
TrivialAugmentWide, with the same 31 strengths. Images are sheared about their center, in torchvision about a corner.
"""

import jax

from resnet_jax.data.augment.image_operations import OPERATIONS, Ranges, apply_operations
from resnet_jax.data.augment.pixels import Fill

RANGES = Ranges(solarize=255, posterize=6, factor=0.99, rotate=135, shear=0.99, translate_share=0, translate_pixels=32)
MAX_LEVEL = 30  # Strengths are level / MAX_LEVEL.


def trivial_augment(key: jax.Array, images: jax.Array, fill: Fill = 0) -> jax.Array:
    """Apply one operation to each image. Operation, strength and sign are drawn uniformly.

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255].
      fill: value of the pixels that a warp takes from outside the image.

    Returns:
      Images of the same shape and dtype.
    """
    batch = images.shape[:1]
    which_key, level_key, sign_key = jax.random.split(key, 3)
    which = jax.random.randint(which_key, batch, 0, len(OPERATIONS))
    level = jax.random.randint(level_key, batch, 0, MAX_LEVEL + 1)
    strength = jax.random.rademacher(sign_key, batch) * level / MAX_LEVEL
    return apply_operations(images, which, strength, RANGES, fill)
