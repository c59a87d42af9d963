import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from resnet_jax.data.augment import color

FACTORS = np.array([0.0, 0.3, 1.0, 1.4, 1.9], np.float32)
ENHANCERS = {
    color.adjust_brightness: ImageEnhance.Brightness,
    color.adjust_contrast: ImageEnhance.Contrast,
    color.adjust_saturation: ImageEnhance.Color,
    color.adjust_sharpness: ImageEnhance.Sharpness,
}


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("adjust", ENHANCERS)
def test_adjustments_agree_with_pil(noise, adjust, channels):
    """Allow one level of difference, since PIL rounds down. Each image of the batch has its own factor."""
    images = noise[..., :channels]
    adjusted = np.asarray(jax.jit(adjust)(images, FACTORS))
    assert adjusted.dtype == np.uint8
    for result, original, factor in zip(adjusted, images, FACTORS, strict=True):
        image = Image.fromarray(original if channels == 3 else original[..., 0])
        expected = np.asarray(ENHANCERS[adjust](image).enhance(float(factor))).reshape(original.shape)
        assert np.abs(result.astype(int) - expected.astype(int)).max() <= 1


equalize = jax.jit(color.equalize)


def apply_with_pil(images, function):
    return np.stack([np.asarray(function(Image.fromarray(image))) for image in images])


def test_equalize_equals_pil(noise, smooth):
    flat = np.full((1, 20, 28, 3), 77, np.uint8)
    few = np.where(noise[:1] > 100, 3, 9).astype(np.uint8)
    images = np.concatenate([noise, smooth[None], flat, few])
    np.testing.assert_array_equal(equalize(images), apply_with_pil(images, ImageOps.equalize))


def test_equalize_spreads_levels_about_evenly():
    dark = np.round(255 * np.random.default_rng(0).random((1, 64, 64, 3)) ** 3).astype(np.uint8)
    before, after = (np.histogram(images, bins=8, range=(0, 256))[0] for images in (dark, equalize(dark)))
    assert before.max() > 6 * before.min()
    assert after.max() < 1.5 * after.min()


def test_autocontrast_agrees_with_pil(noise, smooth):
    flat = np.full((1, 20, 28, 3), 77, np.uint8)
    images = np.concatenate([noise, smooth[None], smooth[None] // 3 + 40, flat])
    stretched, expected = np.asarray(jax.jit(color.autocontrast)(images)), apply_with_pil(images, ImageOps.autocontrast)
    darkest, brightest = images.min((1, 2), keepdims=True), images.max((1, 2), keepdims=True)
    # Where a level becomes an integer, PIL's rounding error may give the integer below it: 254 instead of 255.
    whole = (images - darkest).astype(int) * 255 % np.maximum(brightest - darkest, 1) == 0
    np.testing.assert_array_equal(stretched[~whole], expected[~whole])
    assert (np.isin(stretched.astype(int) - expected, [0, 1])).all()
    assert (stretched.max((1, 2))[:-1] == 255).all()
    assert (stretched.min((1, 2))[:-1] == 0).all()


def test_posterize_equals_pil(noise):
    kept = np.array([1, 3, 4, 7, 8])
    for posterized, image, bits in zip(color.posterize(noise, kept), noise, kept, strict=True):
        np.testing.assert_array_equal(posterized, ImageOps.posterize(Image.fromarray(image), int(bits)))


def test_solarize_equals_pil(noise):
    thresholds = np.array([0, 60, 128, 255, 256])
    for solarized, image, threshold in zip(color.solarize(noise, thresholds), noise, thresholds, strict=True):
        np.testing.assert_array_equal(solarized, ImageOps.solarize(Image.fromarray(image), int(threshold)))


def test_adjust_hue_agrees_with_colorsys():
    """Compare random colors, pure colors and grays."""
    rng = np.random.default_rng(0)
    corners = np.array(np.meshgrid([0, 255], [0, 255], [0, 255])).reshape(3, -1).T
    grays = np.repeat(rng.integers(0, 256, (8, 1)), 3, axis=1)
    colors = np.concatenate([corners, grays, rng.integers(0, 256, (184, 3))]).astype(np.uint8)
    shifts = [-0.5, -0.2, 0.0, 0.1, 0.5]
    images = np.repeat(colors.reshape(1, 10, 20, 3), len(shifts), 0)
    rotated = np.asarray(jax.jit(color.adjust_hue)(images, jnp.array(shifts)))
    for image, shift in zip(rotated, shifts, strict=True):
        for changed, rgb in zip(image.reshape(-1, 3), colors, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255))
            expected = 255 * np.array(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value))
            np.testing.assert_allclose(changed, expected, atol=0.501)


def test_adjust_hue_keeps_grayscale_images(noise):
    gray = noise[..., :1]
    np.testing.assert_array_equal(color.adjust_hue(gray, 0.3), gray)


def test_grayscale_agrees_with_pil(noise):
    """Allow one level of difference, since PIL rounds down."""
    gray = np.asarray(jax.jit(color.grayscale)(noise))
    expected = apply_with_pil(noise, lambda image: image.convert("L").convert("RGB"))
    assert gray.dtype == np.uint8
    assert np.abs(gray.astype(int) - expected).max() <= 1


