"""Charts of how training went: curves of one run or several, and where the time went."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from resnet_jax.report import chart_style
from resnet_jax.terminal import duration
from resnet_jax.training.metrics_writer import Curve
from resnet_jax.training.phase_timer import PHASES

STEPS = {"title_text": "step", "unifiedhovertitle_text": "step %{x:,}"}

Curves = Mapping[str, Mapping[str, Curve]]  # of runs by name, and of figures by name


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


def learning_rate(runs: Curves) -> go.Figure:
    """The learning rate by step."""
    chart = chart_style.empty_chart(xaxis=STEPS, yaxis={"rangemode": "tozero"}, showlegend=len(runs) > 1)
    for number, (run, figures) in enumerate(runs.items()):
        curve = figures.get("train/learning_rate", Curve([], []))
        chart.add_scatter(
            x=curve.steps,
            y=curve.values,
            name=chart_style.text(run) if len(runs) > 1 else "learning rate",
            mode="lines" if len(curve.steps) > 1 else "markers",
            line={"color": _colour(number), "width": 2},
            hovertemplate="%{y:.4g}",
        )
    return chart


def spent(runs: Mapping[str, Mapping[str, float]], several: bool) -> go.Figure:
    """Seconds of runs, by name, for each of `clock.PHASES`; with `several` on the page, their names are shown."""
    longest = max(sum(of.values()) for of in runs.values())
    unit, seconds_each = ("minutes", 60) if longest > 120 else ("seconds", 1)
    titles, names = {"input": "waiting for data"}, [chart_style.text(run) for run in runs]
    chart = chart_style.empty_chart(barmode="stack", hovermode="closest", bargap=0.35)
    for purpose, colour in zip(PHASES, chart_style.COLOURS, strict=False):
        seconds = [of.get(purpose, 0.0) for of in runs.values()]
        title = titles.get(purpose, purpose)
        chart.add_bar(
            x=[each / seconds_each for each in seconds],
            y=names,
            orientation="h",
            name=title,
            marker={"color": colour, "line": {"width": 0}},
            customdata=[duration(each) for each in seconds],
            hovertemplate=f"{title}: %{{customdata}}<extra></extra>",
        )
    chart.update_xaxes(title_text=unit)
    chart.update_yaxes(type="category", autorange="reversed", showgrid=False, showticklabels=several)
    chart.update_yaxes(tickvals=names, ticktext=[chart_style.text(chart_style.short(run)) for run in runs])
    return chart


def _curves(runs: Curves, figure: str, scale: float, form: str) -> go.Figure:
    chart = chart_style.empty_chart(xaxis=STEPS)
    for number, (run, figures) in enumerate(runs.items()):
        for split, name, dash in (("train", "training", "dot"), ("validation", "validation", "solid")):
            curve = figures.get(f"{split}/{figure}")
            if curve is None:
                continue
            several, main = len(runs) > 1, split == "validation" or f"validation/{figure}" not in figures
            chart.add_scatter(
                x=curve.steps,
                y=scale * np.asarray(curve.values, np.float64),
                name=chart_style.text(f"{run}, {name}") if several else name,
                showlegend=main or not several,
                mode="lines" if len(curve.steps) > 1 else "markers",
                line={"color": _colour(number if several else split == "validation"), "dash": dash, "width": 2},
                hovertemplate="%{y" + form,
            )
    return chart


def _colour(number: int) -> str:
    return chart_style.COLOURS[number % len(chart_style.COLOURS)]
