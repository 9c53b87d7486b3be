"""The static form of an explorer: every frame drawn beforehand, behind labelled range inputs.

Frames are SVG, which is sharp at any size and takes the colours of the page. Where drawings are so heavy that
PNG frames weigh less than two thirds of them (thousands of points, say), or over the budget, they are PNG on
a white card if that is lighter. It reads in a dark theme as well.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any
from xml.etree.ElementTree import Element

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from bookkit import figuresvg
from bookkit.display import emit
from bookkit.figurestyle import settle, style
from bookkit.figuretext import figcaption

_LIGHT = 60_000  # bytes of one drawing's SVG, below which PNG is not tried
_CLOSE = 2 / 3  # PNG has to weigh less than this share of SVG

# One script for every explorer: it finds its own figure, and reads what it needs from there. Frames are in
# the order of itertools.product. A frame's description is spoken once the slider has come to rest. Where the
# reader's system asks for less motion, a frame stays for a second.
_SCRIPT = """
(() => {
  const figure = document.currentScript.closest("figure");
  const inputs = [...figure.querySelectorAll("input")];
  const frames = [...figure.querySelectorAll(".bk-frame")];
  const said = figure.querySelector(".bk-said");
  let rest;
  const show = () => {
    let index = 0;
    for (const input of inputs) {
      const texts = JSON.parse(input.dataset.texts);
      index = index * texts.length + Number(input.value);
      input.setAttribute("aria-valuetext", texts[input.value]);
      input.parentElement.querySelector("output").value = texts[input.value];
    }
    frames.forEach((frame, i) => { frame.hidden = i !== index; });
    clearTimeout(rest);
    if (said) rest = setTimeout(() => {
      const picture = frames[index].firstElementChild;
      said.textContent = picture.getAttribute("aria-label") ?? picture.alt;
    }, 600);
  };
  for (const input of inputs) input.addEventListener("input", show);
  const button = figure.querySelector("button");
  if (button) {
    const input = inputs.find((each) => each.id === button.dataset.plays);
    const atEnd = () => input.value === input.max;
    const pause = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 300;
    let clock;
    const stop = () => { clock = clearInterval(clock); button.textContent = "Play"; };
    button.addEventListener("click", () => {
      if (clock) return stop();
      if (atEnd()) input.value = 0;
      show();
      button.textContent = "Stop";
      clock = setInterval(() => {
        if (atEnd()) return stop();
        input.stepUp();
        show();
      }, pause);
    });
  }
  figure.querySelector(".bk-controls").hidden = false;
})();
"""

_UNSEEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"


def text_of(value: Any) -> str:
    """Write a control's value as the page shows it.

    >>> text_of(0.1 + 0.2), text_of(-2.0), text_of("all")
    ('0.3', '−2', 'all')
    """
    return f"{value:.6g}".replace("-", "−") if isinstance(value, float) else str(value)


def show(
    frame: Callable[..., tuple[Figure, str]],
    values: Mapping[str, list[Any]],
    *,
    labels: Mapping[str, str],
    begin: Mapping[str, int],
    caption: str,
    spoken: bool,
    play: str | None,
    name: str | None,
    budget: int,
) -> None:
    """Draw every frame, in the order of itertools.product, and emit them behind sliders.

    Args:
        frame: returns the figure and the description for one value of each control.
        values: the values of each control.
        labels: what the page calls each control.
        begin: the position that each control starts at.
        caption: what stands below.
        spoken: whether frames have descriptions of their own, to be read out as they change.
        play: the control that a button moves, if any.
        name: the HTML id; by default made from the content.
        budget: the most bytes of HTML.

    Raises:
        ValueError: frames differ in size, a control changes nothing, or the frames are over the budget.
    """
    positions = list(itertools.product(*(range(len(options)) for options in values.values())))
    shown = positions.index(tuple(begin.values()))
    roots, texts, images, still = [], [], [], b""
    for i, position in enumerate(positions):
        fig, text = frame(*(values[c][p] for c, p in zip(values, position, strict=True)))
        with style():
            settle(fig)
            root = figuresvg.drawing(fig)
            light = len(figuresvg.text(root)) < _LIGHT
            if images is not None:
                images = None if light else [*images, figuresvg.card(fig)]
            still = figuresvg.png(fig) if i == shown else still
        plt.close(fig)
        roots.append(root)
        texts.append(text)
    _check_frames(roots, positions, values, caption)
    drawn = [figuresvg.text(root) for root in roots]
    for root, text in zip(roots, texts, strict=True):
        root.set("aria-label", text)
    sheet = figuresvg.shared_definitions(roots)
    for root in roots:
        figuresvg.gather(root)
    id = name or figuresvg.identifier(caption, *drawn, *texts)
    figuresvg.number_ids([sheet, *roots], id)
    frames = [figuresvg.text(root) for root in roots]
    shared = figuresvg.text(sheet)
    if images:
        width = roots[0].get("style")
        pictures = [_picture(image, text, width) for image, text in zip(images, texts, strict=True)]
        heavy = _weight([shared, *frames])
        if _weight(pictures) < heavy * (1 if heavy > budget else _CLOSE):
            frames, shared = pictures, ""
    rows = [_row(f"{id}-{c}", labels[c], values[c], begin[c], c == play) for c in values]
    at = ", ".join(f"{labels[c]} = {text_of(values[c][position])}" for c, position in begin.items())
    page = [
        f'<figure class="bk-explore" id="{id}" style="margin:1.2em 0">',
        f'<div class="bk-controls" hidden>{"".join(rows)}</div>',
        f"<noscript><p>This figure moves where scripts run; here {escape(at)}.</p></noscript>",
        shared,
        *(
            f'<div class="bk-frame"{"" if i == shown else " hidden"}>{frame}</div>'
            for i, frame in enumerate(frames)
        ),
        f'<p class="bk-said" aria-live="polite" style="{_UNSEEN}"></p>' if spoken else "",
        figcaption(caption),
        f"<script>{_SCRIPT}</script></figure>",
    ]
    if (size := _weight(page)) > budget:
        raise ValueError(
            f"the explorer with the caption {caption[:60]!r} has {size / 1000:.0f} KB in {len(frames)} "
            f"frames, over the budget of {budget / 1000:.0f} KB; use fewer values, a smaller figure, or draw "
            "with `rasterized=True` what has thousands of points or cells"
        )
    emit(
        {
            "text/html": "".join(page),
            "image/png": base64.b64encode(still).decode(),
            "text/plain": texts[shown],
        }
    )


def _check_frames(
    roots: Sequence[Element],
    positions: Sequence[tuple[int, ...]],
    values: Mapping[str, list[Any]],
    caption: str,
) -> None:
    sizes = list(dict.fromkeys(root.get("viewBox") for root in roots))
    if len(sizes) > 1:
        raise ValueError(
            f"the explorer with the caption {caption[:60]!r} draws frames of different sizes ({sizes[0]} and "
            f"{sizes[1]}), so the page would jump; make all figures equally large"
        )
    drawn = dict(zip(positions, map(figuresvg.text, roots), strict=True))
    for axis, control in enumerate(values):
        if all(drawn[position] == drawn[_at_start(position, axis)] for position in positions):
            raise ValueError(
                f"the explorer with the caption {caption[:60]!r} draws the same for every value of "
                f"{control}; use the argument in `draw`, or leave the control out"
            )


def _at_start(position: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*position[:axis], 0, *position[axis + 1 :])


def _weight(parts: Sequence[str]) -> int:
    return sum(len(part.encode()) for part in parts)


def _picture(image: bytes, text: str, size: str) -> str:
    data = base64.b64encode(image).decode()
    card = "background:white;border-radius:4px;box-sizing:border-box;padding:4px"
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}" style="{size};{card}">'


def _row(id: str, label: str, values: Sequence[Any], start: int, plays: bool) -> str:
    """A slider over the positions of a control's values, with its label, the value, and perhaps a button."""
    texts = [text_of(value) for value in values]
    button = f'<button type="button" data-plays="{id}">Play</button>' if plays else ""
    return (
        '<div style="display:flex;flex-wrap:wrap;align-items:center;gap:.2em .8em;margin-bottom:.4em">'
        f'<label for="{id}">{escape(label)}</label>'
        f'<input type="range" id="{id}" min="0" max="{len(texts) - 1}" step="1" value="{start}" '
        f'autocomplete="off" aria-valuetext="{escape(texts[start])}" '
        f'data-texts="{escape(json.dumps(texts))}" '
        'style="flex:1;min-width:9em;max-width:26em;min-height:24px">'
        # The value is spoken as the slider's own text; the output would say it a second time.
        f'<output for="{id}" aria-live="off" style="min-width:3em">{escape(texts[start])}</output>'
        f"{button}</div>"
    )