def test_grayscale_keeps_images_with_one_channel(noise):
    np.testing.assert_array_equal(color.grayscale(noise[..., :1]), noise[..., :1])


@pytest.mark.parametrize("radius", [1, 4])
def test_gaussian_blur_agrees_with_scipy(noise, radius):
    """Each image of the batch has its own sigma. Rounding may differ by a level."""
    sigmas = np.array([0.1, 0.5, 1.0, 1.5, 2.0], np.float32)
    blurred = np.asarray(jax.jit(color.gaussian_blur, static_argnums=2)(noise, sigmas, radius))
    assert blurred.dtype == np.uint8
    for result, image, sigma in zip(blurred, noise, sigmas, strict=True):
        expected = ndimage.gaussian_filter(image.astype(float), sigma, axes=(0, 1), mode="mirror", radius=radius)
        assert np.abs(result - expected).max() <= 0.51


@pytest.mark.parametrize(
    ("augment", "change"),
    [
        (color.random_grayscale, color.grayscale),
        (color.random_solarize, lambda images: color.solarize(images, 128)),
        (lambda *args: color.color_jitter(args[0], args[1], 0, 0, 0, 0.5, share=args[2]), None),
        (color.random_blur, None),
    ],
)
def test_share_is_the_probability_of_changing_an_image(noise, augment, change):
    images = np.tile(noise[:1], (400, 1, 1, 1))
    augmented = np.asarray(jax.jit(augment, static_argnums=2)(jax.random.key(0), images, 0.3))
    changed = (augmented != images).any((1, 2, 3))
    assert 0.23 < changed.mean() < 0.37  # 3 standard deviations
    if change is not None:
        np.testing.assert_array_equal(augmented[changed], np.asarray(change(images))[changed])


jitter = jax.jit(color.color_jitter)


def test_color_jitter_draws_factors_from_the_whole_range():
    """Plain gray images only get brighter or darker, by the factor."""
    images = np.full((4000, 2, 2, 3), 100, np.float32)
    factors = np.asarray(jitter(jax.random.key(0), images, 0.4, 0.0, 0.0, 0.0))[:, 0, 0, 0] / 100
    counts, _ = np.histogram(factors, bins=10, range=(0.6 - 1e-5, 1.4 + 1e-5))
    assert counts.sum() == 4000
    assert counts.min() > 320  # 400 each expected, with a standard deviation of 19.
    assert counts.max() < 480
    strong = np.asarray(jitter(jax.random.key(0), images, 1.5, 0.0, 0.0, 0.0))[:, 0, 0, 0] / 100
    assert 0 <= strong.min() < 0.01
    assert 2.48 < strong.max() <= 2.5


def invariants(images):
    """Return what each adjustment nearly preserves in images that are not clipped, by the name of the adjustment."""
    value, least, gray = images.max(-1), images.min(-1), images @ np.array(color.LUMA_WEIGHTS)
    return {
        "brightness": images / images.mean((1, 2, 3), keepdims=True),
        "contrast": gray.mean((1, 2)),
        "saturation": gray,
        "hue": np.stack([value, least]),
    }


@pytest.mark.parametrize("strength", range(4))
def test_color_jitter_strengths_control_their_adjustments(noise, strength):
    strengths = [0.0] * 4
    strengths[strength] = 0.2
    images = 100 + 0.2 * noise.astype(np.float32)
    before, after = invariants(images), invariants(np.asarray(jitter(jax.random.key(0), images, *strengths)))
    name = list(before)[strength]
    np.testing.assert_allclose(after[name], before[name], rtol=1e-4)
    others = {"brightness": "contrast", "contrast": "brightness", "saturation": "hue", "hue": "saturation"}
    assert np.abs(after[others[name]] / before[others[name]] - 1).max() > 0.01


def test_color_jitter_applies_all_adjustments_in_random_order(monkeypatch):
    """Let each adjustment append its own digit to the pixels, in base four."""
    for digit, name in enumerate(("brightness", "contrast", "saturation")):
        monkeypatch.setattr(color, f"adjust_{name}", lambda images, factor, digit=digit: 4 * images + digit)
    monkeypatch.setattr(color, "adjust_hue", lambda images, shift: 4 * images + 3)
    images = jnp.zeros((1, 1, 1, 3), jnp.uint8)
    keys = jax.random.split(jax.random.key(0), 2400)
    written = jax.jit(jax.vmap(lambda key: color.color_jitter(key, images, 0.4, 0.4, 0.4, 0.1)))(keys)
    orders, counts = np.unique(written[:, 0, 0, 0, 0], return_counts=True)
    assert {np.base_repr(order, 4).zfill(4) for order in orders} == set(map("".join, itertools.permutations("0123")))
    assert counts.min() > 50  # 100 each expected, with a standard deviation of 10.


@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter_with_zero_strength_changes_nothing(noise, channels):
    images = noise[..., :channels]
    np.testing.assert_array_equal(jitter(jax.random.key(0), images, 0.0, 0.0, 0.0, 0.0), images)
