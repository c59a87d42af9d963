"""The charts of a report, by plotly; page.css gives text and lines their colours, by light or dark."""

import html
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from resnet_jax.evaluation.assessment import Bin, wilson
from resnet_jax.terminal import duration
from resnet_jax.training.clock import PURPOSES
from resnet_jax.training.summaries import Curve

# Okabe & Ito 2008, "Color Universal Design": told apart by the colour-blind, and legible on white and on black.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)
GREY, PALE = "#808080", "rgba(128, 128, 128, 0.22)"
CLEAR = "rgba(0, 0, 0, 0)"
STEPS = {"title_text": "step", "unifiedhovertitle_text": "step %{x:,}"}
MISTAKES_TO_RIGHT = [
    (0, "rgba(213, 94, 0, 0.85)"),
    (0.5, "rgba(213, 94, 0, 0)"),
    (0.5, "rgba(0, 114, 178, 0)"),
    (1, "rgba(0, 114, 178, 0.75)"),
]
MOST_NUMBERED = 20  # classes of a confusion matrix with numbers in its cells
MOST_NAMED = 40  # and with names beside it
LONGEST_NAME = 14  # characters, there
SIZE = 13  # of text, in pixels

Curves = Mapping[str, Mapping[str, Curve]]  # of runs by name, and of figures by name


def as_html(chart: go.Figure, name: str) -> str:
    """The element and the script that draws it, with `name` as its id. It needs plotly.js, and fills its surroundings.

    Plotly writes its data as JSON without < and >, which cannot end the script.
    """
    return chart.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        default_width="100%",
        default_height="100%",
        config={"responsive": True, "displaylogo": False, "modeBarButtons": [["toImage", "resetScale2d"]]},
    )


def loss(runs: Curves) -> go.Figure:
    """Of training examples (dotted) and of validation ones, by step; on a logarithmic scale where it goes far down."""
    chart = _curves(runs, "loss", 1, ":.4g}")
    values = [value for trace in chart.data for value in trace.y if value > 0]
    span = max(values) / min(values) if values else 1
    if span > 10:
        chart.update_yaxes(type="log", dtick=1 if span > 50 else "D2", title_text="nats (logarithmic)")
    else:
        chart.update_yaxes(title_text="nats")
    return chart


def top1(runs: Curves) -> go.Figure:
    """Accuracy in percent on training examples (dotted) and on validation ones, by step."""
    return _curves(runs, "top1", 100, ":.2f} %").update_yaxes(ticksuffix=" %")


def _curves(runs: Curves, figure: str, scale: float, form: str) -> go.Figure:
    chart = _chart(xaxis=STEPS)
    for number, (run, figures) in enumerate(runs.items()):
        for split, name, dash in (("train", "training", "dot"), ("validation", "validation", "solid")):
            curve = figures.get(f"{split}/{figure}")
            if curve is None:
                continue
            several, main = len(runs) > 1, split == "validation" or f"validation/{figure}" not in figures
            chart.add_scatter(
                x=curve.steps,
                y=scale * np.asarray(curve.values, np.float64),
                name=_text(f"{run}, {name}") if several else name,
                showlegend=main or not several,
                mode="lines" if len(curve.steps) > 1 else "markers",
                line={"color": _colour(number if several else split == "validation"), "dash": dash, "width": 2},
                hovertemplate="%{y" + form,
            )
    return chart


def learning_rate(runs: Curves) -> go.Figure:
    """The learning rate by step."""
    chart = _chart(xaxis=STEPS, yaxis={"rangemode": "tozero"}, showlegend=len(runs) > 1)
    for number, (run, figures) in enumerate(runs.items()):
        curve = figures.get("train/learning_rate", Curve([], []))
        chart.add_scatter(
            x=curve.steps,
            y=curve.values,
            name=_text(run) if len(runs) > 1 else "learning rate",
            mode="lines" if len(curve.steps) > 1 else "markers",
            line={"color": _colour(number), "width": 2},
            hovertemplate="%{y:.4g}",
        )
    return chart


