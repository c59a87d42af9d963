"""Predictions for every training example, each by the model that was not trained on it."""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from resnet_jax.data import class_matching
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import score_own_validation
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import load_run

FILE = "out_of_fold.csv"


class HeldOutPredictions(NamedTuple):
    """Predictions of models for n examples on which they were not trained.

    Attributes:
      runs: the name of the run that made each prediction, [n].
      examples: the name of each example: the path of its file, or, for example, "train[17]".
      classes: the names of the classes.
      labels: int32 [n].
      probabilities: float32 [n, classes].
      places: the subset that holds each example, and its position there.
    """

    runs: tuple[str, ...]
    examples: tuple[str, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    places: tuple[tuple[Subset, int], ...]


def predict_held_out(workdirs: Sequence[str], reporter: Reporter, data_dir: str | None = None) -> HeldOutPredictions:
    """Let each run predict the examples on which it was validated. The runs must be validated on different examples.

    Args:
      workdirs: directories of runs with the same classes.
      reporter: shows the progress, and counts the images that cannot be read.
      data_dir: where the data is; None: where it was in training.

    Raises:
      UserError: if a run has no validation examples, if its data cannot be opened, or if two runs were validated on the
        same example.
    """
    runs: list[str] = []
    names: list[str] = []
    places: list[tuple[Subset, int]] = []
    labels, probabilities = [], []
    classes: tuple[str, ...] = ()
    for workdir in workdirs:
        trained = load_run(workdir)
        if trained.is_multi_label:
            raise UserError(f"{workdir} predicts any number of labels per image. Give runs with one label per image.")
        if classes and trained.classes != classes:
            raise UserError(f"{workdir} and {workdirs[0]} have different classes. Give runs of the same classes.")
        classes = trained.classes
        metrics, subset, positions = score_own_validation(trained, reporter, data_dir)
        runs += [pathlib.Path(workdir).name] * len(positions)
        names += [subset.name(int(position)) for position in positions]
        places += [(subset, int(position)) for position in positions]
        labels.append(metrics.label)
        probabilities.append(np.exp(metrics.log_probabilities))
    if len(set(names)) < len(names):
        raise UserError("these runs were validated on the same examples. Give one run, or runs with different folds.")
    classes = tuple(class_matching.distinct(classes))
    return HeldOutPredictions(
        tuple(runs), tuple(names), classes, np.concatenate(labels), np.concatenate(probabilities), tuple(places)
    )


def to_csv(predictions: HeldOutPredictions) -> str:
    """Return one line per example: its run, name, label and prediction, and the probability of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "example", "label", "prediction", *(f"p({name})" for name in predictions.classes)])
    best = predictions.probabilities.argmax(axis=-1)
    for run, example, label, prediction, probabilities in zip(
        predictions.runs, predictions.examples, predictions.labels, best, predictions.probabilities, strict=True
    ):
        classes = predictions.classes
        writer.writerow([run, example, classes[label], classes[prediction], *(f"{p:.6f}" for p in probabilities)])
    return text.getvalue()
