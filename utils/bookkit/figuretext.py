"""What a figure says in words: its description, its caption, the labels of its axes."""

from __future__ import annotations

import html
import re

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, ScalarFormatter

_SHORTEST = 40
_ADVICE = (
    "say in one to three sentences what kind of figure it is, what is on the axes and what it shows, as in "
    "'Line plot of loss against λ from 0 to 1: the naive path rises to 2.1, the matched one stays flat.'"
)
_EMPTY_START = re.compile(r"(an?|the|this)?\s*(image|picture|figure|photo|screenshot)\b", re.IGNORECASE)
_FILE_NAME = re.compile(r"\S+\.(png|svg|jpe?g|gif|pdf|webp)", re.IGNORECASE)
_ID = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def check_caption(caption: object) -> None:
    """Raise if the caption is not a text."""
    if not isinstance(caption, str):
        raise TypeError(f"caption is {caption!r}; expected a text")
    if not caption.strip():
        raise ValueError("caption is empty; say what the figure shows and over how many runs")


def check_name(name: object) -> None:
    """Raise if the name cannot be an HTML id."""
    if name is not None and (not isinstance(name, str) or not _ID.fullmatch(name)):
        raise ValueError(
            f"name is {name!r}; expected words in lower case joined by hyphens, as in 'loss-by-width'"
        )


def check_alt(alt: object, caption: str) -> None:
    """Raise if the description would tell nothing to a reader who cannot see the figure."""
    about = f"the figure with the caption {caption[:60]!r}"
    if not isinstance(alt, str):
        raise TypeError(f"alt of {about} is {alt!r}; expected a text: {_ADVICE}")
    text = " ".join(alt.split())
    fault = None
    if _FILE_NAME.fullmatch(text):
        fault = "is a file name"
    elif text.casefold() == " ".join(caption.split()).casefold():
        fault = "is the caption again, which is read out anyway"
    elif _EMPTY_START.match(text):
        fault = "starts by saying that it is a picture, which is announced anyway"
    elif len(text) < _SHORTEST:
        fault = f"has {len(text)} characters; expected at least {_SHORTEST}"
    if fault:
        raise ValueError(f"alt of {about} is {alt!r}: it {fault}; {_ADVICE}")


def check_axes(fig: object, caption: str) -> None:
    """Raise if this is no figure, or if axes that carry data and numbers do not say what the numbers are."""
    if not isinstance(fig, Figure):
        raise TypeError(
            f"fig is a {type(fig).__name__}; expected a matplotlib Figure, as in `fig, ax = subplots()`"
        )
    for position, ax in enumerate(fig.axes):
        for name in _unlabelled(ax):
            raise ValueError(
                f"axes {position} of the figure with the caption {caption[:60]!r} have numbers on {name} and "
                f"no label; set it with its unit, as in ax.set_{name}label('time (s)')"
            )


def _unlabelled(ax: Axes) -> list[str]:
    """The directions in which axes show numbers without a label; a colour bar is let off."""
    carries_data = bool(ax.lines or ax.collections or ax.patches)
    if not carries_data or not ax.axison or ax.get_label() == "<colorbar>":
        return []
    shared = ax.get_figure()
    around = {"x": shared.get_supxlabel(), "y": shared.get_supylabel()}
    return [
        name
        for name, axis in (("x", ax.xaxis), ("y", ax.yaxis))
        if _shows_numbers(axis) and not axis.get_label_text() and not around[name]
    ]


def _shows_numbers(axis: Axis) -> bool:
    """Tell whether numbers stand at the ticks: names, as below the bars of a chart, explain themselves."""
    numeric = isinstance(axis.get_major_formatter(), ScalarFormatter | LogFormatter)
    shown = axis.get_tick_params().get("labelbottom" if axis.axis_name == "x" else "labelleft", True)
    shown = shown or axis.get_tick_params().get("labeltop" if axis.axis_name == "x" else "labelright", False)
    return bool(axis.get_visible() and numeric and shown and len(axis.get_ticklocs()))


def figcaption(caption: str) -> str:
    """Write the caption as HTML: plain text in which `<code>` and `<em>` have their meaning.

    >>> figcaption("<em>a</em> < b & <b>c</b>")
    '<figcaption><em>a</em> &lt; b &amp; &lt;b&gt;c&lt;/b&gt;</figcaption>'
    """
    text = re.sub(r"&lt;(/?(?:code|em))&gt;", r"<\1>", html.escape(caption, quote=False))
    return f"<figcaption>{text}</figcaption>"
