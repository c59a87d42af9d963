"""The page of a report: a single HTML file that contains everything it shows and loads nothing else."""

import importlib.resources
import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from resnet_jax import config as settings
from resnet_jax.evaluation.metrics import ClassificationReport
from resnet_jax.report import chart_style, facts, prediction_charts, training_charts
from resnet_jax.report.collect import ReportData, ReportedRun
from resnet_jax.runtime import provenance


class Chart(NamedTuple):
    """A chart on the page.

    Attributes:
      title: its heading.
      html: its HTML element.
      shape: the CSS class in page.css that determines its size.
      caption: how to read it; may be empty.
    """

    title: str
    html: Markup
    shape: str
    caption: str


def render(data: ReportData) -> str:
    """Render the page. Names of classes and files, and all other data, are escaped wherever they occur."""
    environment = Environment(
        loader=PackageLoader("resnet_jax.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    return environment.get_template("page.html").render(
        css=Markup(_read_resource("page.css")),
        javascript=Markup(_read_resource("page.js")),
        plotly=Markup(get_plotlyjs()),
        data=data,
        title=facts.title(data),
        caveats=facts.caveats(data),
        facts=facts.facts,
        changed_settings=facts.changed_settings,
        differing_settings=facts.differing_settings(data),
        all_settings=lambda run: _as_json(settings.leaves(run.config)),
        training_charts=list(_training_charts(data)),
        time_chart=_time_chart(data),
        prediction_charts=lambda run, number: list(_prediction_charts(run, data.classes, number)),
        provenance=provenance.describe(),
    )


def _training_charts(data: ReportData) -> Iterator[Chart]:
    """Yield the charts of training metrics, each with the curves of all runs, if any run has recorded the metric."""
    runs = {run.name: run.curves for run in data.runs}
    recorded = {name for curves in runs.values() for name in curves}
    if recorded & {"train/loss", "validation/loss"}:
        caption = (
            "Lower is better. The training loss (dotted) is measured on augmented images and includes label smoothing "
            "and the like, so it may be higher than the validation loss."
        )
        if data.is_pretraining:
            caption = "Lower is better, but only for the same method and batch size."
        chart = training_charts.loss(runs, unit="" if data.is_pretraining else "nats")
        yield Chart("Loss", _html(chart, "loss"), "wide", caption)
    if recorded & {"train/top1", "validation/top1"}:
        caption = "The share of images that are classified correctly. Training images (dotted) are augmented."
        yield Chart("Top-1 accuracy", _html(training_charts.top1(runs), "top1"), "wide", caption)
    if "validation/map" in recorded:
        caption = "The mean over the classes of the average precision, on the validation split."
        yield Chart("mAP", _html(training_charts.mean_average_precision(runs), "map"), "wide", caption)
    if "validation/knn" in recorded:
        caption = "The share of validation images whose 20 most similar training images vote for the right class."
        yield Chart("Nearest neighbors", _html(training_charts.knn(runs), "knn"), "wide", caption)
    if "train/embedding_std" in recorded:
        caption = (
            "How much projections differ in direction (1: in all directions alike; near 0: collapsed), and how many "
            "directions they use."
        )
        yield Chart("Embedding std", _html(training_charts.training_curve(runs, "embedding_std"), "std"), "low", "")
        rank = training_charts.training_curve(runs, "effective_rank")
        yield Chart("Effective rank", _html(rank, "rank"), "low", caption)
    if "validation/worst_decile" in recorded:
        caption = "The top-1 accuracy that a tenth of the clients do not exceed, on validation images of their classes."
        yield Chart("Worst clients", _html(training_charts.worst_decile(runs), "worst_decile"), "wide", caption)
    if "train/drift" in recorded:
        caption = "How far the clients' parameters are from their average at the end of a round."
        yield Chart("Drift", _html(training_charts.training_curve(runs, "drift"), "drift"), "low", caption)
    if "train/learning_rate" in recorded:
        yield Chart(
            "Learning rate", _html(training_charts.training_curve(runs, "learning_rate"), "learning_rate"), "low", ""
        )


def _time_chart(data: ReportData) -> Chart | None:
    """Return the chart of how finished runs spent their time, or None if no finished run has recorded that."""
    spent = {run.name: run.result["spent"] for run in data.runs if run.result and "spent" in run.result}
    if not spent:
        return None
    caption = (
        "Waiting for data: the next batch was not ready. Saving: only the time for which training had to wait. "
        f"Compilation is not included in the time stated {'above' if len(data.runs) == 1 else 'below'}."
    )
    chart = training_charts.time_spent(spent, show_names=len(data.runs) > 1)
    return Chart("Time", _html(chart, "spent"), "bars", caption)


def _prediction_charts(run: ReportedRun, classes: tuple[str, ...], number: int) -> Iterator[Chart]:
    """Yield the reliability diagram and the confusion matrix of the run with this number on the page.

    With any number of labels per image, and after pre-training, there are none.
    """
    if not isinstance(run.metrics, ClassificationReport) or run.confusion is None:
        return
    caption = (
        "Accuracy by confidence, the probability of the predicted class. In a calibrated model, the bars end at the "
        "vermilion marks; bars that end below them show overconfidence, above them underconfidence. Whiskers are "
        "95\u00a0% intervals. The lower bars count the examples, on a logarithmic scale."
    )
    diagram = prediction_charts.reliability_diagram(run.metrics.bins)
    yield Chart("Calibration", _html(diagram, f"reliability{number}"), "tall", caption)
    if len(classes) <= prediction_charts.MAX_CLASSES_WITH_COUNTS:
        counts = "Numbers count examples."
    else:
        counts = "Point at a cell to see its count; draw a box to zoom in."
    caption = (
        "One row per class, one column per predicted class. Correct predictions are blue and mistakes vermilion, on "
        f"separate scales; a stronger color means more examples. {counts}"
    )
    shape = "square" if len(classes) <= prediction_charts.MAX_CLASSES_WITH_NAMES else "large"
    matrix = prediction_charts.confusion_matrix(run.confusion, classes)
    yield Chart("Confusion matrix", _html(matrix, f"confusion{number}"), shape, caption)


def _html(chart: go.Figure, name: str) -> Markup:
    return Markup(chart_style.as_html(chart, name))


def _read_resource(name: str) -> str:
    return (importlib.resources.files("resnet_jax.report") / name).read_text(encoding="utf-8")


def _percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}\u00a0%"


def _as_json(values: Mapping[str, object]) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in values.items()}
