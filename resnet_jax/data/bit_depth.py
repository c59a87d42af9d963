"""Measurement of how many bits 16-bit images use.

Microscopes, scanners and thermal cameras often store 8 to 14 bits in files of 16 bits per channel. If all 16 bits were
scaled to 8, such images would be almost black. The bits in use are those of the largest value in an evenly spaced
sample of the images. Larger values in other images are clipped to white. All images are scaled in the same way, which a
run stores as `dataset.bit_depth`, so that prediction scales them alike.
"""

import numpy as np

from resnet_jax.data.decode import MAX_BIT_DEPTH, ImageFile, Unreadable
from resnet_jax.data.subset import Subset

SAMPLE = 500  # images that are read if they have 16 bits
FIRST_SAMPLE = 50  # images that are read to find out whether there are any of 16 bits
MIN_BIT_DEPTH = 8


def measure(subset: Subset) -> int:
    """Return how many bits the 16-bit images of a subset use: 8 to 16; 16 if there are no such images.

    The result comes from an evenly spaced sample or, for a `decoded:` dataset, from when it was decoded.
    """
    if subset.decoded_bit_depth is not None:
        return subset.decoded_bit_depth
    largest = 0
    for count in (FIRST_SAMPLE, SAMPLE):
        for position in np.unique(np.linspace(0, len(subset) - 1, count).astype(int)):
            largest = max(largest, _largest_level(subset, int(position)))
            if largest >= 2 ** (MAX_BIT_DEPTH - 1):
                return MAX_BIT_DEPTH
        if not largest:
            return MAX_BIT_DEPTH
    return max(MIN_BIT_DEPTH, largest.bit_length())


def describe(bit_depth: int) -> str:
    """Return a sentence about 16-bit images that use fewer than 16 bits.

    Example:
      >>> describe(12)
      '16-bit images use only 12 bits, which are scaled to 8 (dataset.bit_depth=12).'
    """
    return f"16-bit images use only {bit_depth} bits, which are scaled to 8 (dataset.bit_depth={bit_depth})."


def _largest_level(subset: Subset, position: int) -> int:
    """Return the largest value that a 16-bit image stores; 0 for other images."""
    try:
        image, _ = subset[position]
        levels = ImageFile(image).sixteen_bit_levels() if isinstance(image, bytes) else None
    except Unreadable:
        return 0
    if levels is None:
        return 0
    return int(levels[..., :3].max() if levels.ndim == 3 else levels.max())  # Without the alpha channel.
