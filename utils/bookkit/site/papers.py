"""The map of papers: every paper of data/papers.csv with its state in the book."""

import csv
from collections import defaultdict
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

from bookkit.site.html import Sorted, table
from bookkit.site.ledger import ClaimsDirective
from bookkit.site.records import PARTS, Place, Record, part_order

LOG = logging.getLogger(__name__)
STATES = {
    "claim": "with a running claim",
    "cited": "cited",
    "planned": "planned",
    "not-on-a-laptop": "beyond a laptop",
}
"""The values of the column `status`, and how the page's first sentence counts them."""

Row = dict[str, str]


class PaperMap(ClaimsDirective):
    """`{paper-map}`: the papers, to sort and filter, and how many are in which state."""

    def run(self) -> list[nodes.Node]:
        """Return the counts, then the table."""
        file = papers_file(self.env)
        self.env.bookkit_paper_map = self.env.docname
        self.env.note_dependency(str(file))
        rows = read(file)
        running = defaultdict(list)
        for record in self.records():
            for key in record.claim.paper:
                running[key].append(record)
        for row in rows:
            if (row["status"] == "claim") != bool(running.get(row["key"])):
                self.warn(row, "is" if running.get(row["key"]) else "is not")
        tally = [row["status"] for row in rows]
        said = ", ".join(f"{tally.count(state)} {words}" for state, words in STATES.items())
        result = self.parse_text_to_nodes(f"{len(rows)} papers: {said}.")
        cells = [
            [
                Sorted(row["id"], int(row["id"])),
                paper(row),
                f"[{PARTS.get(row['part'], row['part'])}]{{.bk-key}}",
                state(row, running[row["key"]]),
            ]
            for row in rows
        ]
        header = ("No.", "Paper", "Part", "State in this book")
        caption = "All papers, in the order of the book's parts"
        classes = ["bk-papers", "bk-sortable"]
        grid = table(self, cells, header=header, name="papers", caption=caption, classes=classes, stub=1)
        (body,) = grid.findall(nodes.tbody)
        seen: set[str] = set()
        for part, line in zip((row["part"] for row in rows), body.children, strict=True):
            if part not in seen:
                seen.add(part)
                line["ids"].append(anchor(part))
                # known to references: {ref}`text <papers-merging>`
                self.env.get_domain("std").anonlabels[anchor(part)] = (self.env.docname, anchor(part))
        return [*result, *self.sortable(grid)]

    def warn(self, row: Row, verb: str) -> None:
        """Warn that a row's status contradicts the claims."""
        LOG.warning(
            f"data/papers.csv, paper {row['id']}: its status is {row['status']!r}, but it {verb} the paper "
            "of a claim that was recorded; correct the status, or the claim's `paper`",
            location=self.get_location(),
            type="bookkit",
            subtype="papers",
        )


def anchor(part: str) -> str:
    """Return the id of a part's first row on the page."""
    return f"papers-{part}"


def papers_file(env: BuildEnvironment) -> Path:
    """Return where the catalogue lies."""
    return Path(env.srcdir) / "data" / "papers.csv"


def read(file: Path) -> list[Row]:
    """Read the catalogue, in the order of the parts and then of its ids.

    Raises:
        ValueError: a row's status is unknown, or it has a reason without being out of reach or the reverse.
    """
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        what = f"{file}: paper {row['id']}"
        if row["status"] not in STATES:
            raise ValueError(f"{what} has status {row['status']!r}; expected one of {', '.join(STATES)}")
        if bool(row["why"]) != (row["status"] == "not-on-a-laptop"):
            raise ValueError(f"{what} is {row['status']!r}; `why` goes with 'not-on-a-laptop' alone")
    return sorted(rows, key=lambda row: (part_order(row["part"]), int(row["id"])))


def paper(row: Row) -> str:
    """Return a paper's cell: the title, and the reference where the book cites it."""
    title = row["title"].replace("$", r"\$").replace("*", r"\*").replace("_", r"\_").replace("[", r"\[")
    return f"{title}, {{cite:t}}`{row['key']}`" if row["key"] else title


def state(row: Row, records: list[Record]) -> str:
    """Return a paper's state, with a link to the first of its claims in each section."""
    if records:
        first: dict[Place, str] = {}  # a section may record several claims of a paper
        for record in records:
            first.setdefault(record.place, record.claim.id)
        links = (f"{{ref}}`{place.section} <claim-{id}>`" for place, id in first.items())
        return f"[Running claim]{{.bk-key}}: {', '.join(links)}"
    return {"cited": "[Cited]{.bk-key}", "planned": "[Planned]{.bk-key}"}.get(
        row["status"], f"[Beyond a laptop]{{.bk-key}}: {row['why']}"
    )


def check_cited(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of papers that are marked as cited, while no page but the map itself cites them."""
    page = getattr(env, "bookkit_paper_map", None)
    if page is None:
        return
    elsewhere = [reference for reference in env.get_domain("cite").citation_refs if reference.docname != page]
    cited = {target.key for reference in elsewhere for target in reference.targets}
    for row in read(papers_file(env)):
        if row["status"] == "cited" and row["key"] not in cited:
            LOG.warning(
                f"data/papers.csv, paper {row['id']}: its status is 'cited', but no page cites "
                f"{row['key']!r}; cite it, or set its status to planned",
                location=page,
                type="bookkit",
                subtype="papers",
            )


def register(app: Sphinx) -> None:
    """Add the directive and its check."""
    app.add_directive("paper-map", PaperMap)
    app.connect("env-check-consistency", check_cited)
