"""Choice of the region of an image that is cropped, and resizing on the host.

If a streaming feed resizes images, the host also crops them, with this module, because they may differ in size.
Otherwise the device crops them, with boxes of the same distribution (`augment.boxes.crop_boxes`).

Resizing is our own combination of three OpenCV calls. OpenCV's bilinear resizing does not anti-alias; that of PIL does,
but takes five times as long.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

MAX_FILTER_FACTOR = 2.4  # largest factor for the three-tap filter, whose middle tap is negative beyond sqrt(7) = 2.65
NUM_DRAWS = 40  # numbers that `random_box` needs: four for each of ten attempts


class Box(NamedTuple):
    """A region of an image in pixels; its edges may lie between pixels."""

    top: float
    left: float
    height: float
    width: float


def random_box(
    height: int, width: int, draws: np.ndarray, scale: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Box:
    """Choose a region to train on, of random size, shape and position, as torchvision's `RandomResizedCrop` does.

    Szegedy et al. 2014, "Going deeper with convolutions", section 6.

    Args:
      height, width: size of the image.
      draws: `NUM_DRAWS` numbers, uniform in [0, 1).
      scale: smallest and largest fraction of the area of the image.
      ratio: smallest and largest aspect ratio, width over height; log-uniform between them.

    Returns:
      The first of ten attempts that fits into the image, in whole pixels; if none fits, `central_box`.

    Example:
      >>> random_box(200, 200, np.full(NUM_DRAWS, 0.5), scale=(0.08, 1.0))
      Box(top=27, left=27, height=147, width=147)
    """
    for area_draw, ratio_draw, top_draw, left_draw in draws.reshape(-1, 4).tolist():
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_draw)
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * ratio_draw)
        box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = math.floor(top_draw * (height - box_height + 1))
            left = math.floor(left_draw * (width - box_width + 1))
            return Box(top, left, box_height, box_width)
    return central_box(height, width, ratio)


def central_box(height: int, width: int, ratio: tuple[float, float]) -> Box:
    """Return the largest central region of an image with an aspect ratio within `ratio`, in whole pixels."""
    box_height, box_width = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def center_square(height: int, width: int, resize: int, crop: int) -> Box:
    """Return the region that is kept if the short side is resized to `resize` and the center is then cropped to `crop`.

    `crop` is the side of a square, in pixels of the resized image. The region is in pixels of the original image.

    Example:
      >>> center_square(300, 400, resize=256, crop=256)
      Box(top=0.0, left=50.0, height=300.0, width=300.0)
    """
    side = min(height, width) * crop / resize
    return Box((height - side) / 2, (width - side) / 2, side, side)


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 [height, width, channels] to [size, size, channels], bilinear, with anti-aliasing.

    PIL and PyTorch shrink an image by a factor f with a triangle filter from -f to f pixels, which blurs with variance
    f² / 6. Here, bilinear interpolation contributes a variance of 1/6, and a three-tap filter before it adds the rest.
    This takes a fifth of the time. Beyond `MAX_FILTER_FACTOR`, blocks of pixels are averaged first.
    """
    height, width, channels = pixels.shape
    if (height, width) != (size, size):
        block_height = math.ceil(height / (MAX_FILTER_FACTOR * size))
        block_width = math.ceil(width / (MAX_FILTER_FACTOR * size))
        if block_height > 1 or block_width > 1:
            shrunk = (math.ceil(width / block_width), math.ceil(height / block_height))
            pixels = cv2.resize(pixels, shrunk, interpolation=cv2.INTER_AREA)
        x_filter, y_filter = (_filter_taps(side / size) for side in pixels.shape[1::-1])
        if len(x_filter) > 1 or len(y_filter) > 1:
            pixels = cv2.sepFilter2D(pixels, -1, x_filter, y_filter, borderType=cv2.BORDER_REPLICATE)
        pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)
    return pixels.reshape(size, size, channels)  # OpenCV drops a single channel.


def _filter_taps(factor: float) -> np.ndarray:
    """Return the taps of the filter for a side that shrinks by `factor`, at most `MAX_FILTER_FACTOR`; [1] if it grows.

    Example:
      >>> _filter_taps(2.0).tolist()
      [0.25, 0.5, 0.25]
    """
    outer = max(0.0, (factor**2 - 1) / 12)
    return np.array([outer, 1 - 2 * outer, outer]) if outer else np.ones(1)
