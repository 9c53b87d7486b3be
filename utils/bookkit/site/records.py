"""The book's claims with what was measured for each, and where on which page it was recorded."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bookkit import claims, notebooks, paths, stage

PARTS = {
    "merging": "Merging",
    "pruning": "Pruning",
    "quantization": "Quantization",
    "inr": "Implicit neural representations",
    "equivariance": "Equivariance",
    "layers": "Layers and architectures",
    "theory": "Theory",
    "scientific": "Scientific computing",
    "interpretability": "Interpretability",
    "transfer": "Transfer and adaptation",
    "generative": "Generative models",
    "graphs-sequences": "Graphs and sequences",
    "other": "Other",
}
"""The parts in the book's order, with their titles: the five of the book, then those of the map of papers."""


@dataclass(frozen=True)
class Place:
    """Where a claim is recorded: the page, and the heading above the cell."""

    docname: str
    section: str


@dataclass(frozen=True)
class Record:
    """A claim, the file of its result, the result and its place; None where there is none."""

    claim: claims.Claim
    file: Path
    result: dict[str, Any] | None
    place: Place | None

    @property
    def trouble(self) -> str | None:
        """Why the claim cannot be shown, and what to do; None where it can."""
        if self.result is None or self.place is None:
            return "no notebook records this claim; record it with claims.record, or delete the entry"
        if self.result["claim_key"] != self.claim.key:
            return "its result is older than this entry; run `make book`"
        return None


class Book:
    """The chapters as they were executed, and what they recorded; read once a build.

    Args:
        root: the folder that holds `_config.yml`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def copies(self) -> dict[str, Path | None]:
        """Each chapter's executed copy, by the name of its page; None where it is not up to date."""
        names = {path: path.relative_to(self.root).with_suffix("") for path in notebooks.find(self.root)}
        return {name.as_posix(): stage.executed(path) for path, name in names.items()}

    @cached_property
    def records(self) -> list[Record]:
        """The claims in the order of the parts and, within a part, of its claims.yaml."""
        places: dict[str, Place] = {}
        for docname, copy in self.copies.items():
            cells = notebooks.read(copy)["cells"] if copy else []
            places |= {id: Place(docname, heading_above(cells, index)) for index, id in recorded(cells)}
        found = []
        for claim in claims.load_all(self.root).values():
            file = paths.build_dir() / "results" / claim.part / f"{claim.id}.json"
            result = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
            found.append(Record(claim, file, result, places.get(claim.id)))
        return sorted(found, key=lambda record: part_order(record.claim.part))


def part_order(part: str) -> tuple[int, str]:
    """Sort key of a part: the book's order, and after it whatever is not in it."""
    return (list(PARTS).index(part) if part in PARTS else len(PARTS), part)


def recorded(cells: list[notebooks.Cell]) -> Iterator[tuple[int, str]]:
    """Yield the index of each cell that shows a claim's card, and the claim's id."""
    for index, cell in enumerate(cells):
        for output in cell.get("outputs", []):
            card = "".join(output.get("data", {}).get("text/markdown", ""))
            for id in re.findall(r"^:name: claim-(\S+)$", card, flags=re.MULTILINE):
                yield index, id


def heading_above(cells: list[notebooks.Cell], index: int) -> str:
    r"""Return the last heading in the Markdown cells above a cell, or "".

    >>> heading_above([{"cell_type": "markdown", "source": "# A\n## B\n```\n# no\n```"}, {}], 1)
    'B'
    """
    above = "\n".join(cell["source"] for cell in cells[:index] if cell["cell_type"] == "markdown")
    prose = re.sub(r"^(`{3,}).*?^\1`*$", "", above, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#{1,6} +(.+?) *$", prose, flags=re.MULTILINE)
    return headings[-1] if headings else ""
