"""Results as text for a terminal."""

from collections.abc import Mapping

from resnet_jax.evaluation.metrics import Assessment, Interval
from resnet_jax.evaluation.model_comparison import Results
from resnet_jax.terminal import table

MOST_CLASSES = 20  # that are listed; of more, the worst
WORST_CLASSES = 10
PAIRS = 10


def report(results: Results) -> str:
    """Figures of all networks; of one alone also its classes and what it confuses most, of several how they compare."""
    alone, rows = len(results.networks) == 1, {}
    for name, of in results.networks.items():
        title = results.split if alone else name
        rows[title] = of
        if results.tta:
            rows[f"{title}, --tta={results.tta}"] = results.augmented[name]
    if alone:
        (only,) = results.networks.values()
        return "\n\n".join([_figures(rows), _classes(only), *_confused(only)])
    rows[f"ensemble of {len(results.networks)}"] = results.ensemble
    return f"Split {results.split}:\n\n{_figures(rows)}\n\n{_comparisons(results)}"


def _figures(assessments: Mapping[str, Assessment]) -> str:
    """A row each, with accuracies and intervals in percent."""
    rows = [
        (
            name,
            f"{of.scores.loss:.4f}",
            f"{of.scores.top1:.2%}",
            _interval(of.top1_interval),
            f"{of.scores.top5:.2%}",
            _interval(of.top5_interval),
            f"{of.ece:.2%}",
            of.scores.examples,
        )
        for name, of in assessments.items()
    ]
    return table(rows, header=("", "loss (NLL)", "top-1", "(95 %)", "top-5", "(95 %)", "ECE", "examples"))


def _comparisons(results: Results) -> str:
    rows = [
        (first, second, test.only_first, test.only_second, "< 0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}")
        for (first, second), test in results.comparisons.items()
    ]
    header = ("first", "second", "only the first right", "only the second right", "p (McNemar)")
    return table(rows, header=header)


def _classes(assessment: Assessment) -> str:
    listed, title = list(assessment.classes), "Classes:"
    if len(listed) > MOST_CLASSES:
        there = [each for each in listed if each.f1 is not None]
        listed = sorted(there, key=lambda each: each.f1)[:WORST_CLASSES]
        title = f"The classes with the lowest F1, of {len(assessment.classes):,}:"
    rows = [(each.name, each.examples, *map(_share, (each.precision, each.recall, each.f1))) for each in listed]
    return f"{title}\n\n" + table(rows, header=("class", "examples", "precision", "recall", "F1"))


def _confused(assessment: Assessment) -> list[str]:
    rows = [(pair.label, pair.prediction, pair.count, f"{pair.share:.1%}") for pair in assessment.confused[:PAIRS]]
    header = ("is", "taken for", "examples", "of its class")
    return ["Most often confused:\n\n" + table(rows, header=header)] if rows else []


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _interval(interval: Interval) -> str:
    low, high = interval
    return f"{100 * low:.2f} .. {100 * high:.2f}"
