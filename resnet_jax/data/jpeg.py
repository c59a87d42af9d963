"""The common kind of JPEG, decoded by libjpeg-turbo alone, as far down as it is looked at."""

import re

import numpy as np
import simplejpeg

START = b"\xff\xd8\xff"
BASELINE, OTHER_FRAMES, SCAN = (0xC0, 0xC1), {*range(0xC2, 0xD0)} - {0xC4, 0xC8, 0xCC}, 0xDA
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
      ValueError: for the slightest damage, some of which PIL puts up with.
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
    what is left over, when all pixels that it was asked for are in the buffer. Any other complaint is of damage.
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
    position = len(START) - 1
    while position + 9 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker in BASELINE:
            return position
        if marker in OTHER_FRAMES or marker == SCAN:
            return None
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    return None