def reliability(bins: Sequence[Bin]) -> go.Figure:
    """Accuracy by confidence, with 95 % intervals, above the numbers of examples that had such confidence."""
    there = [each for each in bins if each.examples]
    middles, widths = [(each.low + each.high) / 2 for each in there], [each.high - each.low for each in there]
    accuracies, confidences = [each.accuracy for each in there], [each.confidence for each in there]
    intervals = [wilson(round(each.accuracy * each.examples), each.examples) for each in there]
    told = [(f"{each.low:.1%} to {each.high:.1%}", each.examples, each.confidence) for each in there]
    chart = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.74, 0.26], vertical_spacing=0.06)
    chart.update_layout(_layout(hovermode="closest", bargap=0))
    bars = {"x": middles, "width": widths, "customdata": told, "marker": {"line": {"width": 1.5, "color": CLEAR}}}
    chart.add_bar(
        **bars,
        y=accuracies,
        name="accuracy",
        marker_color=BLUE,
        opacity=0.75,
        error_y={
            "array": [high - accuracy for (_, high), accuracy in zip(intervals, accuracies, strict=True)],
            "arrayminus": [accuracy - low for (low, _), accuracy in zip(intervals, accuracies, strict=True)],
            "color": GREY,
            "thickness": 1.2,
            "width": 3,
        },
        hovertemplate="confidence %{customdata[0]}<br>accuracy %{y:.2%}<br>mean confidence %{customdata[2]:.2%}"
        "<br>%{customdata[1]:,} examples<extra></extra>",
        row=1,
        col=1,
    )
    chart.add_scatter(
        x=middles,
        y=confidences,
        name="mean confidence",
        mode="markers",
        marker={"symbol": "line-ew-open", "size": 16, "line": {"width": 2.5}, "color": VERMILION},
        hovertemplate="mean confidence %{y:.2%}<extra></extra>",
        row=1,
        col=1,
    )
    chart.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": GREY, "dash": "dot", "width": 1}, hoverinfo="skip",
        showlegend=False, row=1, col=1,
    )  # fmt: skip
    chart.add_bar(
        **bars,
        y=[each.examples for each in there],
        name="examples",
        marker_color=GREY,
        showlegend=False,
        hovertemplate="confidence %{customdata[0]}<br>%{y:,} examples<extra></extra>",
        row=2,
        col=1,
    )
    chart.update_xaxes(_axis(range=[0, 1], tickformat=".0%"))
    chart.update_yaxes(_axis(range=[0, 1.02], tickformat=".0%", title_text="accuracy"), row=1)
    # From a half, so that a single example is seen.
    most = np.log10(max(each.examples for each in there))
    chart.update_yaxes(_axis(type="log", range=[np.log10(0.5), most + 0.2], dtick=1, title_text="examples"), row=2)
    chart.update_xaxes(title_text="confidence", row=2)
    return chart


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> go.Figure:
    """How many examples of each class (rows) were taken for each: right answers blue, mistakes vermilion.

    Both have a scale of their own, for there are mostly far more of the former. Of few classes the cells have numbers.

    Args:
      matrix: int [classes, classes].
      classes: their names.
    """
    right, names = np.eye(len(matrix), dtype=bool), [_text(name) for name in classes]
    most = np.where(right, matrix[right].max(), np.where(right, 0, matrix).max()).clip(1)
    # Whatever there is at all is seen, be it little.
    shade = np.where(matrix > 0, 25 + 75 * matrix / most, 0).round().astype(np.int8)
    numbers = {}
    if len(classes) <= MOST_NUMBERED:
        text = np.where(matrix > 0, [[f"{count:,}" for count in row] for row in matrix], "")
        numbers = {"text": text, "texttemplate": "%{text}"}
    chart = _chart(hovermode="closest", margin={"l": 8, "r": 8, "t": 8, "b": 8})
    chart.add_heatmap(
        x=names,
        y=names,
        z=np.where(right, shade, -shade),
        customdata=matrix.astype(np.min_scalar_type(int(matrix.max()))),
        zmin=-100,
        zmax=100,
        colorscale=MISTAKES_TO_RIGHT,
        showscale=False,
        xgap=1 if numbers else 0,
        ygap=1 if numbers else 0,
        hovertemplate="is <b>%{y}</b><br>taken for <b>%{x}</b><br>%{customdata:,} examples<extra></extra>",
        **numbers,
    )
    named = len(classes) <= MOST_NAMED
    labels = {
        "type": "category",
        "showgrid": False,
        "showticklabels": named,
        "ticks": "",
        "tickvals": names if named else None,
        "ticktext": [_text(_short(name)) for name in classes] if named else None,
        "constrain": "domain",
    }
    chart.update_xaxes(**labels, title_text="taken for")
    chart.update_yaxes(**labels, title_text="is", autorange="reversed", scaleanchor="x")
    return chart


def spent(runs: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """Seconds of runs, by name, for each of `clock.PURPOSES`."""
    names = {"input": "waiting for data"}
    chart = _chart(barmode="stack", hovermode="closest", bargap=0.35)
    for purpose, colour in zip(PURPOSES, (BLUE, VERMILION, GREEN, PURPLE, ORANGE), strict=True):
        seconds = [of.get(purpose, 0.0) for of in runs.values()]
        name = names.get(purpose, purpose)
        chart.add_bar(
            x=[each / 60 for each in seconds],
            y=[_text(run) for run in runs],
            orientation="h",
            name=name,
            marker={"color": colour, "line": {"width": 0}},
            customdata=[duration(each) for each in seconds],
            hovertemplate=f"{name}: %{{customdata}}<extra></extra>",
        )
    chart.update_xaxes(title_text="minutes")
    chart.update_yaxes(type="category", autorange="reversed", showgrid=False, showticklabels=len(runs) > 1)
    return chart


def _chart(xaxis: Mapping = {}, yaxis: Mapping = {}, **layout) -> go.Figure:
    return go.Figure(layout=_layout(xaxis=_axis(**xaxis), yaxis=_axis(**yaxis), **layout))


def _layout(**settings) -> dict:
    return {
        "template": "none",
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"family": "system-ui, sans-serif", "size": SIZE, "color": GREY},
        "margin": {"l": 8, "r": 22, "t": 8, "b": 8},
        "hovermode": "x unified",
        "legend": {"orientation": "h", "traceorder": "normal", "yanchor": "bottom", "y": 1.01, "xref": "container", "x": 0},
        "modebar": {"orientation": "v", "bgcolor": CLEAR, "color": GREY, "activecolor": BLUE},
        **settings,
    }


def _axis(**settings) -> dict:
    common = {"automargin": True, "gridcolor": PALE, "zeroline": False, "linecolor": PALE, "title_font_size": SIZE}
    return {**common, **settings}


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _text(text: str) -> str:
    """Text for plotly, which takes it for HTML."""
    return html.escape(text, quote=False)
