"""Picture files: from their bytes to uint8 pixels, whatever is in them, or to the reason why not."""

import io

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
# PIL knows many formats more, some of which start other programs: a picture may be one of these, whatever its name.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MOST_PIXELS = 2**28 // 3  # 256 MiB as RGB; a file of a few kilobytes can claim to be of any size
ORIENTATION = 0x0112  # the Exif tag
UPRIGHT = 1

Image.MAX_IMAGE_PIXELS = None  # PIL's own limit, which warns or refuses: here there is one, with a reason.


class Unreadable(Exception):
    """A picture that cannot be read; its message is the reason."""


class PictureFile:
    """A picture file whose head has been read: its size is known, its pixels are not decoded yet.

    Attributes:
      height, width: in pixels, as it is to be looked at, after the turn that Exif asks for.
    """

    def __init__(self, encoded: bytes):
        """Raises `Unreadable` for what is no picture, or a larger one than `MOST_PIXELS`."""
        self._encoded = encoded
        if not encoded:
            raise Unreadable("the file is empty")
        try:
            self._image = Image.open(io.BytesIO(encoded), formats=FORMATS)
            self._orientation = self._image.getexif().get(ORIENTATION, UPRIGHT)
        except Image.UnidentifiedImageError:
            raise Unreadable("it is no JPEG, PNG, WebP, BMP or GIF picture") from None
        except Exception as error:  # A damaged file can make a decoder raise anything.
            raise Unreadable(_reason(error)) from None
        width, height = self._image.size
        if width * height > MOST_PIXELS:
            raise Unreadable(f"{width:,} x {height:,} pixels are more than the {MOST_PIXELS:,} that are allowed")
        sideways = self._orientation in (5, 6, 7, 8)
        self.height, self.width = (width, height) if sideways else (height, width)

    def pixels(self, channels: int = 3, shrink: int = 1) -> np.ndarray:
        """Decodes the picture, of an animation the first frame, with what is transparent on white.

        Args:
          channels: 3 for RGB, 1 for grey.
          shrink: 1, 2, 4 or 8; a JPEG is decoded at this fraction of its size, which is faster; others are not.

        Returns:
          uint8 [height, width, channels].

        Raises:
          Unreadable: for a damaged file; half a picture is none.
        """
        try:
            if self._image.format == "JPEG" and self._image.mode in ("RGB", "L") and self._orientation == UPRIGHT:
                try:
                    least = {"min_height": -(-self.height // shrink), "min_width": -(-self.width // shrink)}
                    return simplejpeg.decode_jpeg(self._encoded, "RGB" if channels == 3 else "GRAY", **least)
                except ValueError:  # It minds oddities that PIL puts up with: PIL has the last word.
                    pass
            if shrink > 1:
                self._image.draft(None, (self._image.width // shrink, self._image.height // shrink))
            upright = ImageOps.exif_transpose(self._image)
            pixels = np.asarray(_eight_bits(upright).convert("RGB" if channels == 3 else "L"))
        except Exception as error:  # As above.
            raise Unreadable(_reason(error)) from None
        return pixels.reshape(*pixels.shape[:2], channels)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The picture with 8 bits a channel and no transparency."""
    if image.mode.startswith("I"):  # PIL would clip 16-bit grey to white.
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _reason(error: Exception) -> str:
    """What a decoder says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
