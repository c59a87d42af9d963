"""Charts of predictions: the reliability diagram and the confusion matrix."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from resnet_jax.data import class_matching
from resnet_jax.evaluation.metrics import CalibrationBin, wilson_interval
from resnet_jax.report import chart_style

# Vermilion for mistakes (negative values), blue for correct predictions (positive values). Both fade towards 0.
CONFUSION_COLORS = [
    (0, "rgba(213, 94, 0, 0.85)"),
    (0.5, "rgba(213, 94, 0, 0)"),
    (0.5, "rgba(0, 114, 178, 0)"),
    (1, "rgba(0, 114, 178, 0.75)"),
]
MAX_CLASSES_WITH_COUNTS = 20  # With more classes, the cells of a confusion matrix show no counts.
MAX_CLASSES_WITH_NAMES = 40  # With more classes, its axes show no names.

# --- Reliability diagram ----------------------------------------------------------------------------------------------


def reliability_diagram(bins: Sequence[CalibrationBin]) -> go.Figure:
    """Draw the reliability diagram.

    The upper chart shows the accuracy in each confidence bin, with its 95 % interval and the mean confidence. The lower
    chart shows the number of examples in each bin.
    """
    bins = [calibration_bin for calibration_bin in bins if calibration_bin.examples]
    chart = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.74, 0.26], vertical_spacing=0.06)
    chart.update_layout(chart_style.layout(hovermode="closest", bargap=0))
    _add_accuracies(chart, bins)
    _add_confidences(chart, bins)
    _add_diagonal(chart)
    _add_example_counts(chart, bins)
    _set_axes(chart, max_examples=max(calibration_bin.examples for calibration_bin in bins))
    return chart


def _add_accuracies(chart: go.Figure, bins: Sequence[CalibrationBin]) -> None:
    accuracies: list[float] = [calibration_bin.accuracy for calibration_bin in bins]  # type: ignore[misc]  # no bin is empty
    intervals = [
        wilson_interval(round(accuracy * calibration_bin.examples), calibration_bin.examples)
        for accuracy, calibration_bin in zip(accuracies, bins, strict=True)
    ]
    chart.add_bar(
        **_bar_settings(bins),
        y=accuracies,
        name="accuracy",
        marker_color=chart_style.BLUE,
        opacity=0.75,
        error_y={
            "array": [high - accuracy for (_, high), accuracy in zip(intervals, accuracies, strict=True)],
            "arrayminus": [accuracy - low for (low, _), accuracy in zip(intervals, accuracies, strict=True)],
            "color": chart_style.GRAY,
            "thickness": 1.2,
            "width": 3,
        },
        hovertemplate="confidence %{customdata[0]}<br>accuracy %{y:.2%}<br>mean confidence %{customdata[2]:.2%}"
        "<br>%{customdata[1]:,} examples<extra></extra>",
        row=1,
        col=1,
    )


def _add_confidences(chart: go.Figure, bins: Sequence[CalibrationBin]) -> None:
    chart.add_scatter(
        x=_bin_centers(bins),
        y=[calibration_bin.confidence for calibration_bin in bins],
        name="mean confidence",
        mode="markers",
        marker={"symbol": "line-ew-open", "size": 16, "line": {"width": 2.5}, "color": chart_style.VERMILION},
        hovertemplate="mean confidence %{y:.2%}<extra></extra>",
        row=1,
        col=1,
    )


def _add_diagonal(chart: go.Figure) -> None:
    """Draw the line on which accuracy equals confidence."""
    chart.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line={"color": chart_style.GRAY, "dash": "dot", "width": 1},
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=1,
    )


def _add_example_counts(chart: go.Figure, bins: Sequence[CalibrationBin]) -> None:
    chart.add_bar(
        **_bar_settings(bins),
        y=[calibration_bin.examples for calibration_bin in bins],
        name="examples",
        marker_color=chart_style.GRAY,
        showlegend=False,
        hovertemplate="confidence %{customdata[0]}<br>%{y:,} examples<extra></extra>",
        row=2,
        col=1,
    )


def _set_axes(chart: go.Figure, max_examples: int) -> None:
    chart.update_xaxes(chart_style.axis(range=[0, 1], tickformat=".0%"))
    chart.update_xaxes(title_text="confidence", row=2)
    chart.update_yaxes(chart_style.axis(range=[0, 1.02], tickformat=".0%", title_text="accuracy"), row=1)
    # The logarithmic axis starts at one half, so that the bar of a single example is visible.
    log_range = [np.log10(0.5), np.log10(max_examples) + 0.2]
    chart.update_yaxes(chart_style.axis(type="log", range=log_range, dtick=1, title_text="examples"), row=2)


def _bin_centers(bins: Sequence[CalibrationBin]) -> list[float]:
    return [(calibration_bin.low + calibration_bin.high) / 2 for calibration_bin in bins]


def _bar_settings(bins: Sequence[CalibrationBin]) -> dict:
    return {
        "x": _bin_centers(bins),
        "width": [calibration_bin.high - calibration_bin.low for calibration_bin in bins],
        "customdata": [
            (
                f"{calibration_bin.low:.1%} to {calibration_bin.high:.1%}",
                calibration_bin.examples,
                calibration_bin.confidence,
            )
            for calibration_bin in bins
        ],
        "marker": {"line": {"width": 1.5, "color": chart_style.TRANSPARENT}},
    }


# --- Confusion matrix -------------------------------------------------------------------------------------------------


def confusion_matrix(matrix: np.ndarray, classes: Sequence[str]) -> go.Figure:
    """Draw a confusion matrix, with correct predictions in blue and mistakes in vermilion.

    The two colors have separate scales, because there are usually far more correct predictions than mistakes. With few
    classes, the cells show counts.

    Args:
      matrix: number of examples of each class (rows) by predicted class (columns): int [classes, classes].
      classes: the names of the classes.
    """
    names = [chart_style.escape(name) for name in class_matching.distinct(classes)]
    counts = {}
    if len(classes) <= MAX_CLASSES_WITH_COUNTS:
        text = np.where(matrix > 0, [[f"{count:,}" for count in row] for row in matrix], "")
        counts = {"text": text, "texttemplate": "%{text}"}
    chart = chart_style.empty_chart(hovermode="closest", margin={"l": 8, "r": 8, "t": 8, "b": 8})
    chart.add_heatmap(
        x=names,
        y=names,
        z=_shades(matrix),
        customdata=matrix.astype(np.min_scalar_type(int(matrix.max()))),
        zmin=-100,
        zmax=100,
        colorscale=CONFUSION_COLORS,
        showscale=False,
        xgap=1 if counts else 0,
        ygap=1 if counts else 0,
        hovertemplate="class <b>%{y}</b><br>predicted as <b>%{x}</b><br>%{customdata:,} examples<extra></extra>",
        **counts,
    )
    show_names = len(classes) <= MAX_CLASSES_WITH_NAMES
    axis = {
        "type": "category",
        "showgrid": False,
        "showticklabels": show_names,
        "ticks": "",
        "tickvals": names if show_names else None,
        "ticktext": [chart_style.escape(chart_style.shorten(name)) for name in classes] if show_names else None,
        "constrain": "domain",
    }
    chart.update_xaxes(**axis)
    chart.update_yaxes(**axis, autorange="reversed", scaleanchor="x")
    return chart


def _shades(matrix: np.ndarray) -> np.ndarray:
    """Return the shade of each cell: int8 in [-100, 100], positive on the diagonal and negative elsewhere."""
    is_diagonal = np.eye(len(matrix), dtype=bool)
    largest_correct = matrix[is_diagonal].max()
    largest_mistake = np.where(is_diagonal, 0, matrix).max()
    largest = np.where(is_diagonal, largest_correct, largest_mistake).clip(1)
    # The palest shade is 25, so that even a single example is visible.
    shade = np.where(matrix > 0, 25 + 75 * matrix / largest, 0).round().astype(np.int8)
    return np.where(is_diagonal, shade, -shade)
