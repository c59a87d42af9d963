"""Attribution by gradients with respect to the pixels.

Each function takes a model, images and targets (see `AttributionModel`), and returns one map per image, [batch,
height, width].
"""

import jax
import jax.numpy as jnp

from resnet_jax.attribution.attribution_model import AttributionModel
from resnet_jax.runtime import parallel

SAMPLES = 32  # noisy copies that SmoothGrad averages over
NOISE = 0.15  # std of this noise, as a fraction of the range of the image
STEPS = 32  # points of the path of integrated gradients


def input_gradient(model: AttributionModel, images: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the largest absolute gradient of any channel (Simonyan et al. 2013, section 3.1)."""
    return _largest(model.input_gradients(images, targets))


def smooth_grad(model: AttributionModel, images: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the largest absolute value of any channel of the mean gradient over noisy copies of the image.

    Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise", section 2.1, with its noise of 15 %. The
    noise is the same for every image, up to a factor, and in every call.
    """
    std = NOISE * (jnp.max(images, axis=(1, 2, 3), keepdims=True) - jnp.min(images, axis=(1, 2, 3), keepdims=True))
    total = jnp.zeros_like(images)
    pace = parallel.Pace()
    for number in range(SAMPLES):
        noise = _noise(number, images.shape[1:], images.dtype)
        total += model.input_gradients(images + std * noise, targets)
        pace(total)
    return _largest(total / SAMPLES)


def integrated_gradients(
    model: AttributionModel, images: jax.Array, targets: jax.Array, steps: int = STEPS
) -> jax.Array:
    """Integrate the gradient along the straight path from the mean pixel to the image, and sum over the channels.

    Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks", equation 1, with the midpoint rule. The map
    sums to the change of the target logit along the path, except for the error of the rule (`completeness_gaps`).
    Pixels with negative values lower the logit.
    """
    total = jnp.zeros_like(images)
    pace = parallel.Pace()
    for step in range(steps):
        total += model.input_gradients(images * ((step + 0.5) / steps), targets)
        pace(total)
    return jnp.sum(images * total / steps, axis=-1)


def completeness_gaps(model: AttributionModel, images: jax.Array, targets: jax.Array, maps: jax.Array) -> jax.Array:
    """Return the absolute error of the sum of each map of `integrated_gradients`, [batch], in units of the logit."""
    change = model.target_logits(images, targets) - model.target_logits(jnp.zeros_like(images), targets)
    return jnp.abs(jnp.sum(maps, axis=(1, 2)) - change)


def guided_backpropagation(model: AttributionModel, images: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the largest absolute guided gradient of any channel (Springenberg et al. 2014, section 3.4).

    The maps look sharp, but depend little on the class: they hardly change if the head is random (Adebayo et al. 2018,
    "Sanity Checks for Saliency Maps", section 3).
    """
    return _largest(model.guided_gradients(images, targets))


def _noise(number: int, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Return the standard normal noise of a noisy copy, counted from 0."""
    return jax.random.normal(jax.random.key(number), shape, dtype)


def _largest(gradients: jax.Array) -> jax.Array:
    """Return the largest absolute value of any channel: [batch, height, width] of [batch, height, width, channels]."""
    return jnp.max(jnp.abs(gradients), axis=-1)
