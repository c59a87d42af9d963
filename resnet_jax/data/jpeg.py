"""The common kind of JPEG, decoded by libjpeg-turbo alone, as far down as it is looked at."""

import re
from collections.abc import Iterator

import numpy as np
import simplejpeg

START = b"\xff\xd8\xff"
BASELINE, SCAN, METADATA = (0xC0, 0xC1), 0xDA, 0xE1  # markers
ROWS_OF_BLOCKS = 16  # of pixels that JPEGs are made of, at most
# What libjpeg says when it has all rows that the head asks for, and finds more up to the mark of a file's end.
ROWS_LEFT_OVER = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9")


def size(encoded: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG in grey or YCbCr, as it is coded; None for all else."""
    if not encoded.startswith(START):
        return None
    try:
        height, width, color_space, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return None
    return (height, width) if color_space in ("Gray", "YCbCr") else None


def has_metadata(encoded: bytes) -> bool:
    """Whether a JPEG says more about itself, in Exif or XMP, such as that it is to be turned."""
    return any(marker == METADATA for marker, _ in _segments(encoded))


def decode(encoded: bytes, channels: int, shrink: int = 1, bottom: int | None = None) -> np.ndarray:
    """Decodes a JPEG of which `size` is known.

    Args:
      encoded: the file.
      channels: 3 for RGB, 1 for grey.
      shrink: 1, 2, 4 or 8; it is decoded at this fraction of its size, rounded up.
      bottom: rows from there on are not needed, and may be missing from what is returned.

    Returns:
      uint8 [height, width, channels], the same pixels that PIL gives.

    Raises:
      ValueError: for damage that shows, some of which PIL puts up with. What lies beyond `bottom` is not looked at.
    """
    color_space = "RGB" if channels == 3 else "GRAY"
    if shrink == 1 and bottom is not None:
        rows = _decode_rows(encoded, color_space, channels, bottom)
        if rows is not None:
            return rows
    height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
    return simplejpeg.decode_jpeg(encoded, color_space, min_height=-(-height // shrink), min_width=-(-width // shrink))


def _decode_rows(encoded: bytes, color_space: str, channels: int, bottom: int) -> np.ndarray | None:
    """The rows above `bottom`, and a few more; None where that cannot be had, or is not whole.

    A JPEG is coded from top to bottom. If the height in its head is lowered, libjpeg stops there, and then complains of
    what is left over, when all pixels that it was asked for are in the buffer. Another complaint is of damage.
    """
    frame = _find_frame(encoded)
    if frame is None:
        return None
    height, width = (int.from_bytes(encoded[start : start + 2], "big") for start in (frame + 5, frame + 7))
    # Two rows more, since colours that are coded at half the resolution are interpolated from the row below too.
    lowered = -(-(bottom + 2) // ROWS_OF_BLOCKS) * ROWS_OF_BLOCKS
    if lowered >= height:
        return None
    shorter = bytearray(encoded)
    shorter[frame + 5 : frame + 7] = lowered.to_bytes(2, "big")
    pixels = np.empty((lowered, width, channels), np.uint8)
    try:
        simplejpeg.decode_jpeg(shorter, color_space, buffer=pixels)
    except ValueError as error:
        if not ROWS_LEFT_OVER.fullmatch(str(error)):
            return None
    return pixels


def _find_frame(encoded: bytes) -> int | None:
    """Where the head of the frame starts, if the picture is coded in one go from top to bottom (baseline)."""
    return next((position for marker, position in _segments(encoded) if marker in BASELINE), None)


def _segments(encoded: bytes) -> Iterator[tuple[int, int]]:
    """The markers before the coded picture, and where they are."""
    position = len(START) - 1
    while position + 4 <= len(encoded) and encoded[position] == 0xFF and encoded[position + 1] != SCAN:
        yield encoded[position + 1], position
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
