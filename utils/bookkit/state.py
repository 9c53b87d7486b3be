"""Which chapters are up to date: each notebook beside its executed copy and the manifest of that run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bookkit import notebooks, paths
from bookkit.keys import Keys, changes, sha
from bookkit.notebooks import BookError


@dataclass(frozen=True)
class State:
    """A chapter and whether its executed copy is up to date.

    Attributes:
        source: the notebook under `chapters/`.
        copy: where its executed copy lies, or would lie.
        ingredients: what its results depend on now (see `bookkit.keys`).
        own: the ids of the claims of its part that its code names.
        why: the reasons to execute it; empty while the copy is up to date.
        manifest: what the last successful run noted down; empty where there was none.
    """

    source: Path
    copy: Path
    ingredients: dict[str, str]
    own: list[str]
    why: list[str]
    manifest: dict[str, Any]


class Book:
    """The chapters as they lie on disk, and what builds have made of them.

    Raises:
        BookError: the working directory is in no book.
    """

    def __init__(self) -> None:
        root, build = paths.root(), paths.build_dir()
        if root is None or build is None:
            raise BookError(
                f"no book here: neither {Path.cwd()} nor a folder above it holds _config.yml and chapters/; "
                "go into a clone of the book's repository."
            )
        self.root, self.build, self.keys = root, build, Keys(root)

    def find(self, name: Path | str) -> Path:
        """Return the chapter that a user means by a path, as typed, or by `<part>/<file>`.

        Raises:
            BookError: there is no such chapter.
        """
        typed = Path(name)
        meant = {typed.absolute(), self.root / "chapters" / typed, self.root / "chapters" / f"{typed}.ipynb"}
        for source in notebooks.find(self.root):
            if source in meant:
                return source
        known = ", ".join(notebooks.name(source) for source in notebooks.find(self.root))
        raise BookError(f"no chapter is called {name}; there are: {known or 'none'}.")

    def result(self, id: str) -> Path:
        """Return where the result of a claim lies, or would lie."""
        return self.build / "results" / self.keys.claims[id].part / f"{id}.json"

    def state(self, source: Path) -> State:
        """Compare a chapter with its executed copy."""
        copy = self.build / "notebooks" / source.relative_to(self.root / "chapters")
        ingredients = self.keys.ingredients(source)
        claims = self.keys.claims
        own = [id for id in claims if claims[id].part == source.parent.name and f"claim {id}" in ingredients]
        manifest = read_json(manifest_of(copy))
        if not manifest or not copy.is_file():
            why = ["its last run failed" if copy.is_file() else "it was never executed"]
            return State(source, copy, ingredients, own, why, {})
        why = changes(manifest["ingredients"], ingredients)
        for id, recorded in manifest["results"].items():
            # a notebook run by hand, with other settings perhaps, writes its results to the same place
            if id in own and digest(self.result(id)) != recorded:
                why.append(f"the result of claim {id} was changed or deleted since")
        return State(source, copy, ingredients, own, why, manifest)

    def states(self) -> list[State]:
        """Compare every chapter with its executed copy."""
        return [self.state(source) for source in notebooks.find(self.root)]


def manifest_of(copy: Path) -> Path:
    """Return where the manifest of an executed copy lies."""
    return copy.with_suffix(".json")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a file that is missing or damaged counts as empty."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def digest(path: Path) -> str | None:
    """Return the hash of a file's content, None where there is no such file."""
    return sha(path.read_bytes()) if path.is_file() else None
