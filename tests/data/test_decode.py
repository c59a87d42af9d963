import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from resnet_jax.data.decode import ORIENTATION, ImageFile, Unreadable

HEIGHT, WIDTH = 21, 34


def smooth(channels=3, height=HEIGHT, width=WIDTH):
    """A picture of soft colours, of which no flip or turn is like another: uint8 [height, width, channels]."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (5 + channel) + columns / (9 - channel) + channel) for channel in range(channels)]
    return np.round(127.5 + 90 * np.stack(waves, axis=-1) + rows[..., None]).astype(np.uint8)


def image_of(pixels):
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def encode(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def as_pil(encoded, mode="RGB"):
    pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1)


def turned(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


COLOR, GREY = image_of(smooth()), image_of(smooth(1))


class TestWhatItLooksLike:
    @pytest.mark.parametrize("subsampling", [0, 2])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_a_jpeg_is_bit_for_bit_what_pil_makes_of_it(self, subsampling, progressive):
        encoded = encode(COLOR, "JPEG", subsampling=subsampling, progressive=progressive)
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), as_pil(encoded))

    def test_a_grey_jpeg_is_bit_for_bit_what_pil_makes_of_it(self):
        encoded = encode(GREY, "JPEG")
        np.testing.assert_array_equal(ImageFile(encoded).pixels(1), as_pil(encoded, "L"))
        np.testing.assert_array_equal(ImageFile(encoded).pixels(3), as_pil(encoded, "RGB"))

    @pytest.mark.parametrize("form", ["JPEG", "PNG"])
    def test_colours_become_grey_by_their_brightness(self, form):
        encoded = encode(COLOR, form)
        grey = ImageFile(encoded).pixels(channels=1)
        assert grey.shape == (HEIGHT, WIDTH, 1)
        np.testing.assert_allclose(grey[..., 0], as_pil(encoded) @ [0.299, 0.587, 0.114], atol=2)

    def test_a_cmyk_jpeg_has_the_colours_that_were_printed(self):
        encoded = encode(COLOR.convert("CMYK"), "JPEG", quality=100, subsampling=0)
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), as_pil(encoded))
        np.testing.assert_allclose(ImageFile(encoded).pixels(), smooth(), atol=6)

    def test_of_a_camera_s_two_pictures_in_one_file_the_first_is_taken(self):
        encoded = encode(COLOR, "MPO", save_all=True, append_images=[ImageOps.invert(COLOR)], quality=95, subsampling=0)
        np.testing.assert_allclose(ImageFile(encoded).pixels(), smooth(), atol=8)

    @pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "WEBP"])
    def test_a_palette_is_looked_up(self, form):
        palette = COLOR.quantize(16)
        encoded = encode(palette, form, **({"lossless": True} if form == "WEBP" else {}))
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), np.asarray(palette.convert("RGB")))

    @pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
    def test_what_loses_nothing_comes_back_as_it_was(self, form):
        encoded = encode(COLOR, form, **({"lossless": True} if form == "WEBP" else {}))
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), smooth())

    @pytest.mark.parametrize("form", ["PNG", "WEBP"])
    def test_transparency_is_seen_on_white(self, form):
        alpha = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
        image = Image.fromarray(np.dstack([smooth(), alpha]))
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        share = alpha[..., None] / 255
        expected = share * smooth() + (1 - share) * 255
        np.testing.assert_allclose(ImageFile(encode(image, form, **options)).pixels(), expected, atol=1)

    def test_transparent_grey_is_seen_on_white(self):
        alpha = np.tile(np.linspace(0, 255, HEIGHT).astype(np.uint8)[:, None], (1, WIDTH))
        encoded = encode(Image.merge("LA", [GREY, Image.fromarray(alpha)]), "PNG")
        expected = alpha / 255 * smooth(1)[..., 0] + (1 - alpha / 255) * 255
        np.testing.assert_allclose(ImageFile(encoded).pixels(1)[..., 0], expected, atol=1)
        np.testing.assert_allclose(ImageFile(encoded).pixels(3)[..., 2], expected, atol=1)

    @pytest.mark.parametrize("form", ["PNG", "GIF"])
    def test_the_transparent_colour_of_a_palette_is_white(self, form):
        palette = COLOR.quantize(16)
        encoded = encode(palette, form, transparency=3)
        expected = np.where((np.asarray(palette) == 3)[..., None], 255, np.asarray(palette.convert("RGB")))
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), expected)

    def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(self):
        levels = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
        encoded = encode(Image.fromarray(levels), "PNG")
        np.testing.assert_array_equal(ImageFile(encoded).pixels(1)[..., 0], levels // 256)
        np.testing.assert_array_equal(ImageFile(encoded).pixels(3)[..., 1], levels // 256)

    def test_sixteen_bits_of_colour_are_scaled(self):
        levels = smooth().astype(np.uint16) * 257
        encoded = cv2.imencode(".png", levels[..., ::-1])[1].tobytes()
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), smooth())

    @pytest.mark.parametrize("form", ["PNG", "BMP"])
    def test_one_bit_is_black_or_white(self, form):
        encoded = encode(GREY.convert("1"), form)
        expected = np.asarray(GREY.convert("1").convert("L"))
        assert set(np.unique(expected)) == {0, 255}
        np.testing.assert_array_equal(ImageFile(encoded).pixels(1)[..., 0], expected)

    @pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
    def test_of_an_animation_the_first_frame_is_taken(self, form):
        frames = [COLOR.quantize(16), ImageOps.invert(COLOR).quantize(16)]
        options = {"lossless": True} if form == "WEBP" else {}
        encoded = encode(frames[0], form, save_all=True, append_images=frames[1:], duration=100, **options)
        assert Image.open(io.BytesIO(encoded)).n_frames == 2
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), np.asarray(frames[0].convert("RGB")))

    def test_the_smallest_picture_is_one(self):
        assert ImageFile(encode(Image.new("RGB", (1, 1), (200, 0, 9)), "PNG")).pixels().tolist() == [[[200, 0, 9]]]


UPRIGHT_FROM_STORED = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: np.rot90,
}


class TestOrientation:
    @pytest.mark.parametrize("orientation", UPRIGHT_FROM_STORED)
    def test_a_picture_is_turned_as_its_exif_asks(self, orientation):
        file = ImageFile(encode(COLOR, "PNG", exif=turned(orientation)))
        expected = UPRIGHT_FROM_STORED[orientation](smooth())
        assert (file.height, file.width) == expected.shape[:2]
        np.testing.assert_array_equal(file.pixels(), expected)

    @pytest.mark.parametrize("orientation", UPRIGHT_FROM_STORED)
    def test_a_photo_is_turned_as_pil_turns_it(self, orientation):
        encoded = encode(COLOR, "JPEG", exif=turned(orientation))
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
        file = ImageFile(encoded)
        assert (file.height, file.width) == expected.shape[:2]
        np.testing.assert_array_equal(file.pixels(), expected)

    @pytest.mark.parametrize("orientation", [0, 9])
    def test_an_orientation_that_there_is_not_turns_nothing(self, orientation):
        file = ImageFile(encode(COLOR, "PNG", exif=turned(orientation)))
        assert (file.height, file.width) == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(file.pixels(), smooth())


class TestShrinking:
    @pytest.mark.parametrize("shrink", [1, 2, 4, 8])
    @pytest.mark.parametrize("orientation", [1, 6])
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    def test_a_jpeg_comes_out_at_a_fraction_of_its_size(self, shrink, orientation, mode):
        stored = smooth(height=64, width=96)
        encoded = encode(image_of(stored).convert(mode), "JPEG", quality=95, subsampling=0, exif=turned(orientation))
        file = ImageFile(encoded)
        whole, shrunk = file.pixels().astype(float), ImageFile(encoded).pixels(shrink=shrink)
        assert shrunk.shape == (file.height // shrink, file.width // shrink, 3)
        averages = whole.reshape(file.height // shrink, shrink, file.width // shrink, shrink, 3).mean((1, 3))
        assert np.abs(shrunk - averages).mean() < 1

    @pytest.mark.parametrize("shrink", [2, 4, 8])
    def test_a_size_that_cannot_be_divided_is_rounded_up(self, shrink):
        pixels = ImageFile(encode(COLOR, "JPEG")).pixels(shrink=shrink)
        assert pixels.shape == (-(-HEIGHT // shrink), -(-WIDTH // shrink), 3)

    @pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "WEBP"])
    def test_other_pictures_stay_as_they_are(self, form):
        assert ImageFile(encode(COLOR, form)).pixels(shrink=4).shape == (HEIGHT, WIDTH, 3)


class TestRowsFromTheTop:
    @pytest.mark.parametrize(
        ("mode", "options"),
        [
            ("RGB", {"subsampling": 0}),
            ("RGB", {"subsampling": 1}),
            ("RGB", {"subsampling": 2}),
            ("RGB", {"progressive": True}),
            ("RGB", {"exif": turned(3)}),
            ("RGB", {"restart_marker_rows": 1}),
            ("L", {}),
            ("CMYK", {}),
        ],
    )
    def test_are_the_same_whether_the_others_are_decoded_or_not(self, mode, options):
        encoded = encode(image_of(smooth(height=83, width=50)).convert(mode), "JPEG", **options)
        whole = ImageFile(encoded).pixels()
        for bottom in (1, 13, 14, 15, 16, 17, 30, 31, 32, 47, 62, 63, 64, 80, 83):
            rows = ImageFile(encoded).pixels(bottom=bottom)
            assert bottom <= len(rows) <= 83
            np.testing.assert_array_equal(rows[:bottom], whole[:bottom])

    def test_are_unreadable_where_they_are_damaged(self):
        encoded = encode(image_of(smooth(height=83, width=50)), "JPEG")
        with pytest.raises(Unreadable, match="truncated"):
            ImageFile(encoded[:-200]).pixels(bottom=80)


def claimed(width, height):
    """A PNG that says to be of some size, and ends there."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def cut(encoded):
    return encoded[: len(encoded) * 9 // 10]


NO_PICTURE = r"it is no JPEG, PNG, WebP, BMP or GIF picture"


class TestUnreadable:
    @pytest.mark.parametrize(
        ("encoded", "reason"),
        [
            pytest.param(b"", "the file is empty", id="nothing"),
            pytest.param(b"Not found. Nginx says sorry.", NO_PICTURE, id="text"),
            pytest.param(bytes(1000), NO_PICTURE, id="zeros"),
            pytest.param(encode(COLOR, "TIFF"), NO_PICTURE, id="another format"),
            pytest.param(encode(COLOR, "PPM"), NO_PICTURE, id="still another format"),
            pytest.param(cut(encode(COLOR, "JPEG")), "truncated", id="a cut JPEG"),
            pytest.param(cut(encode(COLOR, "JPEG", progressive=True)), "truncated", id="a cut progressive JPEG"),
            pytest.param(cut(encode(COLOR.convert("CMYK"), "JPEG")), "truncated", id="a cut CMYK JPEG"),
            pytest.param(cut(encode(COLOR, "PNG")), "truncated", id="a cut PNG"),
            pytest.param(cut(encode(COLOR, "GIF")), "truncated", id="a cut GIF"),
            pytest.param(cut(encode(COLOR, "WEBP")), "could not create decoder|no JPEG", id="a cut WebP"),
            pytest.param(cut(encode(COLOR, "BMP")), "truncated", id="a cut BMP"),
            pytest.param(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8, r"\w", id="a JPEG by its head only"),
        ],
    )
    def test_a_damaged_file_is_refused_with_the_reason(self, encoded, reason):
        with pytest.raises(Unreadable, match=reason) as refused:
            ImageFile(encoded).pixels()
        assert "\n" not in str(refused.value)

    def test_a_file_cut_anywhere_is_no_picture(self):
        for encoded in (encode(COLOR, form) for form in ("JPEG", "PNG", "GIF", "BMP")):
            for length in range(0, len(encoded) * 9 // 10, len(encoded) // 20):
                with pytest.raises(Unreadable, match=r"\w"):
                    ImageFile(encoded[:length]).pixels()

    @pytest.mark.parametrize("side", [9_500, 20_000])
    def test_a_size_that_would_fill_the_memory_is_refused_before_pixels_are_decoded(self, side):
        with pytest.raises(Unreadable, match=rf"{side:,} x {side:,} pixels are more than "):
            ImageFile(claimed(side, side))


@pytest.mark.filterwarnings("ignore")  # PIL warns of odd metadata.
def test_a_file_corrupted_at_random_is_a_whole_picture_or_unreadable():
    generator = np.random.default_rng(0)
    options = {"JPEG": {"exif": turned(6)}, "PNG": {"exif": turned(3)}}
    files = [encode(COLOR, form, **options.get(form, {})) for form in ("JPEG", "PNG", "GIF", "WEBP", "BMP")]
    files += [encode(COLOR, "JPEG", progressive=True), encode(COLOR, "WEBP", lossless=True)]
    read = 0
    for attempt in range(210):
        damaged = bytearray(files[attempt % len(files)])
        for place in generator.integers(0, len(damaged), generator.integers(1, 6)):
            damaged[place] ^= 1 << int(generator.integers(8))
        if generator.random() < 0.2:
            damaged = damaged[: generator.integers(1, len(damaged))]
        try:
            file = ImageFile(bytes(damaged))
            pixels = file.pixels()
        except Unreadable as why:
            assert str(why) and "\n" not in str(why)
            continue
        assert (pixels.shape, pixels.dtype) == ((file.height, file.width, 3), np.uint8)
        read += 1
    assert 0 < read < 210
