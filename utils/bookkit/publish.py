"""Build the site from executed notebooks, unless it stands already as it would come out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bookkit import stage, structure
from bookkit.keys import sha
from bookkit.notebooks import BookError
from bookkit.state import Book

JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"  # the package has no __main__


def build(jobs: int | None = None) -> tuple[Path, bool]:
    """Execute what is stale, check the claims and build the site, warnings counting as errors.

    Args:
        jobs: how many notebooks to execute at once; one for each core by default.

    Returns:
        The site's first page, and whether the site had to be built.

    Raises:
        BookError: a notebook was saved with outputs, a notebook or a claim failed, or Jupyter Book gave a
            warning.
    """
    if unclean := structure.check_clean(Book().root):
        raise BookError("\n".join(unclean))
    stage.run(jobs=jobs)
    book = Book()
    output = book.root / "_build"
    stamp = output / "html" / ".stamp"
    with stage.alone(book.build / ".site.lock"):
        key = site_key(book)
        if stamp.is_file() and stamp.read_text() == key:
            return stamp.with_name("index.html"), False
        # a warning shows only where a page is read again: a page left over would hide it
        for folder in ("html", ".doctrees"):
            shutil.rmtree(output / folder, ignore_errors=True)
        command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(book.root)]
        command += ["--nitpick", "--warningiserror", "--keep-going", "--quiet"]
        print("building the site", flush=True)
        done = subprocess.run(command, env=os.environ | {"BOOK_NO_EXECUTE": "1"})
        if done.returncode:
            raise BookError(
                "the site was not built: warnings count as errors. Each stands above with its file and line; "
                "mend them, then run: make book"
            )
        stamp.write_text(key)
    return stamp.with_name("index.html"), True


def site_key(book: Book) -> str:
    """Return the hash of all that the site is made from: pages, copies, results, settings, bookkit."""
    return sha(json.dumps([(name, sha(path.read_bytes())) for name, path in sorted(_sources(book))]))


def _sources(book: Book) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of every file that the site is made from."""
    folders = {
        **{name: book.root / name for name in ("book", "chapters", "data")},
        **{name: book.build / name for name in ("notebooks", "results")},
        "bookkit": Path(__file__).parent,
    }
    for pattern in ("*.md", "_*.yml", "requirements.txt"):
        yield from ((path.name, path) for path in book.root.glob(pattern))
    for name, folder in folders.items():
        for path in folder.rglob("*"):
            inside = path.relative_to(folder)
            unseen = {"__pycache__", ".ipynb_checkpoints", "log.txt"} & set(inside.parts)
            if path.is_file() and not unseen:
                yield f"{name}/{inside.as_posix()}", path
