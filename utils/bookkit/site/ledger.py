"""The ledger: every claim beside what was measured, for a part or the whole book.

The tables of the book as a whole can be sorted and filtered by the script beside this file, `table.js`, which
stands inside the pages that need it: no other page loads it. Without scripting they are plain tables.
"""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from bookkit import claims, notebooks, paths
from bookkit.claimcard import VERDICTS, measured
from bookkit.claimrule import summarize
from bookkit.site.html import Sorted, table
from bookkit.site.pages import book, download
from bookkit.site.records import PARTS, Record

LOG = logging.getLogger(__name__)
NO_BREAK = "\N{NO-BREAK SPACE}"
HEADER = ("Verdict", "Claim", "Paper", "Reported", "Measured", "n", "Control")
SCRIPT = Path(__file__).with_name("table.js")


class ClaimsDirective(SphinxDirective):
    """What the directives about claims share."""

    def records(self, part: str | None = None) -> list[Record]:
        """Return the records that can be shown; each of the others gets one warning.

        The page depends on everything that they were read from.
        """
        whole = book(self.env.app)
        for file in [*whole.root.glob("chapters/*/claims.yaml"), *filter(None, whole.copies.values())]:
            self.env.note_dependency(str(file))
        found = [record for record in whole.records if part in (None, record.claim.part)]
        for record in found:
            if record.trouble:
                message = f"claim {record.claim.id!r}: {record.trouble}"
                LOG.warning(message, location=entry(record), type="bookkit", subtype="claim", once=True)
        return [record for record in found if not record.trouble]

    def sortable(self, grid: nodes.table) -> list[nodes.Node]:
        """Return a table of class `bk-sortable` below the place of its form, and the script that fills it."""
        self.env.note_dependency(str(SCRIPT))
        place = f'<div class="bk-tools" id="{grid["ids"][0]}-tools"></div>'
        script = f"<script>\n{SCRIPT.read_text(encoding='utf-8')}</script>"
        return [nodes.raw("", place, format="html"), grid, nodes.raw("", script, format="html")]


class ClaimsLedger(ClaimsDirective):
    """`{claims-ledger}`: all claims, to sort and filter, and all of them as CSV and JSON."""

    def run(self) -> list[nodes.Node]:
        """Return a sentence with the downloads, then the table."""
        found = self.records()
        links = " and ".join(download(self.env.app, kind, file) for kind, file in write(found).items())
        result = self.parse_text_to_nodes(f"{count(found)} The whole table as {links}.")
        if not found:
            return result
        rows = []
        for record in found:
            verdict, *rest = cells(record)
            part = record.claim.part
            rows.append([verdict, f"[{PARTS.get(part, part)}]{{.bk-key}}", *rest])
        header = (HEADER[0], "Part", *HEADER[1:])
        caption = "All claims of the book, in the order of its parts"
        classes = ["bk-ledger", "bk-sortable"]
        grid = table(self, rows, header=header, name="ledger", caption=caption, classes=classes, stub=2)
        return [*result, *self.sortable(grid)]


class PartClaims(ClaimsDirective):
    """`{part-claims} merging`: the claims of one part."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Return the part's table."""
        part = self.arguments[0]
        found = self.records(part)
        rows = [cells(record) for record in found]
        caption = "What this part claims, and what came out"
        name, classes = f"claims-{part}", ["bk-ledger"]
        return [table(self, rows, header=HEADER, name=name, caption=caption, classes=classes, stub=1)]


class ClaimsSummary(ClaimsDirective):
    """`{claims-summary}`: how many claims the book has and how they came out, in a sentence."""

    def run(self) -> list[nodes.Node]:
        """Return the sentence."""
        return self.parse_text_to_nodes(count(self.records()))


def entry(record: Record) -> str:
    """Return where a claim is declared, as file and line."""
    file = record.claim.file
    lines = file.read_text(encoding="utf-8").splitlines()
    named = (i for i, line in enumerate(lines, 1) if line.split() == ["-", "id:", record.claim.id])
    return f"{file}:{next(named, 1)}"


def count(found: list[Record]) -> str:
    """Say how many claims there are and how they came out."""
    if not found:
        return "No claims yet."
    papers = {key for record in found for key in record.claim.paper}
    verdicts = [record.result["verdict"] for record in found]
    said = [f"{verdicts.count(key)} {word.lower()}" for key, word in VERDICTS.items() if key in verdicts]
    numbers = f"{len(found)} claim{'s' * (len(found) > 1)} of {len(papers)} paper{'s' * (len(papers) > 1)}"
    return f"{numbers}: {', '.join(said)}."


def cells(record: Record) -> list[str | Sorted]:
    """Return a record's row of the ledger, in MyST."""
    claim, result, place = record.claim, record.result, record.place
    control: str | Sorted = "–"
    if claim.control:
        control = f"{brief(result['control'], claim.control.accept)}\\\n{claim.control.measure}"
        control = Sorted(control, result["control"]["mean"])
    return [
        f"[{VERDICTS[result['verdict']]}]{{.bk-key .bk-verdict .bk-{result['verdict']}}}",
        f"{claim.statement}\\\n{{ref}}`{place.section or place.docname} <claim-{claim.id}>`",
        f"{{cite:t}}`{','.join(claim.paper)}`\\\n{claim.where}",
        f"{claim.reported['value']}\\\n{claim.reported['setting']}",
        Sorted(f"{brief(result, claim.accept)}\\\n{claim.measure}", result["mean"]),
        Sorted(str(result["n"]), result["n"]),
        control,
    ]


def brief(result: dict[str, Any], rule: claims.Rule | None) -> str:
    """Return what was measured without the explanation that the card gives: the ledger has a column for n."""
    text = measured(summarize(result["values"]), rule).partition(" (")[0]
    return re.sub(r" ?([×,]) ", lambda sign: sign[0].replace(" ", NO_BREAK), text)


def write(found: list[Record]) -> dict[str, Path]:
    """Write all records to the build folder; returns the files by kind."""
    files = {kind: paths.build_dir() / "site" / f"claims.{kind.lower()}" for kind in ("CSV", "JSON")}
    results = [record.result | {"page": record.place.docname} for record in found]
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, flat(results[0]) if results else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(flat, results))
    notebooks.write_text(files["CSV"], sheet.getvalue())
    notebooks.write_text(files["JSON"], json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return files


def flat(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result as a row of a flat table."""
    control = result["control"] or {}
    return (
        {name: result[name] for name in ("part", "id", "verdict", "statement")}
        | {"paper": " ".join(result["paper"]), "where": result["where"]}
        | {"reported": result["reported"]["value"], "setting": result["reported"]["setting"]}
        | {name: result[name] for name in ("measure", "n", "mean", "low", "high", "min", "max")}
        | {f"accept_{name}": result["accept"][name] for name in ("lower", "upper", "on")}
        | {f"control_{name}": control.get(name) for name in ("measure", "n", "mean", "low", "high")}
        | {name: result[name] for name in ("differs", "reason", "page")}
    )


def register(app: Sphinx) -> None:
    """Add the directives."""
    app.add_directive("claims-ledger", ClaimsLedger)
    app.add_directive("part-claims", PartClaims)
    app.add_directive("claims-summary", ClaimsSummary)
