"""What all charts of a report share: plotly, colours, and how it is put on the page.

page.css gives text and lines their colours, by light or dark.
"""

import html
from collections.abc import Mapping

import plotly.graph_objects as go

# Okabe & Ito 2008, "Color Universal Design": told apart by the colour-blind, and legible on white and on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
BLUE, VERMILION = COLOURS[:2]
GREY, PALE = "#808080", "rgba(128, 128, 128, 0.22)"
CLEAR = "rgba(0, 0, 0, 0)"
SIZE = 13  # of text, in pixels
LONGEST_NAME = 14  # characters, beside an axis


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


def empty_chart(xaxis: Mapping = {}, yaxis: Mapping = {}, **settings) -> go.Figure:
    """A chart to draw in, with settings of its axes and of its layout."""
    return go.Figure(layout=layout(xaxis=axis(**xaxis), yaxis=axis(**yaxis), **settings))


def layout(**settings) -> dict:
    """Plotly's settings of a chart: those that all have, and others."""
    return {
        "template": "none",
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"family": "system-ui, sans-serif", "size": SIZE, "color": GREY},
        "margin": {"l": 8, "r": 22, "t": 8, "b": 8},
        "hovermode": "x unified",
        "legend": {"orientation": "h", "traceorder": "normal", "yanchor": "bottom", "y": 1.01, "x": 0},
        "modebar": {"orientation": "v", "bgcolor": CLEAR, "color": GREY, "activecolor": BLUE},
        **settings,
    }


def axis(**settings) -> dict:
    """The same, of an axis."""
    common = {"automargin": True, "gridcolor": PALE, "zeroline": False, "linecolor": PALE, "title_font_size": SIZE}
    return {**common, **settings}


def short(name: str) -> str:
    """A name, of which the middle is left out where it is long: what tells names apart is often at their end."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[1 - half :]}"


def text(name: str) -> str:
    """A name for plotly, which takes what it is given for HTML."""
    return html.escape(name, quote=False)
