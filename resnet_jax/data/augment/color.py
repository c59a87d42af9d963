"""Changes of colour, with the meaning that they have in PIL and torchvision.

All take pictures [batch, height, width, channels] in [0, 255], grey or RGB, and return the like; integers are rounded
to the nearest (PIL rounds down: up to one level less). Factors and the like are one number, or one a picture [batch].
"""

import functools

import jax
import jax.numpy as jnp

from resnet_jax.data.augment.pixels import per_picture, to_dtype

RED_GREEN_BLUE_IN_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL


def color_jitter(
    key: jax.Array, images: jax.Array, brightness: float, contrast: float, saturation: float, hue: float
) -> jax.Array:
    """Changes brightness, contrast, saturation and hue of each picture at random, in random order.

    Howard 2013, "Some Improvements on Deep Convolutional Neural Network Based Image Classification", as in torchvision.
    The order is one for the whole batch: each adjustment is then computed once, not at every place in the order.

    Args:
      key: a PRNG key.
      images: [batch, height, width, channels] in [0, 255].
      brightness, contrast, saturation: strengths: the factor of a picture is uniform in [max(0, 1 - s), 1 + s].
      hue: the shift is uniform in [-hue, hue], as a share of the colour circle, at most 0.5.

    Returns:
      As `images`.
    """
    order_key, brightness_key, contrast_key, saturation_key, hue_key = jax.random.split(key, 5)

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
    return to_dtype(pixels, images.dtype)


def adjust_brightness(images: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Multiplies pixels by `factor`: 0 is black, 1 changes nothing."""
    return _blend(jnp.zeros_like(images), images, factor)


def adjust_contrast(images: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Moves pixels away from the mean grey of the picture: 0 is that grey, 1 changes nothing."""
    return _blend(_grey(images.mean((1, 2), dtype=jnp.float32, keepdims=True)), images, factor)


def adjust_saturation(images: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Moves pixels away from their grey: 0 is a grey picture, 1 changes nothing. Grey pictures stay as they are."""
    return _blend(_grey(images), images, factor)


def adjust_hue(images: jax.Array, shift: jax.Array | float) -> jax.Array:
    """Turns the colour circle by `shift` of a full turn, from red towards green. Grey pictures stay as they are."""
    if images.shape[-1] == 1:
        return images
    pixels = images.astype(jnp.float32)
    red, green, blue = jnp.moveaxis(pixels, -1, 0)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    least = jnp.minimum(jnp.minimum(red, green), blue)
    chroma = value - least
    # The hue in sixths of a turn, measured from the strongest channel. Where there is no chroma, any hue will do.
    scale = 1 / jnp.where(chroma > 0, chroma, 1)
    hue = jnp.where(
        value == red,
        (green - blue) * scale,
        jnp.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    # With n of 5, 3, 1 for red, green, blue: v - c * max(0, min(k, 4 - k, 1)), k = (n + hue) modulo 6, is HSV to RGB.
    place = hue[..., None] + 6 * per_picture(shift) + jnp.array([5.0, 3.0, 1.0])
    place -= 6 * jnp.floor(place / 6)  # Ten times as fast as % on CPU.
    turned = value[..., None] - chroma[..., None] * jnp.minimum(place, 4 - place).clip(0, 1)
    return to_dtype(turned, images.dtype)


def adjust_sharpness(images: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Moves pixels away from a smoothed picture: 0 is smooth, 1 changes nothing. The outermost pixels stay."""
    pixels = images.astype(jnp.float32)
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    neighbourhood = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = pixels[:, 1:-1, 1:-1]
    smooth = (neighbourhood + 4 * inner) / 13  # The kernel of PIL's ImageFilter.SMOOTH: 5 amid eight ones.
    return images.at[:, 1:-1, 1:-1].set(to_dtype(_blend(smooth, inner, factor), images.dtype))


def autocontrast(images: jax.Array) -> jax.Array:
    """Stretches each channel of each picture so that it reaches from 0 to 255; one of a single value stays."""
    pixels = images.astype(jnp.float32)
    darkest, brightest = pixels.min((1, 2), keepdims=True), pixels.max((1, 2), keepdims=True)
    span = brightest - darkest
    # Integers divided with rounding down, as PIL does: the half keeps inexact division from falling below a whole one.
    stretched = jnp.floor(((pixels - darkest) * 255 + 0.5) / jnp.where(span > 0, span, 1))
    return to_dtype(jnp.where(span > 0, stretched, pixels), images.dtype)


def equalize(images: jax.Array) -> jax.Array:
    """Maps the grey levels of each channel of each picture so that all are about equally frequent, as PIL does."""
    channels = jnp.arange(images.shape[-1])
    levels = to_dtype(images, jnp.int32)

    def equalized(picture: jax.Array) -> jax.Array:
        counts = jnp.zeros(256 * len(channels), jnp.int32).at[256 * channels + picture].add(1).reshape(-1, 256)
        below = jnp.cumsum(counts, axis=1) - counts
        # The brightest level is to become 255, so the step leaves out its pixels.
        step = below[channels, picture.max((0, 1))][:, None] // 255
        table = jnp.where(step > 0, (step // 2 + below) // jnp.maximum(step, 1), jnp.arange(256))
        return table[channels, picture]

    return to_dtype(jax.vmap(equalized)(levels), images.dtype)


def posterize(images: jax.Array, bits: jax.Array | int) -> jax.Array:
    """Keeps the highest `bits` of the eight in each value, 1 to 8."""
    step = jnp.left_shift(1, 8 - per_picture(bits).astype(jnp.int32))
    return to_dtype(to_dtype(images, jnp.int32) // step * step, images.dtype)


def solarize(images: jax.Array, threshold: jax.Array | float) -> jax.Array:
    """Inverts values that are `threshold` or above: 256 changes nothing, 0 is the negative."""
    pixels = images.astype(jnp.float32)
    return to_dtype(jnp.where(pixels >= per_picture(threshold), 255 - pixels, pixels), images.dtype)


def _grey(images: jax.Array) -> jax.Array:
    """float32 [batch, height, width, 1]."""
    pixels = images.astype(jnp.float32)
    if images.shape[-1] == 1:
        return pixels
    # A sum over so short an axis is slow in XLA on CPU, and a matrix product inexact on TPU.
    return sum(share * pixels[..., channel, None] for channel, share in enumerate(RED_GREEN_BLUE_IN_GREY))


def _blend(start: jax.Array, images: jax.Array, factor: jax.Array | float) -> jax.Array:
    """The way from `start` to `images`, gone to `factor` of its length: beyond 1, further than `images`."""
    return to_dtype(start + per_picture(factor) * (images.astype(jnp.float32) - start), images.dtype)
