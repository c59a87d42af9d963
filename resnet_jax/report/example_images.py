"""Example images of a report, with the predictions of the model."""

import base64
import dataclasses
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from resnet_jax.evaluation.metrics import worst_mistakes
from resnet_jax.evaluation.model_comparison import ScoredExamples

NUM_MISTAKES = 16
NUM_LEAST_AND_MOST_CERTAIN = 8  # images in each of these two galleries
MAX_SIDE = 192  # pixels; larger images are shrunk to it
MAX_PIXELATED_SIDE = 96  # pixels; up to this size, every pixel is kept, and stays visible when the page enlarges it


@dataclasses.dataclass(frozen=True)
class ExampleImage:
    """An image of an example and its prediction.

    Attributes:
      uri: the image as a data URI.
      is_small: whether both sides are at most `MAX_PIXELATED_SIDE`.
      name: the name of the example.
      label: its true class.
      prediction: the predicted class.
      confidence: the probability of the predicted class.
      probability: the probability of the true class.
    """

    uri: str
    is_small: bool
    name: str
    label: str
    prediction: str
    confidence: float
    probability: float


@dataclasses.dataclass(frozen=True)
class Gallery:
    """A group of images with a title and a sentence on how they were chosen."""

    title: str
    description: str
    images: tuple[ExampleImage, ...]


def choose_galleries(scored: ScoredExamples, classes: Sequence[str], name_of: Callable[[int], str]) -> list[Gallery]:
    """Choose the worst mistakes and the least and most certain predictions. Empty galleries are left out.

    Args:
      scored: the metrics of each example, and the examples.
      classes: the names of the classes.
      name_of: a function from the position of an example in its subset to its name.
    """
    by_confidence = np.argsort(scored.metrics.confidence, kind="stable")
    choices = [
        (
            "Worst mistakes",
            "Misclassified images whose true class got the lowest probability.",
            worst_mistakes(scored.metrics, NUM_MISTAKES),
        ),
        (
            "Least certain",
            "Images for which no class got a high probability, whether classified correctly or not.",
            by_confidence[:NUM_LEAST_AND_MOST_CERTAIN],
        ),
        (
            "Most certain",
            "Images whose predicted class got the highest probability.",
            by_confidence[::-1][:NUM_LEAST_AND_MOST_CERTAIN],
        ),
    ]
    return [
        Gallery(title, description, _example_images(scored, indices, classes, name_of))
        for title, description, indices in choices
        if len(indices)
    ]


def _example_images(
    scored: ScoredExamples, indices: np.ndarray, classes: Sequence[str], name_of: Callable[[int], str]
) -> tuple[ExampleImage, ...]:
    metrics = scored.metrics
    positions = metrics.position[indices]
    images = scored.examples.images_at(positions)
    subset_positions = scored.examples.subset_positions[positions]
    return tuple(
        ExampleImage(
            uri=data_uri(image),
            is_small=max(image.shape) <= MAX_PIXELATED_SIDE,
            name=name_of(int(subset_position)),
            label=classes[metrics.label[index]],
            prediction=classes[metrics.prediction[index]],
            confidence=float(metrics.confidence[index]),
            probability=float(np.exp(-metrics.loss[index])),
        )
        for index, image, subset_position in zip(indices, images, subset_positions, strict=True)
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
