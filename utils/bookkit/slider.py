"""Figures that the reader moves: a slider that works on the built page with no kernel and no network.

```python
slider.explore(
    lambda lam: draw_losses(lam),              # returns a figure
    lam=np.linspace(0, 1, 21),
    labels={"lam": "interpolation λ"},
    alt=lambda lam: f"Line plot of the loss along the path; at λ = {lam:.2f} it is {loss(lam):.2f}.",
    caption="Loss along the straight path. Five pairs of seeds.",
)
```

In a static build every frame is drawn beforehand and the page holds them all behind a labelled range input.
In a live notebook the same call gives ipywidgets that draw anew.
"""

from __future__ import annotations

import base64
import importlib.util
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure

from bookkit import figures, figuresvg
from bookkit.display import emit, is_static
from bookkit.figurestyle import settle, style
from bookkit.figuretext import check_alt, check_axes, check_caption, check_name, figcaption

__all__ = ["explore"]

_BUDGET = 600_000  # bytes of HTML for one call

# One script for every explorer: it finds its own figure, and reads what it needs from there. Frames are in
# the order of itertools.product. A frame's description is spoken once the slider has come to rest.
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
      said.textContent = frames[index].querySelector("svg").getAttribute("aria-label");
    }, 600);
  };
  for (const input of inputs) input.addEventListener("input", show);
  const button = figure.querySelector("button");
  if (button) {
    const input = inputs.find((each) => each.id === button.dataset.plays);
    const atEnd = () => input.value === input.max;
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
      }, 300);
    });
  }
  figure.querySelector(".bk-controls").hidden = false;
})();
"""

_UNSEEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"


def explore(
    draw: Callable[..., Figure],
    *,
    alt: str | Callable[..., str],
    caption: str,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    start: Mapping[str, Any] | None = None,
    play: str | None = None,
    budget: int = _BUDGET,
    **controls: Sequence[Any],
) -> None:
    """Show a figure with one or two sliders.

    Args:
        draw: called with one value for each control, in their order; returns a new figure of the same size
            each time. Fix the limits of its axes, or they jump from frame to frame.
        alt: the description (see `figures.show`), or a function of the same values that returns it.
        caption: what stands below; plain text with `<code>` and `<em>`.
        name: the HTML id; by default made from the content.
        labels: what the page calls a control, with its unit; by default its name.
        start: the value that a control starts at, and that shows in print and where scripts do not run; by
            default the middle one.
        play: the control, such as a time, that a button moves by itself.
        budget: the most bytes of HTML that the static form may have.
        **controls: one or two, each a sequence of at least two values.

    Raises:
        TypeError: `draw` returns something that is no figure, or a text is no text.
        ValueError: a control, label, start or text does not fit, or the frames are over the budget.
    """
    check_caption(caption)
    check_name(name)
    values = _check_controls(controls)
    for option, named in (("labels", labels), ("start", start), ("play", {play} if play else None)):
        for control in named or ():
            if control not in values:
                raise ValueError(f"{option} names {control!r}; the controls are {', '.join(values)}")
    labels = {control: (labels or {}).get(control, control) for control in values}
    begin = {control: _position(control, options, start or {}) for control, options in values.items()}
    frames = _Frames(draw, alt, caption)
    if is_static() or importlib.util.find_spec("ipywidgets") is None:
        _static(frames, values, labels, begin, play, name, budget)
    else:
        _live(frames, values, labels, begin)


class _Frames:
    """Draws a frame and its description for given values, and checks both."""

    def __init__(self, draw: Callable[..., Figure], alt: str | Callable[..., str], caption: str):
        self.draw, self.alt, self.caption = draw, alt, caption

    def text(self, *chosen: Any) -> str:
        text = self.alt(*chosen) if callable(self.alt) else self.alt
        check_alt(text, self.caption)
        return text

    def __call__(self, *chosen: Any) -> tuple[Figure, str]:
        text = self.text(*chosen)
        fig = self.draw(*chosen)
        if not isinstance(fig, Figure):
            given = ", ".join(map(_text, chosen))
            raise TypeError(f"draw({given}) returned a {type(fig).__name__}; expected a matplotlib Figure")
        check_axes(fig, self.caption)
        return fig, text


def _check_controls(controls: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    if not 1 <= len(controls) <= 2:
        raise ValueError(f"explore got {len(controls)} controls; expected one or two, as in lam=[0, 0.5, 1]")
    values = {}
    for control, options in controls.items():
        try:
            values[control] = list(options)
        except TypeError:
            raise TypeError(f"the control {control} is {options!r}; expected a sequence of values") from None
        if len(values[control]) < 2:
            raise ValueError(f"the control {control} has {len(values[control])} values; expected two or more")
    return values


def _position(control: str, options: list[Any], start: Mapping[str, Any]) -> int:
    if control not in start:
        return len(options) // 2
    if start[control] not in options:
        raise ValueError(f"start has {control} = {start[control]!r}, which is not among its values {options}")
    return options.index(start[control])


def _text(value: Any) -> str:
    return f"{value:.6g}".replace("-", "−") if isinstance(value, float) else str(value)


def _row(id: str, label: str, texts: list[str], start: int, plays: bool) -> str:
    """A slider over the positions of a control's values, with its label, the value, and perhaps a button."""
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


