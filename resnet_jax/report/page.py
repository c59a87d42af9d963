"""The page of a report: one file of HTML that holds all it shows, and asks no other place for anything."""

import importlib.resources
import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from resnet_jax import config as settings
from resnet_jax.report import chart_style, facts, prediction_charts, training_charts
from resnet_jax.report.collect import Gathered, ReportedRun
from resnet_jax.runtime import provenance


class Chart(NamedTuple):
    """A chart, the shape of its place (a class of page.css), and how to read it."""

    title: str
    html: Markup
    shape: str
    caption: str


def render(gathered: Gathered) -> str:
    """The page. What is from elsewhere, such as names of classes and files, is escaped wherever it stands."""
    environment = Environment(
        loader=PackageLoader("resnet_jax.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    return environment.get_template("page.html").render(
        css=Markup(_file("page.css")),
        javascript=Markup(_file("page.js")),
        plotly=Markup(get_plotlyjs()),
        gathered=gathered,
        title=facts.title(gathered),
        notes=facts.notes(gathered),
        facts=facts.facts,
        changed=facts.changed,
        differing=facts.differing(gathered),
        settings=lambda run: _as_json(settings.leaves(run.config)),
        training_charts=list(_training(gathered)),
        answer_charts=lambda run, number: list(_answers(run, gathered.classes, number)),
        time_chart=_time(gathered),
        made=provenance.describe(),
    )


def _training(gathered: Gathered) -> Iterator[Chart]:
    """How training went, all runs in each chart; what no run has figures of is left out."""
    runs = {run.name: run.curves for run in gathered.runs}
    recorded = {figure for figures in runs.values() for figure in figures}
    if recorded & {"train/loss", "validation/loss"}:
        caption = (
            "Lower is better. Training, dotted, is measured on augmented pictures and by the loss that is minimised, "
            "label smoothing and the like included, so it may lie above validation."
        )
        yield Chart("Loss", _html(training_charts.loss(runs), "loss"), "wide", caption)
    if recorded & {"train/top1", "validation/top1"}:
        caption = "The share of pictures whose class was found the likeliest, of training ones (dotted) augmented."
        yield Chart("Top-1 accuracy", _html(training_charts.top1(runs), "top1"), "wide", caption)
    if "train/learning_rate" in recorded:
        yield Chart("Learning rate", _html(training_charts.learning_rate(runs), "learning_rate"), "low", "")


def _answers(run: ReportedRun, classes: tuple[str, ...], number: int) -> Iterator[Chart]:
    """How sure the network is of its answers, and what it confuses; `number` tells runs apart."""
    caption = (
        "Examples by the probability that was given to the answer. Where that can be trusted, bars end at the "
        "vermilion marks: below them the network is too sure of itself, above not enough. Whiskers are 95\u00a0% "
        "intervals; the lower bars count the examples, on a logarithmic scale."
    )
    yield Chart(
        "Calibration",
        _html(prediction_charts.reliability(run.assessment.bins), f"reliability{number}"),
        "tall",
        caption,
    )
    numbered = len(classes) <= prediction_charts.MOST_NUMBERED
    how = "Numbers are examples" if numbered else "Point at a cell for its numbers, draw a box to enlarge it"
    caption = (
        f"A row for each class, a column for each answer. Right answers are blue, mistakes vermilion. {how}; "
        "each colour is strongest where there are most."
    )
    shape = "square" if len(classes) <= prediction_charts.MOST_NAMED else "large"
    yield Chart(
        "Confusion", _html(prediction_charts.confusion(run.confusion, classes), f"confusion{number}"), shape, caption
    )


def _time(gathered: Gathered) -> Chart | None:
    """Where the time went, of runs that are done and have kept account of it."""
    spent = {run.name: run.result["spent"] for run in gathered.runs if run.result and "spent" in run.result}
    if not spent:
        return None
    caption = (
        "Waiting is for pictures that were not ready; saving is what training waited for it. Compilation comes on top "
        "of the time that is told above."
    )
    return Chart("Time", _html(training_charts.spent(spent, several=len(gathered.runs) > 1), "spent"), "bars", caption)


def _html(chart, name: str) -> Markup:
    return Markup(chart_style.as_html(chart, name))


def _file(name: str) -> str:
    return (importlib.resources.files("resnet_jax.report") / name).read_text()


def _percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}\u00a0%"


def _as_json(values: Mapping[str, object]) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in values.items()}
