"""Scores of classification, from logits to figures."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

from resnet_jax.errors import UserError


class ExampleMetrics(NamedTuple):
    """What came out for each example, all of shape [n] but for the last.

    position: int32, which example it is; label: int32; loss: float32, cross-entropy in nats; prediction: int32, the
    likeliest class; confidence: float32, the probability that is given to it; in_top5: bool, the label is among the
    five likeliest classes (among all, where there are fewer); log_probabilities: float32 [n, classes], or None where
    nobody asked for them.
    """

    position: jax.Array | np.ndarray
    label: jax.Array | np.ndarray
    loss: jax.Array | np.ndarray
    prediction: jax.Array | np.ndarray
    confidence: jax.Array | np.ndarray
    in_top5: jax.Array | np.ndarray
    log_probabilities: jax.Array | np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Scores:
    """Means over `examples` examples: cross-entropy (negative log-likelihood) in nats, and accuracies in [0, 1].

    unreadable: how many more there are that could not be scored.
    """

    loss: float
    top1: float
    top5: float
    examples: int
    unreadable: int = 0


def outcomes(logits: jax.Array, labels: jax.Array, positions: jax.Array, keep: bool = False) -> ExampleMetrics:
    """Judges float32 logits [batch, classes] by int32 labels [batch]; equal logits rank by class number.

    With `keep`, the outcomes hold the probabilities of all classes.
    """
    _, likeliest = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    log_probabilities = jax.nn.log_softmax(logits)
    return ExampleMetrics(
        position=positions,
        label=labels,
        loss=optax.softmax_cross_entropy_with_integer_labels(logits, labels),
        prediction=likeliest[:, 0].astype(jnp.int32),
        confidence=jnp.exp(jnp.max(log_probabilities, axis=-1)),
        in_top5=jnp.any(likeliest == labels[:, None], axis=-1),
        log_probabilities=log_probabilities if keep else None,
    )


def summarize(outcome: ExampleMetrics, total: int) -> Scores:
    """Averages the outcomes of host arrays, in float64; no example of `total` ones may have two."""
    scored = len(outcome.position)
    if not scored:
        raise UserError(f"not one of {total:,} examples could be scored")
    if len(np.unique(outcome.position)) != scored or outcome.position.min() < 0 or outcome.position.max() >= total:
        raise ValueError(f"{scored} outcomes of {total} examples are not of different ones")
    return Scores(
        loss=float(np.mean(outcome.loss, dtype=np.float64)),
        top1=float(np.mean(outcome.prediction == outcome.label)),
        top5=float(np.mean(outcome.in_top5)),
        examples=scored,
        unreadable=total - scored,
    )


# --- What is to be known of a network's answers beyond their means: how sure figures are, calibration, and each class.


BINS = 15
LEVEL = 0.95
MOST_PAIRS = 50

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Bin:
    """The examples of a confidence in (low, high]: how many, their mean confidence, and how many of them were right.

    confidence, accuracy: in [0, 1], None where there are no examples.
    """

    low: float
    high: float
    examples: int
    confidence: float | None
    accuracy: float | None


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """Of one class: `examples` that are of it, and how many were `predicted` to be.

    precision: the share of the predicted that are of it; recall: the share of its examples that were found; f1: their
    harmonic mean. In [0, 1], None where there is nothing to take a share of.
    """

    name: str
    examples: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """`count` examples of the class `label` were taken for `prediction`: a `share` of its examples, in [0, 1]."""

    label: str
    prediction: str
    count: int
    share: float


@dataclasses.dataclass(frozen=True)
class Assessment:
    """Of a network on a split.

    Attributes:
      scores: the means.
      top1_interval, top5_interval: of the accuracies, 95 % confidence (Wilson 1927).
      ece: expected calibration error, in [0, 1]: how far confidence is from accuracy, over 15 bins of equal width,
        weighted by their examples (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2).
      bins: of the reliability diagram, from low to high.
      classes: by label.
      confused: pairs of classes, the most frequent first, at most 50.
    """

    scores: Scores
    top1_interval: Interval
    top5_interval: Interval
    ece: float
    bins: tuple[Bin, ...]
    classes: tuple[ClassScores, ...]
    confused: tuple[ConfusedPair, ...]


def assess(outcomes: ExampleMetrics, classes: Sequence[str], total: int) -> Assessment:
    """Judges the outcomes of host arrays, of `total` examples, each at most once.

    Raises:
      UserError: if there are none.
    """
    scores, bins = summarize(outcomes, total), reliability(outcomes)
    return Assessment(
        scores=scores,
        top1_interval=wilson(round(scores.top1 * scores.examples), scores.examples),
        top5_interval=wilson(round(scores.top5 * scores.examples), scores.examples),
        ece=sum(each.examples * abs(each.confidence - each.accuracy) for each in bins if each.examples)
        / scores.examples,
        bins=bins,
        classes=_by_class(outcomes, classes),
        confused=_confused(outcomes, classes),
    )


def wilson(successes: int, trials: int) -> Interval:
    """The interval that holds a probability with 95 % confidence (Wilson 1927), by what came out of some trials."""
    interval = stats.binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def reliability(outcomes: ExampleMetrics) -> tuple[Bin, ...]:
    """Confidence and accuracy in bins of equal width."""
    edges = np.linspace(0, 1, BINS + 1)
    numbers = np.digitize(outcomes.confidence, edges[1:-1], right=True)
    right, bins = outcomes.prediction == outcomes.label, []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = numbers == number
        means = None, None
        if inside.any():
            means = float(np.mean(outcomes.confidence[inside], dtype=np.float64)), float(np.mean(right[inside]))
        bins.append(Bin(float(low), float(high), int(inside.sum()), *means))
    return tuple(bins)


def confusion_matrix(outcomes: ExampleMetrics, num_classes: int) -> np.ndarray:
    """How many examples of each class (rows) were taken for each class (columns): int [classes, classes]."""
    pairs = outcomes.label.astype(np.int64) * num_classes + outcomes.prediction
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _by_class(outcomes: ExampleMetrics, classes: Sequence[str]) -> tuple[ClassScores, ...]:
    right = outcomes.label[outcomes.prediction == outcomes.label]
    counts = (np.bincount(labels, minlength=len(classes)) for labels in (outcomes.label, outcomes.prediction, right))
    return tuple(
        ClassScores(
            name,
            int(examples),
            int(predicted),
            precision=float(found / predicted) if predicted else None,
            recall=float(found / examples) if examples else None,
            f1=float(2 * found / (examples + predicted)) if examples + predicted else None,
        )
        for name, examples, predicted, found in zip(classes, *counts, strict=True)
    )


def _confused(outcomes: ExampleMetrics, classes: Sequence[str]) -> tuple[ConfusedPair, ...]:
    wrong = outcomes.prediction != outcomes.label
    pairs = np.stack([outcomes.label[wrong], outcomes.prediction[wrong]])
    pairs, counts = np.unique(pairs, axis=1, return_counts=True)
    examples = np.bincount(outcomes.label, minlength=len(classes))
    return tuple(
        ConfusedPair(classes[label], classes[prediction], int(counts[each]), float(counts[each] / examples[label]))
        for each in np.argsort(-counts, kind="stable")[:MOST_PAIRS]
        for label, prediction in [pairs[:, each]]
    )
