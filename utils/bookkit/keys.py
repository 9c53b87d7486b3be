"""What a notebook's results depend on: code, the modules behind it, claims, data, pinned versions, the seed.

`Keys.ingredients` lists these with a hash each, and `key` is the hash of the list. While the key is what it
was when the notebook ran, running it again gives the same results, so a build does not. The prose is no part.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import grimp

from bookkit import notebooks
from bookkit.claims import Claim, ClaimError, load_all, seeds
from bookkit.notebooks import BookError

FIRST_PARTY = ("layerlab", "bookkit")
"""The packages whose modules are followed; every other package is covered by `requirements.txt`."""

RUN_TAGS = {"raises-exception", "skip-execution"}
"""Cell tags that change how a cell is executed."""


def imported_names(tree: ast.Module) -> set[str]:
    """Return the dotted names that a cell imports; for `from a import b` both `a` and `a.b`.

    >>> sorted(imported_names(ast.parse("import numpy as np\\nfrom layerlab.merging import matching")))
    ['layerlab.merging', 'layerlab.merging.matching', 'numpy']
    """
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def mentions(text: str, word: str) -> bool:
    """Say whether `word`, a claim's id or a file's name, stands in `text` and not merely inside a longer one.

    >>> mentions("record('barrier', x)", "barrier"), mentions("record('barrier-falls', x)", "barrier")
    (True, False)
    """
    literal = re.escape(word)  # first in the pattern, because re looks for a leading literal fast
    return word in text and re.search(rf"{literal}(?<![\w.-]{literal})(?![\w-])", text) is not None


def sha(content: str | bytes) -> str:
    """Return the SHA-256 of a text or of bytes, in hexadecimal."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


class Library:
    """The first-party modules and who imports whom, read from their source without importing them."""

    def __init__(self, packages: Iterable[str] = FIRST_PARTY) -> None:
        self._homes: dict[str, Path] = {}
        for package in packages:
            spec = find_spec(package)
            if spec is None or spec.origin is None:
                raise BookError(f"package {package} cannot be imported; run `pip install -e .`.")
            self._homes[package] = Path(spec.origin).parent
        self._text: dict[str, str] = {}

    @cached_property
    def _graph(self) -> grimp.ImportGraph:
        try:
            return grimp.build_graph(*self._homes, cache_dir=None, exclude_type_checking_imports=True)
        except grimp.exceptions.SourceSyntaxError as error:
            raise BookError(
                f"{error.filename}, line {error.lineno}: not Python: {error.text!r}; mend it."
            ) from error

    def followed(self, names: Iterable[str]) -> set[str]:
        """Return the modules that run when `names` are imported: they, their parents, and what those import.

        A name that is no module (a function, say) stands for the longest part of it that is one.
        """
        todo = list(names)
        found: set[str] = set()
        while todo:
            name = todo.pop()
            while name and name not in self._graph.modules:
                name = name.rpartition(".")[0]
            if name and name not in found:
                found.add(name)
                todo.append(name.rpartition(".")[0])
                todo.extend(self._graph.find_modules_directly_imported_by(name))
        return found

    def text(self, module: str) -> str:
        """Return a module's source."""
        if module not in self._text:
            package, *rest = module.split(".")
            path = self._homes[package].joinpath(*rest)
            path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            self._text[module] = path.read_text(encoding="utf-8")
        return self._text[module]


class Keys:
    """The ingredients of the notebooks under one root; what notebooks share is read once."""

    def __init__(self, root: Path, packages: Iterable[str] | None = None) -> None:
        self.root = root
        self.library = Library(FIRST_PARTY if packages is None else packages)

    @cached_property
    def claims(self) -> dict[str, Claim]:
        """The claims that the book declares, by id."""
        try:
            return load_all(self.root)
        except ClaimError as error:
            raise BookError(str(error)) from error

    @cached_property
    def _data(self) -> dict[str, Path]:
        folder = self.root / "data"
        return {
            path.relative_to(self.root).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix != ".md"  # a datasheet is named in messages
        }

    @cached_property
    def _environment(self) -> dict[str, str]:
        try:
            first = seeds(1)[0]
        except ValueError as error:
            raise BookError(f"{error}; run `unset BOOK_SEED`, or set it to one.") from error
        pins = self.root / "requirements.txt"
        return {
            "requirements.txt": sha(pins.read_bytes()) if pins.is_file() else "",
            "BOOK_SEED": str(first),
            "the Python version": f"{sys.version_info[0]}.{sys.version_info[1]}",
        }

    def ingredients(self, path: Path) -> dict[str, str]:
        """Return what the notebook's results depend on: {name: hash, or the value itself where it is short}.

        Raises:
            BookError: a notebook, a cell, a module or a `claims.yaml` cannot be read.
        """
        notebook = notebooks.read(path)
        cells = [
            (cell["source"], sorted(RUN_TAGS & set(notebooks.tags(cell))))
            for _, cell in notebooks.code_cells(notebook)
        ]
        names = set().union(*(imported_names(tree) for _, tree in notebooks.parsed(path, notebook)))
        code = "\n".join(source for source, _ in cells)
        found = {"its code cells": sha(json.dumps(cells))} | self._environment

        modules = sorted(self.library.followed(names))
        texts = [self.library.text(module) for module in modules]
        found |= {f"module {module}": sha(text) for module, text in zip(modules, texts, strict=True)}
        found |= {f"claim {id}": claim.key for id, claim in self.claims.items() if mentions(code, id)}
        everything = "\n".join([code, *texts])
        for name, file in self._data.items():
            if mentions(everything, file.name):
                found[name] = sha(file.read_bytes())
        if "BOOK_DATA" in everything:  # full-size data in place of the small set that comes with the book
            found["BOOK_DATA"] = os.environ.get("BOOK_DATA", "")
        return found


def key(ingredients: dict[str, str]) -> str:
    """Return the one hash that stands for all ingredients."""
    return sha(json.dumps(ingredients, sort_keys=True))


def changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Say which ingredients differ, one phrase each.

    >>> changes({"BOOK_SEED": "0", "module a": "x"}, {"BOOK_SEED": "1000", "module b": "y"})
    ['BOOK_SEED changed from 0 to 1000', 'module a is no longer used', 'module b is new']
    """
    said = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            said.append(f"{name} is new" if old is None else f"{name} is no longer used")
        elif old != new:
            short = len(old) < 64 and len(new) < 64
            said.append(
                f"{name} changed from {old or 'unset'} to {new or 'unset'}" if short else f"{name} changed"
            )
    return said
