"""Metrics of models for images with any number of labels, and the choice of thresholds.

Such a model gives each class a probability of its own. A class is predicted if its probability reaches the threshold of
the class. The thresholds are chosen on the validation split.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from resnet_jax.evaluation.metrics import check_any_readable
from resnet_jax.trained_model import DEFAULT_THRESHOLD

Array = Any  # `jax.Array` within a compiled function, and `np.ndarray` on the host


class MultiLabelExamples(NamedTuple):
    """Metrics of n examples, one entry per example.

    Attributes:
      position: int32 [n], the position of the example in the evaluation data, from 0.
      label: int32 [n], the number of the combination of its labels; see `Subset.label_sets`.
      loss: float32 [n], the mean over the classes of the binary cross-entropy in nats.
      probabilities: float32 [n, classes].
    """

    position: Array
    label: Array
    loss: Array
    probabilities: Array


def example_metrics(
    logits: jax.Array, label_sets: jax.Array, labels: jax.Array, positions: jax.Array
) -> MultiLabelExamples:
    """Compute the metrics of each example.

    Args:
      logits: float32 [batch, classes].
      label_sets: bool [sets, classes].
      labels: int32 [batch], the row of `label_sets` of each example.
      positions: int32 [batch], copied to the result.
    """
    targets = label_sets[labels].astype(logits.dtype)
    losses = optax.sigmoid_binary_cross_entropy(logits, targets).mean(axis=-1)
    return MultiLabelExamples(positions, labels, losses, jax.nn.sigmoid(logits))


# --- Means over examples ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MultiLabelMeans:
    """Means over all examples that could be read.

    Attributes:
      loss: binary cross-entropy in nats, the mean over the classes.
      map: mean of the average precision over the classes that have examples, in [0, 1].
      f1: mean of the F1 score at the thresholds over the classes that have examples (macro-F1), in [0, 1].
      top1: fraction of the examples whose most probable class is one of their labels.
      examples: how many examples the means are over.
      unreadable: how many more examples could not be read.
    """

    loss: float
    map: float
    f1: float
    top1: float
    examples: int
    unreadable: int = 0


@dataclasses.dataclass(frozen=True)
class MultiLabelClass:
    """Metrics of one class. Ratios are in [0, 1], and None if their denominator is zero.

    Attributes:
      name: the name of the class.
      examples: how many examples have the class.
      predicted: how many examples are predicted to have it.
      average_precision: the area under the curve of precision over recall, without interpolation.
      precision, recall, f1: at the threshold.
      threshold: the smallest probability at which the class is predicted.
    """

    name: str
    examples: int
    predicted: int
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    threshold: float


@dataclasses.dataclass(frozen=True)
class MultiLabelReport:
    """Metrics of a model on a split.

    Attributes:
      means: means over all examples and classes.
      micro_f1: the F1 score of all decisions together, whatever their class.
      classes: metrics of each class.
    """

    means: MultiLabelMeans
    micro_f1: float
    classes: tuple[MultiLabelClass, ...]


def report(
    results: MultiLabelExamples,
    label_sets: np.ndarray,
    classes: Sequence[str],
    total: int,
    thresholds: Sequence[float] | None = None,
) -> MultiLabelReport:
    """Compute the metrics of a model.

    Args:
      results: metrics as host arrays; no example may occur twice.
      label_sets: bool [sets, classes], the combinations of labels by the number of the row.
      classes: the names of the classes.
      total: how many examples there are, including those that could not be read.
      thresholds: the threshold of each class; None: 0.5 for all.

    Raises:
      UserError: if no example could be read.
    """
    scored = len(results.position)
    check_any_readable(scored, total)
    if len(np.unique(results.position)) != scored:
        raise ValueError(f"expected {scored} distinct positions")
    targets = label_sets[results.label]
    limits = np.full(len(classes), DEFAULT_THRESHOLD) if thresholds is None else np.asarray(thresholds)
    predicted = results.probabilities >= limits
    by_class = tuple(
        _class_metrics(name, targets[:, number], results.probabilities[:, number], predicted[:, number], limits[number])
        for number, name in enumerate(classes)
    )
    present = [metrics for metrics in by_class if metrics.examples]
    correct = int((predicted & targets).sum())
    decided = int(predicted.sum() + targets.sum())
    most_probable = results.probabilities.argmax(axis=-1)
    means = MultiLabelMeans(
        loss=float(np.mean(results.loss, dtype=np.float64)),
        map=float(np.mean([metrics.average_precision for metrics in present])) if present else 0.0,
        f1=float(np.mean([metrics.f1 for metrics in present])) if present else 0.0,
        top1=float(np.mean(targets[np.arange(scored), most_probable])),
        examples=scored,
        unreadable=total - scored,
    )
    return MultiLabelReport(means, 2 * correct / decided if decided else 0.0, by_class)


def _class_metrics(
    name: str, targets: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray, threshold: float
) -> MultiLabelClass:
    from sklearn import metrics  # Imported here, because importing it takes seconds.

    positives, num_predicted, correct = int(targets.sum()), int(predicted.sum()), int((predicted & targets).sum())
    average_precision = None
    if positives:
        finite = np.isfinite(probabilities).all()  # If not, training has diverged.
        average_precision = float(metrics.average_precision_score(targets, probabilities)) if finite else math.nan
    return MultiLabelClass(
        name,
        positives,
        num_predicted,
        average_precision=average_precision,
        precision=correct / num_predicted if num_predicted else None,
        recall=correct / positives if positives else None,
        f1=2 * correct / (positives + num_predicted) if positives + num_predicted else None,
        threshold=float(threshold),
    )


def choose_thresholds(results: MultiLabelExamples, label_sets: np.ndarray) -> tuple[float, ...]:
    """Return the threshold of each class at which its F1 score is highest; 0.5 for a class without examples.

    Args:
      results: metrics of the validation examples, as host arrays.
      label_sets: bool [sets, classes].

    Example:
      >>> results = MultiLabelExamples(
      ...     np.arange(4), np.array([0, 0, 1, 1]), np.zeros(4), np.array([[0.1], [0.3], [0.4], [0.6]])
      ... )
      >>> choose_thresholds(results, label_sets=np.array([[False], [True]]))
      (0.4,)
    """
    from sklearn import metrics

    targets = label_sets[results.label]
    thresholds = []
    for column in range(targets.shape[1]):
        if not targets[:, column].any():
            thresholds.append(DEFAULT_THRESHOLD)
            continue
        precision, recall, candidates = metrics.precision_recall_curve(
            targets[:, column], results.probabilities[:, column]
        )
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        thresholds.append(float(candidates[np.argmax(f1[:-1])]))
    return tuple(thresholds)
