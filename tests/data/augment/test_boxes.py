import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.augment import boxes

draw = jax.jit(boxes.draw, static_argnums=1)


def drawn(height, width, scale, ratio=(3 / 4, 4 / 3)):
    """20,000 of them: area and aspect ratio, having made sure that all lie within the picture."""
    top, left, box_height, box_width = np.asarray(draw(jax.random.key(0), 20_000, height, width, scale, ratio)).T
    assert min(top.min(), left.min(), box_height.min() - 0.1, box_width.min() - 0.1) >= 0
    assert (top + box_height).max() <= height * (1 + 1e-6)
    assert (left + box_width).max() <= width * (1 + 1e-6)
    return box_height * box_width / (height * width), box_width / box_height


def assert_uniform(values, low, high):
    """Of 20,000 values each decile holds 2,000, with a standard deviation of 42."""
    counts, _ = np.histogram(values, bins=10, range=(low - 1e-4, high + 1e-4))
    assert counts.sum() == len(values) == 20_000
    assert counts.min() > 1_800
    assert counts.max() < 2_200


def test_area_is_uniform_and_ratio_log_uniform():
    areas, ratios = drawn(200, 200, (0.1, 0.6))
    assert_uniform(areas, 0.1, 0.6)
    assert_uniform(np.log(ratios), np.log(3 / 4), np.log(4 / 3))


@pytest.mark.parametrize(("height", "width"), [(200, 200), (100, 300), (300, 90)])
def test_area_stays_uniform_where_not_every_ratio_fits(height, width):
    areas, ratios = drawn(height, width, (0.08, 1.0))
    assert_uniform(areas, 0.08, 1.0)
    # Narrower or wider than asked for only where the picture itself is so, and then as little as can be.
    share_of_width = np.sqrt(areas * ratios * height / width)
    share_of_height = np.sqrt(areas / ratios * width / height)
    np.testing.assert_allclose(share_of_width[ratios < 3 / 4 - 1e-4], 1, atol=1e-4)
    np.testing.assert_allclose(share_of_height[ratios > 4 / 3 + 1e-4], 1, atol=1e-4)


def test_the_whole_picture_is_a_box():
    box = draw(jax.random.key(0), 3, 20, 30, (1.0, 1.0), (3 / 4, 4 / 3))
    np.testing.assert_allclose(box, [[0, 0, 20, 30]] * 3, atol=1e-4)


def test_place_is_uniform_over_those_that_fit():
    top, _, height, _ = np.asarray(draw(jax.random.key(0), 20_000, 50, 50, (0.2, 0.5), (0.5, 2.0))).T
    assert_uniform(top / (50 - height), 0, 1)


def test_mask_holds_the_pixels_whose_centres_lie_within():
    mask = boxes.mask(jnp.array([[1.0, 2.0, 2.0, 3.0], [0.6, 0.4, 1.0, 1.0], [-1.0, 3.0, 2.0, 9.0]]), 4, 6)
    expected = np.zeros((3, 4, 6, 1), bool)
    expected[0, 1:3, 2:5] = True
    expected[1, 1, 0] = True
    expected[2, 0, 3:] = True
    np.testing.assert_array_equal(mask, expected)
