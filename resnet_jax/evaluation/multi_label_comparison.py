"""Scoring of one or several models for any number of labels per image, and its output."""

import dataclasses
import operator
from collections.abc import Mapping

from resnet_jax.evaluation.model_comparison import Evaluator, report_as_json
from resnet_jax.evaluation.multi_label import MultiLabelReport
from resnet_jax.evaluation.tables import MAX_CLASSES, WORST_CLASSES, format_ratio
from resnet_jax.terminal import table
from resnet_jax.trained_model import TrainedModel


@dataclasses.dataclass(frozen=True)
class MultiLabelComparison:
    """Metrics of one or several models on the same examples.

    Attributes:
      split: the split that was scored.
      reports: the metrics of each model, by name, for a single view of each image.
      tta: the name of the test-time augmentation, or None.
      tta_reports: the metrics of each model with test-time augmentation; empty if `tta` is None.
    """

    split: str
    reports: Mapping[str, MultiLabelReport]
    tta: str | None
    tta_reports: Mapping[str, MultiLabelReport]


def compare(evaluator: Evaluator, tta: str | None = None) -> MultiLabelComparison:
    """Score all models of an evaluator, each with its own thresholds.

    Args:
      evaluator: the models and the examples.
      tta: a test-time augmentation with which to score all models once more, see `tta.make_apply`.

    Raises:
      UserError: as `Evaluator.score_multi_label` does.
    """
    return MultiLabelComparison(
        split=evaluator.split,
        reports={name: evaluator.score_multi_label(name) for name in evaluator.models},
        tta=tta,
        tta_reports={name: evaluator.score_multi_label(name, tta) for name in evaluator.models} if tta else {},
    )


def as_json(comparison: MultiLabelComparison, trained: Mapping[str, TrainedModel]) -> dict[str, object]:
    """Return JSON values: the metrics of a single model, or of several models as `{"split": ..., "runs": [...]}`.

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
            **report_as_json(report),
            "tta": {comparison.tta: report_as_json(comparison.tta_reports[name])} if comparison.tta else None,
        }
        for name, report in comparison.reports.items()
    ]
    return models[0] if len(models) == 1 else {"split": comparison.split, "runs": models}


def format_comparison(comparison: MultiLabelComparison) -> str:
    """Format the metrics of all models and, for a single model, those of its classes."""
    is_single = len(comparison.reports) == 1
    rows = {}
    for name, report in comparison.reports.items():
        title = comparison.split if is_single else name
        rows[title] = report
        if comparison.tta:
            rows[f"{title}, --tta={comparison.tta}"] = comparison.tta_reports[name]
    if not is_single:
        return f"Split {comparison.split}:\n\n{_metrics_table(rows)}"
    (report,) = comparison.reports.values()
    return f"{_metrics_table(rows)}\n\n{_class_table(report)}"


def _metrics_table(reports: Mapping[str, MultiLabelReport]) -> str:
    rows = [
        (
            name,
            f"{report.means.loss:.4f}",
            f"{report.means.map:.2%}",
            f"{report.means.f1:.2%}",
            f"{report.micro_f1:.2%}",
            f"{report.means.top1:.2%}",
            report.means.examples,
        )
        for name, report in reports.items()
    ]
    return table(rows, header=("", "loss (BCE)", "mAP", "macro-F1", "micro-F1", "top-1", "examples"))


def _class_table(report: MultiLabelReport) -> str:
    classes, title = list(report.classes), "Classes:"
    if len(classes) > MAX_CLASSES:
        present = [metrics for metrics in classes if metrics.average_precision is not None]
        if not present:
            return "No example of this split has a label."
        classes = sorted(present, key=operator.attrgetter("average_precision"))[:WORST_CLASSES]
        title = f"The classes with the lowest average precision (AP), of {len(report.classes):,}:"
    rows = [
        (
            metrics.name,
            metrics.examples,
            format_ratio(metrics.average_precision),
            format_ratio(metrics.precision),
            format_ratio(metrics.recall),
            format_ratio(metrics.f1),
            f"{metrics.threshold:.2%}",
        )
        for metrics in classes
    ]
    header = ("class", "examples", "AP", "precision", "recall", "F1", "threshold")
    return f"{title}\n\n{table(rows, header=header)}"
