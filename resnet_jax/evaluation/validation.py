"""Validation during a run: mean metrics and the worst mistakes, for one label per image or any number of them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from resnet_jax.data.feed import EvaluationData
from resnet_jax.evaluation import metrics, multi_label
from resnet_jax.evaluation.evaluate import Evaluate
from resnet_jax.evaluation.metrics import ExampleMetrics
from resnet_jax.evaluation.multi_label import MultiLabelExamples
from resnet_jax.trained_model import DEFAULT_THRESHOLD

MAX_MISTAKES = 16


class Mistake(NamedTuple):
    """A wrongly classified example.

    Attributes:
      position: the position of the example in the validation data.
      label: its class, or its classes separated by commas.
      prediction: the predicted class, or classes.
    """

    position: int
    label: str
    prediction: str


class ValidationResult(NamedTuple):
    """Result of a validation: mean metrics by name, and the worst mistakes."""

    metrics: dict[str, float]
    mistakes: list[Mistake]


# Validates variables of the model. Returns None if the second argument, which is called after each batch, has returned
# a true value.
Validate = Callable[[dict, Callable[[], object]], ValidationResult | None]


def make_validate(
    evaluate: Evaluate,
    examples: EvaluationData,
    label_sets: np.ndarray | None,
    classes: Sequence[str],
    client_shares: np.ndarray | None = None,
) -> Validate:
    """Return a function that scores the validation examples.

    Args:
      evaluate: scores examples.
      examples: the validation examples.
      label_sets, classes: see `summarize` and `worst_mistakes`.
      client_shares: in a federated run, the share of each class among the examples of each client, float [clients,
        classes]. The metrics then include `worst_decile`, see `worst_decile_top1`.
    """

    def validate(variables: dict, interrupted: Callable[[], object]) -> ValidationResult | None:
        results = evaluate(variables, examples, interrupted)
        if results is None:
            return None
        means = summarize(results, label_sets, len(examples))
        if client_shares is not None:
            assert isinstance(results, ExampleMetrics)
            means["worst_decile"] = worst_decile_top1(results, client_shares)
        return ValidationResult(means, worst_mistakes(results, label_sets, classes))

    return validate


def summarize(
    results: ExampleMetrics | MultiLabelExamples, label_sets: np.ndarray | None, total: int
) -> dict[str, float]:
    """Return the fields of `MeanMetrics`, or of `MultiLabelMeans`, as a dict.

    Args:
      results: metrics as host arrays.
      label_sets: bool [sets, classes], for any number of labels per image; None: one label per image.
      total: how many examples there are, including those that could not be read.
    """
    if isinstance(results, MultiLabelExamples):
        assert label_sets is not None
        names = [str(number) for number in range(label_sets.shape[1])]
        return dataclasses.asdict(multi_label.report(results, label_sets, names, total).means)
    return dataclasses.asdict(metrics.summarize(results, total))


def worst_decile_top1(results: ExampleMetrics, client_shares: np.ndarray) -> float:
    """Return the accuracy below which a tenth of the clients of a federated run lie.

    The accuracy of a client is that on validation examples whose classes are as frequent as among its own examples: the
    mean of the accuracies of the classes, weighted by their shares.

    Args:
      results: metrics as host arrays.
      client_shares: float [clients, classes]. Classes without validation examples do not count.
    """
    is_correct = (results.prediction == results.label).astype(float)
    counts = np.bincount(results.label, minlength=client_shares.shape[1])
    accuracies = np.bincount(results.label, is_correct, len(counts)) / np.maximum(counts, 1)
    shares = np.where(counts > 0, client_shares, 0.0)
    totals = shares.sum(axis=1)
    return float(np.quantile((shares @ accuracies)[totals > 0] / totals[totals > 0], 0.1))


def worst_mistakes(
    results: ExampleMetrics | MultiLabelExamples,
    label_sets: np.ndarray | None,
    classes: Sequence[str],
    thresholds: Sequence[float] | None = None,
) -> list[Mistake]:
    """Return the wrongly classified examples with the highest loss, at most `MAX_MISTAKES`, worst first.

    With any number of labels, an example is wrong if any of its classes is.

    Args:
      results, label_sets: see `summarize`.
      classes: the names of the classes.
      thresholds: the threshold of each class, for any number of labels; None: 0.5 for all.
    """
    if not isinstance(results, MultiLabelExamples):
        worst = metrics.worst_mistakes(results, MAX_MISTAKES)
        return [
            Mistake(int(results.position[i]), classes[results.label[i]], classes[results.prediction[i]]) for i in worst
        ]
    assert label_sets is not None
    predicted = results.probabilities >= np.asarray(thresholds or [DEFAULT_THRESHOLD])
    labels = label_sets[results.label]
    wrong = np.flatnonzero((predicted != labels).any(axis=-1))
    worst = wrong[np.argsort(-results.loss[wrong], kind="stable")][:MAX_MISTAKES]

    def names(row: np.ndarray) -> str:
        return ", ".join(classes[number] for number in np.flatnonzero(row).tolist()) or "-"

    return [Mistake(int(results.position[i]), names(labels[i]), names(predicted[i])) for i in worst]
