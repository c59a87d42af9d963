"""Charts of training: the curves of one or several runs, and the time that runs spent on each phase."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from resnet_jax.report import chart_style
from resnet_jax.terminal import duration
from resnet_jax.training.metrics_writer import Curve
from resnet_jax.training.phase_timer import PHASES

STEP_AXIS = {"title_text": "step", "unifiedhovertitle_text": "step %{x:,}"}

Curves = Mapping[str, Mapping[str, Curve]]  # by run name and metric name


def loss(runs: Curves, unit: str = "nats") -> go.Figure:
    """Draw the loss on training examples (dotted) and on validation examples.

    The scale is logarithmic if the loss falls by more than a factor of 10 and is never negative.
    """
    chart = _metric_chart(runs, "loss", 1, ":.4g}")
    values = [value for trace in chart.data for value in trace.y if value > 0]
    is_negative = any(value < 0 for trace in chart.data for value in trace.y)
    span = max(values) / min(values) if values and not is_negative else 1
    if span > 10:
        chart.update_yaxes(type="log", dtick=1 if span > 50 else "D2", title_text=f"{unit} (logarithmic)".strip())
    else:
        chart.update_yaxes(title_text=unit)
    return chart


def top1(runs: Curves) -> go.Figure:
    """Draw the accuracy on training examples (dotted) and on validation examples, in percent."""
    return _metric_chart(runs, "top1", 100, ":.2f} %").update_yaxes(ticksuffix=" %")


def mean_average_precision(runs: Curves) -> go.Figure:
    """Draw the mean average precision on validation examples, in percent."""
    return _metric_chart(runs, "map", 100, ":.2f} %").update_yaxes(ticksuffix=" %")


def knn(runs: Curves) -> go.Figure:
    """Draw the accuracy of nearest neighbors on validation examples, in percent."""
    return _metric_chart(runs, "knn", 100, ":.2f} %").update_yaxes(ticksuffix=" %")


def worst_decile(runs: Curves) -> go.Figure:
    """Draw the accuracy that a tenth of the clients of a federated run do not exceed, in percent."""
    return _metric_chart(runs, "worst_decile", 100, ":.2f} %").update_yaxes(ticksuffix=" %")


def training_curve(runs: Curves, metric: str) -> go.Figure:
    """Draw a metric of the train step, such as "learning_rate"."""
    chart = chart_style.empty_chart(xaxis=STEP_AXIS, yaxis={"rangemode": "tozero"}, showlegend=len(runs) > 1)
    for number, (run, curves) in enumerate(runs.items()):
        curve = curves.get(f"train/{metric}", Curve([], []))
        chart.add_scatter(
            x=curve.steps,
            y=curve.values,
            name=chart_style.escape(run) if len(runs) > 1 else metric.replace("_", " "),
            mode="lines" if len(curve.steps) > 1 else "markers",
            line={"color": _color(number), "width": 2},
            hovertemplate="%{y:.4g}",
        )
    return chart


def time_spent(runs: Mapping[str, Mapping[str, float]], show_names: bool) -> go.Figure:
    """Draw how each run spent its time.

    Args:
      runs: seconds spent on each of `phase_timer.PHASES`, by run name.
      show_names: whether to show the names of the runs.
    """
    longest = max(sum(seconds.values()) for seconds in runs.values())
    unit, seconds_per_unit = ("minutes", 60) if longest > 120 else ("seconds", 1)
    titles = {"input": "waiting for data"}
    names = [chart_style.escape(run) for run in runs]
    chart = chart_style.empty_chart(barmode="stack", hovermode="closest", bargap=0.35)
    for phase, color in zip(PHASES, chart_style.COLORS, strict=False):
        seconds = [seconds_by_phase.get(phase, 0.0) for seconds_by_phase in runs.values()]
        title = titles.get(phase, phase)
        chart.add_bar(
            x=[value / seconds_per_unit for value in seconds],
            y=names,
            orientation="h",
            name=title,
            marker={"color": color, "line": {"width": 0}},
            customdata=[duration(value) for value in seconds],
            hovertemplate=f"{title}: %{{customdata}}<extra></extra>",
        )
    chart.update_xaxes(title_text=unit)
    chart.update_yaxes(type="category", autorange="reversed", showgrid=False, showticklabels=show_names)
    chart.update_yaxes(tickvals=names, ticktext=[chart_style.escape(chart_style.shorten(run)) for run in runs])
    return chart


def _metric_chart(runs: Curves, metric: str, scale: float, hover_format: str) -> go.Figure:
    chart = chart_style.empty_chart(xaxis=STEP_AXIS)
    several = len(runs) > 1
    for number, (run, curves) in enumerate(runs.items()):
        for split, name, dash in (("train", "training", "dot"), ("validation", "validation", "solid")):
            curve = curves.get(f"{split}/{metric}")
            if curve is None:
                continue
            color_number = number if several else ("train", "validation").index(split)
            is_main = split == "validation" or f"validation/{metric}" not in curves
            chart.add_scatter(
                x=curve.steps,
                y=scale * np.asarray(curve.values, np.float64),
                name=chart_style.escape(f"{run}, {name}") if several else name,
                showlegend=is_main or not several,
                mode="lines" if len(curve.steps) > 1 else "markers",
                line={"color": _color(color_number), "dash": dash, "width": 2},
                hovertemplate="%{y" + hover_format,
            )
    return chart


def _color(number: int) -> str:
    return chart_style.COLORS[number % len(chart_style.COLORS)]
