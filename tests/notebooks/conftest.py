"""Chapters executed by tests: as they are, or with something broken in them."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError

from bookkit import execute, notebooks, paths

# A claim that failed is written down; the next one of the same cell has its turn.
GO_ON = """
from contextlib import suppress

def record(*values, honest=claims.record, **control):
    with suppress(claims.ClaimFailed):
        return honest(*values, **control)

claims.record = record

"""


@pytest.fixture(scope="session")
def executed() -> Callable[..., nbformat.NotebookNode]:
    """Execute a notebook in a folder; return it with its outputs.

    On a busy machine a message from the kernel is lost now and then, and the client waits for ever: a cell
    that takes longer than any should is given a second kernel.
    """

    def run(notebook: Mapping, folder: Path, env: Mapping[str, str], *, allow_errors: bool = False):
        options = {"timeout": 240, "allow_errors": allow_errors}
        for last in (False, True):
            copy = nbformat.from_dict(notebook)
            client = NotebookClient(copy, resources={"metadata": {"path": str(folder)}}, **options)
            try:
                client.execute(env=dict(env))
            except CellTimeoutError:
                if last:
                    raise
            else:
                return copy

    return run


@pytest.fixture
def claims_that_hold(tmp_path, executed) -> Callable[..., set[str]]:
    """Run a chapter with a cell put in behind its parameters; return the ids of the claims that hold.

    `judged` are ids that the run has to come to: a claim whose cell raised before it was recorded does not
    hold either, and that says nothing about the claim. So a test of what a broken chapter is caught by gives
    the claims that it expects to fail.
    """

    def run(chapter: str, cell: str, judged: Collection[str] = ()) -> set[str]:
        path = paths.root() / "chapters" / f"{chapter}.ipynb"
        notebook = notebooks.read(path)
        sizes = next(i for i, c in enumerate(notebook["cells"]) if "parameters" in notebooks.tags(c))
        notebook["cells"].insert(sizes + 1, nbformat.v4.new_code_cell(GO_ON + cell))
        done = executed(notebook, path.parent, execute.environment(tmp_path), allow_errors=True)
        results = [json.loads(file.read_text()) for file in (tmp_path / "results").glob("*/*.json")]
        missing = sorted(set(judged) - {result["id"] for result in results})
        if missing:
            pytest.fail("never recorded: " + ", ".join(missing) + "".join(_raised(done)), pytrace=False)
        return {result["id"] for result in results if result["verdict"] == "reproduced"}

    return run


def _raised(notebook: Mapping) -> Iterator[str]:
    """A line for each cell that raised something other than that a claim failed."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if output["output_type"] == "error" and output["ename"] != "ClaimFailed":
                start = next((line for line in cell["source"].splitlines() if line.strip()), "")
                yield f"\n  {output['ename']}: {output['evalue'][:200]}  in the cell that begins: {start}"
