"""Example images of a report, with the predictions of the model."""

import base64
import dataclasses
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from resnet_jax.data.feed import EvaluationData
from resnet_jax.evaluation.metrics import worst_mistakes
from resnet_jax.evaluation.model_comparison import ScoredExamples
from resnet_jax.evaluation.validation import Mistake

NUM_WORST = 16  # images in the gallery of the worst mistakes
NUM_OTHER = 8  # images in each of the other galleries
MAX_SIDE = 192  # pixels; larger images are shrunk to it
MAX_PIXELATED_SIDE = 96  # pixels; up to this size, every pixel is kept, and stays visible when the page enlarges it

# A function from images, uint8 [n, height, width, channels], to n overlays of Grad-CAM for the predicted class, each
# uint8 [height, width, 3]; or to None if Grad-CAM does not work for the model.
DrawOverlays = Callable[[np.ndarray], list[np.ndarray] | None]


@dataclasses.dataclass(frozen=True)
class ExampleImage:
    """An image of an example and its prediction.

    Attributes:
      uri: the image as a data URI.
      overlay_uri: the same image with Grad-CAM for the predicted class laid over it; None without such an overlay.
      is_small: whether both sides are at most `MAX_PIXELATED_SIDE`.
      name: the name of the example.
      label: its true class, or classes.
      prediction: the predicted class, or classes.
      confidence: the probability of the predicted class; None for any number of labels per image.
      probability: the probability of the true class; None for any number of labels per image.
    """

    uri: str
    overlay_uri: str | None
    is_small: bool
    name: str
    label: str
    prediction: str
    confidence: float | None
    probability: float | None


@dataclasses.dataclass(frozen=True)
class Gallery:
    """A group of images with a title and a sentence on how they were chosen."""

    title: str
    description: str
    images: tuple[ExampleImage, ...]


def choose_galleries(
    scored: ScoredExamples, classes: Sequence[str], name_of: Callable[[int], str], draw_overlays: DrawOverlays
) -> list[Gallery]:
    """Choose the worst and the most confident mistakes, and the least and most certain predictions.

    The gallery of confident mistakes leaves out those that are already among the worst. Empty galleries are left out.

    Args:
      scored: the metrics of each example, and the examples.
      classes: the names of the classes.
      name_of: a function from the position of an example in its subset to its name.
      draw_overlays: see `DrawOverlays`.
    """
    metrics = scored.metrics
    by_confidence = np.argsort(metrics.confidence, kind="stable")
    worst = worst_mistakes(metrics, NUM_WORST)
    is_mistake = metrics.prediction[by_confidence] != metrics.label[by_confidence]
    other_mistakes = by_confidence[is_mistake & ~np.isin(by_confidence, worst)]
    choices = [
        (
            "Worst mistakes",
            "Misclassified images whose true class got the lowest probability.",
            worst,
        ),
        (
            "Other confident mistakes",
            "The misclassified images, without those above, whose predicted class got the highest probability.",
            other_mistakes[::-1][:NUM_OTHER],
        ),
        (
            "Least certain",
            "Images for which no class got a high probability, whether classified correctly or not.",
            by_confidence[:NUM_OTHER],
        ),
        (
            "Most certain",
            "Images whose predicted class got the highest probability.",
            by_confidence[::-1][:NUM_OTHER],
        ),
    ]
    return [
        Gallery(title, description, _example_images(scored, indices, classes, name_of, draw_overlays))
        for title, description, indices in choices
        if len(indices)
    ]


def multi_label_gallery(
    mistakes: Sequence[Mistake], examples: EvaluationData, name_of: Callable[[int], str]
) -> list[Gallery]:
    """Return the gallery of the worst mistakes for any number of labels per image; no gallery if there are none.

    Args:
      mistakes: the mistakes, worst first.
      examples: the examples that were scored.
      name_of: a function from the position of an example in its subset to its name.
    """
    if not mistakes:
        return []
    positions = np.array([mistake.position for mistake in mistakes])
    subset_positions = examples.subset_positions[positions]
    images = tuple(
        ExampleImage(
            uri=data_uri(image),
            overlay_uri=None,
            is_small=max(image.shape) <= MAX_PIXELATED_SIDE,
            name=name_of(int(subset_position)),
            label=mistake.label,
            prediction=mistake.prediction,
            confidence=None,
            probability=None,
        )
        for mistake, image, subset_position in zip(
            mistakes, examples.images_at(positions), subset_positions, strict=True
        )
    )
    return [Gallery("Worst mistakes", "Images with a wrong class and the highest loss.", images)]


def _example_images(
    scored: ScoredExamples,
    indices: np.ndarray,
    classes: Sequence[str],
    name_of: Callable[[int], str],
    draw_overlays: DrawOverlays,
) -> tuple[ExampleImage, ...]:
    metrics = scored.metrics
    positions = metrics.position[indices]
    images = scored.examples.images_at(positions)
    overlays: Sequence[np.ndarray | None] = draw_overlays(images) or [None] * len(images)
    subset_positions = scored.examples.subset_positions[positions]
    return tuple(
        ExampleImage(
            uri=data_uri(image),
            overlay_uri=None if overlay is None else data_uri(overlay),
            is_small=max(image.shape) <= MAX_PIXELATED_SIDE,
            name=name_of(int(subset_position)),
            label=classes[metrics.label[index]],
            prediction=classes[metrics.prediction[index]],
            confidence=float(metrics.confidence[index]),
            probability=float(np.exp(-metrics.loss[index])),
        )
        for index, image, overlay, subset_position in zip(indices, images, overlays, subset_positions, strict=True)
    )


def data_uri(pixels: np.ndarray) -> str:
    """Encode an image, uint8 [height, width, channels] with 1 or 3 channels.

    Images whose sides are at most `MAX_PIXELATED_SIDE` become PNGs. Larger images become JPEGs, shrunk to `MAX_SIDE`.
    """
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    file = io.BytesIO()
    if max(image.size) > MAX_PIXELATED_SIDE:
        file_format = "jpeg"
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        image.save(file, file_format, quality=85)
    else:
        file_format = "png"
        image.save(file, file_format, optimize=True)
    return f"data:image/{file_format};base64,{base64.b64encode(file.getvalue()).decode()}"
