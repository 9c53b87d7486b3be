"""Figures: one style, lines with their spread, and pictures that say in words what they show.

```python
fig, ax = figures.subplots()
figures.band(ax, widths, barriers, label="matched", color=figures.COLORS["method"])
ax.set(xlabel="width", ylabel="loss barrier", title="Wider networks have a smaller barrier")
figures.label_ends(ax)
figures.show(fig, alt="Line plot of …", caption="Five seeds: …")
```
"""

from __future__ import annotations

import base64
import warnings

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from bookkit import figuresvg
from bookkit.display import emit
from bookkit.figurestyle import COLORS, CYCLE, INK, settle, style, subplots
from bookkit.figuretext import check_alt, check_axes, check_caption, check_name, figcaption

__all__ = ["COLORS", "CYCLE", "INK", "band", "label_ends", "show", "style", "subplots"]

_LABEL_SIZE = 11  # points
_HEAVY = 400_000  # bytes of SVG


def band(
    ax: Axes, x: ArrayLike, runs: ArrayLike, *, label: str | None = None, color: str | None = None
) -> Line2D:
    """Draw several runs of one thing: a thin line each, their median, and the middle half of them shaded.

    The shaded band goes from the first to the third quartile of the runs at each `x`; the thin lines show
    what lies outside it. It shows how runs differ, not how well their mean is known: that is in the claim's
    interval.

    Args:
        ax: where to draw.
        x: shape (n_x,).
        runs: shape (n_runs, n_x), a row for each run. With one run there is one line and no band.
        label: the median line's label.
        color: of all three; by default the next of the axes' cycle.

    Returns:
        The median's line.

    Raises:
        ValueError: a shape is wrong, or a value is NaN or infinite.
    """
    x, runs = np.asarray(x, dtype=float), np.asarray(runs, dtype=float)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"x has the shape {x.shape}; expected (n_x,)")
    if runs.ndim != 2 or not runs.size or runs.shape[1] != x.size:
        raise ValueError(f"runs has the shape {runs.shape}; expected (n_runs, {x.size}), a row for each run")
    for name, values in (("x", x), ("runs", runs)):
        if not np.isfinite(values).all():
            index = tuple(map(int, np.argwhere(~np.isfinite(values))[0]))
            raise ValueError(f"{name} holds {values[index]} at index {index}; every value has to be finite")
    first, median, third = np.quantile(runs, [0.25, 0.5, 0.75], axis=0)
    (line,) = ax.plot(x, median, color=color, linewidth=2.2, zorder=3, label=label)
    if len(runs) > 1:
        ax.plot(x, runs.T, color=line.get_color(), linewidth=0.8, alpha=0.5, zorder=2)
        ax.fill_between(x, first, third, color=line.get_color(), alpha=0.18, linewidth=0, zorder=1)
    return line


def label_ends(ax: Axes) -> None:
    """Write each labelled line's label at its right end, in its colour, in place of a legend.

    Labels that would overlap are moved apart. Call it when the axes are complete, with labels, limits and
    scales.

    Raises:
        ValueError: no line has a label.
    """
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    if not lines:
        raise ValueError("no line of the axes has a label; give `label=` to `band` or `plot`")
    figure = ax.get_figure(root=True)
    with style():
        figure.draw_without_rendering()  # the layout decides where the ends lie
    points = 72 / figure.dpi  # of one pixel
    ends = []
    for line in lines:
        xy = line.get_xydata()
        xy = xy[np.isfinite(xy).all(axis=1)]
        if not len(xy):
            raise ValueError(f"the line {line.get_label()!r} has no finite point to put its label at")
        end = xy[np.argmax(xy[:, 0])]
        ends.append((float(ax.transData.transform(end)[1]) * points, line, end))
    ends.sort(key=lambda item: item[0])
    low, high = ax.bbox.y0 * points, ax.bbox.y1 * points
    heights = _spread([height for height, *_ in ends], 1.25 * _LABEL_SIZE, low, high)
    for (height, line, end), moved in zip(ends, heights, strict=True):
        ax.annotate(
            line.get_label(),
            xy=end,
            xytext=(7, moved - height),
            textcoords="offset points",
            color=line.get_color(),
            size=_LABEL_SIZE,
            weight="bold",
            va="center",
            annotation_clip=False,
        )


def _spread(heights: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move sorted heights as little as it takes for each to lie `gap` above the one before.

    Neighbours that touch form a group centred on what it stands for, as far as half a `gap` remains to
    `low` and `high`.

    >>> _spread([20.0, 21.0, 50.0], 10, 0, 100), _spread([1.0, 2.0], 10, 0, 100)
    ([15.5, 25.5, 50.0], [5.0, 15.0])
    """
    groups: list[tuple[float, int]] = []  # centre, number of labels
    for height in heights:
        centre, n = height, 1
        while groups and centre - (n - 1) / 2 * gap < groups[-1][0] + (groups[-1][1] + 1) / 2 * gap:
            below, m = groups.pop()
            centre, n = (centre * n + below * m) / (n + m), n + m
        centre = max(min(centre, high - n / 2 * gap), low + n / 2 * gap)
        groups.append((centre, n))
    return [centre + (i - (n - 1) / 2) * gap for centre, n in groups for i in range(n)]


def show(fig: Figure, *, alt: str, caption: str, name: str | None = None) -> None:
    """Show a figure with its caption and its description in words, and close it.

    The output holds an HTML figure with inline SVG, which reads in light and dark themes and has no outside
    parts, a PNG for print, and the description as plain text.

    Args:
        fig: the figure; what is black in it takes the page's colour of text, light in a dark theme. Marks on
            top of a filled area, such as a loss landscape, need a colour that is not black.
        alt: for who cannot see it, in one to three sentences: what kind of figure it is, what is on the axes,
            what it shows. At least 40 characters, and not the caption again.
        caption: what stands below it; plain text with `<code>` and `<em>`.
        name: the HTML id, words in lower case joined by hyphens; by default made from the content.

    Raises:
        TypeError: `fig` is no figure, or a text is no text.
        ValueError: the text says nothing, or axes with data have no label.
    """
    check_caption(caption)
    check_name(name)
    check_alt(alt, caption)
    check_axes(fig, caption)
    with style():
        settle(fig)
        root, image = figuresvg.drawing(fig), figuresvg.png(fig)
    plt.close(fig)
    figuresvg.gather(root)
    name = name or figuresvg.identifier(figuresvg.text(root, alt), caption)
    figuresvg.number_ids([root], name)
    svg = figuresvg.text(root, alt)
    if len(svg) > _HEAVY:
        warnings.warn(
            f"the figure {alt[:40]!r}… has {len(svg) / 1000:.0f} KB of SVG; draw what has thousands of "
            "points or cells with `rasterized=True`, or with imshow",
            stacklevel=2,
        )
    body = svg + figcaption(caption)
    emit(
        {
            "text/html": f'<figure class="bk-figure" id="{name}" style="margin:1.2em 0">{body}</figure>',
            "image/png": base64.b64encode(image).decode(),
            "text/plain": alt,
        }
    )
