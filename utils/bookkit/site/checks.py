"""Warnings that say what to do: advice for Sphinx's own, and images without alternative text."""

import logging
import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging as sphinx_logging

LOG = sphinx_logging.getLogger(__name__)

# Sphinx names what is missing and where; these say how to mend it. Keys: the warning's type, or type.subtype.
ADVICE = {
    "ref": "correct the name, or put the label above the heading that is meant: (name)=",
    "ref.doc": "correct the path; a page that is to be built must stand in _toc.yml",
    "ref.term": "correct the term, or define it in book/glossary.md",
    "myst.xref_missing": "correct the name, or put the label above the heading that is meant: (name)=",
    "bibtex.key_not_found": "correct the key, or add the entry to book/references.bib",
    "mystnb.glue": "glue the number in a cell of this notebook: claims.record or claims.glue",
    "image.not_readable": "correct the path, or add the file",
    "download.not_readable": "correct the path, or run `make book`, which writes the results",
}

NO_ALT = (
    "this image has no alternative text, so a reader who cannot see it gets nothing. In a notebook, show the "
    "figure with bookkit.figures.show(fig, alt=…, caption=…); in Markdown, write ![what it shows](file)"
)


class Advice(logging.Filter):
    """Appends to a warning of a known kind what the writer can do about it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the advice to `record`, once; the record always passes."""
        kind, subkind = getattr(record, "type", None), getattr(record, "subtype", None)
        advice = ADVICE.get(f"{kind}.{subkind}") or ADVICE.get(str(kind))
        message = logging.LogRecord.getMessage(
            record
        )  # Sphinx's own adds the place, which is added later anyway
        if advice and advice not in message:
            record.msg, record.args = f"{message}; {advice}", ()
        return True


def images(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Warn of each image on a finished page that says nothing to a reader who cannot see it.

    Myst-nb gives a plot that a cell returns its own file name as alternative text; that counts as none.
    """
    if app.builder.format != "html":
        return
    for image in doctree.findall(nodes.image):
        alt = image.get("alt", "").strip()
        if not alt or alt == image.get("uri") or re.fullmatch(r"\S+\.(png|svg|jpe?g|gif|webp)", alt):
            LOG.warning(f"{docname}: {NO_ALT}", location=image, type="bookkit", subtype="alt")
    for raw in doctree.findall(nodes.raw):
        for tag in re.findall(r"<img\b[^>]*>", raw.astext()) if "html" in raw.get("format", "") else []:
            if not re.search(r"""\balt\s*=\s*["']\s*[^\s"']""", tag):
                LOG.warning(f"{docname}: {NO_ALT}", location=raw, type="bookkit", subtype="alt")


def register(app: Sphinx) -> None:
    """Connect the checks."""
    for handler in logging.getLogger(sphinx_logging.NAMESPACE).handlers:
        # first, because the filter that turns warnings into errors raises before a later one is asked
        handler.filters.insert(0, Advice())
    app.connect("doctree-resolved", images)
