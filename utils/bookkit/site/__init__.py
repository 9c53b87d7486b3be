"""The book's Sphinx extension: what Jupyter Book cannot know about this book.

- `pages`: a chapter's page is its executed copy, with a badge line, references and provenance added.
- `ledger`: the claims of a part and of the whole book, with what was measured.
- `papers`: the map of papers.
- `html`: tables and sections, and mends to their HTML.
- `checks`: warnings that say what to do.

It is listed in `_config.yml` under `sphinx: extra_extensions`.
"""

from typing import Any

from sphinx.application import Sphinx

from bookkit.site import checks, html, ledger, pages, papers


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension's parts with Sphinx.

    Returns:
        The metadata that Sphinx asks for.
    """
    for part in (checks, html, pages, ledger, papers):
        part.register(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
