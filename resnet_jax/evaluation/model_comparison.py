"""Scoring of one or several models on the same examples, and their statistical comparison."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from resnet_jax.data import class_matching, splits
from resnet_jax.data.dataset import VALIDATION, common_classes, examples_of_run, select_split
from resnet_jax.data.feed import EvaluationData
from resnet_jax.data.sources import canonical_name, open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import open_examples, open_external_examples, score, score_multi_label
from resnet_jax.evaluation.metrics import (
    ClassificationReport,
    ExampleMetrics,
    classification_report,
    example_metrics,
)
from resnet_jax.evaluation.multi_label import MultiLabelReport
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import TrainedModel

# --- Statistics over several models -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class McNemar:
    """McNemar's test of two models on the same examples (McNemar 1947, with the exact binomial distribution).

    Attributes:
      only_first: how many examples only the first model classifies correctly.
      only_second: how many examples only the second model classifies correctly.
      p_value: the probability of a difference at least this large if both models were equally good.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: ExampleMetrics, second: ExampleMetrics) -> McNemar:
    """Compare two models by the examples that only one of them classifies correctly."""
    from scipy import stats  # Imported here, because importing it takes longer than importing JAX.

    if not np.array_equal(first.label, second.label):
        raise ValueError("the metrics are of different examples")
    first_correct = first.prediction == first.label
    second_correct = second.prediction == second.label
    only_first = int(np.sum(first_correct & ~second_correct))
    only_second = int(np.sum(second_correct & ~first_correct))
    differing = only_first + only_second
    p_value = float(stats.binomtest(only_first, differing).pvalue) if differing else 1.0
    return McNemar(only_first, only_second, p_value)


def ensemble(members: Sequence[ExampleMetrics]) -> ExampleMetrics:
    """Score an ensemble that predicts the mean of its members' probabilities.

    Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", section
    2.4.

    Args:
      members: metrics of the members on the same examples, with log-probabilities.
    """
    first = members[0]
    if not all(np.array_equal(member.label, first.label) for member in members):
        raise ValueError("the metrics are of different examples")
    # The log of the sum differs from the log of the mean only by a constant, which softmax ignores.
    logits = functools.reduce(np.logaddexp, (member.log_probabilities for member in members))
    return parallel.fetch(example_metrics(jnp.asarray(logits), jnp.asarray(first.label), jnp.asarray(first.position)))


# --- Scoring several models on the same examples ----------------------------------------------------------------------


def check_distinct(workdirs: Sequence[str]) -> None:
    """Raise `UserError` if a run directory occurs twice."""
    paths = [os.path.realpath(workdir) for workdir in workdirs]
    for index, workdir in enumerate(workdirs):
        if paths[index] in paths[:index]:
            raise UserError(f"a run cannot be compared with itself ({workdir} is given twice). Name another run.")


