"""Style that all charts of a report share: colors and layout. `as_html` embeds a chart in the page.

page.css overrides the colors of texts, and brightens lines in the dark theme.
"""

import html
from collections.abc import Mapping

import plotly.graph_objects as go

# Okabe & Ito 2008, "Color Universal Design": distinguishable for color-blind readers, legible on white and on black.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
BLUE, VERMILION = COLORS[:2]
GRAY = "#808080"
PALE_GRAY = "rgba(128, 128, 128, 0.22)"
TRANSPARENT = "rgba(0, 0, 0, 0)"
FONT_SIZE = 13  # pixels
MAX_LABEL_LENGTH = 14  # characters, beside an axis


def as_html(chart: go.Figure, name: str) -> str:
    """Return the HTML element of a chart, with `name` as its id, and the script that draws it.

    The page must include plotly.js. The chart fills its parent element. Plotly escapes < and > in the JSON data of the
    chart, so a name in the data cannot close the script element.
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
    """Return an empty chart in the common style, with further settings of its axes and its layout."""
    return go.Figure(layout=layout(xaxis=axis(**xaxis), yaxis=axis(**yaxis), **settings))


def layout(**settings) -> dict:
    """Return Plotly's layout settings in the common style, updated with `settings`."""
    return {
        "template": "none",
        "paper_bgcolor": TRANSPARENT,
        "plot_bgcolor": TRANSPARENT,
        "font": {"family": "system-ui, sans-serif", "size": FONT_SIZE, "color": GRAY},
        "margin": {"l": 8, "r": 22, "t": 8, "b": 8},
        "hovermode": "x unified",
        "legend": {"orientation": "h", "traceorder": "normal", "yanchor": "bottom", "y": 1.01, "x": 0},
        "modebar": {"orientation": "v", "bgcolor": TRANSPARENT, "color": GRAY, "activecolor": BLUE},
        **settings,
    }


def axis(**settings) -> dict:
    """Return Plotly's axis settings in the common style, updated with `settings`."""
    return {
        "automargin": True,
        "gridcolor": PALE_GRAY,
        "zeroline": False,
        "linecolor": PALE_GRAY,
        "title_font_size": FONT_SIZE,
        **settings,
    }


def shorten(name: str) -> str:
    """Shorten a long name in its middle, because names often differ only at their end.

    Example:
      >>> shorten("tmp/run_of_monday")
      'tmp/run…monday'
    """
    half = MAX_LABEL_LENGTH // 2
    return name if len(name) <= MAX_LABEL_LENGTH else f"{name[:half]}…{name[1 - half :]}"


def escape(name: str) -> str:
    """Escape a name for Plotly, which interprets text as HTML. If orjson is installed, Plotly needs valid Unicode."""
    return html.escape(name, quote=False).encode(errors="replace").decode()
