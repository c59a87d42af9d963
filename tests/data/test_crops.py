import io
import math

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import crops

SCALE = (0.08, 1.0)


def draws(seed):
    return np.random.default_rng(seed).random(crops.NUM_DRAWS)


def draw_boxes(height, width, scale, count=1000):
    return [crops.random_box(height, width, draws(seed), scale) for seed in range(count)]


class TestRandomBox:
    @pytest.mark.parametrize(("height", "width"), [(300, 400), (375, 80), (3, 5), (1, 1), (1, 700)])
    def test_box_is_whole_pixels_inside_the_image(self, height, width):
        for box in draw_boxes(height, width, SCALE, 300):
            assert all(isinstance(side, int) for side in box)
            assert 0 <= box.top <= box.top + box.height <= height
            assert 0 <= box.left <= box.left + box.width <= width
            assert box.height > 0 < box.width

    def test_area_is_uniform_in_the_scale(self):
        areas = np.array([box.height * box.width / 1e6 for box in draw_boxes(1000, 1000, (0.1, 0.5))])
        assert 0.1 * 0.99 < areas.min() < 0.11
        assert 0.49 < areas.max() < 0.5 * 1.01
        assert np.quantile(areas, [0.25, 0.5, 0.75]) == pytest.approx([0.2, 0.3, 0.4], abs=0.02)

    def test_aspect_ratio_is_log_uniform(self):
        log_ratios = np.log([box.width / box.height for box in draw_boxes(1000, 1000, (0.1, 0.5))])
        assert np.exp([log_ratios.min(), log_ratios.max()]) == pytest.approx([3 / 4, 4 / 3], abs=0.02)
        quartile = math.log(4 / 3) / 2
        assert np.quantile(log_ratios, [0.25, 0.5, 0.75]) == pytest.approx([-quartile, 0, quartile], abs=0.02)

    def test_position_is_uniform_up_to_both_edges(self):
        """A square of 3 x 3 pixels in an image of 6 x 6 has four positions in each direction."""
        drawn = [crops.random_box(6, 6, draws(seed), (0.25, 0.25), (1.0, 1.0)) for seed in range(1600)]
        positions = np.zeros((4, 4))
        for box in drawn:
            assert box[2:] == (3, 3)
            positions[box.top, box.left] += 1
        assert positions.min() > 60
        assert positions.max() < 145

    def test_box_is_a_function_of_its_draws(self):
        assert crops.random_box(300, 400, draws(1), SCALE) == crops.random_box(300, 400, draws(1), SCALE)
        assert crops.random_box(300, 400, draws(1), SCALE) != crops.random_box(300, 400, draws(2), SCALE)

    def test_first_attempt_that_fits_is_used(self):
        whole = np.zeros(crops.NUM_DRAWS)
        whole[0::4], whole[1::4] = 1, 0.5  # A square with the whole area does not fit into this image.
        fits = whole.copy()
        fits[4:8] = 0, 0.5, 0, 0
        fits[8:12] = 0, 0.5, 1 - 1e-9, 1 - 1e-9
        assert crops.random_box(100, 400, fits, (0.01, 1.0)) == (0, 0, 20, 20)

    @pytest.mark.parametrize(
        ("height", "width", "expected"),
        [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10)), (100, 100, (0, 0, 100, 100))],
    )
    def test_central_box_is_used_if_no_attempt_fits(self, height, width, expected):
        too_wide = np.ones(crops.NUM_DRAWS) * 0.99  # The whole area at aspect ratio 4:3.
        assert crops.random_box(height, width, too_wide, (1.0, 1.0)) == expected


@pytest.mark.parametrize(("height", "width"), [(333, 500), (500, 333), (256, 256), (100, 120), (3000, 2001)])
def test_center_square_equals_resizing_and_cropping(height, width):
    """The reference resizes and crops in two steps."""
    factor = 256 / min(height, width)
    resized_height, resized_width = height * factor, width * factor
    top, left = (resized_height - 224) / 2, (resized_width - 224) / 2
    box = crops.center_square(height, width, resize=256, crop=224)
    assert box == pytest.approx((top / factor, left / factor, 224 / factor, 224 / factor))


def test_center_square_without_margin_is_the_largest_square():
    assert crops.center_square(30, 50, resize=1, crop=1) == (0, 10, 30, 30)