class ScoredExamples(NamedTuple):
    """Metrics of a model on each example, and the examples."""

    metrics: ExampleMetrics
    examples: EvaluationData


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """One or several trained models, and the examples on which they are scored.

    Attributes:
      models: the trained models by name; all of them have the same classes.
      dataset: the name of the dataset.
      split: the split, such as "test".
      subset: the examples of the split.
      reporter: shows the progress, and counts the images that cannot be read.
    """

    models: Mapping[str, TrainedModel]
    dataset: str
    split: str
    subset: Subset
    reporter: Reporter
    _in_memory: dict[int | None, EvaluationData] = dataclasses.field(default_factory=dict, repr=False)  # by bit depth

    @classmethod
    def open(
        cls,
        models: Mapping[str, TrainedModel],
        reporter: Reporter,
        split: str | None = None,
        dataset: str | None = None,
        data_dir: str | None = None,
    ) -> "Evaluator":
        """Open the examples to score, from the dataset of the first model or from another one.

        Args:
          models: one or more trained models by name.
          reporter: shows the progress, and counts the images that cannot be read. Its limit is set to the
            `dataset.max_unreadable` of the first model.
          split: the split to score. None: the test split of the first model; for another dataset, its only split or
            else its test split.
          dataset: the name of another dataset, whose class names the models must know; None: the dataset of the first
            model.
          data_dir: where the data is; None: where it was in training, or the default location of another dataset.

        Raises:
          UserError: if there is no such dataset or split, or the models have different classes.
        """
        _check_same_classes(models)
        first = next(iter(models.values()))
        settings = first.config.dataset.copy_and_resolve_references()
        dataset = canonical_name(dataset) if dataset else settings.name
        is_other_dataset = dataset != settings.name
        if is_other_dataset:
            settings.update(name=dataset, data_dir=None, train_split="train", validation_split="", test_split="")
        sources = open_sources(settings.name, data_dir or settings.data_dir)
        common_classes(sources)
        splits.resolve(settings, sources)
        if is_other_dataset:
            # No examples of this dataset have been held out for validation.
            settings.validation_split = settings.validation_split or splits.NO_SPLIT
            if split is None and len(sources) == 1:
                split = next(iter(sources))
        split = split or settings.test_split
        if split == splits.NO_SPLIT:
            raise UserError(f"there is no test split. Choose a split with --split ({', '.join(sources)}).")
        reporter.max_unreadable = settings.max_unreadable
        if split == VALIDATION and VALIDATION not in sources and not is_other_dataset:
            _check_same_validation(models)
        subset = select_split(settings, sources, split, reporter)
        _check_kind_of_labels(models, subset)
        return cls(models, settings.name, split, subset, reporter)

    @classmethod
    def open_own_validation(
        cls, models: Mapping[str, TrainedModel], reporter: Reporter, data_dir: str | None = None
    ) -> "Evaluator":
        """Open the examples on which the models were validated, even if the dataset has another split "validation".

        Args:
          models, reporter, data_dir: see `open`.

        Raises:
          UserError: if the models have no validation examples, or were validated on different ones; or as `open` does.
        """
        _check_same_classes(models)
        _check_same_validation(models)
        dataset = next(iter(models.values())).config.dataset
        sources = open_sources(dataset.name, data_dir or dataset.data_dir)
        common_classes(sources)
        reporter.max_unreadable = dataset.max_unreadable
        subset = examples_of_run(dataset, sources, VALIDATION, reporter)
        _check_kind_of_labels(models, subset)
        if not splits.is_held_out(dataset):
            name = dataset.validation_split
        else:
            name = splits.describe_held_out(dataset) if VALIDATION in sources else VALIDATION
        return cls(models, dataset.name, name, subset, reporter)

    def score(self, name: str, tta: str | None = None) -> ScoredExamples:
        """Score a model. Classes are numbered as the first model numbers them, so that models can be compared.

        Args:
          name: the name of the model.
          tta: test-time augmentation, see `tta.make_apply`.

        Raises:
          UserError: as `evaluate.open_examples` and `evaluate.score` do.
        """
        model = self.models[name]
        examples = self.open_examples(model)
        keep_log_probabilities = len(self.models) > 1
        results = score(model, examples, self.subset.classes, self.reporter, tta, keep_log_probabilities)
        return ScoredExamples(_renumber_classes(results, model.classes, self.classes), examples)

    def score_multi_label(self, name: str, tta: str | None = None) -> MultiLabelReport:
        """Score a model for any number of labels per image, with its thresholds; see `score`."""
        model = self.models[name]
        return score_multi_label(model, self.open_examples(model), self.subset, self.reporter, tta)

    def open_examples(self, model: TrainedModel) -> EvaluationData:
        """Open the examples in the form that a model takes.

        Resident runs on the dataset with the same bit depth take its examples in the same form, so these are read only
        once.
        """
        if model.config.dataset.name != self.dataset:
            return open_external_examples(model, self.subset, self.reporter)
        if model.config.dataset.feed != "resident":
            return open_examples(model, self.subset, self.reporter)
        bit_depth = model.config.dataset.bit_depth
        if bit_depth not in self._in_memory:
            self._in_memory[bit_depth] = open_examples(model, self.subset, self.reporter)
        return self._in_memory[bit_depth]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by their number in the metrics."""
        return next(iter(self.models.values())).classes


def _check_same_classes(models: Mapping[str, TrainedModel]) -> None:
    first_name, first = next(iter(models.items()))
    for name, model in models.items():
        model.require_head()
        if sorted(model.classes) != sorted(first.classes):
            raise UserError(f"{name} and {first_name} have different classes. Compare models of the same classes.")


def _check_kind_of_labels(models: Mapping[str, TrainedModel], subset: Subset) -> None:
    """Raise `UserError` if models predict one label per image and the data has any number of them, or the reverse."""
    for name, model in models.items():
        if model.is_multi_label != (subset.label_sets is not None):
            kinds = ("one label", "any number of labels")
            raise UserError(
                f"{name} predicts {kinds[model.is_multi_label]} per image, and the data has "
                f"{kinds[not model.is_multi_label]} per image. Choose other data or another run."
            )


def _check_same_validation(models: Mapping[str, TrainedModel]) -> None:
    """Raise `UserError` if models were validated on different examples, such as different folds."""
    validated = {(model.config.dataset.train_split, model.config.dataset.validation_split) for model in models.values()}
    if len(validated) > 1:
        raise UserError(
            "these runs were validated on different examples, which some of the others were trained on. Score each run "
            "alone, or choose another split with --split."
        )


def _renumber_classes(
    examples: ExampleMetrics, classes: tuple[str, ...], new_classes: tuple[str, ...]
) -> ExampleMetrics:
    """Renumber the classes of metrics from their order in `classes` to their order in `new_classes`."""
    if classes == new_classes:
        return examples
    new_numbers = np.array(class_matching.match(classes, new_classes), np.int32)
    return examples._replace(
        label=new_numbers[examples.label],
        prediction=new_numbers[examples.prediction],
        log_probabilities=examples.log_probabilities[:, np.argsort(new_numbers)],
    )


# --- Comparison -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Metrics of one or several models on the same examples, and tests of their differences.

    Attributes:
      split: the split that was scored.
      reports: the metrics of each model, by name, for a single view of each image.
      scored: the metrics on each example from which `reports` are computed, by name.
      tta: the name of the test-time augmentation, or None.
      tta_reports: the metrics of each model with test-time augmentation; empty if `tta` is None.
      ensemble: the metrics of the ensemble of all models, for a single view; None for a single model.
      mcnemar: McNemar's test, by pair of names.
    """

    split: str
    reports: Mapping[str, ClassificationReport]
    scored: Mapping[str, ScoredExamples]
    tta: str | None
    tta_reports: Mapping[str, ClassificationReport]
    ensemble: ClassificationReport | None
    mcnemar: Mapping[tuple[str, str], McNemar]


