"""Write an edition's folder: whole or not at all, and the same bytes from the same sources."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bookkit import notebooks
from bookkit.notebooks import BookError

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time that every file in an archive bears, so that equal content makes equal archives."""


def chapters(root: Path) -> list[Path]:
    """Return the chapters of the book at `root`.

    Raises:
        BookError: there are none.
    """
    found = notebooks.find(Path(root))
    if not found:
        raise BookError(f"{root}: no notebook lies under chapters/<part>/; expected the root of the book.")
    return found


@contextmanager
def fresh(root: Path, name: str) -> Iterator[Path]:
    """Give an empty folder that becomes `build/<name>` when the block ends without an error."""
    build = Path(os.environ.get("BOOK_BUILD_DIR") or Path(root) / "build").absolute()
    build.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=build))
    draft.chmod(0o755)
    try:
        yield draft
        shutil.rmtree(build / name, ignore_errors=True)
        draft.replace(build / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def place(root: Path, name: str) -> Path:
    """Return where `fresh` puts an edition."""
    return Path(os.environ.get("BOOK_BUILD_DIR") or Path(root) / "build").absolute() / name


def archive(path: Path, files: Iterable[Path], base: Path) -> None:
    """Write files to a zip, under their paths from `base`, sorted."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for file in sorted(files):
            entry = zipfile.ZipInfo(file.relative_to(base).as_posix(), EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            target.writestr(entry, file.read_bytes())
