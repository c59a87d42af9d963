import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data import crops
from resnet_jax.data.augment import boxes

random_boxes = jax.jit(boxes.random_boxes, static_argnums=1)
crop_boxes = jax.jit(boxes.crop_boxes, static_argnums=(1, 2, 3, 4))


def draw_areas_and_ratios(height, width, scale, ratio=(3 / 4, 4 / 3)):
    """Draw 20,000 boxes, check that all lie within the image, and return their areas and aspect ratios."""
    top, left, box_height, box_width = np.asarray(
        random_boxes(jax.random.key(0), 20_000, height, width, scale, ratio)
    ).T
    assert min(top.min(), left.min(), box_height.min() - 0.1, box_width.min() - 0.1) >= 0
    assert (top + box_height).max() <= height * (1 + 1e-6)
    assert (left + box_width).max() <= width * (1 + 1e-6)
    return box_height * box_width / (height * width), box_width / box_height


def assert_uniform(values, low, high):
    """Check that each tenth of the range holds about 2,000 of 20,000 values. The standard deviation is 42."""
    counts, _ = np.histogram(values, bins=10, range=(low - 1e-4, high + 1e-4))
    assert counts.sum() == len(values) == 20_000
    assert counts.min() > 1_800
    assert counts.max() < 2_200


def test_random_boxes_have_uniform_area_and_log_uniform_ratio():
    areas, ratios = draw_areas_and_ratios(200, 200, (0.1, 0.6))
    assert_uniform(areas, 0.1, 0.6)
    assert_uniform(np.log(ratios), np.log(3 / 4), np.log(4 / 3))


@pytest.mark.parametrize(("height", "width"), [(200, 200), (100, 300), (300, 90)])
def test_random_boxes_area_stays_uniform_where_not_every_ratio_fits(height, width):
    areas, ratios = draw_areas_and_ratios(height, width, (0.08, 1.0))
    assert_uniform(areas, 0.08, 1.0)
    # Ratios leave the requested range only where the box fills the width or the height of the image.
    width_fraction = np.sqrt(areas * ratios * height / width)
    height_fraction = np.sqrt(areas / ratios * width / height)
    np.testing.assert_allclose(width_fraction[ratios < 3 / 4 - 1e-4], 1, atol=1e-4)
    np.testing.assert_allclose(height_fraction[ratios > 4 / 3 + 1e-4], 1, atol=1e-4)


def test_random_boxes_can_cover_the_whole_image():
    box = random_boxes(jax.random.key(0), 3, 20, 30, (1.0, 1.0), (3 / 4, 4 / 3))
    np.testing.assert_allclose(box, [[0, 0, 20, 30]] * 3, atol=1e-4)


def test_random_boxes_position_is_uniform_where_the_box_fits():
    top, _, height, _ = np.asarray(random_boxes(jax.random.key(0), 20_000, 50, 50, (0.2, 0.5), (0.5, 2.0))).T
    assert_uniform(top / (50 - height), 0, 1)


SIZES = [(1, 1), (3, 5), (8, 8), (28, 28), (32, 32), (48, 64), (64, 48), (96, 96), (224, 224), (300, 100), (10, 400)]


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.3, 0.5), (1.0, 1.0)])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_crop_boxes_are_those_of_the_host(height, width, scale):
    """Host and device compute the same boxes from the same draws.

    The host computes in float64 and the device in float32, so a side or a corner that lies within float32 precision of
    the middle between two pixels may round to either. On CPU that happens to no box here; other devices and versions of
    JAX may round one of 1,000 boxes differently.
    """
    key, ratio = jax.random.key(height * width), (3 / 4, 4 / 3)
    on_device = np.asarray(boxes.random_crop_boxes(key, 1000, height, width, scale, ratio))
    draws = np.asarray(jax.random.uniform(key, (1000, crops.NUM_DRAWS)))
    on_host = np.array([crops.random_box(height, width, row, scale, ratio) for row in draws])
    differences = np.abs(on_device - on_host).max(axis=1)
    assert differences.max() <= 1
    assert (differences > 0).sum() <= 1


def test_crop_boxes_fall_back_to_the_central_box_of_the_host():
    draws = np.full((1, crops.NUM_DRAWS), 0.99, np.float32)  # The whole area at aspect ratio 4:3 fits nowhere.
    for height, width in [(10, 1000), (1000, 10), (100, 100)]:
        on_device = crop_boxes(draws, height, width, (1.0, 1.0), (3 / 4, 4 / 3))[0]
        assert on_device.tolist() == list(crops.random_box(height, width, draws[0], (1.0, 1.0)))


def test_crop_boxes_stay_inside_at_the_largest_draws():
    """In float32, the largest draw below 1, times the number of positions, may round up to one position too many."""
    draws = np.full((1, crops.NUM_DRAWS), 0.5, np.float32)
    draws[:, 2::4] = draws[:, 3::4] = np.nextafter(np.float32(1), np.float32(0))
    for side in (2, 3, 10, 28, 32, 57, 224, 599):
        top, left, height, width = crop_boxes(draws, side, side, (0.01, 0.02), (3 / 4, 4 / 3))[0].tolist()
        assert (top + height, left + width) == (side, side)


def test_mask_is_true_where_pixel_centers_lie_in_the_box():
    mask = boxes.mask(jnp.array([[1.0, 2.0, 2.0, 3.0], [0.6, 0.4, 1.0, 1.0], [-1.0, 3.0, 2.0, 9.0]]), 4, 6)
    expected = np.zeros((3, 4, 6, 1), bool)
    expected[0, 1:3, 2:5] = True
    expected[1, 1, 0] = True
    expected[2, 0, 3:] = True
    np.testing.assert_array_equal(mask, expected)
