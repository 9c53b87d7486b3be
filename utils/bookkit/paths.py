"""Where the book lies on disk: its root and its build folder.

The code runs in three places: in a clone (`import bookkit` from an editable install), in a notebook that the
build executes from `build/notebooks/`, and from a wheel with no repository around it, as on Colab.
"""

from __future__ import annotations

import os
from pathlib import Path


def root() -> Path | None:
    """Return the root of the book's repository, or None where there is no repository.

    It is the nearest folder that holds both `_config.yml` and `chapters/`: the working directory or one of
    its parents, and failing that a parent of this package.
    """
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "_config.yml").is_file() and (folder / "chapters").is_dir():
                return folder
    return None


def build_dir() -> Path | None:
    """Return the folder for everything that a build makes; it need not exist yet.

    It is the environment variable `BOOK_BUILD_DIR` where that is set, else `build/` in the repository,
    else None.
    """
    chosen = os.environ.get("BOOK_BUILD_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    top = root()
    return top / "build" if top else None
