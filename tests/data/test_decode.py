import io
import math
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from resnet_jax.data.decode import ORIENTATION, ImageFile, Unreadable, is_image_name

HEIGHT, WIDTH = 21, 34


def smooth(channels=3, height=HEIGHT, width=WIDTH):
    """Return a smooth image without symmetries: uint8 [height, width, channels]."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (5 + channel) + columns / (9 - channel) + channel) for channel in range(channels)]
    return np.round(127.5 + 90 * np.stack(waves, axis=-1) + rows[..., None]).astype(np.uint8)


def to_pil(pixels):
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def decode_with_pil(encoded, mode="RGB"):
    pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1)


def exif_with(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


COLOR, GRAY = to_pil(smooth()), to_pil(smooth(1))


class TestPixels:
    @pytest.mark.parametrize("subsampling", [0, 2])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_jpeg_equals_pil(self, subsampling, progressive):
        encoded = encode(COLOR, "JPEG", subsampling=subsampling, progressive=progressive)
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), decode_with_pil(encoded))

    def test_grayscale_jpeg_equals_pil(self):
        encoded = encode(GRAY, "JPEG")
        np.testing.assert_array_equal(ImageFile(encoded).pixels(1), decode_with_pil(encoded, "L"))
        np.testing.assert_array_equal(ImageFile(encoded).pixels(3), decode_with_pil(encoded, "RGB"))

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
    def test_colors_become_gray_by_their_luminance(self, file_format):
        encoded = encode(COLOR, file_format)
        gray = ImageFile(encoded).pixels(channels=1)
        assert gray.shape == (HEIGHT, WIDTH, 1)
        np.testing.assert_allclose(gray[..., 0], decode_with_pil(encoded) @ [0.299, 0.587, 0.114], atol=2)

    def test_cmyk_jpeg_is_converted_to_rgb(self):
        encoded = encode(COLOR.convert("CMYK"), "JPEG", quality=100, subsampling=0)
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), decode_with_pil(encoded))
        np.testing.assert_allclose(ImageFile(encoded).pixels(), smooth(), atol=6)

    def test_first_image_of_an_mpo_file_is_decoded(self):
        encoded = encode(COLOR, "MPO", save_all=True, append_images=[ImageOps.invert(COLOR)], quality=95, subsampling=0)
        np.testing.assert_allclose(ImageFile(encoded).pixels(), smooth(), atol=8)

    @pytest.mark.parametrize("file_format", ["PNG", "BMP", "GIF", "WEBP"])
    def test_palette_is_applied(self, file_format):
        palette = COLOR.quantize(16)
        encoded = encode(palette, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), np.asarray(palette.convert("RGB")))

    @pytest.mark.parametrize("file_format", ["PNG", "BMP", "WEBP", "TIFF", "PPM"])
    def test_lossless_formats_are_decoded_exactly(self, file_format):
        encoded = encode(COLOR, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), smooth())

    @pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
    def test_transparent_pixels_are_blended_with_white(self, file_format):
        alpha = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
        image = Image.fromarray(np.dstack([smooth(), alpha]))
        options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
        opacity = alpha[..., None] / 255
        expected = opacity * smooth() + (1 - opacity) * 255
        np.testing.assert_allclose(ImageFile(encode(image, file_format, **options)).pixels(), expected, atol=1)

    def test_transparent_grayscale_is_blended_with_white(self):
        alpha = np.tile(np.linspace(0, 255, HEIGHT).astype(np.uint8)[:, None], (1, WIDTH))
        encoded = encode(Image.merge("LA", [GRAY, Image.fromarray(alpha)]), "PNG")
        expected = alpha / 255 * smooth(1)[..., 0] + (1 - alpha / 255) * 255
        np.testing.assert_allclose(ImageFile(encoded).pixels(1)[..., 0], expected, atol=1)
        np.testing.assert_allclose(ImageFile(encoded).pixels(3)[..., 2], expected, atol=1)

    @pytest.mark.parametrize("file_format", ["PNG", "GIF"])
    def test_transparent_palette_color_becomes_white(self, file_format):
        palette = COLOR.quantize(16)
        encoded = encode(palette, file_format, transparency=3)
        expected = np.where((np.asarray(palette) == 3)[..., None], 255, np.asarray(palette.convert("RGB")))
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), expected)

    def test_16_bit_grayscale_is_scaled_and_not_clipped(self):
        levels = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
        encoded = encode(Image.fromarray(levels), "PNG")
        np.testing.assert_array_equal(ImageFile(encoded).pixels(1)[..., 0], levels // 256)
        np.testing.assert_array_equal(ImageFile(encoded).pixels(3)[..., 1], levels // 256)

    def test_16_bit_color_is_scaled(self):
        levels = smooth().astype(np.uint16) * 257
        encoded = cv2.imencode(".png", levels[..., ::-1])[1].tobytes()
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), smooth())

    @pytest.mark.parametrize("bits", [8, 10, 12, 16])
    @pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
    def test_16_bit_grayscale_is_scaled_by_the_bits_in_use(self, file_format, bits):
        levels = smooth(1)[..., 0].astype(np.uint16) << (bits - 8)
        encoded = encode(Image.fromarray(levels), file_format)
        np.testing.assert_array_equal(ImageFile(encoded).pixels(1, bit_depth=bits), smooth(1))

    @pytest.mark.parametrize("bits", [8, 12, 16])
    @pytest.mark.parametrize("extension", [".png", ".tiff"])
    def test_16_bit_color_is_scaled_by_the_bits_in_use(self, extension, bits):
        levels = smooth()[..., ::-1].astype(np.uint16) << (bits - 8)
        encoded = cv2.imencode(extension, levels)[1].tobytes()
        np.testing.assert_array_equal(ImageFile(encoded).pixels(bit_depth=bits), smooth())

    def test_bits_in_use_do_not_affect_8_bit_images(self):
        for file_format in ("PNG", "BMP", "TIFF"):
            np.testing.assert_array_equal(ImageFile(encode(COLOR, file_format)).pixels(bit_depth=8), smooth())

    def test_values_above_the_bits_in_use_are_white(self):
        encoded = encode(Image.fromarray(np.full((2, 2), 5000, np.uint16)), "PNG")
        assert (ImageFile(encoded).pixels(1, bit_depth=12) == 255).all()

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits"])
    def test_compressed_tiff_is_decoded(self, compression):
        encoded = encode(COLOR, "TIFF", compression=compression)
        np.testing.assert_allclose(ImageFile(encoded).pixels(), smooth(), atol=12 if compression == "jpeg" else 0)

    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA", "RGBA"])
    def test_tiff_of_any_mode_is_decoded_as_png_is(self, mode):
        image = COLOR.convert(mode)
        expected = image.convert("RGB")
        np.testing.assert_array_equal(ImageFile(encode(image, "TIFF")).pixels(), np.asarray(expected))

    def test_first_page_of_a_tiff_is_decoded(self):
        encoded = encode(COLOR, "TIFF", save_all=True, append_images=[ImageOps.invert(COLOR)])
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), smooth())

    @pytest.mark.parametrize("file_format", ["PNG", "BMP"])
    def test_1_bit_images_are_black_and_white(self, file_format):
        encoded = encode(GRAY.convert("1"), file_format)
        expected = np.asarray(GRAY.convert("1").convert("L"))
        assert set(np.unique(expected)) == {0, 255}
        np.testing.assert_array_equal(ImageFile(encoded).pixels(1)[..., 0], expected)

    @pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
    def test_first_frame_of_an_animation_is_decoded(self, file_format):
        frames = [COLOR.quantize(16), ImageOps.invert(COLOR).quantize(16)]
        options = {"lossless": True} if file_format == "WEBP" else {}
        encoded = encode(frames[0], file_format, save_all=True, append_images=frames[1:], duration=100, **options)
        assert Image.open(io.BytesIO(encoded)).n_frames == 2
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), np.asarray(frames[0].convert("RGB")))

    def test_image_of_one_pixel_is_decoded(self):
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
    @pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
    @pytest.mark.parametrize("orientation", UPRIGHT_FROM_STORED)
    def test_lossless_image_is_rotated_by_its_exif(self, orientation, file_format):
        file = ImageFile(encode(COLOR, file_format, exif=exif_with(orientation)))
        expected = UPRIGHT_FROM_STORED[orientation](smooth())
        assert (file.height, file.width) == expected.shape[:2]
        np.testing.assert_array_equal(file.pixels(), expected)

    @pytest.mark.parametrize("orientation", UPRIGHT_FROM_STORED)
    def test_jpeg_is_rotated_as_in_pil(self, orientation):
        encoded = encode(COLOR, "JPEG", exif=exif_with(orientation))
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
        file = ImageFile(encoded)
        assert (file.height, file.width) == expected.shape[:2]
        np.testing.assert_array_equal(file.pixels(), expected)

    def test_16_bit_image_is_rotated_by_its_exif(self):
        levels = smooth(1)[..., 0].astype(np.uint16) << 4
        file = ImageFile(encode(Image.fromarray(levels), "PNG", exif=exif_with(6)))
        np.testing.assert_array_equal(file.pixels(1, bit_depth=12), UPRIGHT_FROM_STORED[6](smooth(1)))

    @pytest.mark.parametrize("orientation", [0, 9])
    def test_invalid_orientation_is_ignored(self, orientation):
        file = ImageFile(encode(COLOR, "PNG", exif=exif_with(orientation)))
        assert (file.height, file.width) == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(file.pixels(), smooth())


class TestMetadata:
    @pytest.mark.parametrize("chunk", ["text", "international text", "color profile"])
    def test_png_with_megabytes_of_metadata_is_decoded(self, chunk):
        text, options = PngImagePlugin.PngInfo(), {}
        if chunk == "color profile":
            options["icc_profile"] = bytes(3_000_000)
        else:
            add = text.add_text if chunk == "text" else text.add_itxt
            add("workflow", "x" * 3_000_000, zip=True)
        encoded = encode(COLOR, "PNG", pnginfo=text, **options)
        np.testing.assert_array_equal(ImageFile(encoded).pixels(), smooth())

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
    def test_damaged_exif_is_ignored(self, file_format):
        encoded = encode(COLOR, file_format, exif=b"Exif\0\0This is not Exif.")
        assert ImageFile(encoded).pixels().shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", ["a.jfif", "a.JPE", "a.tif", "a.TIFF", "a.ppm", "a.pgm"])
def test_less_common_extensions_are_those_of_images(name):
    assert is_image_name(name)


class TestShrink:
    @pytest.mark.parametrize("shrink", [1, 2, 4, 8])
    @pytest.mark.parametrize("orientation", [1, 6])
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    def test_jpeg_is_decoded_at_a_fraction_of_its_size(self, shrink, orientation, mode):
        stored = smooth(height=64, width=96)
        encoded = encode(to_pil(stored).convert(mode), "JPEG", quality=95, subsampling=0, exif=exif_with(orientation))
        file = ImageFile(encoded)
        whole, shrunk = file.pixels().astype(float), ImageFile(encoded).pixels(shrink=shrink)
        assert shrunk.shape == (file.height // shrink, file.width // shrink, 3)
        averages = whole.reshape(file.height // shrink, shrink, file.width // shrink, shrink, 3).mean((1, 3))
        assert np.abs(shrunk - averages).mean() < 1

    @pytest.mark.parametrize("shrink", [2, 4, 8])
    def test_shrunk_size_is_rounded_up(self, shrink):
        pixels = ImageFile(encode(COLOR, "JPEG")).pixels(shrink=shrink)
        assert pixels.shape == (math.ceil(HEIGHT / shrink), math.ceil(WIDTH / shrink), 3)

    @pytest.mark.parametrize("file_format", ["PNG", "BMP", "GIF", "WEBP"])
    def test_other_formats_are_not_shrunk(self, file_format):
        assert ImageFile(encode(COLOR, file_format)).pixels(shrink=4).shape == (HEIGHT, WIDTH, 3)


class TestBottom:
    @pytest.mark.parametrize(
        ("mode", "options"),
        [
            ("RGB", {"subsampling": 0}),
            ("RGB", {"subsampling": 1}),
            ("RGB", {"subsampling": 2}),
            ("RGB", {"progressive": True}),
            ("RGB", {"exif": exif_with(3)}),
            ("RGB", {"restart_marker_rows": 1}),
            ("L", {}),
            ("CMYK", {}),
        ],
    )
    def test_rows_above_bottom_equal_those_of_the_whole_image(self, mode, options):
        encoded = encode(to_pil(smooth(height=83, width=50)).convert(mode), "JPEG", **options)
        whole = ImageFile(encoded).pixels()
        for bottom in (1, 13, 14, 15, 16, 17, 30, 31, 32, 47, 62, 63, 64, 80, 83):
            rows = ImageFile(encoded).pixels(bottom=bottom)
            assert bottom <= len(rows) <= 83
            np.testing.assert_array_equal(rows[:bottom], whole[:bottom])

    def test_damage_above_bottom_is_found(self):
        encoded = encode(to_pil(smooth(height=83, width=50)), "JPEG")
        with pytest.raises(Unreadable, match="truncated"):
            ImageFile(encoded[:-200]).pixels(bottom=80)


def png_header(width, height):
    """Return a PNG file whose header states this size, without any pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def truncate(encoded):
    return encoded[: len(encoded) * 9 // 10]


NO_IMAGE = r"not a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM image"


class TestUnreadable:
    @pytest.mark.parametrize(
        ("encoded", "reason"),
        [
            pytest.param(b"", "the file is empty", id="empty"),
            pytest.param(b"Not found. Nginx says sorry.", NO_IMAGE, id="text"),
            pytest.param(bytes(1000), NO_IMAGE, id="zeros"),
            pytest.param(encode(COLOR, "PCX"), NO_IMAGE, id="another format"),
            pytest.param(encode(COLOR, "TGA"), NO_IMAGE, id="yet another format"),
            pytest.param(encode(GRAY.convert("F"), "TIFF"), "floating-point numbers", id="floating-point TIFF"),
            pytest.param(
                encode(Image.fromarray(np.full((2, 2), 70_000, np.int32)), "TIFF"), "70,000", id="32-bit TIFF"
            ),
            pytest.param(truncate(encode(COLOR, "JPEG")), "truncated", id="truncated JPEG"),
            pytest.param(
                truncate(encode(COLOR, "JPEG", progressive=True)), "truncated", id="truncated progressive JPEG"
            ),
            pytest.param(truncate(encode(COLOR.convert("CMYK"), "JPEG")), "truncated", id="truncated CMYK JPEG"),
            pytest.param(truncate(encode(COLOR, "PNG")), "truncated", id="truncated PNG"),
            pytest.param(truncate(encode(COLOR, "GIF")), "truncated", id="truncated GIF"),
            pytest.param(truncate(encode(COLOR, "WEBP")), "could not create decoder|not a JPEG", id="truncated WebP"),
            pytest.param(truncate(encode(COLOR, "BMP")), "truncated", id="truncated BMP"),
            pytest.param(truncate(encode(COLOR, "PPM")), "truncated", id="truncated PPM"),
            pytest.param(encode(COLOR, "TIFF")[:1000], r"\w", id="truncated TIFF"),
            pytest.param(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8, r"\w", id="JPEG header only"),
        ],
    )
    def test_damaged_file_is_rejected_with_the_reason(self, encoded, reason):
        with pytest.raises(Unreadable, match=reason) as error:
            ImageFile(encoded).pixels()
        assert "\n" not in str(error.value)

    def test_truncated_file_is_unreadable(self):
        for encoded in (encode(COLOR, file_format) for file_format in ("JPEG", "PNG", "GIF", "BMP")):
            for length in range(0, len(encoded) * 9 // 10, len(encoded) // 20):
                with pytest.raises(Unreadable, match=r"\w"):
                    ImageFile(encoded[:length]).pixels()

    @pytest.mark.parametrize("side", [9_500, 20_000])
    def test_huge_image_is_rejected_before_pixels_are_decoded(self, side):
        with pytest.raises(Unreadable, match=rf"{side:,} x {side:,} pixels exceed the limit"):
            ImageFile(png_header(side, side))


@pytest.mark.filterwarnings("ignore")  # PIL warns about corrupt metadata.
def test_randomly_corrupted_file_is_decoded_in_full_or_unreadable():
    generator = np.random.default_rng(0)
    options = {"JPEG": {"exif": exif_with(6)}, "PNG": {"exif": exif_with(3)}}
    files = [
        encode(COLOR, file_format, **options.get(file_format, {}))
        for file_format in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
    ]
    files += [encode(COLOR, "JPEG", progressive=True), encode(COLOR, "WEBP", lossless=True)]
    read = 0
    for attempt in range(270):
        damaged = bytearray(files[attempt % len(files)])
        for index in generator.integers(0, len(damaged), generator.integers(1, 6)):
            damaged[index] ^= 1 << int(generator.integers(8))
        if generator.random() < 0.2:
            damaged = damaged[: generator.integers(1, len(damaged))]
        try:
            file = ImageFile(bytes(damaged))
            pixels = file.pixels()
        except Unreadable as error:
            assert str(error) and "\n" not in str(error)
            continue
        assert (pixels.shape, pixels.dtype) == ((file.height, file.width, 3), np.uint8)
        read += 1
    assert 0 < read < 270
