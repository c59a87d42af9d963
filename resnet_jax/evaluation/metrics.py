"""Classification metrics of each example, their means over all examples, and a detailed report."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax.errors import UserError, program

# --- Metrics of each example ------------------------------------------------------------------------------------------


Array = Any  # `jax.Array` within a compiled function, and `np.ndarray` on the host


class ExampleMetrics(NamedTuple):
    """Metrics of n examples, one entry per example.

    Attributes:
      position: int32 [n], the position of the example in the evaluation data, from 0.
      label: int32 [n], the number of the true class.
      loss: float32 [n], cross-entropy in nats.
      prediction: int32 [n], the class with the highest probability.
      confidence: float32 [n], the probability of the predicted class.
      in_top5: bool [n], whether the label is among the five most probable classes (with fewer classes: always).
      log_probabilities: float32 [n, classes]; None if they were not requested.
    """

    position: Array
    label: Array
    loss: Array
    prediction: Array
    confidence: Array
    in_top5: Array
    log_probabilities: Array = None


def example_metrics(
    logits: jax.Array, labels: jax.Array, positions: jax.Array, keep_log_probabilities: bool = False
) -> ExampleMetrics:
    """Compute the metrics of each example. Among classes with equal logits, the lowest class number ranks first.

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch].
      positions: int32 [batch], copied to the result.
      keep_log_probabilities: whether the result includes the log-probabilities of all classes.

    Example:
      >>> logits, labels = jnp.array([[0.0, 2.0], [3.0, 1.0]]), jnp.array([1, 1])
      >>> example_metrics(logits, labels, jnp.arange(2)).prediction.tolist()
      [1, 0]
    """
    _, most_probable = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    log_probabilities = jax.nn.log_softmax(logits)
    return ExampleMetrics(
        position=positions,
        label=labels,
        loss=optax.softmax_cross_entropy_with_integer_labels(logits, labels),
        prediction=most_probable[:, 0].astype(jnp.int32),
        confidence=jnp.exp(jnp.max(log_probabilities, axis=-1)),
        in_top5=jnp.any(most_probable == labels[:, None], axis=-1),
        log_probabilities=log_probabilities if keep_log_probabilities else None,
    )


def worst_mistakes(results: ExampleMetrics, count: int) -> np.ndarray:
    """Return the indices of the wrongly classified examples with the highest loss, at most `count`, worst first.

    Args:
      results: metrics as host arrays.
      count: how many indices to return at most.
    """
    mistakes = np.flatnonzero(results.prediction != results.label)
    return mistakes[np.argsort(-results.loss[mistakes], kind="stable")][:count]


def most_certain_successes(results: ExampleMetrics, count: int) -> np.ndarray:
    """Return the indices of the correctly classified examples with the highest confidence, highest first.

    Args:
      results: metrics as host arrays.
      count: how many indices to return at most.
    """
    correct = np.flatnonzero(results.prediction == results.label)
    return correct[np.argsort(-results.confidence[correct], kind="stable")][:count]


# --- Means over examples ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MeanMetrics:
    """Means over all examples that could be read.

    Attributes:
      loss: cross-entropy (negative log-likelihood) in nats.
      top1, top5: accuracies in [0, 1].
      examples: how many examples the means are over.
      unreadable: how many more examples could not be read.
    """

    loss: float
    top1: float
    top5: float
    examples: int
    unreadable: int = 0


def check_any_readable(scored: int, total: int) -> None:
    """Raise `UserError` if none of the examples could be read."""
    if not scored:
        raise UserError(f"none of the {total:,} examples could be read. Check the dataset with `{program()} inspect`.")


def summarize(results: ExampleMetrics, total: int) -> MeanMetrics:
    """Average the metrics of examples in float64.

    Args:
      results: metrics as host arrays; no example may occur twice.
      total: how many examples there are, including those that could not be read.

    Raises:
      UserError: if no example could be read.
      ValueError: if an example occurs twice or its position is not in [0, total).
    """
    scored = len(results.position)
    check_any_readable(scored, total)
    if len(np.unique(results.position)) != scored or results.position.min() < 0 or results.position.max() >= total:
        raise ValueError(f"expected {scored} distinct positions in [0, {total})")
    return MeanMetrics(
        loss=float(np.mean(results.loss, dtype=np.float64)),
        top1=float(np.mean(results.prediction == results.label)),
        top5=float(np.mean(results.in_top5)),
        examples=scored,
        unreadable=total - scored,
    )


# --- Detailed report: confidence intervals, calibration, and metrics of each class ------------------------------------


CALIBRATION_BINS = 15
CONFIDENCE_LEVEL = 0.95
MAX_CONFUSED_PAIRS = 50

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class CalibrationBin:
    """Examples whose confidence is in (low, high].

    Attributes:
      low, high: bounds of the bin.
      examples: how many examples are in the bin.
      confidence: their mean confidence; None if there are none.
      accuracy: their accuracy in [0, 1]; None if there are none.
    """

    low: float
    high: float
    examples: int
    confidence: float | None
    accuracy: float | None


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class. Ratios are in [0, 1], and None if their denominator is zero.

    Attributes:
      name: the name of the class.
      examples: how many examples belong to the class.
      predicted: how many examples are predicted to belong to it.
      precision: fraction of the predicted examples that belong to the class.
      recall: fraction of the examples of the class that are predicted correctly.
      f1: harmonic mean of precision and recall, computed as 2 * correct / (examples + predicted).
    """

    name: str
    examples: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """`count` examples of class `label` are predicted as `prediction`: a `share` of that class, in [0, 1]."""

    label: str
    prediction: str
    count: int
    share: float


