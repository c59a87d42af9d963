"""Drawings of attribution maps: colors over the image in gray."""

import cv2
import numpy as np

from resnet_jax import image_grid
from resnet_jax.attribution.methods import METHODS, SinglePosition
from resnet_jax.data import crops
from resnet_jax.data.in_memory import InMemoryExamples
from resnet_jax.inference.explain import Explanation
from resnet_jax.trained_model import TrainedModel

COLORS = cv2.COLORMAP_VIRIDIS  # perceptually uniform, and readable for the color-blind
# Where a map is zero, only the gray image is visible. From there, the opacity of the colors rises linearly.
OPACITY = 0.85  # the highest opacity
OPAQUE_FROM = 1 / 3  # the value at which it is reached, as a fraction of the largest value of the map
# The gray image has little contrast. Otherwise it would change the colors so much that the scale could not be read.
DARKEST, BRIGHTEST = 64, 192
SCALE_ENDS = ("largest value", "zero or below")


def figure(explanation: Explanation) -> np.ndarray:
    """Draw an image, an overlay of each of its maps, and the color scale that they share: uint8 [height, width, 3].

    Captions are cut at the end to fit, so a probability stands before the name of its class.
    """
    predicted = f"predicted: {explanation.probability:.1%} {explanation.prediction}"
    target = f"target: {explanation.target_probability:.1%} {explanation.target}"
    captions = [f"{predicted}\ntrue: {explanation.label}" if explanation.label else predicted]
    captions += [f"{METHODS[name].title}\n{target}" for name in explanation.maps]
    # Large photographs are shrunk first, because an overlay in their own size would take much memory.
    pixels = _shrink(explanation.pixels, image_grid.STRIP_CELL)
    maps = [_shrink(values, image_grid.STRIP_CELL) for values in explanation.maps.values()]
    return image_grid.strip([pixels, *(overlay(pixels, values) for values in maps)], captions, color_scale())


def overlay(pixels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Lay the positive values of a map over an image in gray: uint8 [height, width, 3].

    Negative values look like zero, so a map without a positive value leaves the image gray.

    Args:
      pixels: uint8 [height, width, channels] with 1 or 3 channels.
      values: float32 [height, width]. The largest one gets the brightest color.
    """
    gray = pixels[..., 0] if pixels.shape[-1] == 1 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    positive = np.maximum(values, 0)
    return _blend(gray, positive / max(float(positive.max()), np.finfo(np.float32).tiny))


def color_scale() -> image_grid.Scale:
    """Return the color scale of overlays, as it looks over a pixel of medium gray."""
    levels = np.linspace(1, 0, 256, dtype=np.float32)[:, None]
    return image_grid.Scale(_blend(np.full(levels.shape, 128, np.uint8), levels), *SCALE_ENDS)


def grad_cam_overlays(trained: TrainedModel, images: np.ndarray) -> list[np.ndarray] | None:
    """Lay Grad-CAM for the predicted class over each image.

    Args:
      trained: the trained model.
      images: the images of the model's evaluation data, uint8 [n, height, width, channels]. The model may resize them.

    Returns:
      n images, each uint8 [height, width, 3]; None if the output of the model's last stage is a single position.
    """
    examples = InMemoryExamples(images, np.zeros(len(images), np.int32), np.arange(len(images)))
    maps: list[np.ndarray] = []
    try:
        for batch in trained.on_local_devices().attributions(examples, ("grad_cam",)):
            maps += list(batch.maps["grad_cam"][: batch.num_images])
    except SinglePosition:
        return None
    height, width = images.shape[1:3]
    whole_image = crops.Box(0, 0, height, width)
    return [
        overlay(image, crops.to_original(values, whole_image, height, width))
        for image, values in zip(images, maps, strict=True)
    ]


def _blend(gray: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Blend an image in gray with the colors of the levels: uint8 [height, width, 3].

    Args:
      gray: uint8 [height, width].
      levels: float32 [height, width] in [0, 1].
    """
    background = DARKEST + (BRIGHTEST - DARKEST) / 255 * gray[..., None].astype(np.float32)
    colors = cv2.applyColorMap((255 * levels).round().astype(np.uint8), COLORS)[..., ::-1]  # OpenCV returns BGR.
    opacity = OPACITY * np.minimum(1, levels[..., None] / OPAQUE_FROM)
    return (opacity * colors + (1 - opacity) * background).round().astype(np.uint8)


def _shrink(values: np.ndarray, side: int) -> np.ndarray:
    """Shrink an image or a map until no side is longer than `side` pixels. A pixel gets the mean of those it covers."""
    height, width = values.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return values
    size = max(1, round(width * factor)), max(1, round(height * factor))
    # OpenCV drops a single channel.
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], *values.shape[2:])
