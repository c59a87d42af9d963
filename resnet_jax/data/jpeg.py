"""Fast decoding of ordinary JPEGs: only the rows that are needed, at a fraction of the size if that suffices.

The bytes are decoded by libjpeg-turbo through simplejpeg, which returns the same pixels as PIL. Choosing the rows is
our own code, because neither library offers it: training on ImageNet crops small regions out of large photographs, and
rows below the crop need not be decoded. libjpeg-turbo stops at the height that the header states, so lowering the
height in the header is enough.
"""

import math
import re
from collections.abc import Iterator

import numpy as np
import simplejpeg

START = b"\xff\xd8\xff"
BASELINE, SCAN, METADATA = (0xC0, 0xC1), 0xDA, 0xE1  # markers
MAX_BLOCK_ROWS = 16  # pixel rows of the blocks that JPEGs consist of, at most
# The warning of libjpeg after it has decoded all rows that the header states and finds more data before the end marker.
ROWS_LEFT_OVER = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9")


def size(encoded: bytes) -> tuple[int, int] | None:
    """Return the encoded (height, width) of a grayscale or YCbCr JPEG, and None for anything else."""
    if not encoded.startswith(START):
        return None
    try:
        height, width, color_space, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return None
    return (height, width) if color_space in ("Gray", "YCbCr") else None


def has_metadata(encoded: bytes) -> bool:
    """Return whether a JPEG has Exif or XMP metadata, which may say that it is rotated."""
    return any(marker == METADATA for marker, _ in _segments(encoded))


def decode(encoded: bytes, channels: int, shrink: int = 1, bottom: int | None = None) -> np.ndarray:
    """Decode a JPEG for which `size` returns a size.

    Args:
      encoded: the file.
      channels: 3 for RGB, 1 for grayscale.
      shrink: 1, 2, 4 or 8; the image is decoded at this fraction of its size, rounded up.
      bottom: the first row that is not needed. With `shrink=1`, the result may end there or a little below.

    Returns:
      uint8 [height, width, channels], the same pixels as PIL decodes.

    Raises:
      ValueError: if the decoder notices damage; PIL accepts some such files. Damage below `bottom` may go unnoticed.
    """
    color_space = "RGB" if channels == 3 else "GRAY"
    if shrink == 1 and bottom is not None:
        rows = _decode_rows(encoded, color_space, channels, bottom)
        if rows is not None:
            return rows
    height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
    min_height, min_width = math.ceil(height / shrink), math.ceil(width / shrink)
    return simplejpeg.decode_jpeg(encoded, color_space, min_height=min_height, min_width=min_width)


def _decode_rows(encoded: bytes, color_space: str, channels: int, bottom: int) -> np.ndarray | None:
    """Return the rows above `bottom` and a few more, or None if the file must be decoded whole or is damaged.

    A JPEG is encoded from top to bottom. If the height in its header is lowered, libjpeg stops there and then warns
    about the remaining data, after all requested pixels are in the buffer. Any other warning means damage.
    """
    frame = _find_frame(encoded)
    if frame is None:
        return None
    height, width = (int.from_bytes(encoded[start : start + 2], "big") for start in (frame + 5, frame + 7))
    # Two more rows, because colors encoded at half the resolution are also interpolated from the row below.
    lowered = math.ceil((bottom + 2) / MAX_BLOCK_ROWS) * MAX_BLOCK_ROWS
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
    """Return where the frame header starts if the image is encoded in one pass from top to bottom (baseline)."""
    return next((position for marker, position in _segments(encoded) if marker in BASELINE), None)


def _segments(encoded: bytes) -> Iterator[tuple[int, int]]:
    """Iterate over (marker, position) of the segments before the encoded pixels."""
    position = len(START) - 1
    while position + 4 <= len(encoded) and encoded[position] == 0xFF and encoded[position + 1] != SCAN:
        yield encoded[position + 1], position
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
