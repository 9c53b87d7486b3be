"""Read the exercises of a notebook by the tags of its cells, and run one without running the chapter."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bookkit import notebooks
from bookkit.notebooks import BookError, Cell, Notebook

ROLES = ("exercise", "hint", "solution", "reference", "check")
CARD = re.compile(r"^(`{3,}|:{3,})\{exercise\}[ \t]*(?P<title>[^\n]*)\n(?P<body>.*?)^\1[ \t]*$", re.M | re.S)
LABEL = re.compile(r"^:label:[ \t]*(\S+)[ \t]*$", re.M)
GRADES = re.compile(r"^(?P<stars>★{1,3}) · (?P<minutes>\d+) min · trains: (?P<trains>\S.*)$", re.M)


@dataclass(frozen=True)
class Exercise:
    """One exercise, with the sources of its cells.

    Attributes:
        where: the notebook, as `<part>/<file>`.
        label: unique in the book; letters, digits, hyphens and underscores.
        title, stars, minutes, trains: what the card says.
        text: the body of the card, without its options and its line of grades.
        card, stub, hint, solution, reference, check: sources; `reference` is "" where there is no such cell.
        needs: the statements before it that it uses: imports, functions, classes, plain values.
        cells: the positions of its cells in the notebook, from 0, by role; card and stub are both `exercise`.
    """

    where: str
    label: str
    title: str
    stars: int
    minutes: int
    trains: str
    text: str
    card: str
    stub: str
    hint: str
    solution: str
    reference: str
    check: str
    needs: list[str]
    cells: dict[str, list[int]]


def exercises_of(path: Path) -> list[Exercise]:
    """Read the exercises of a notebook.

    Raises:
        BookError: an exercise lacks a part, has one too many, or its card is not written as it should be.
    """
    notebook, where = notebooks.read(path), notebooks.name(path)
    found = [_exercise(notebook, where, run) for run in list(_runs(notebook, where))]
    labels = [exercise.label for exercise in found]
    for label in labels:
        if labels.count(label) > 1:
            raise BookError(f"{where}: two exercises have the label {label}; give each its own.")
    return found


def perform(exercise: Exercise, answer: str, names: dict[str, Any] | None = None) -> str:
    """Run an exercise's check with an answer, and return what it prints.

    Args:
        exercise: from `exercises_of`.
        answer: the code of the answer, such as `exercise.stub` or `exercise.solution`.
        names: names to replace once the answer is defined, for tests.

    Raises:
        ExerciseNotSolved: the answer is not right.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for source in (*exercise.needs, answer, exercise.reference):
            exec(compile(source, f"<{exercise.label}>", "exec"), namespace)
        namespace |= names or {}
        exec(compile(exercise.check, f"<{exercise.label}: check>", "exec"), namespace)
    return printed.getvalue()


def _runs(notebook: Notebook, where: str) -> Iterator[list[tuple[int, str, Cell]]]:
    """Yield the cells of each exercise as (position from 0, role, cell)."""
    run: list[tuple[int, str, Cell]] = []
    for i, cell in enumerate(notebook["cells"]):
        role = next((role for role in ROLES if role in notebooks.tags(cell)), None)
        starts = role == "exercise" and cell["cell_type"] == "markdown"
        if run and (starts or role is None):
            yield run
            run = []
        if role and not run and not starts:
            raise BookError(
                f"{where}, cell {i + 1}: a cell tagged `{role}` belongs to no exercise; an exercise starts "
                "with a markdown cell tagged `exercise`, and no other cell stands between its cells."
            )
        run += [(i, role, cell)] if role else []
    if run:
        yield run


def _exercise(notebook: Notebook, where: str, run: Sequence[tuple[int, str, Cell]]) -> Exercise:
    card = run[0][2]["source"]
    place = f"{where}, cell {run[0][0] + 1}"
    match = CARD.search(card)
    label, grades = (LABEL.search(match["body"]), GRADES.search(match["body"])) if match else (None, None)
    if not match or not match["title"].strip() or not label or not grades:
        raise BookError(
            f"{place}: expected an exercise card: ````{{exercise}} Title, a line `:label: part-name`, and a "
            f"line `★★ · 15 min · trains: what it trains`; got {card[:80]!r}."
        )
    if not re.fullmatch(r"[a-zA-Z0-9_-]+", label[1]):
        raise BookError(f"{place}: the label {label[1]} may hold letters, digits, - and _ only.")
    sources = {role: [cell["source"] for _, r, cell in run if r == role] for role in ROLES}
    wanted = {
        "exercise": (2, 2, "a card and one stub"),
        "hint": (1, 9, "a hint"),
        "solution": (1, 9, "a solution"),
        "reference": (0, 1, "at most one reference"),
        "check": (1, 1, "one check"),
    }
    for role, (least, most, words) in wanted.items():
        if not least <= len(sources[role]) <= most:
            count = f"found {len(sources[role])} cells tagged `{role}`"
            raise BookError(f"{place}, exercise {label[1]}: expected {words}, {count}.")
    order = [role for _, role, _ in run]
    if order != sorted(order, key=ROLES.index):
        raise BookError(f"{place}, exercise {label[1]}: expected the order {', '.join(ROLES)}; got {order}.")
    used = [source for role in ROLES[2:] for source in sources[role]] + [sources["exercise"][1]]
    return Exercise(
        where=where,
        label=label[1],
        title=match["title"].strip(),
        stars=len(grades["stars"]),
        minutes=int(grades["minutes"]),
        trains=grades["trains"].strip(),
        text=GRADES.sub("", LABEL.sub("", match["body"])).strip(),
        card=card,
        stub=sources["exercise"][1],
        hint="\n\n".join(sources["hint"]),
        solution="\n\n\n".join(sources["solution"]),
        reference="".join(sources["reference"]),
        check=sources["check"][0],
        needs=_needs(notebook["cells"][: run[0][0]], "\n".join(used)),
        cells={role: [i for i, r, _ in run if r == role] for role in ROLES},
    )


def _needs(before: Sequence[Cell], source: str) -> list[str]:
    """Return the imports, functions, classes and plain values before an exercise that its code uses."""
    bound: list[tuple[set[str], ast.stmt]] = []
    for cell in before:
        if cell["cell_type"] == "code" and not set(ROLES) & set(notebooks.tags(cell)):
            bound += [
                (names, node) for node in notebooks.parse(cell["source"]).body if (names := _binds(node))
            ]
    needed = _names(notebooks.parse(source))
    while True:
        more = set().union(*(_names(node) for names, node in bound if names & needed)) - needed
        if not more:
            break
        needed |= more
    return [ast.unparse(node) for names, node in bound if names & needed]


def _binds(node: ast.stmt) -> set[str]:
    """Return the names that a statement binds, if an exercise may use them without running the chapter."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        try:
            ast.literal_eval(node.value)
        except (ValueError, TypeError):
            return set()
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return set()


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
