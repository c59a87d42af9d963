"""Which part of a picture is shown to the network, and its resizing on the host, where pictures differ in size."""

import math
from typing import NamedTuple

import cv2
import numpy as np

MOST_SHRINKING = 2.4  # by the filter of three taps; for more it is too short, and its middle becomes negative
DRAWS = 40  # numbers that `random_box` needs: ten attempts of four


class Box(NamedTuple):
    """A part of a picture, in pixels; it may lie between them."""

    top: float
    left: float
    height: float
    width: float


def random_box(
    height: int, width: int, draws: np.ndarray, scale: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Box:
    """A part to train on, of random size, shape and place (Szegedy et al. 2014, "Going deeper with convolutions", 6).

    Args:
      height, width: of the picture.
      draws: `DRAWS` numbers, uniform in [0, 1).
      scale: the least and the largest share of the picture's area.
      ratio: the least and the largest width to height, drawn evenly in their logarithm.

    Returns:
      The first of ten attempts that fits into the picture; else the largest part in its middle of an allowed shape.
    """
    for area_draw, ratio_draw, top_draw, left_draw in draws.reshape(-1, 4).tolist():
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_draw)
        shape = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * ratio_draw)
        box_height, box_width = round(math.sqrt(area / shape)), round(math.sqrt(area * shape))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = math.floor(top_draw * (height - box_height + 1))
            left = math.floor(left_draw * (width - box_width + 1))
            return Box(top, left, box_height, box_width)
    box_height, box_width = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def center_box(height: int, width: int, resize: int, crop: int) -> Box:
    """The square in the middle that remains when the short side is resized to `resize`, and `crop` is cut out."""
    side = min(height, width) * crop / resize
    return Box((height - side) / 2, (width - side) / 2, side, side)


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 [height, width, channels] to [size, size, channels], bilinear, without aliasing.

    Shrinking by a factor f with a triangle filter of that width, as PIL and PyTorch do it, blurs with variance f² / 6,
    of which bilinear interpolation gives 1/6. A filter of three taps gives the rest here, which takes a fifth of the
    time. Of larger factors, the average over blocks of pixels takes a part first.
    """
    height, width, channels = pixels.shape
    if (height, width) != (size, size):
        rows, columns = (math.ceil(side / (MOST_SHRINKING * size)) for side in (height, width))
        if rows > 1 or columns > 1:
            shrunk = (math.ceil(width / columns), math.ceil(height / rows))
            pixels = cv2.resize(pixels, shrunk, interpolation=cv2.INTER_AREA)
        taps = [_taps(side / size) for side in pixels.shape[1::-1]]
        if any(len(tap) > 1 for tap in taps):
            pixels = cv2.sepFilter2D(pixels, -1, *taps, borderType=cv2.BORDER_REPLICATE)
        pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)
    return pixels.reshape(size, size, channels)  # OpenCV drops a single channel.


def _taps(factor: float) -> np.ndarray:
    """The filter along one side before it shrinks by `factor`, up to `MOST_SHRINKING`; below 1 none is needed."""
    side = max(0.0, (factor**2 - 1) / 12)
    return np.array([side, 1 - 2 * side, side]) if side else np.ones(1)
