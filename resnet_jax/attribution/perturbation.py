"""Attribution by covering regions of the image. The covered pixels have the mean color of the training images.

Each function takes a model, images and targets (see `AttributionModel`), and returns one map per image, [batch, height,
width].
"""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.attribution.attribution_model import AttributionModel
from resnet_jax.runtime import parallel

WINDOWS_PER_SIDE = 4  # how many windows of occlusion fit side by side
STEPS_PER_WINDOW = 2  # how many steps the window takes to move by its own size
NUM_MASKS = 500  # random masks of RISE
CELLS = 7  # cells per side of a mask of RISE
VISIBLE = 0.5  # probability that a cell is visible


def occlusion(model: AttributionModel, images: jax.Array, targets: jax.Array) -> jax.Array:
    """Slide a covering window over the image, and return how far the target logit falls.

    Zeiler & Fergus 2013, "Visualizing and Understanding Convolutional Networks", section 4.2. A pixel gets the mean
    over all windows that cover it. Pixels with negative values lower the logit.
    """
    logits = model.target_logits(images, targets)
    total = jnp.zeros(images.shape[:3], images.dtype)
    count = np.zeros(images.shape[1:3], images.dtype)
    pace = parallel.Pace()
    for covered in _windows(*images.shape[1:3]):
        fall = logits - model.target_logits(images * ~covered[..., None], targets)
        total += fall[:, None, None] * covered
        count += covered
        pace(total)
    return total / count


def rise(model: AttributionModel, images: jax.Array, targets: jax.Array) -> jax.Array:
    """Cover the image with random masks, and return how much more probable the target is if a pixel is visible.

    Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of Black-box Models". A pixel gets the mean
    probability of the target over all masks, weighted by how visible the pixel is, minus the unweighted mean. Pixels
    with negative values lower the probability. The masks are the same for every image and in every call.

    Equation 6 of the paper divides by the expected visibility of a pixel instead of the actual one, and subtracts
    nothing. Its maps are the mean probability times the visibility of each pixel, plus a small signal. The visibility
    depends on the masks alone, so even the maps of unrelated models correlate.
    """
    weighted = jnp.zeros(images.shape[:3], images.dtype)
    probability = jnp.zeros(len(images), images.dtype)
    visibility = jnp.zeros(images.shape[1:3], images.dtype)
    pace = parallel.Pace()
    for number in range(NUM_MASKS):
        mask = _random_mask(jax.random.key(number), *images.shape[1:3])
        probabilities = model.target_probabilities(images * mask[..., None], targets)
        weighted += probabilities[:, None, None] * mask
        probability += probabilities
        visibility += mask
        pace(weighted)
    return weighted / visibility - (probability / NUM_MASKS)[:, None, None]


def _windows(height: int, width: int) -> Iterator[np.ndarray]:
    """Yield the regions that the window covers, each as bool [height, width]."""
    for rows in _intervals(height):
        for columns in _intervals(width):
            yield rows[:, None] & columns


def _intervals(size: int) -> list[np.ndarray]:
    """Return the positions of the window along one side, each as bool [size]. The last one may be cut off."""
    window = math.ceil(size / WINDOWS_PER_SIDE)
    stride = math.ceil(window / STEPS_PER_WINDOW)
    positions = np.arange(size)
    starts = range(0, size - window + stride, stride)
    return [(positions >= start) & (positions < start + window) for start in starts]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _random_mask(key: jax.Array, height: int, width: int) -> jax.Array:
    """Return a mask of RISE, float32 [height, width] in [0, 1]: a random grid, enlarged, smooth and shifted."""
    cell_key, *shift_keys = jax.random.split(key, 3)
    cell = math.ceil(height / CELLS), math.ceil(width / CELLS)
    visible = jax.random.bernoulli(cell_key, VISIBLE, (CELLS, CELLS)).astype(jnp.float32)
    enlarged = jax.image.resize(visible, ((CELLS + 1) * cell[0], (CELLS + 1) * cell[1]), "bilinear")
    shift = [jax.random.randint(shift_key, (), 0, side) for shift_key, side in zip(shift_keys, cell, strict=True)]
    return jax.lax.dynamic_slice(enlarged, shift, (height, width))
