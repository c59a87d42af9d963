"""Which pictures a report shows, and what the network said of them."""

import base64
import dataclasses
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from resnet_jax.evaluation.metrics import ExampleMetrics
from resnet_jax.evaluation.model_comparison import Scored

MISTAKES = 16
OTHERS = 8  # the most certain, and the least
LARGEST = 192  # pixels on the longer side
KEPT_WHOLE = 96  # of smaller ones every pixel is shown


@dataclasses.dataclass(frozen=True)
class ShownPicture:
    """A picture and its answer.

    Attributes:
      uri: the picture itself, as a data URI.
      small: whether it is so small that its pixels are to be seen when it is enlarged.
      name: which example it is.
      label, prediction: its class, and the one that it was taken for.
      confidence: the probability that was given to the prediction.
      probability: the one that was given to its class.
    """

    uri: str
    small: bool
    name: str
    label: str
    prediction: str
    confidence: float
    probability: float


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures that have something in common: a title, and a sentence on how they were chosen."""

    title: str
    text: str
    pictures: tuple[ShownPicture, ...]


def choose(scored: Scored, classes: Sequence[str], name_of: Callable[[int], str]) -> list[Gallery]:
    """The worst mistakes, and those that the network was least and most certain of; a gallery without any is left out.

    Args:
      scored: the outcomes, and where to look at the pictures.
      classes: their names.
      name_of: what people know an example by, given its position in the selection.
    """
    outcomes = scored.outcomes
    mistakes = np.flatnonzero(outcomes.prediction != outcomes.label)
    worst = mistakes[np.argsort(-outcomes.loss[mistakes], kind="stable")][:MISTAKES]
    by_confidence = np.argsort(outcomes.confidence, kind="stable")
    chosen = {
        "The worst mistakes": ("Those whose class was given the least probability.", worst),
        "Least certain": ("Pictures for which no class was likely, right or wrong.", by_confidence[:OTHERS]),
        "Most certain": ("Pictures that were given the highest probabilities of all.", by_confidence[::-1][:OTHERS]),
    }
    return [
        Gallery(title, text, _shown(scored, which, classes, name_of))
        for title, (text, which) in chosen.items()
        if len(which)
    ]


def _shown(
    scored: Scored, which: np.ndarray, classes: Sequence[str], name_of: Callable[[int], str]
) -> tuple[ShownPicture, ...]:
    outcomes: ExampleMetrics = scored.outcomes
    positions = outcomes.position[which]
    images, origins = scored.examples.images_at(positions), scored.examples.subset_positions[positions]
    return tuple(
        ShownPicture(
            uri=data_uri(image),
            small=max(image.shape) <= KEPT_WHOLE,
            name=name_of(int(origin)),
            label=classes[outcomes.label[index]],
            prediction=classes[outcomes.prediction[index]],
            confidence=float(outcomes.confidence[index]),
            probability=float(np.exp(-outcomes.loss[index])),
        )
        for index, image, origin in zip(which, images, origins, strict=True)
    )


def data_uri(image: np.ndarray) -> str:
    """uint8 [height, width, channels], channels 1 or 3: a small picture as a PNG, others as JPEGs, made smaller."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    kind, options = "png", {"optimize": True}
    if max(picture.size) > KEPT_WHOLE:
        picture.thumbnail((LARGEST, LARGEST))
        kind, options = "jpeg", {"quality": 85}
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
