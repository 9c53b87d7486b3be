"""The student edition: the chapters without their solutions, ready for JupyterLab and for nbgrader."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from bookkit import notebooks
from bookkit.exercises import pack
from bookkit.notebooks import BookError, Cell, Notebook

from .cells import Exercise, exercises_of
from .files import archive, chapters, fresh, place

PACKED = """\
# What the check below compares your answer with, packed so that it does not give the answer away.
from bookkit import exercises

exec(exercises.unpack("{}"))"""


def student(root: Path) -> Path:
    """Write `build/student/`: each chapter without solutions, one zip a part, and a README.

    A copy differs from its chapter in what is tagged: cells tagged `solution` are left out, those tagged
    `reference` packed, and stub, reference and check bear nbgrader's metadata. There are no outputs.

    Returns:
        The folder.

    Raises:
        BookError: there are no chapters, or an exercise is not laid out as it should be.
    """
    sources = chapters(root)
    exercises = {source: exercises_of(source) for source in sources}
    _unique([exercise for found in exercises.values() for exercise in found])
    with fresh(root, "student") as folder:
        readme = folder / "README.md"
        notebooks.write_text(readme, _readme(Path(root), exercises))
        for source in sources:
            target = folder / source.parent.name / source.name
            notebooks.write(target, for_students(notebooks.read(source), exercises[source]))
        for part in sorted({source.parent.name for source in sources}):
            files = [*(folder / part).iterdir(), readme]
            archive(folder / f"{part}.zip", files, folder)
    return place(root, "student")


def for_students(notebook: Notebook, exercises: list[Exercise]) -> Notebook:
    """Return a copy of a notebook for students; see `student`."""
    notebook = copy.deepcopy(notebook)
    cells: list[Cell] = notebook["cells"]
    for exercise in exercises:
        stub, check = cells[exercise.cells["exercise"][1]], cells[exercise.cells["check"][0]]
        _grading(stub, exercise.label, solution=True)
        _grading(check, f"{exercise.label}-check", locked=True, points=exercise.stars)
        for i in exercise.cells["reference"]:
            cells[i]["source"] = PACKED.format(pack(cells[i]["source"]))
            _grading(cells[i], f"{exercise.label}-reference", locked=True)
    for cell in cells:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    notebook["cells"] = [cell for cell in cells if "solution" not in notebooks.tags(cell)]
    return notebook


def _grading(
    cell: Cell, grade_id: str, *, solution: bool = False, locked: bool = False, points: int | None = None
) -> None:
    """Mark a cell for nbgrader (its metadata schema, version 3): one that has points is a test."""
    marks: dict[str, Any] = {
        "schema_version": 3,
        "grade_id": grade_id,
        "grade": points is not None,
        "locked": locked,
        "solution": solution,
        "task": False,
    }
    cell["metadata"]["nbgrader"] = marks if points is None else marks | {"points": points}


def _unique(exercises: list[Exercise]) -> None:
    seen: dict[str, str] = {}
    for exercise in exercises:
        if exercise.label in seen:
            raise BookError(
                f"{exercise.where}: the exercise label {exercise.label} is taken by {seen[exercise.label]}; "
                "labels are unique in the book."
            )
        seen[exercise.label] = exercise.where


def _readme(root: Path, exercises: dict[Path, list[Exercise]]) -> str:
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8")) or {}
    url = (config.get("repository") or {}).get("url")
    source = f"git+{url}" if url else "<folder or address of the book's repository>"
    rows = []
    for path, found in exercises.items():
        minutes, points = sum(e.minutes for e in found), sum(e.stars for e in found)
        rows.append(f"| {notebooks.name(path)} | {len(found)} | {minutes} | {points} |")
    return README.format(title=config.get("title", "The book"), source=source, rows="\n".join(rows))


README = """\
# {title}: student edition

The chapters with their exercises, without the solutions. Install the library that they import, then open a
notebook:

    pip install "layer-by-layer[lab] @ {source}"
    jupyter lab

Each exercise is a card, a cell to fill in, a folded hint and a check. Write your answer in place of
`raise NotImplementedError`, run that cell, then the check: it says what is wrong, or what it tried and found
right. A check goes on after a wrong answer, so "Run all" works at any time. The cells before the exercises
that import and define things have to be run first.

| notebook | exercises | minutes | points |
| --- | --- | --- | --- |
{rows}

## For teachers

The notebooks carry nbgrader's metadata: the cell to fill in is an answer, the check a locked test worth as
many points as the exercise has stars. To hand them out through nbgrader, copy a part's folder to the
course's `source/` and keep the cells as they are:

    cp -r <part> <course>/source/
    nbgrader generate_assignment <part> --create --ClearSolutions.enabled=False

(By default nbgrader replaces the whole cell to fill in, and the name of the function would be lost.) The
library has to be installed where nbgrader grades. While it does, a check that is not passed raises an error,
as nbgrader expects.
"""
