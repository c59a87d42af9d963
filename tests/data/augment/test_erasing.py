import jax
import numpy as np
import pytest

from resnet_jax.data.augment import erasing

random_erasing = jax.jit(erasing.random_erasing)
cutout = jax.jit(erasing.cutout)
WHITE = np.full((4000, 40, 40, 1), 255, np.uint8)


def box_sizes(erased):
    """Check that each mask of bool [n, height, width] is a full box, and return the heights and widths."""
    heights, widths = erased.any(2).sum(1), erased.any(1).sum(1)
    np.testing.assert_array_equal(erased.sum((1, 2)), heights * widths)
    return heights, widths


@pytest.fixture(scope="module")
def erased():
    """Return where 4,000 images were erased, with probability 0.6 and an area fraction in [0.1, 0.3]."""
    images = np.asarray(random_erasing(jax.random.key(0), WHITE, 0.6, 0.0, (0.1, 0.3)))[..., 0]
    assert set(np.unique(images)) == {0, 255}
    return images == 0


def test_random_erasing_follows_its_probability(erased):
    assert 2300 < erased.any((1, 2)).sum() < 2500  # 2,400 expected, with a standard deviation of 31.


def test_random_erasing_draws_boxes_of_all_sizes_and_shapes(erased):
    heights, widths = box_sizes(erased[erased.any((1, 2))])
    areas = heights * widths / 1600
    assert abs(areas.mean() - 0.2) < 0.005
    counts, _ = np.histogram(areas, bins=4, range=(0.1, 0.3))
    # 600 each expected, with a standard deviation of 21; rounding moves a few out of the range.
    assert counts.min() > 500
    ratios = np.log(widths / heights)
    assert 0.45 < (ratios > 0).mean() < 0.55
    assert np.exp(ratios.min()) < 0.4
    assert np.exp(ratios.max()) > 2.5
    assert np.exp(np.abs(ratios)).max() < 3.3 * 1.2  # Rounding to pixels moves the ratio a little beyond 3.3.


def test_random_erasing_reaches_every_pixel(erased):
    frequency = erased.mean(0)
    assert frequency.min() > 0
    np.testing.assert_allclose(frequency, frequency[::-1, ::-1], atol=0.05)
    np.testing.assert_allclose(frequency, frequency.T, atol=0.05)


def test_random_erasing_fills_the_box_and_keeps_the_rest(noise):
    images = np.asarray(random_erasing(jax.random.key(1), noise, 1.0, (3, 250, 7)))
    changed = (images != noise).any(-1)
    assert changed.any((1, 2)).all()
    assert (images[changed] == (3, 250, 7)).all()


def test_random_erasing_with_probability_zero_changes_nothing(noise):
    np.testing.assert_array_equal(random_erasing(jax.random.key(0), noise, 0.0, 0), noise)


@pytest.mark.parametrize("size", [1, 8, 13])
def test_cutout_squares_have_the_requested_size_and_reach_over_the_border(size):
    images = np.asarray(cutout(jax.random.key(0), WHITE, size, 0))[..., 0]
    erased = images == 0
    heights, widths = box_sizes(erased)
    border = np.ones((40, 40), bool)
    border[1:-1, 1:-1] = False
    inside = ~(erased & border).any((1, 2))
    assert (heights[inside] == size).all()
    assert (widths[inside] == size).all()
    # A center in the outermost row leaves half of the square.
    assert heights.min() == widths.min() == (size + 1) // 2
    assert heights.max() == widths.max() == size


def test_cutout_centers_are_uniform_over_the_image():
    images = np.asarray(cutout(jax.random.key(0), WHITE, 1, 0))[..., 0]
    rows, columns = np.nonzero(images == 0)[1:]
    assert len(rows) == 4000
    counts, _, _ = np.histogram2d(rows, columns, bins=4, range=[(0, 40), (0, 40)])
    assert counts.min() > 190  # 250 each expected, with a standard deviation of 15.
    assert counts.max() < 310


def test_erasing_accepts_a_single_grayscale_image(noise):
    image, fill = noise[4:, ..., :1] // 2, (255.0,)
    for changed in (
        random_erasing(jax.random.key(0), image, 1.0, fill),
        cutout(jax.random.key(0), image, 6, fill),
    ):
        assert changed.shape == image.shape
        assert changed.dtype == image.dtype
        assert (changed == 255).any()
