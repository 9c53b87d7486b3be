"""Show an output bundle in a notebook, for a built page or for a live reader."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display


def is_static() -> bool:
    """Tell whether outputs are for the built page (`BOOK_STATIC=1`) rather than for a live notebook."""
    return os.environ.get("BOOK_STATIC", "") not in ("", "0")


def emit(bundle: Mapping[str, str], metadata: Mapping[str, Any] | None = None) -> None:
    """Display one output that holds the same thing in several formats.

    Args:
        bundle: content by MIME type. Outside IPython its `text/plain`, if any, is printed.
        metadata: the output's metadata, kept in the notebook file.
    """
    if InteractiveShell.initialized():
        display(dict(bundle), raw=True, metadata=dict(metadata or {}))
    elif "text/plain" in bundle:
        print(bundle["text/plain"])
