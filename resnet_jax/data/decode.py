"""Picture files: from their bytes to uint8 pixels, whatever is in them, or to the reason why not."""

import contextlib
import io
import os
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from resnet_jax.data import jpeg

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
# PIL knows many formats more, some of which start other programs: a picture may be one of these, whatever its name.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MOST_PIXELS = 2**28 // 3  # 256 MiB as RGB, and some times that while it is converted; few bytes can claim any size
EXIF = (b"Exif", b"eXIf", b"EXIF", b"exif", b"tiff:Orientation")  # marks of such data in JPEG, PNG, WebP and XMP
ORIENTATION = 0x0112  # a tag in it
UPRIGHT = 1
SIDEWAYS = (5, 6, 7, 8)

Image.MAX_IMAGE_PIXELS = None  # PIL's own limit, which warns or refuses: here there is one, with a reason.


class Unreadable(Exception):
    """A picture that cannot be read; its message is the reason."""


def is_picture(name: str) -> bool:
    """Whether a file is taken for a picture where folders are looked through: by its extension; hidden ones are not."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of a file; raises `Unreadable` where it cannot be opened."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None


class ImageFile:
    """A picture file whose head has been read: its size is known, its pixels are not decoded yet.

    Attributes:
      height, width: in pixels, as it is to be looked at, after the turn that Exif asks for.
    """

    def __init__(self, encoded: bytes):
        """Raises `Unreadable` for what is no picture, or a larger one than `MOST_PIXELS`."""
        if not encoded:
            raise Unreadable("the file is empty")
        self._encoded = encoded
        size = jpeg.size(encoded)
        self._is_plain_jpeg = size is not None
        with _reasons():
            self.height, self.width = size or self._open().size[::-1]
        if self.height * self.width > MOST_PIXELS:
            allowed = f"{MOST_PIXELS:,} that are allowed"
            raise Unreadable(f"{self.width:,} x {self.height:,} pixels are more than the {allowed}")
        if jpeg.has_metadata(encoded) if self._is_plain_jpeg else any(mark in encoded for mark in EXIF):
            with _reasons():
                orientation = self._open().getexif().get(ORIENTATION, UPRIGHT)  # Of a PNG, this decodes all of it.
            self._is_plain_jpeg &= orientation == UPRIGHT
            if orientation in SIDEWAYS:
                self.height, self.width = self.width, self.height

    def pixels(self, channels: int = 3, shrink: int = 1, bottom: int | None = None) -> np.ndarray:
        """Decodes the picture, of an animation the first frame, with what is transparent on white.

        Args:
          channels: 3 for RGB, 1 for grey.
          shrink: 1, 2, 4 or 8; a JPEG is decoded at this fraction of its size, which is faster; others are not.
          bottom: rows from there on are not needed; with `shrink` 1, they may be missing.

        Returns:
          uint8 [height, width, channels].

        Raises:
          Unreadable: for a damaged file; half a picture is none.
        """
        if self._is_plain_jpeg:
            try:
                return jpeg.decode(self._encoded, channels, shrink, bottom)
            except ValueError:  # It minds oddities that PIL puts up with: PIL has the last word.
                pass
        with _reasons():
            image = self._open()
            if shrink > 1:
                image.draft(None, (image.width // shrink, image.height // shrink))
            upright = _eight_bits(ImageOps.exif_transpose(image))
            pixels = np.asarray(upright.convert("RGB" if channels == 3 else "L"))
        return pixels.reshape(*pixels.shape[:2], channels)

    def _open(self) -> Image.Image:
        return Image.open(io.BytesIO(self._encoded), formats=FORMATS)


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turns whatever PIL raises into `Unreadable`: a damaged file can make a decoder raise anything."""
    try:
        yield
    except Image.UnidentifiedImageError:
        raise Unreadable("it is no JPEG, PNG, WebP, BMP or GIF picture") from None
    except Exception as error:
        raise Unreadable(" ".join(str(error).split())[:200] or type(error).__name__) from None


def _eight_bits(image: Image.Image) -> Image.Image:
    """The picture with 8 bits a channel and no transparency."""
    if image.mode.startswith("I"):  # PIL would clip 16-bit grey to white.
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image