@dataclasses.dataclass(frozen=True)
class ClassificationReport:
    """Metrics of a model on a split.

    Attributes:
      means: means over all examples that could be read.
      top1_interval, top5_interval: 95 % confidence intervals of the accuracies (Wilson 1927).
      ece: expected calibration error, in [0, 1]: the mean of |confidence - accuracy| over 15 confidence bins of equal
        width, each weighted by its number of examples (Guo et al. 2017, "On Calibration of Modern Neural Networks",
        section 2).
      bins: bins of the reliability diagram, from low to high confidence.
      classes: metrics of each class, by label.
      confused: pairs of confused classes, the most frequent first, at most 50.
    """

    means: MeanMetrics
    top1_interval: Interval
    top5_interval: Interval
    ece: float
    bins: tuple[CalibrationBin, ...]
    classes: tuple[ClassMetrics, ...]
    confused: tuple[ConfusedPair, ...]


def classification_report(results: ExampleMetrics, classes: Sequence[str], total: int) -> ClassificationReport:
    """Compute the detailed report of a model.

    Args:
      results: metrics as host arrays; no example may occur twice.
      classes: the names of the classes, by label.
      total: how many examples there are, including those that could not be read.

    Raises:
      UserError, ValueError: as `summarize` does.
    """
    means = summarize(results, total)
    bins = calibration_bins(results)
    calibration_errors = [
        calibration_bin.examples * abs(calibration_bin.confidence - calibration_bin.accuracy)
        for calibration_bin in bins
        if calibration_bin.confidence is not None and calibration_bin.accuracy is not None
    ]
    return ClassificationReport(
        means=means,
        top1_interval=wilson_interval(round(means.top1 * means.examples), means.examples),
        top5_interval=wilson_interval(round(means.top5 * means.examples), means.examples),
        ece=sum(calibration_errors) / means.examples,
        bins=bins,
        classes=_class_metrics(results, classes),
        confused=_confused_pairs(results, classes),
    )


def wilson_interval(successes: int, trials: int) -> Interval:
    """Return the 95 % confidence interval of a success probability (Wilson 1927).

    Example:
      >>> low, high = wilson_interval(81, 263)
      >>> print(f"{low:.4f} to {high:.4f}")
      0.2553 to 0.3662
    """
    from scipy import stats  # Imported here, because importing it takes longer than importing JAX.

    interval = stats.binomtest(successes, trials).proportion_ci(CONFIDENCE_LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def calibration_bins(results: ExampleMetrics) -> tuple[CalibrationBin, ...]:
    """Return the mean confidence and the accuracy of the examples in each confidence bin; bins have equal width."""
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bin_numbers = np.digitize(results.confidence, edges[1:-1], right=True)
    is_correct = results.prediction == results.label
    bins = []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = bin_numbers == number
        confidence = accuracy = None
        if inside.any():
            confidence = float(np.mean(results.confidence[inside], dtype=np.float64))
            accuracy = float(np.mean(is_correct[inside]))
        bins.append(CalibrationBin(float(low), float(high), int(inside.sum()), confidence, accuracy))
    return tuple(bins)


def confusion_matrix(results: ExampleMetrics, num_classes: int) -> np.ndarray:
    """Count the examples of each class (rows) by their predicted class (columns): int [classes, classes]."""
    pairs = results.label.astype(np.int64) * num_classes + results.prediction
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _class_metrics(results: ExampleMetrics, classes: Sequence[str]) -> tuple[ClassMetrics, ...]:
    def count(labels: np.ndarray) -> list[int]:
        return np.bincount(labels, minlength=len(classes)).tolist()

    num_examples = count(results.label)
    num_predicted = count(results.prediction)
    num_correct = count(results.label[results.prediction == results.label])
    return tuple(
        ClassMetrics(
            name,
            total,
            predicted,
            precision=correct / predicted if predicted else None,
            recall=correct / total if total else None,
            f1=2 * correct / (total + predicted) if total + predicted else None,
        )
        for name, total, predicted, correct in zip(classes, num_examples, num_predicted, num_correct, strict=True)
    )


def _confused_pairs(results: ExampleMetrics, classes: Sequence[str]) -> tuple[ConfusedPair, ...]:
    wrong = results.prediction != results.label
    pairs = np.stack([results.label[wrong], results.prediction[wrong]], axis=1)
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    class_sizes = np.bincount(results.label, minlength=len(classes))
    confused = []
    for index in np.argsort(-counts, kind="stable")[:MAX_CONFUSED_PAIRS]:
        label, prediction = pairs[index]
        count = int(counts[index])
        confused.append(ConfusedPair(classes[label], classes[prediction], count, float(count / class_sizes[label])))
    return tuple(confused)