def compare(evaluator: Evaluator, tta: str | None = None) -> Comparison:
    """Score all models of an evaluator and compare them.

    Args:
      evaluator: the models and the examples.
      tta: a test-time augmentation with which to score all models once more, see `tta.make_apply`.

    Raises:
      UserError: as `Evaluator.score` does.
    """

    def report(examples: ExampleMetrics) -> ClassificationReport:
        return classification_report(examples, evaluator.classes, len(evaluator.subset))

    scored = {name: evaluator.score(name) for name in evaluator.models}
    metrics = {name: scored_examples.metrics for name, scored_examples in scored.items()}
    tta_reports = {}
    if tta:
        tta_reports = {name: report(evaluator.score(name, tta).metrics) for name in evaluator.models}
    return Comparison(
        split=evaluator.split,
        reports={name: report(examples) for name, examples in metrics.items()},
        scored=scored,
        tta=tta,
        tta_reports=tta_reports,
        ensemble=report(ensemble(list(metrics.values()))) if len(metrics) > 1 else None,
        mcnemar={
            (first, second): mcnemar(metrics[first], metrics[second])
            for first, second in itertools.combinations(metrics, 2)
        },
    )


def as_json(comparison: Comparison, trained: Mapping[str, TrainedModel]) -> dict[str, object]:
    """Return JSON values: the metrics of a single model, or of several models with their ensemble and comparisons.

    Args:
      comparison: the results.
      trained: the trained models, by name.
    """
    models = [
        {
            "name": name,
            "split": comparison.split,
            "workdir": None if trained[name].step is None else name,
            "checkpoint_step": trained[name].step,
            "temperature": trained[name].temperature,
            **report_as_json(report),
            "tta": {comparison.tta: report_as_json(comparison.tta_reports[name])} if comparison.tta else None,
        }
        for name, report in comparison.reports.items()
    ]
    if comparison.ensemble is None:
        return models[0]
    return {
        "split": comparison.split,
        "runs": models,
        "ensemble": report_as_json(comparison.ensemble),
        "comparisons": [
            {"first": first, "second": second, **vars(test)} for (first, second), test in comparison.mcnemar.items()
        ],
    }


def report_as_json(report: ClassificationReport | MultiLabelReport) -> dict[str, object]:
    """Return a report as one flat dict, in which the fields of its `means` stand beside its other fields."""
    values = dataclasses.asdict(report)
    return {**values.pop("means"), **values}
