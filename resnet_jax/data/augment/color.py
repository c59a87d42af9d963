"""Color augmentations with the semantics of PIL and torchvision.

All functions take images [batch, height, width, channels] in [0, 255], grayscale or RGB, and return images of the same
shape and dtype. Integers are rounded to the nearest of the 256 levels (PIL rounds down, to at most one level less). A
factor, shift or threshold is one number for all images, or an array [batch] with one number per image.

The functions are our own because PIL and torchvision process images on the host, while these run on whole batches
inside the compiled train step. Tests compare them with PIL: `equalize`, `posterize` and `solarize` give equal results,
the others agree within one level (`adjust_hue` is compared with `colorsys`, `gaussian_blur` with SciPy).
"""

import functools

import jax
import jax.numpy as jnp

from resnet_jax.data.augment.pixels import per_image, to_dtype

BLUR_SIGMA = (0.1, 2.0)  # pixels
BLUR_WIDTH = 0.1  # of the kernel, as a share of the smaller side of the image; at least 3 pixels
SOLARIZE_THRESHOLD = 128
LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # of red, green and blue in gray: ITU-R BT.601, as in PIL


def color_jitter(
    key: jax.Array,
    images: jax.Array,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    share: float = 1.0,
) -> jax.Array:
    """Change brightness, contrast, saturation and hue of each image at random, in random order.

    Howard 2013, "Some Improvements on Deep Convolutional Neural Network Based Image Classification", as in torchvision.
    The order is the same for the whole batch, so that each adjustment is computed once instead of once per position.

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255].
      brightness, contrast, saturation: with strength s, the factor of an image is uniform in [max(0, 1 - s), 1 + s].
      hue: the shift is uniform in [-hue, hue], as a fraction of the color circle, at most 0.5.
      share: the probability of changing an image at all.

    Returns:
      Images of the same shape and dtype.
    """
    order_key, brightness_key, contrast_key, saturation_key, hue_key, share_key = jax.random.split(key, 6)

    def factors(key: jax.Array, strength: float) -> jax.Array:
        return jax.random.uniform(key, images.shape[:1], minval=jnp.maximum(0, 1 - strength), maxval=1 + strength)

    adjustments = [
        functools.partial(adjust_brightness, factor=factors(brightness_key, brightness)),
        functools.partial(adjust_contrast, factor=factors(contrast_key, contrast)),
        functools.partial(adjust_saturation, factor=factors(saturation_key, saturation)),
        functools.partial(adjust_hue, shift=jax.random.uniform(hue_key, images.shape[:1], minval=-hue, maxval=hue)),
    ]

    def adjust_next(pixels: jax.Array, which: jax.Array) -> tuple[jax.Array, None]:
        return jax.lax.switch(which, adjustments, pixels), None

    order = jax.random.permutation(order_key, len(adjustments))
    pixels, _ = jax.lax.scan(adjust_next, images.astype(jnp.float32), order)
    adjusted = to_dtype(pixels, images.dtype)
    return adjusted if share == 1 else _for_some(share_key, share, images, adjusted)


def random_grayscale(key: jax.Array, images: jax.Array, share: float) -> jax.Array:
    """Turn each image gray with probability `share`."""
    return _for_some(key, share, images, grayscale(images))


def random_blur(key: jax.Array, images: jax.Array, share: float) -> jax.Array:
    """Blur each image with probability `share`, with a sigma uniform in `BLUR_SIGMA`.

    As in SimCLR (Chen et al. 2020, appendix A): the kernel is a tenth as wide as the image.
    """
    choice_key, sigma_key = jax.random.split(key)
    sigma = jax.random.uniform(sigma_key, images.shape[:1], minval=BLUR_SIGMA[0], maxval=BLUR_SIGMA[1])
    radius = max(1, int(BLUR_WIDTH * min(images.shape[1:3]) / 2))
    return _for_some(choice_key, share, images, gaussian_blur(images, sigma, radius))


def random_solarize(key: jax.Array, images: jax.Array, share: float) -> jax.Array:
    """With probability `share`, invert all values of 128 and above in an image (Grill et al. 2020, appendix B)."""
    return _for_some(key, share, images, solarize(images, SOLARIZE_THRESHOLD))


