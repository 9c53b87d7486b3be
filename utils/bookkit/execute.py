"""Execute copies of notebooks with `pytest --nbmake`, several at once, and say what went wrong in them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from bookkit import notebooks
from bookkit.notebooks import Notebook

CELL_TIMEOUT = 900
"""Seconds that one cell may take: a chapter takes a minute or two, on a slow machine several times that."""

# Notebooks run side by side, and threads that compete for a core make each other several times slower.
# Torch goes by the first.
ONE_THREAD = {
    f"{library}_NUM_THREADS": "1"
    for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM", "BLIS")
}


def environment(build: Path) -> dict[str, str]:
    """Return the environment in which notebooks run: the caller's, less what could change results."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV"))}
    ours = {
        "BOOK_STATIC": "1",
        "BOOK_BUILD_DIR": str(build),
        "PYTHONHASHSEED": "0",  # the order of sets of strings
        "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, not one called alike at home
        "TQDM_DISABLE": "1",  # a progress bar is nothing to read on a page
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # the debugger's warning is no output of the notebook
    }
    return inherited | ONE_THREAD | ours


def execute(copies: list[Path], folder: Path, jobs: int) -> Iterator[tuple[Path, bool, float, str]]:
    """Execute notebooks in place; yields (notebook, ok, seconds, error) as each is done.

    Args:
        copies: the notebooks, below `folder`; the first are started first.
        folder: where pytest runs.
        jobs: how many run at once.
    """
    workers = min(jobs, len(copies))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pytest.ini").write_text("[pytest]\n")  # so that pytest looks for no settings above
    options = ["--nbmake", "--overwrite", f"--nbmake-timeout={CELL_TIMEOUT}", "--dist=worksteal"]
    options += [f"--numprocesses={workers if workers > 1 else 0}"]
    options += ["-q", "--no-header", "--no-summary", "--tb=no", "--capture=no"]
    options += ["-p", "bookkit.nbevents", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *(str(copy.relative_to(folder)) for copy in copies)]
    waiting = {copy.relative_to(folder).as_posix(): copy for copy in copies}
    with (
        (folder / "log.txt").open("w") as log,
        subprocess.Popen(
            command, cwd=folder, env=environment(folder.parent), stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            for line in process.stdout:
                event = json.loads(line) if line.startswith("{") else {}
                if event.get("notebook") in waiting:
                    yield waiting.pop(event["notebook"]), event["ok"], event["seconds"], event["error"]
        finally:
            process.terminate()
    for copy in waiting.values():
        last = "\n".join((folder / "log.txt").read_text().splitlines()[-5:])
        yield copy, False, 0.0, f"pytest ended with status {process.returncode} and did not run it\n{last}"


def seconds_by_cell(executed: Notebook) -> dict[str, float]:
    """Return how long each code cell took, by the cell's id."""
    spent = {}
    for _, cell in notebooks.code_cells(executed):
        times = cell["metadata"].get("execution", {})
        if {"iopub.execute_input", "shell.execute_reply"} <= times.keys():
            start, end = (
                datetime.fromisoformat(times[name]) for name in ("iopub.execute_input", "shell.execute_reply")
            )
            spent[cell.get("id", "")] = round((end - start).total_seconds(), 3)
    return spent


def complaint(source: Path, copy: Path, error: str) -> str:
    """Say which cell of a notebook failed, with what, and what to do.

    Args:
        source: the notebook, for the messages.
        copy: its executed copy, which holds the error.
        error: what pytest reports, for what leaves no trace in the copy: a time-out, a kernel that died.
    """
    failed = notebooks.errors(notebooks.read(copy))
    timeout = re.search(r"A cell timed out.*", error)
    where = "a cell"
    # what pytest says of a kernel that died ends where nbmake's own traceback begins
    what = re.split(r"\n\s+File ", re.sub(r"\[gw\d+\].*\n|NBMAKE INTERNAL ERROR", "", error))[0]
    what = what if what.strip() else "it was stopped from outside"
    if failed:
        position, cell, output = failed[0]
        first = next((line.strip() for line in cell["source"].splitlines() if line.strip()), "")
        where = f"cell {position}, In [{cell.get('execution_count') or ' '}], which begins `{first}`"
        what = timeout[0] if timeout else f"{output['ename']}: {output['evalue']}"
    lines = re.sub(r"\x1b\[[0-9;]*m", "", what).strip().splitlines()
    shown = [*lines[:12], *(["…"] if len(lines) > 12 else [])]
    return "\n".join(
        [
            f"{notebooks.name(source)} failed in {where}:",
            *(f"    {line}" for line in shown),
            f"  What it showed until then: {notebooks.short(copy)}",
            f"  Mend {notebooks.short(source)}, then run: python -m bookkit run {notebooks.name(source)}",
        ]
    )
