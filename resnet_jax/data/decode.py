"""Decoding of image files to uint8 pixels; for a file that cannot be decoded, an error that gives the reason."""

import contextlib
import io
import os
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from resnet_jax.data import jpeg

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# PIL knows many more formats, and some of their decoders start other programs. A file's name does not prove its format.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
TIFF = (b"II", b"MM")  # first bytes, little- and big-endian
MAX_PIXELS = 2**28 // 3  # 256 MiB as RGB, several times that during conversion; a small file can claim any size
# Markers of metadata that may hold an orientation, as Exif (in JPEG, PNG and WebP) or as XMP.
EXIF = (b"Exif", b"eXIf", b"EXIF", b"exif", b"tiff:Orientation")
ORIENTATION = 0x0112  # the Exif tag
UPRIGHT = 1
SIDEWAYS = (5, 6, 7, 8)
MAX_BIT_DEPTH = 16

Image.MAX_IMAGE_PIXELS = None  # Replaced by MAX_PIXELS, whose error names the size.
# PIL refuses images with more than 1 MB of compressed text or color profile, which does not matter here.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28


class Unreadable(Exception):
    """Error for an image that cannot be read; the message is the reason."""


def is_image_name(name: str) -> bool:
    """Return whether a file name has the extension of an image format and is not hidden.

    Example:
      >>> is_image_name("cat.JPG"), is_image_name(".cat.jpg"), is_image_name("notes.txt")
      (True, False, False)
    """
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def read_file(path: str | os.PathLike) -> bytes:
    """Return the bytes of a file; raises `Unreadable` if it cannot be opened."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None


class ImageFile:
    """An image file whose header has been read: its size is known, but its pixels are not decoded yet.

    Attributes:
      height, width: in pixels, after the rotation that the Exif metadata specifies.
    """

    def __init__(self, encoded: bytes):
        """Raise `Unreadable` if the bytes are not an image or the image has more than `MAX_PIXELS`."""
        if not encoded:
            raise Unreadable("the file is empty")
        self._encoded = encoded
        self._orientation = UPRIGHT
        size = jpeg.size(encoded)
        self._is_plain_jpeg = size is not None
        with _translate_errors():
            self.height, self.width = size or self._open().size[::-1]
        if self.height * self.width > MAX_PIXELS:
            raise Unreadable(f"{self.width:,} x {self.height:,} pixels exceed the limit of {MAX_PIXELS:,}")
        if self._is_plain_jpeg:
            may_be_rotated = jpeg.has_metadata(encoded)
        else:  # PIL states the size of a TIFF after the rotation.
            may_be_rotated = not encoded.startswith(TIFF) and any(marker in encoded for marker in EXIF)
        if may_be_rotated:
            self._orientation = self._read_orientation()
            self._is_plain_jpeg &= self._orientation == UPRIGHT
            if self._orientation in SIDEWAYS:
                self.height, self.width = self.width, self.height

    def pixels(
        self, channels: int = 3, shrink: int = 1, bottom: int | None = None, bit_depth: int = MAX_BIT_DEPTH
    ) -> np.ndarray:
        """Decode the image: the first frame of an animation, transparent pixels on white.

        Args:
          channels: 3 for RGB, 1 for grayscale.
          shrink: 1, 2, 4 or 8. A JPEG is decoded at 1/`shrink` of its size, which is faster; other formats keep
            their size.
          bottom: the first row that is not needed. With `shrink=1`, the result may end there or a little below.
          bit_depth: how many bits of a 16-bit image are in use, 8 to 16. The highest 8 of these are kept.

        Returns:
          uint8 [height, width, channels].

        Raises:
          Unreadable: if the file is damaged, even if some of the image could be decoded.
        """
        if self._is_plain_jpeg:
            try:
                return jpeg.decode(self._encoded, channels, shrink, bottom)
            except ValueError:  # libjpeg-turbo rejects irregularities that PIL accepts, so PIL decides.
                pass
        levels = self.sixteen_bit_levels() if bit_depth < MAX_BIT_DEPTH else None
        with _translate_errors():
            if levels is None:
                image = self._open()
                if shrink > 1:
                    image.draft(None, (image.width // shrink, image.height // shrink))
            else:
                image = Image.fromarray(np.minimum(levels >> (bit_depth - 8), 255).astype(np.uint8))
                image.getexif()[ORIENTATION] = self._orientation
            image.load()
            if self._orientation != UPRIGHT:
                image = ImageOps.exif_transpose(image)
            pixels = np.asarray(_to_eight_bits(image).convert("RGB" if channels == 3 else "L"))
        return pixels.reshape(*pixels.shape[:2], channels)

    def sixteen_bit_levels(self) -> np.ndarray | None:
        """Return what a 16-bit image stores: integers [height, width] or [height, width, channels], before rotation.

        Returns:
          None if the image has fewer bits.

        Raises:
          Unreadable: if the file is damaged.
        """
        if self._is_plain_jpeg:
            return None
        with _translate_errors():
            image = self._open()
            if image.mode.startswith("I"):
                return _sixteen_bit_array(image)
            tiles = getattr(image, "tile", ())  # They name the layout of the file, such as "RGB;16B".
            if not any(";16" in str(tile.args) for tile in tiles):
                return None
            # PIL reads only the upper 8 bits of each color.
            levels = cv2.imdecode(np.frombuffer(self._encoded, np.uint8), cv2.IMREAD_UNCHANGED)
            if levels is None:
                raise Unreadable("its 16-bit colors cannot be decoded")
            return cv2.cvtColor(levels, cv2.COLOR_BGRA2RGBA if levels.shape[-1] == 4 else cv2.COLOR_BGR2RGB)

    def _read_orientation(self) -> int:
        """Return the orientation that the metadata states; `UPRIGHT` if it states none or is damaged."""
        try:
            return self._open().getexif().get(ORIENTATION, UPRIGHT)  # For a PNG, this decodes the whole image.
        except Exception:  # It may be of any type. If the pixels are damaged too, decoding them will say so.
            return UPRIGHT

    def _open(self) -> Image.Image:
        return Image.open(io.BytesIO(self._encoded), formats=FORMATS)


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise `Unreadable` instead of any error of PIL: a damaged file can make a decoder raise anything."""
    try:
        yield
    except Image.UnidentifiedImageError:
        raise Unreadable("not a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM image") from None
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(" ".join(str(error).split())[:200] or type(error).__name__) from None


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Convert an image to 8 bits per channel without transparency."""
    if image.mode == "F":
        raise Unreadable("it holds floating-point numbers, whose range is unknown")
    if image.mode.startswith("I"):  # PIL would clip 16-bit grayscale to white.
        return Image.fromarray((_sixteen_bit_array(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _sixteen_bit_array(image: Image.Image) -> np.ndarray:
    """Return the levels of grayscale with more than 8 bits per pixel; raise `Unreadable` if there are more than 16."""
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() >= 2**MAX_BIT_DEPTH:
        raise Unreadable(f"its values ({levels.min():,} to {levels.max():,}) do not fit into 16 bits")
    return levels.astype(np.uint16)
