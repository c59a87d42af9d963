import io
import math

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import jpeg
from tests.end_to_end.image_files import encode_image

SIZE = (150, 200)  # height, width


@pytest.fixture(scope="module")
def image():
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 5, 3), np.uint8))
    return coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC)


def decode_with_pil(file, mode="RGB"):
    pixels = np.asarray(Image.open(io.BytesIO(file)).convert(mode))
    return pixels.reshape(*SIZE, -1)


def test_size_is_known_for_grayscale_and_ycbcr_only(image):
    for ordinary in (image, image.convert("L")):
        assert jpeg.size(encode_image(ordinary, "JPEG")) == SIZE
    assert jpeg.size(encode_image(image, "JPEG", progressive=True)) == SIZE
    assert jpeg.size(encode_image(image.convert("CMYK"), "JPEG")) is None
    assert jpeg.size(encode_image(image, "PNG")) is None
    assert jpeg.size(encode_image(image, "JPEG")[:50]) is None


@pytest.mark.parametrize("quality", [60, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 2}], ids=str)
def test_rows_above_bottom_equal_pil(image, quality, subsampling, options):
    file = encode_image(image, "JPEG", quality=quality, subsampling=subsampling, **options)
    whole = decode_with_pil(file)
    np.testing.assert_array_equal(jpeg.decode(file, 3), whole)
    for bottom in range(1, SIZE[0] + 1, 7):
        rows = jpeg.decode(file, 3, bottom=bottom)
        assert rows.shape[1:] == whole.shape[1:]
        np.testing.assert_array_equal(rows[:bottom], whole[:bottom])


def test_rows_below_bottom_are_not_decoded(image):
    assert jpeg.decode(encode_image(image, "JPEG"), 3, bottom=40).shape == (48, 200, 3)
    assert jpeg.decode(encode_image(image, "JPEG"), 3, bottom=149).shape == (*SIZE, 3)
    gray = encode_image(image.convert("L"), "JPEG")
    np.testing.assert_array_equal(jpeg.decode(gray, 1, bottom=40)[:40], decode_with_pil(gray, "L")[:40])


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}], ids=str)
def test_truncated_file_is_rejected_even_if_the_needed_rows_are_complete(image, options):
    file = encode_image(image, "JPEG", **options)
    for fraction in np.linspace(0.3, 0.99, 30):
        with pytest.raises(ValueError, match=r"\w"):
            jpeg.decode(file[: int(fraction * len(file))], 3, bottom=20)


@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_jpeg_is_decoded_at_a_fraction_of_its_size(image, shrink):
    small = jpeg.decode(encode_image(image, "JPEG", quality=95), 3, shrink)
    assert small.shape == (math.ceil(SIZE[0] / shrink), math.ceil(SIZE[1] / shrink), 3)
    expected = np.asarray(image.resize(small.shape[1::-1], Image.Resampling.BOX), np.int32)
    assert np.abs(small - expected).mean() < 4