def noisy_image(height, width, channels=3):
    """Return an image of edges and noise on smooth colors, in which aliasing is visible."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width, :channels][:2]
    soft = 128 + 60 * np.sin(rows / 11 + columns / 17)
    soft[(rows // 9 + columns // 13) % 2 == 0] += 40
    return np.clip(soft + generator.normal(0, 12, soft.shape), 0, 255).astype(np.uint8)


def resize_with_pil(pixels, size):
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, -1)


class TestResize:
    @pytest.mark.parametrize(
        ("factor", "max_error"),
        [
            (0.4, 0.5),
            (0.9, 0.5),
            (1.3, 2.0),
            (1.9, 0.9),
            (2.0, 0.5),
            *((f, 2.5) for f in (2.6, 3.0, 3.5, 3.9, 4.0, 5.9, 11)),
        ],
    )
    def test_resize_is_close_to_antialiased_pil(self, factor, max_error):
        """Errors are in gray levels of 255; without anti-aliasing they reach 17."""
        pixels = noisy_image(round(32 * factor), round(32 * factor))
        error = np.abs(crops.resize(pixels, 32).astype(float) - resize_with_pil(pixels, 32))
        assert error.mean() < max_error

    @pytest.mark.parametrize(("height", "width"), [(60, 100), (100, 34), (20, 130), (300, 40)])
    def test_resize_shrinks_sides_by_different_factors(self, height, width):
        pixels = noisy_image(height, width)
        error = np.abs(crops.resize(pixels, 32).astype(float) - resize_with_pil(pixels, 32))
        assert error.mean() < 2.5

    @pytest.mark.parametrize("side", [230, 300, 333])
    def test_resized_photograph_is_close_to_pil(self, test_data, side):
        photo = test_data / "pictures" / "hymenoptera" / "train" / "bees" / "3030772428_8578335616.jpg"
        pixels = np.asarray(Image.open(io.BytesIO(photo.read_bytes())).convert("RGB"))[:side, :side]
        error = np.abs(crops.resize(pixels, 128).astype(float) - resize_with_pil(pixels, 128))
        assert error.mean() < 1.5

    def test_resize_to_the_same_size_changes_nothing(self):
        pixels = noisy_image(32, 32)
        np.testing.assert_array_equal(crops.resize(pixels, 32), pixels)

    @pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (20, 30), (100, 8)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_resize_keeps_channels_and_constant_images(self, height, width, channels):
        resized = crops.resize(np.full((height, width, channels), 77, np.uint8), 8)
        assert (resized.shape, resized.dtype) == ((8, 8, channels), np.uint8)
        assert (resized == 77).all()

    def test_resize_treats_grayscale_as_colors(self):
        gray = noisy_image(50, 60, channels=1)
        np.testing.assert_array_equal(crops.resize(gray, 16)[..., 0], crops.resize(gray.repeat(3, axis=2), 16)[..., 1])

    def test_resize_accepts_a_view_of_a_larger_array(self):
        pixels = noisy_image(80, 90)
        np.testing.assert_array_equal(crops.resize(pixels[7:61, 9:70], 16), crops.resize(pixels[7:61, 9:70].copy(), 16))


class TestToOriginal:
    def test_map_of_the_whole_image_in_its_own_size_stays_unchanged(self):
        values = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
        np.testing.assert_allclose(crops.to_original(values, crops.Box(0, 0, 7, 7), 7, 7), values, rtol=1e-6)

    @pytest.mark.parametrize(
        ("original", "max_error"), [(5, 0.03), (8, 1e-5), (13, 0.1), (16, 1e-5), (31, 1e-5), (100, 1e-5)]
    )
    def test_linear_ramp_stays_linear(self, original, max_error):
        """Except beyond the centers of the outermost values; and not quite if a pixel covers parts of values."""
        values = np.tile(np.arange(16, dtype=np.float32), (16, 1))
        box = crops.Box(0, 0, original, original)
        ramp = crops.to_original(values, box, original, original)
        expected = np.clip((np.arange(original) + 0.5) * 16 / original - 0.5, 0, 15)
        np.testing.assert_allclose(ramp, np.tile(expected, (original, 1)), atol=max_error)
        np.testing.assert_allclose(crops.to_original(values.T, box, original, original), ramp.T, atol=1e-5)

    @pytest.mark.parametrize(("height", "width"), [(32, 32), (30, 41), (1, 7), (50, 300)])
    def test_shrinking_keeps_the_mean_of_a_noisy_map(self, height, width):
        values = np.random.default_rng(0).normal(1, 10, (224, 224)).astype(np.float32)
        shrunk = crops.to_original(values, crops.Box(0, 0, height, min(width, 224)), height, width)
        assert shrunk[:, :224].mean() == pytest.approx(values.mean(), rel=1e-4)

    def test_shrinking_counts_every_value(self):
        """A single high value has the same weight wherever it lies."""
        totals = set()
        for row, column in ((0, 0), (3, 100), (111, 112), (222, 7)):
            values = np.zeros((224, 224), np.float32)
            values[row, column] = 49
            totals.add(round(float(crops.to_original(values, crops.Box(0, 0, 32, 32), 32, 32).sum()), 4))
        assert totals == {1.0}

    @pytest.mark.parametrize("size", [4, 40])
    def test_box_off_the_center_gets_the_map_and_other_pixels_are_zero(self, size):
        box = crops.Box(top=1, left=6, height=8, width=10)
        original = crops.to_original(np.full((size, size), 3.0, np.float32), box, 12, 20)
        assert (original.shape, original.dtype) == ((12, 20), np.float32)
        inside = np.zeros((12, 20), bool)
        inside[1:9, 6:16] = True
        np.testing.assert_allclose(original[inside], 3.0, rtol=1e-6)
        assert not original[~inside].any()

    @pytest.mark.parametrize("size", [4, 40])
    def test_pixels_whose_center_is_outside_the_box_are_zero(self, size):
        """The edges of the box lie within pixels: 1.6 to 6.6 along both sides."""
        original = crops.to_original(np.ones((size, size), np.float32), crops.Box(1.6, 1.6, 5, 5), 8, 8)
        expected = np.zeros((8, 8))
        expected[2:7, 2:7] = 1
        np.testing.assert_allclose(original, expected, atol=1e-6)

    def test_flipped_map_becomes_the_flipped_map(self):
        values = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
        box = crops.center_square(20, 31, resize=64, crop=56)
        np.testing.assert_allclose(
            crops.to_original(values[:, ::-1], box, 20, 31),
            crops.to_original(values, box, 20, 31)[:, ::-1],
            atol=1e-5,
        )