def adjust_brightness(images: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Multiply pixels by `factor`: 0 gives black, 1 changes nothing."""
    return _blend(jnp.zeros_like(images), images, factor)


def adjust_contrast(images: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Blend each image with its mean gray: factor 0 gives that gray, 1 changes nothing, more increases contrast."""
    return _blend(_gray(images.mean((1, 2), dtype=jnp.float32, keepdims=True)), images, factor)


def adjust_saturation(images: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Blend each pixel with its gray: factor 0 gives a gray image, 1 changes nothing.

    Grayscale images stay unchanged.
    """
    return _blend(_gray(images), images, factor)


def adjust_hue(images: jax.Array, shift: jax.Array | float) -> jax.Array:
    """Rotate the hue by `shift` of a full turn, from red towards green. Grayscale images stay unchanged."""
    if images.shape[-1] == 1:
        return images
    pixels = images.astype(jnp.float32)
    red, green, blue = jnp.moveaxis(pixels, -1, 0)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    least = jnp.minimum(jnp.minimum(red, green), blue)
    chroma = value - least
    # Hue in sixths of a turn, measured from the strongest channel. Without chroma, the hue does not matter.
    scale = 1 / jnp.where(chroma > 0, chroma, 1)
    hue = jnp.where(
        value == red,
        (green - blue) * scale,
        jnp.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    # HSV to RGB: channel = v - c * max(0, min(k, 4 - k, 1)) with k = (n + hue) mod 6; n = 5, 3, 1 for red, green, blue.
    position = hue[..., None] + 6 * per_image(shift) + jnp.array([5.0, 3.0, 1.0])
    position -= 6 * jnp.floor(position / 6)  # Ten times as fast as % on CPU.
    rotated = value[..., None] - chroma[..., None] * jnp.minimum(position, 4 - position).clip(0, 1)
    return to_dtype(rotated, images.dtype)


def adjust_sharpness(images: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Blend each image with a smoothed copy: factor 0 gives the copy, 1 changes nothing.

    The outermost pixels stay unchanged.
    """
    pixels = images.astype(jnp.float32)
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    neighborhood = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = pixels[:, 1:-1, 1:-1]
    smooth = (neighborhood + 4 * inner) / 13  # The kernel of PIL's ImageFilter.SMOOTH: 5 surrounded by ones.
    return images.at[:, 1:-1, 1:-1].set(to_dtype(_blend(smooth, inner, factor), images.dtype))


def autocontrast(images: jax.Array) -> jax.Array:
    """Stretch each channel of each image to the range 0 to 255; a constant channel stays unchanged."""
    pixels = images.astype(jnp.float32)
    darkest, brightest = pixels.min((1, 2), keepdims=True), pixels.max((1, 2), keepdims=True)
    span = brightest - darkest
    # Integer division that rounds down, as in PIL. Adding 0.5 keeps an inexact quotient from dropping below an integer.
    stretched = jnp.floor(((pixels - darkest) * 255 + 0.5) / jnp.where(span > 0, span, 1))
    return to_dtype(jnp.where(span > 0, stretched, pixels), images.dtype)


def equalize(images: jax.Array) -> jax.Array:
    """Equalize the histogram of each channel of each image, as PIL does."""
    channels = jnp.arange(images.shape[-1])
    levels = to_dtype(images, jnp.int32)

    def equalize_image(image: jax.Array) -> jax.Array:
        counts = jnp.zeros(256 * len(channels), jnp.int32).at[256 * channels + image].add(1).reshape(-1, 256)
        below = jnp.cumsum(counts, axis=1) - counts
        # The pixels of the brightest level do not count for the step, so that this level becomes 255.
        step = below[channels, image.max((0, 1))][:, None] // 255
        table = jnp.where(step > 0, (step // 2 + below) // jnp.maximum(step, 1), jnp.arange(256))
        return table[channels, image]

    return to_dtype(jax.vmap(equalize_image)(levels), images.dtype)


def posterize(images: jax.Array, bits: jax.Array | int) -> jax.Array:
    """Keep the highest `bits` (1 to 8) of the eight bits of each value."""
    step = jnp.left_shift(1, 8 - per_image(bits).astype(jnp.int32))
    return to_dtype(to_dtype(images, jnp.int32) // step * step, images.dtype)


def solarize(images: jax.Array, threshold: jax.Array | float) -> jax.Array:
    """Invert values of at least `threshold`: 256 changes nothing, 0 gives the negative."""
    pixels = images.astype(jnp.float32)
    return to_dtype(jnp.where(pixels >= per_image(threshold), 255 - pixels, pixels), images.dtype)


def grayscale(images: jax.Array) -> jax.Array:
    """Replace each pixel by its gray in all channels. Grayscale images stay unchanged."""
    return to_dtype(jnp.broadcast_to(_gray(images), images.shape), images.dtype)


def gaussian_blur(images: jax.Array, sigma: jax.Array | float, radius: int) -> jax.Array:
    """Convolve each image with a Gaussian kernel, as torchvision does. The border mirrors the image.

    Args:
      images: [batch, height, width, channels] in [0, 255].
      sigma: the standard deviation of the kernel in pixels, a positive number or an array [batch].
      radius: the kernel covers this many pixels on either side of a pixel, fewer than the smaller side of the images.

    Returns:
      Images of the same shape and dtype.
    """
    offsets = jnp.arange(-radius, radius + 1)
    weights = jnp.exp(-0.5 * (offsets / per_image(sigma)) ** 2)
    weights /= weights.sum(-1, keepdims=True)  # [1 or batch, 1, 1, 2 * radius + 1]
    pixels = images.astype(jnp.float32)
    for axis in (1, 2):
        padding = [(radius, radius) if other == axis else (0, 0) for other in range(4)]
        padded, length = jnp.pad(pixels, padding, "reflect"), images.shape[axis]
        pixels = jnp.zeros_like(pixels)
        for start in range(len(offsets)):
            shifted = jax.lax.slice_in_dim(padded, start, start + length, axis=axis)
            pixels += weights[..., start, None] * shifted
    return to_dtype(pixels, images.dtype)


def _for_some(key: jax.Array, share: float, images: jax.Array, changed: jax.Array) -> jax.Array:
    """Return for each image with probability `share` its changed version, and otherwise the image itself."""
    return jnp.where(jax.random.bernoulli(key, share, (len(images), 1, 1, 1)), changed, images)


def _gray(images: jax.Array) -> jax.Array:
    """Convert to grayscale: float32 [batch, height, width, 1]."""
    pixels = images.astype(jnp.float32)
    if images.shape[-1] == 1:
        return pixels
    # A reduction over such a short axis is slow in XLA on CPU, and a matrix product is inexact on TPU.
    weighted = (weight * pixels[..., channel, None] for channel, weight in enumerate(LUMA_WEIGHTS))
    return sum(weighted)  # type: ignore[return-value]  # an array, because there are channels


def _blend(start: jax.Array, images: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Interpolate from `start` (factor 0) to `images` (factor 1); larger factors extrapolate."""
    return to_dtype(start + per_image(factor) * (images.astype(jnp.float32) - start), images.dtype)
