"""The page that `find_lr` writes: the training loss over the learning rate."""

import math

import numpy as np

from resnet_jax.report import chart_style

MAX_SHOWN = (
    1.5  # For non-negative losses, the axis ends at this multiple of the first, because the last may be far larger.
)


def page(learning_rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray, suggested: tuple[float, float]) -> str:
    """Return an HTML page with the loss over the learning rate, and with the suggested range shaded.

    Args:
      learning_rates, losses, smoothed: float64 [steps].
      suggested: the lowest and the highest suggested learning rate.
    """
    bottom = min(0.0, float(smoothed.min()))  # The loss may be negative in pre-training.
    top = smoothed[0] + (MAX_SHOWN - 1) * max(abs(smoothed[0]), smoothed[0] - bottom)
    chart = chart_style.empty_chart(
        xaxis={"type": "log", "dtick": 1, "exponentformat": "power", "title_text": "learning rate"},
        yaxis={"range": [bottom, top], "title_text": "training loss"},
    )
    chart.add_scatter(
        x=learning_rates,
        y=losses,
        name="of each step",
        mode="markers",
        marker={"color": chart_style.GRAY, "size": 3},
        hovertemplate="%{y:.4g}",
    )
    chart.add_scatter(
        x=learning_rates,
        y=smoothed,
        name="mean over neighboring steps",
        mode="lines",
        line={"color": chart_style.BLUE, "width": 2},
        hovertemplate="%{y:.4g}",
    )
    low, high = suggested
    chart.add_vrect(x0=low, x1=high, fillcolor=chart_style.VERMILION, opacity=0.15, line_width=0)
    chart.add_annotation(
        x=(math.log10(low) + math.log10(high)) / 2,
        y=1,
        yref="paper",
        yanchor="top",
        text=f"{low:.2g} to {high:.2g}",
        showarrow=False,
    )
    options = {"responsive": True, "displaylogo": False}
    height = "95vh"  # less than the window, because the page has a margin
    return chart.to_html(include_plotlyjs=True, config=options, default_height=height)
