"""Slides: a reveal.js deck for each chapter that marks cells for it, in one folder that needs no network."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bookkit import notebooks, stage
from bookkit.notebooks import BookError, Cell

from .answerkey import heading
from .files import chapters, fresh, place
from .render import CSS, MATHJAX, Asset, citations_of, code, glued, markdown, output, page

KINDS = ("slide", "subslide", "fragment", "notes")
REVEAL = Asset(
    "sphinx_revealjs",
    "_static/revealjs",
    (
        "LICENSE",
        "dist/reset.css",
        "dist/reveal.css",
        "dist/reveal.js",
        "dist/theme/white.css",
        "dist/theme/fonts/source-sans-pro/*.css",
        "dist/theme/fonts/source-sans-pro/*.woff",
        "dist/theme/fonts/source-sans-pro/LICENSE",
        "plugin/notes/notes.js",
    ),
)


def slides(root: Path) -> Path:
    """Write `build/slides/`: a deck a chapter, `<part>/<file>.html`, and `index.html`, all from local files.

    The decks show what the chapters computed, so their executed copies have to be up to date.

    Returns:
        The folder.

    Raises:
        BookError: a chapter with slides is not executed, or a package that the decks need is missing.
    """
    marked = {source: notebooks.read(source) for source in chapters(root)}
    marked = {source: nb for source, nb in marked.items() if any(map(kind_of, nb["cells"]))}
    citations = citations_of(Path(root))
    links = []
    with fresh(root, "slides") as folder:
        for source in marked:
            executed = stage.executed(source)
            if executed is None:
                raise BookError(
                    f"{notebooks.name(source)}: its slides show what the chapter computed, and its results "
                    "are not up to date; run `make book` first."
                )
            notebook = notebooks.read(executed)
            title = heading(notebook) or source.stem
            target = Path(source.parent.name) / f"{source.stem}.html"
            notebooks.write_text(folder / target, deck(notebook["cells"], title, citations))
            links.append(f'<li><a href="{target.as_posix()}">{markdown(title)}</a></li>')
        listed = f"<ul>{''.join(links)}</ul>{KEYS}" if links else NONE
        notebooks.write_text(folder / "index.html", page("Slides", f"<h1>Slides</h1>{listed}"))
        REVEAL.copy(folder / "reveal")
        MATHJAX.copy(folder / "mathjax")
    return place(root, "slides")


def kind_of(cell: Cell) -> str | None:
    """Return which of `KINDS` a cell is tagged as, if any."""
    return next((kind for kind in KINDS if kind in notebooks.tags(cell)), None)


def deck(cells: list[Cell], title: str, citations: Mapping[str, str]) -> str:
    """Return the page of a deck; it starts with the title unless its first slide holds it."""
    values = glued(cells)
    columns: list[list[str]] = []
    for cell in cells:
        kind = kind_of(cell)
        if kind is None:
            continue
        shown = _cell(cell, values, citations)
        if not columns and f"# {title}" not in cell["source"].splitlines():
            columns.append([f"<h1>{markdown(title)}</h1>"])
        if kind == "slide" or not columns:
            columns.append([shown])
        elif kind == "subslide":
            columns[-1].append(shown)
        elif kind == "fragment":
            columns[-1][-1] += f'<div class="fragment">{shown}</div>'
        else:
            columns[-1][-1] += f'<aside class="notes">{shown}</aside>'
    sections = "\n".join(
        "<section>" + "\n".join(f"<section>{slide}</section>" for slide in column) + "</section>"
        for column in columns
    )
    return DECK.format(title=html.escape(title), css=CSS, sections=sections)


def _cell(cell: Cell, values: Mapping[str, str], citations: Mapping[str, str]) -> str:
    if cell["cell_type"] == "markdown":
        return markdown(cell["source"], values, citations)
    hidden = {"hide-input", "remove-input", "hide-cell"} & set(notebooks.tags(cell))
    shown: list[Any] = [] if hidden else [code(cell["source"])]
    if not {"hide-output", "remove-output"} & set(notebooks.tags(cell)):
        shown += [output(out, values, citations) for out in cell.get("outputs", [])]
    return "\n".join(part for part in shown if part)


KEYS = "<p>In a deck: arrows move, S opens the speaker's notes, O the overview, ? lists the other keys.</p>"
NONE = "<p>No chapter has cells tagged <code>slide</code>.</p>"

DECK = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="../reveal/dist/reset.css">
<link rel="stylesheet" href="../reveal/dist/reveal.css">
<link rel="stylesheet" href="../reveal/dist/theme/white.css">
<style>
:root {{ --r-main-font-size: 30px; --r-heading-text-transform: none }}
.reveal .slides section {{ text-align: left }}
.reveal pre, .reveal .code {{ width: 100%; box-shadow: none; font-size: .7em }}
.reveal .code pre {{ font-size: 1em; margin: .5em 0 }}
.reveal figure svg, .reveal section img {{
  width: 100%; height: auto; max-height: 520px; object-fit: contain; display: block
}}
.reveal figcaption, .reveal details {{ font-size: .55em }}
{css}
</style>
</head>
<body>
<div class="reveal"><div class="slides">
{sections}
</div></div>
<script src="../reveal/dist/reveal.js"></script>
<script src="../reveal/plugin/notes/notes.js"></script>
<script>
Reveal.initialize({{ hash: true, slideNumber: "c/t", plugins: [RevealNotes] }});
window.MathJax = {{ startup: {{
  pageReady: () => MathJax.startup.defaultPageReady().then(() => Reveal.layout())
}} }};
</script>
<script src="../mathjax/tex-svg-full.js"></script>
</body>
</html>
"""
