"""Evaluation results as text for a terminal."""

import operator
from collections.abc import Mapping

from resnet_jax.evaluation.metrics import ClassificationReport, Interval
from resnet_jax.evaluation.model_comparison import Comparison
from resnet_jax.terminal import table

MAX_CLASSES = 20  # With more classes, only the `WORST_CLASSES` with the lowest F1 are listed.
WORST_CLASSES = 10
MAX_CONFUSED_PAIRS = 10


def format_comparison(comparison: Comparison) -> str:
    """Format the metrics of all models.

    For a single model, tables of the classes and of the most confused pairs follow. For several models, McNemar's test
    of each pair follows.
    """
    is_single = len(comparison.reports) == 1
    rows = {}
    for name, report in comparison.reports.items():
        title = comparison.split if is_single else name
        rows[title] = report
        if comparison.tta:
            rows[f"{title}, --tta={comparison.tta}"] = comparison.tta_reports[name]
    if comparison.ensemble is None:  # a single model
        (report,) = comparison.reports.values()
        return "\n\n".join([_metrics_table(rows), _class_table(report), *_confusion_table(report)])
    rows[f"ensemble of {len(comparison.reports)}"] = comparison.ensemble
    return f"Split {comparison.split}:\n\n{_metrics_table(rows)}\n\n{_mcnemar_table(comparison)}"


def _metrics_table(reports: Mapping[str, ClassificationReport]) -> str:
    """Format one row per report, with accuracies and intervals in percent."""
    rows = [
        (
            name,
            f"{report.means.loss:.4f}",
            f"{report.means.top1:.2%}",
            _format_interval(report.top1_interval),
            f"{report.means.top5:.2%}",
            _format_interval(report.top5_interval),
            f"{report.ece:.2%}",
            report.means.examples,
        )
        for name, report in reports.items()
    ]
    return table(rows, header=("", "loss (NLL)", "top-1", "(95 %)", "top-5", "(95 %)", "ECE", "examples"))


def _mcnemar_table(comparison: Comparison) -> str:
    rows = [
        (first, second, test.only_first, test.only_second, "< 0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}")
        for (first, second), test in comparison.mcnemar.items()
    ]
    header = ("first", "second", "only the first correct", "only the second correct", "p (McNemar)")
    return table(rows, header=header)


def _class_table(report: ClassificationReport) -> str:
    classes, title = list(report.classes), "Classes:"
    if len(classes) > MAX_CLASSES:
        with_f1 = [metrics for metrics in classes if metrics.f1 is not None]
        classes = sorted(with_f1, key=operator.attrgetter("f1"))[:WORST_CLASSES]
        title = f"The classes with the lowest F1, of {len(report.classes):,}:"
    rows = [
        (
            metrics.name,
            metrics.examples,
            format_ratio(metrics.precision),
            format_ratio(metrics.recall),
            format_ratio(metrics.f1),
        )
        for metrics in classes
    ]
    return f"{title}\n\n" + table(rows, header=("class", "examples", "precision", "recall", "F1"))


def _confusion_table(report: ClassificationReport) -> list[str]:
    rows = [
        (pair.label, pair.prediction, pair.count, f"{pair.share:.1%}") for pair in report.confused[:MAX_CONFUSED_PAIRS]
    ]
    if not rows:
        return []
    return ["Most often confused:\n\n" + table(rows, header=("class", "predicted as", "examples", "share of class"))]


def format_ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2%}"


def _format_interval(interval: Interval) -> str:
    low, high = interval
    return f"{100 * low:.2f} .. {100 * high:.2f}"
