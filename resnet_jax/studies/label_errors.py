"""Labels that are probably wrong, by confident learning (Northcutt et al. 2021).

A label is doubtful if a model that was not trained on the example is confident of another class. "Confident" is
different for each class: the probability of the class is at least its mean over the examples that have this label. So
classes that a model finds hard, or is never sure of, do not make all of their labels doubtful.

These are the examples off the diagonal of the "confident joint", as the package cleanlab computes it; where it
is installed, a test compares the two. We do not use the package, because its license (AGPL) would extend to every
program that imports it.
"""

import dataclasses

import numpy as np

from resnet_jax import files, image_grid
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.host_batches import decode_image
from resnet_jax.studies.out_of_fold import HeldOutPredictions
from resnet_jax.terminal import table

MAX_LISTED = 20
MAX_SHOWN = 40  # images on the contact sheet
TARGET = ("the contact sheet", ".png")  # what is written, in words, and its file name extension


@dataclasses.dataclass(frozen=True)
class DoubtfulLabel:
    """A label that is probably wrong.

    Attributes:
      example: the name of the example: the path of its file, or, for example, "train[17]".
      label: the class that it has.
      suggestion: the class of which the model is confident.
      label_probability, suggestion_probability: the probabilities of these classes.
    """

    example: str
    label: str
    suggestion: str
    label_probability: float
    suggestion_probability: float


def confident_classes(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the class of which the model is confident, for each example (Northcutt et al. 2021, section 3.1).

    Args:
      labels: int [n], the labels as they are.
      probabilities: float [n, classes], predicted by a model that was not trained on the example.

    Returns:
      int [n]; -1 where the model is confident of no class.

    Example:
      >>> labels = np.array([0, 0, 1, 1])
      >>> confident_classes(labels, np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])).tolist()
      [0, 1, -1, 1]
    """
    num_classes = probabilities.shape[1]
    thresholds = np.full(num_classes, np.inf)  # A class without examples is never suggested.
    for label in np.unique(labels):
        thresholds[label] = probabilities[labels == label, label].mean()
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    return np.where(confident.max(axis=1) >= 0, confident.argmax(axis=1), -1)


def rank(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the indices of the examples with doubtful labels, the most doubtful first.

    They are ranked by the probability of the label minus that of the class of which the model is confident.

    Args:
      labels, probabilities: see `confident_classes`.
    """
    suggested = confident_classes(labels, probabilities)
    doubtful = np.flatnonzero((suggested >= 0) & (suggested != labels))
    margins = probabilities[doubtful, labels[doubtful]] - probabilities[doubtful, suggested[doubtful]]
    return doubtful[np.argsort(margins, kind="stable")]


def find_doubtful_labels(predictions: HeldOutPredictions) -> tuple[np.ndarray, list[DoubtfulLabel]]:
    """Return the doubtful labels, the most doubtful first, and the indices of their examples in the predictions."""
    labels, probabilities, classes = predictions.labels, predictions.probabilities, predictions.classes
    indices = rank(labels, probabilities)
    suggested = confident_classes(labels, probabilities)
    return indices, [
        DoubtfulLabel(
            predictions.examples[index],
            classes[labels[index]],
            classes[suggested[index]],
            float(probabilities[index, labels[index]]),
            float(probabilities[index, suggested[index]]),
        )
        for index in indices
    ]


def format_doubtful_labels(doubtful: list[DoubtfulLabel], num_examples: int, sheet: str | None) -> str:
    """Format the first doubtful labels, and how many there are."""
    share = len(doubtful) / num_examples
    count = f"{len(doubtful):,} of {num_examples:,} labels are doubtful ({share:.1%}), by confident learning."
    if not doubtful:
        return count
    rows = [
        (
            entry.example,
            entry.label,
            entry.suggestion,
            f"{entry.label_probability:.2%}",
            f"{entry.suggestion_probability:.2%}",
        )
        for entry in doubtful[:MAX_LISTED]
    ]
    listed = table(rows, header=("example", "label", "suggestion", "p(label)", "p(suggestion)"))
    return f"{listed}\n\n{count} The contact sheet {sheet} shows the first {min(len(doubtful), MAX_SHOWN)}."


def write_contact_sheet(path: str, predictions: HeldOutPredictions, indices: np.ndarray) -> str | None:
    """Write the images with the most doubtful labels as PNG, each with its label and the suggestion.

    Args:
      path: path of the PNG.
      predictions: the predictions.
      indices: the examples, the most doubtful first.

    Returns:
      The path, or None if there is nothing to show.

    Raises:
      UserError: if the file cannot be written.
    """
    suggested = confident_classes(predictions.labels, predictions.probabilities)
    images, captions = [], []
    for index in indices[:MAX_SHOWN]:
        subset, position = predictions.places[index]
        try:
            images.append(decode_image(subset[position][0], subset.channels, subset.bit_depth))
        except Unreadable:  # The file may have been removed since it was scored.
            continue
        label, suggestion = (predictions.classes[number] for number in (predictions.labels[index], suggested[index]))
        captions.append(f"{label}\nrather {suggestion}?")
    if not images:
        return None
    files.write_target(path, *TARGET, image_grid.as_png(image_grid.grid(images, captions, columns=8)))
    return path
