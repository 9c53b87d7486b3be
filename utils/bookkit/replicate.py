"""Run the chapters under many values of `BOOK_SEED`, and say claim by claim how often it holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib

from bookkit import notebooks
from bookkit.notebooks import BookError
from bookkit.state import Book, read_json

PATIENCE = "30s"
"""How long to wait for a scheduler to answer."""

STEP = 1000
"""Between two values of `BOOK_SEED`, more than any claim uses seeds, so that no seed is used twice."""


@dataclass
class Tally:
    """How one claim fared.

    Attributes:
        held: seeds under which it came out as its rule and its `expect` say.
        failed: seeds under which it did not.
        missing: seeds under which it was not recorded, because of an error before it.
        means: the measured mean for each seed under which it was recorded.
    """

    held: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    means: dict[int, float] = field(default_factory=dict)

    def add(self, seed: int, result: dict[str, Any] | None) -> None:
        """Count one run; `result` is what `claims.record` wrote, None where it wrote nothing."""
        if result is None:
            self.missing.append(seed)
            return
        self.means[seed] = result["mean"]
        (self.failed if result["verdict"] == "failed" else self.held).append(seed)

    def __str__(self) -> str:
        """Say how often it held, with a 95 % interval (Wilson's), and where it did not."""
        from scipy.stats import binomtest

        judged = len(self.held) + len(self.failed)
        if not judged:
            return "never recorded"
        low, high = binomtest(len(self.held), judged).proportion_ci(method="wilson")
        said = f"holds {len(self.held)} of {judged} times (95 % interval {low:.0%} to {high:.0%})"
        for what, seeds in (("fails", self.failed), ("is not recorded", self.missing)):
            said += f"; {what} at BOOK_SEED = {', '.join(map(str, sorted(seeds)))}" if seeds else ""
        return said


def replicate(
    seeds: int,
    only: Iterable[Path | str] | None = None,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
) -> dict[str, Tally]:
    """Run chapters under `BOOK_SEED` = 0, 1000, 2000, …, each in `build/replicate/seed-<seed>/<chapter>/`.

    A chapter that is up to date under a seed is not run again. The tallies go to
    `build/replicate/report.json` as well.

    Args:
        seeds: under how many seeds.
        only: the chapters; all by default.
        jobs: how many to run at once on this machine; one for each core by default.
        scheduler: the address of a Dask scheduler to send them to instead; its workers need this repository
            and this environment under the same paths.

    Returns:
        A tally for each claim that the chapters name.

    Raises:
        BookError: `seeds` is below 1, there is no such chapter, or Dask is not installed or not reached.
    """
    if seeds < 1:
        raise BookError(f"seeds is {seeds}; expected a whole number, 1 or more")
    book = Book()
    sources = notebooks.find(book.root) if only is None else [book.find(name) for name in only]
    own = {source: book.state(source).own for source in sources}
    folder = book.build / "replicate"
    tasks = [(book.root, folder, source, seed * STEP) for seed in range(seeds) for source in sources]
    tallies = {id: Tally() for ids in own.values() for id in ids}
    with _backend(scheduler, jobs or joblib.cpu_count()):
        done = joblib.Parallel(return_as="generator_unordered")(
            joblib.delayed(run_one)(*task) for task in tasks
        )
        for count, (source, seed, results, complaint) in enumerate(done, 1):
            for id in own[source]:
                tallies[id].add(seed, results.get(id))
            said = "failed" if complaint else "ok"
            print(f"[{count}/{len(tasks)}] BOOK_SEED={seed} {notebooks.name(source)}: {said}", flush=True)
            if complaint:
                print(complaint, flush=True)
    report = {id: vars(tally) for id, tally in tallies.items()}
    notebooks.write_text(folder / "report.json", json.dumps(report, indent=1, sort_keys=True) + "\n")
    return tallies


def run_one(root: Path, folder: Path, source: Path, seed: int) -> tuple[Path, int, dict[str, Any], str]:
    """Run one chapter under one seed; returns (chapter, seed, results by claim, complaint or "")."""
    build = folder / f"seed-{seed}" / f"{source.parent.name}-{source.stem}"
    command = [sys.executable, "-m", "bookkit", "run", "--keep-going", "--jobs", "1", str(source)]
    env = os.environ | {"BOOK_SEED": str(seed), "BOOK_BUILD_DIR": str(build)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    results = {path.stem: read_json(path) for path in build.glob("results/*/*.json")}
    return source, seed, results, done.stderr.strip()


@contextmanager
def _backend(scheduler: str | None, jobs: int) -> Iterator[None]:
    """Let joblib run tasks here, in threads that wait for processes, or on a Dask cluster."""
    if scheduler is None:
        with joblib.parallel_config("threading", n_jobs=jobs):
            yield
        return
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise BookError('--scheduler needs Dask; run: pip install "dask[distributed]"') from error
    try:
        client = Client(scheduler, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        problem = f"no Dask scheduler answers at {scheduler} ({error}); start one with: dask scheduler"
        raise BookError(problem) from error
    with client, joblib.parallel_config("dask", wait_for_workers_timeout=60):
        yield
