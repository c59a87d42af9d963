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
    """Resize uint8 [height, width, channels] to [size, size, channels]; see `resize_to`."""
    return resize_to(pixels, size, size)


def resize_to(pixels: np.ndarray, new_height: int, new_width: int) -> np.ndarray:
    """Resize uint8 [height, width, channels] to [new_height, new_width, channels], bilinear, with anti-aliasing.

    PIL and PyTorch shrink an image by a factor f with a triangle filter from -f to f pixels, which blurs with variance
    f² / 6. Here, bilinear interpolation contributes a variance of 1/6, and a three-tap filter before it adds the rest.
    This takes a fifth of the time. Beyond `MAX_FILTER_FACTOR`, blocks of pixels are averaged first.
    """
    height, width, channels = pixels.shape
    if (height, width) != (new_height, new_width):
        block_height = math.ceil(height / (MAX_FILTER_FACTOR * new_height))
        block_width = math.ceil(width / (MAX_FILTER_FACTOR * new_width))
        if block_height > 1 or block_width > 1:
            shrunk = (math.ceil(width / block_width), math.ceil(height / block_height))
            pixels = cv2.resize(pixels, shrunk, interpolation=cv2.INTER_AREA)
        x_filter, y_filter = _filter_taps(pixels.shape[1] / new_width), _filter_taps(pixels.shape[0] / new_height)
        if len(x_filter) > 1 or len(y_filter) > 1:
            pixels = cv2.sepFilter2D(pixels, -1, x_filter, y_filter, borderType=cv2.BORDER_REPLICATE)
        pixels = cv2.resize(pixels, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    return pixels.reshape(new_height, new_width, channels)  # OpenCV drops a single channel.


def to_original(values: np.ndarray, box: Box, height: int, width: int) -> np.ndarray:
    """Return a map of a cropped and resized image in the geometry of the original image; zero outside the crop.

    Args:
      values: one value per pixel of the resized image, float32.
      box: the region of the original image that was cropped.
      height, width: the size of the original image.

    Returns:
      float32 [height, width]. Along a side that becomes longer, values are interpolated. Along a side that becomes
      shorter, they are averaged over the footprint of each pixel, because single values of a noisy map mean little.

    Example:
      >>> to_original(np.ones((2, 2), np.float32), center_square(2, 4, resize=2, crop=2), 2, 4).tolist()
      [[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]]
    """
    rows = _resampling(values.shape[0], box.top, box.height, height)
    columns = _resampling(values.shape[1], box.left, box.width, width)
    return rows @ values.astype(np.float32) @ columns.T


def _resampling(size: int, start: float, length: float, original_size: int) -> np.ndarray:
    """Return the matrix that resamples `size` values along one side, float32 [original_size, size].

    The values are spread evenly over the `length` pixels from `start`. Rows of pixels whose center is outside are zero.
    """
    edges = (np.arange(original_size + 1) - start) / length * size  # of the pixels, in units of the values
    centers = (edges[:-1] + edges[1:]) / 2
    if size > length:
        weights = _overlaps(np.clip(edges, 0, size), size)
    else:
        distances = np.abs(np.clip(centers - 0.5, 0, size - 1)[:, None] - np.arange(size))
        weights = np.maximum(1 - distances, 0)
    is_inside = (centers >= 0) & (centers <= size)
    return (weights * is_inside[:, None]).astype(np.float32)


def _overlaps(edges: np.ndarray, size: int) -> np.ndarray:
    """Return which fraction of each interval between neighboring edges lies in [0, 1], [1, 2] and so on.

    Returns:
      [len(edges) - 1, size]. The row of an empty interval is zero.

    Example:
      >>> _overlaps(np.array([0.0, 0.5, 2.0]), 2).round(2).tolist()
      [[1.0, 0.0], [0.33, 0.67]]
    """
    low, high = edges[:-1, None], edges[1:, None]
    units = np.arange(size)
    lengths = np.maximum(np.minimum(high, units + 1) - np.maximum(low, units), 0)
    return lengths / np.where(high > low, high - low, 1)


def _filter_taps(factor: float) -> np.ndarray:
    """Return the taps of the filter for a side that shrinks by `factor`, at most `MAX_FILTER_FACTOR`; [1] if it grows.

    Example:
      >>> _filter_taps(2.0).tolist()
      [0.25, 0.5, 0.25]
    """
    outer = max(0.0, (factor**2 - 1) / 12)
    return np.array([outer, 1 - 2 * outer, outer]) if outer else np.ones(1)
