"""Charts of a network's answers: how far its probabilities can be trusted, and what it confuses."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from resnet_jax.evaluation.metrics import Bin, wilson
from resnet_jax.report import chart_style

MISTAKES_TO_RIGHT = [
    (0, "rgba(213, 94, 0, 0.85)"),
    (0.5, "rgba(213, 94, 0, 0)"),
    (0.5, "rgba(0, 114, 178, 0)"),
    (1, "rgba(0, 114, 178, 0.75)"),
]
MOST_NUMBERED = 20  # classes of a confusion matrix with numbers in its cells
MOST_NAMED = 40  # and with names beside it


def reliability(bins: Sequence[Bin]) -> go.Figure:
    """Accuracy by confidence, with 95 % intervals, above the numbers of examples that had such confidence."""
    there = [each for each in bins if each.examples]
    middles, widths = [(each.low + each.high) / 2 for each in there], [each.high - each.low for each in there]
    accuracies, confidences = [each.accuracy for each in there], [each.confidence for each in there]
    intervals = [wilson(round(each.accuracy * each.examples), each.examples) for each in there]
    told = [(f"{each.low:.1%} to {each.high:.1%}", each.examples, each.confidence) for each in there]
    chart = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.74, 0.26], vertical_spacing=0.06)
    chart.update_layout(chart_style.layout(hovermode="closest", bargap=0))
    bars = {
        "x": middles,
        "width": widths,
        "customdata": told,
        "marker": {"line": {"width": 1.5, "color": chart_style.CLEAR}},
    }
    chart.add_bar(
        **bars,
        y=accuracies,
        name="accuracy",
        marker_color=chart_style.BLUE,
        opacity=0.75,
        error_y={
            "array": [high - accuracy for (_, high), accuracy in zip(intervals, accuracies, strict=True)],
            "arrayminus": [accuracy - low for (low, _), accuracy in zip(intervals, accuracies, strict=True)],
            "color": chart_style.GREY,
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
        marker={"symbol": "line-ew-open", "size": 16, "line": {"width": 2.5}, "color": chart_style.VERMILION},
        hovertemplate="mean confidence %{y:.2%}<extra></extra>",
        row=1,
        col=1,
    )
    chart.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line={"color": chart_style.GREY, "dash": "dot", "width": 1},
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=1,
    )
    chart.add_bar(
        **bars,
        y=[each.examples for each in there],
        name="examples",
        marker_color=chart_style.GREY,
        showlegend=False,
        hovertemplate="confidence %{customdata[0]}<br>%{y:,} examples<extra></extra>",
        row=2,
        col=1,
    )
    chart.update_xaxes(chart_style.axis(range=[0, 1], tickformat=".0%"))
    chart.update_yaxes(chart_style.axis(range=[0, 1.02], tickformat=".0%", title_text="accuracy"), row=1)
    # From a half, so that a single example is seen.
    most = np.log10(max(each.examples for each in there))
    chart.update_yaxes(
        chart_style.axis(type="log", range=[np.log10(0.5), most + 0.2], dtick=1, title_text="examples"), row=2
    )
    chart.update_xaxes(title_text="confidence", row=2)
    return chart


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> go.Figure:
    """How many examples of each class (rows) were taken for each: right answers blue, mistakes vermilion.

    Both have a scale of their own, for there are mostly far more of the former. Of few classes the cells have numbers.

    Args:
      matrix: int [classes, classes].
      classes: their names.
    """
    right, names = np.eye(len(matrix), dtype=bool), [chart_style.text(name) for name in classes]
    most = np.where(right, matrix[right].max(), np.where(right, 0, matrix).max()).clip(1)
    # Whatever there is at all is seen, be it little.
    shade = np.where(matrix > 0, 25 + 75 * matrix / most, 0).round().astype(np.int8)
    numbers = {}
    if len(classes) <= MOST_NUMBERED:
        text = np.where(matrix > 0, [[f"{count:,}" for count in row] for row in matrix], "")
        numbers = {"text": text, "texttemplate": "%{text}"}
    chart = chart_style.empty_chart(hovermode="closest", margin={"l": 8, "r": 8, "t": 8, "b": 8})
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
        "ticktext": [chart_style.text(chart_style.short(name)) for name in classes] if named else None,
        "constrain": "domain",
    }
    chart.update_xaxes(**labels)
    chart.update_yaxes(**labels, autorange="reversed", scaleanchor="x")
    return chart