def _static(
    frames: _Frames,
    values: Mapping[str, list[Any]],
    labels: Mapping[str, str],
    begin: Mapping[str, int],
    play: str | None,
    name: str | None,
    budget: int,
) -> None:
    """Draw every frame, in the order of itertools.product, and emit them behind sliders."""
    first = tuple(values[control][position] for control, position in begin.items())
    shown, roots, image = 0, [], b""
    for positions in itertools.product(*(range(len(options)) for options in values.values())):
        fig, text = frames(*(values[c][position] for c, position in zip(values, positions, strict=True)))
        with style():
            settle(fig)
            root = figuresvg.drawing(fig)
            if positions == tuple(begin.values()):
                shown, image = len(roots), figuresvg.png(fig)
        plt.close(fig)
        root.set("aria-label", text)
        roots.append(root)
    sheet = figuresvg.shared_definitions(roots)
    id = name or figuresvg.identifier(frames.caption, *map(figuresvg.text, roots))
    figuresvg.number_ids([sheet, *roots], id)
    rows = [_row(f"{id}-{c}", labels[c], [_text(v) for v in values[c]], begin[c], c == play) for c in values]
    at = ", ".join(f"{labels[c]} = {_text(value)}" for c, value in zip(values, first, strict=True))
    page = [
        f'<figure class="bk-explore" id="{id}" style="margin:1.2em 0">',
        f'<div class="bk-controls" hidden>{"".join(rows)}</div>',
        f"<noscript><p>This figure moves where scripts run; here {escape(at)}.</p></noscript>",
        figuresvg.text(sheet),
        *(
            f'<div class="bk-frame"{"" if i == shown else " hidden"}>{figuresvg.text(root)}</div>'
            for i, root in enumerate(roots)
        ),
        f'<p class="bk-said" aria-live="polite" style="{_UNSEEN}"></p>' if callable(frames.alt) else "",
        figcaption(frames.caption),
        f"<script>{_SCRIPT}</script></figure>",
    ]
    size = sum(len(part.encode()) for part in page)
    if size > budget:
        raise ValueError(
            f"the explorer with the caption {frames.caption[:60]!r} has {size / 1000:.0f} KB in {len(roots)} "
            f"frames, over the budget of {budget / 1000:.0f} KB; use fewer values, or draw with "
            "`rasterized=True` what has thousands of points or cells"
        )
    emit(
        {
            "text/html": "".join(page),
            "image/png": base64.b64encode(image).decode(),
            "text/plain": frames.text(*first),
        }
    )


def _live(
    frames: _Frames,
    values: Mapping[str, list[Any]],
    labels: Mapping[str, str],
    begin: Mapping[str, int],
) -> None:
    """The same with ipywidgets: each move draws anew."""
    import ipywidgets as widgets

    def redraw(**positions: int) -> None:
        fig, text = frames(*(values[control][position] for control, position in positions.items()))
        figures.show(fig, alt=text, caption=frames.caption)

    sliders = {
        control: widgets.SelectionSlider(
            options=[(_text(value), position) for position, value in enumerate(options)],
            index=begin[control],
            description=labels[control],
            continuous_update=False,
            style={"description_width": "initial"},
        )
        for control, options in values.items()
    }
    display(widgets.interactive(redraw, **sliders))
