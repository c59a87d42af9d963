import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.attribution import perturbation


class Brightness:
    """A model whose logit and probability are the mean of the left half of the image."""

    def target_logits(self, images, targets):
        return images[:, :, : images.shape[2] // 2].mean(axis=(1, 2, 3))

    target_probabilities = target_logits


IMAGES, TARGETS = jnp.ones((2, 8, 8, 3)), jnp.zeros(2, int)


def test_occlusion_is_the_mean_fall_of_the_logit_over_the_windows_that_cover_a_pixel():
    """A window of 2 x 2 pixels covers 4 of the 32 pixels of the left half, or none of them."""
    maps = perturbation.occlusion(Brightness(), IMAGES, TARGETS)
    assert maps.shape == (2, 8, 8)
    np.testing.assert_allclose(maps[:, :, :3], 4 / 32, rtol=1e-6)
    np.testing.assert_allclose(maps[:, :, 5:], 0, atol=1e-6)
    np.testing.assert_allclose(maps[:, :, 3], (4 + 2) / 2 / 32, rtol=1e-6)


def test_windows_cover_every_pixel_of_images_of_any_size():
    for height, width in ((1, 1), (5, 7), (32, 32), (33, 224)):
        assert sum(window.astype(int) for window in perturbation._windows(height, width)).min() >= 1


class BrightCorner(Brightness):
    """A model whose probability rises with the brightness of the upper left corner, or falls with it."""

    def __init__(self, sign=1):
        self.sign = sign

    def target_probabilities(self, images, targets):
        return 0.5 + self.sign * 0.5 * images[:, :7, :7].mean(axis=(1, 2, 3))


@pytest.mark.parametrize("sign", [1, -1])
def test_rise_is_zero_except_where_pixels_change_the_probability(sign):
    """The probability is 0.5 + 0.5 * m with the mean m of the mask in the corner, or 0.5 - 0.5 * m."""
    maps = sign * np.asarray(perturbation.rise(BrightCorner(sign), jnp.ones((2, 28, 28, 3)), TARGETS))
    assert maps[:, 2:5, 2:5].min() > 0.05
    assert np.abs(maps[:, 14:, 14:]).max() < 0.025
    np.testing.assert_array_equal(maps[0], maps[1])


class Constant(Brightness):
    """A model whose probability does not depend on the image."""

    def target_probabilities(self, images, targets):
        return jnp.full(len(images), 0.7)


def test_rise_of_a_constant_probability_is_zero():
    """Some pixels are visible in more masks than others. That must not show in the map."""
    maps = perturbation.rise(Constant(), jnp.ones((1, 28, 28, 3)), TARGETS[:1])
    np.testing.assert_allclose(maps, 0, atol=1e-5)


def test_masks_of_rise_are_random_and_half_visible():
    masks = np.stack([perturbation._random_mask(jax.random.key(seed), 32, 30) for seed in range(200)])
    assert masks.shape == (200, 32, 30)
    assert masks.min() >= 0 and masks.max() <= 1
    np.testing.assert_allclose(masks.mean(), perturbation.VISIBLE, atol=0.02)
    assert masks.std(axis=0).min() > 0.2
