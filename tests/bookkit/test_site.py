"""The Sphinx extension, on a book of a few pages that is built in a second."""

import csv
import io
import json
import os
import re
import time
from contextlib import redirect_stderr
from pathlib import Path

import lxml.html
import pytest
from jupyter_book.sphinx import build_sphinx
from sphinx.util.console import strip_colors

from bookkit import claimcard, claims, stage
from bookkit.site import ledger, pages, papers, records

CLAIMS = """\
- id: matching-helps
  paper: [ainsworth2023git, li2016convergent]
  where: Figure 2
  statement: Matching lowers the barrier $B$.
  reported: {value: about 0, setting: MNIST}
  measure: ratio of barriers
  accept: {upper: 0.5}
  control: {measure: random permutation, accept: {lower: 0.5}}
- id: same-function
  paper: ainsworth2023git
  where: Section 3
  statement: Reordering changes nothing.
  reported: {value: equal, setting: any}
  measure: largest difference
  accept: {upper: 1e-10, on: every}
"""
PAPERS = """\
id,key,title,first_author,year,venue,part,tier,status,why
92,ainsworth2023git,Git Re-Basin,Samuel K. Ainsworth,2023,ICLR,merging,1,claim,
7,,A $5 * question_,,,,theory,2,planned,
133,li2016convergent,Convergent Learning,Yixuan Li,2016,ICLR,merging,1,claim,
5,kuhn1955hungarian,The Hungarian method,Harold W. Kuhn,1955,NRL,other,4,cited,
8,,Brains,,,,other,4,not-on-a-laptop,Needs recordings.
"""
BIB = """\
@misc{ainsworth2023git, author = {Ainsworth, Samuel K.}, title = {Git Re-Basin}, year = {2023}}
@misc{li2016convergent, author = {Li, Yixuan}, title = {Convergent Learning}, year = {2016}}
@misc{kuhn1955hungarian, author = {Kuhn, Harold W.}, title = {The Hungarian method}, year = {1955}}
"""
INDEX = """\
# Book

```{claims-summary}
```

Assignment {cite:p}`kuhn1955hungarian`.

"""
EXERCISES = """\
```{exercise} One
:label: ex-one

Do it.
```

```{exercise} Two
:label: ex-two

Do it again.
```
"""
TOC = """\
format: jb-book
root: index
chapters:
  - file: chapters/merging/index
  - file: chapters/merging/02_matching
  - file: book/results
  - file: book/papers
  - file: book/references
"""
BOOK = Path(__file__).resolve().parents[2]
FILES = {
    "_config.yml": (BOOK / "_config.yml").read_text(encoding="utf-8"),
    "_toc.yml": TOC,
    "index.md": INDEX,
    "book/references.bib": BIB,
    "book/references.md": "# References\n\n```{bibliography}\n```\n",
    "book/results.md": "# Results\n\n```{claims-ledger}\n```\n",
    "book/papers.md": "# Papers\n\n```{paper-map}\n```\n",
    "chapters/merging/index.md": "# Merging\n\n```{part-claims} merging\n```\n",
    "data/papers.csv": PAPERS,
    "chapters/merging/claims.yaml": CLAIMS,
}
RUN = {
    "seed": 0,
    "seconds": 48.2,
    "commit": "0123456789abcdef",
    "dirty": False,
    "finished": "2026-01-02T03:04:05+00:00",
    "versions": {"python": "3.11.7", "torch": "2.9"},
}


def cell(kind, source, *outputs):
    """A notebook's cell."""
    base = {"cell_type": kind, "id": f"c{abs(hash(source)) % 10**8}", "metadata": {}, "source": source}
    return base | ({"outputs": list(outputs), "execution_count": None} if kind == "code" else {})


def shown(data):
    """An output that a cell displays."""
    return {"output_type": "display_data", "data": data, "metadata": {}}


def save(path, cells):
    """Write a notebook."""
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


class Tiny:
    """A small book: write files, build, read pages."""

    def __init__(self, root, monkeypatch):
        self.root = root
        self.source = root / "chapters/merging/02_matching.ipynb"
        self.copy = root / "build/notebooks/merging/02_matching.ipynb"
        for name, text in FILES.items():
            self.write(name, text)
        (root / "book/_static").symlink_to(BOOK / "book/_static")
        monkeypatch.chdir(root)
        monkeypatch.setenv("BOOK_NO_EXECUTE", "1")
        monkeypatch.delenv("BOOK_BUILD_DIR", raising=False)
        monkeypatch.delenv("BOOK_STATIC", raising=False)
        monkeypatch.setattr(stage, "executed", lambda path: self.copy if self.copy.exists() else None)
        matched = claims.record("matching-helps", [0.1, 0.12, 0.11, 0.09, 0.1], control=[1, 0.9, 1, 1, 1])
        exact = claims.record("same-function", [1e-16])
        figure = (
            '<figure class="bk-figure" id="fig-line"><svg role="img" aria-label="A line."></svg></figure>'
        )
        self.cells = [
            cell("markdown", "# Matching\n\nOne question."),
            cell("markdown", "## The symmetry\n\n```python\n# no heading\n```"),
            cell("code", "exact", shown({"text/markdown": self.card(exact)})),
            cell("markdown", "## The experiment\n\nSee {ref}`the line <fig-line>` and [it](#fig-line)."),
            cell("code", "fig", shown({"text/html": figure, "image/png": "iVBORw0KGgo="})),
            cell("code", "matched", shown({"text/markdown": self.card(matched)})),
            cell("markdown", "## Exercises\n\n" + EXERCISES),
        ]
        self.execute(self.cells)

    def card(self, result):
        """The card of a static page, as a list of lines, which is how Jupyter stores it."""
        path = f"/build/results/merging/{result.claim.id}.json"
        return claimcard.myst(result, path).splitlines(keepends=True)

    def write(self, name, text):
        """Write a file of the book."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def execute(self, cells, **run):
        """Write the chapter, its executed copy and the manifest."""
        save(self.source, [{**each, "outputs": []} if "outputs" in each else each for each in cells])
        save(self.copy, cells)
        self.copy.with_suffix(".json").write_text(json.dumps(RUN | run))

    def build(self):
        """Build with the book's own configuration as `jupyter-book build . -n -W --keep-going` does.

        Returns the exit status, or the exception that ended the build, and the warnings.
        """
        toc = {"external_toc_path": str(self.root / "_toc.yml"), "latex_individualpages": False}
        with redirect_stderr(io.StringIO()) as warnings:
            status = build_sphinx(
                self.root,
                self.root / "_build/html",
                path_config=self.root / "_config.yml",
                noconfig=True,
                confoverrides=toc | {"nitpicky": True},
                warningiserror=True,
                keep_going=True,
                quiet=True,
            )
        return status, strip_colors(warnings.getvalue())

    def page(self, name):
        """A built page."""
        return lxml.html.parse(self.root / "_build/html" / f"{name}.html").getroot()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    return Tiny(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Makes books that the tests of this module share."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield lambda: Tiny(tmp_path_factory.mktemp("book"), monkeypatch)


@pytest.fixture(scope="module")
def good(shared):
    """A book with nothing wrong in it, and its built pages."""
    book = shared()
    book.outcome = book.build()
    return book


def text(node):
    """What a reader sees of a node."""
    return " ".join(node.text_content().split())


def test_a_sound_book_builds_without_a_warning(good):
    assert good.outcome == (0, "")


def test_the_line_below_the_title(good):
    page = good.page("chapters/merging/02_matching")
    (badges,) = page.xpath("//article//h1/following-sibling::*[1][contains(@class, 'bk-badges')]")
    said = [text(item) for item in badges.xpath(".//li")]
    assert said[:3] == ["Open in Colab", "Download the notebook", "Runs in 48 s on one core"]
    assert said[3] == "Tests claims of Ainsworth [2023], Li [2016]"
    colab, notebook = badges.xpath(".//a/@href")[:2]
    home = "https://colab.research.google.com/github/layer-by-layer-book/layer-by-layer/blob/main/"
    assert colab == home + "chapters/merging/02_matching.ipynb"
    downloaded = good.root / "_build/html/chapters/merging" / notebook
    assert downloaded.read_bytes() == good.source.read_bytes()


def test_provenance_names_run_commit_versions_and_results(good):
    (table,) = good.page("chapters/merging/02_matching").xpath("//table[@id = 'provenance']")
    facts = {text(row[0]): text(row[1]) for row in table.xpath(".//tr")}
    assert facts == {
        "Run": "2026-01-02 03:04 UTC, 48 s on one core",
        "Source": "commit 0123456789",
        "Seeds": "BOOK_SEED = 0; a claim with n values counts its seeds up from there",
        "Versions": "python 3.11.7, torch 2.9",
        "Results": "matching-helps, same-function",
    }
    assert table.xpath("count(.//th[@scope = 'row'])") == 5
    (link,) = table.xpath(".//a[contains(@href, 'commit')]/@href")
    assert link == "https://github.com/layer-by-layer-book/layer-by-layer/commit/0123456789abcdef"


def test_references_of_a_page_are_what_it_cites(good):
    page = good.page("chapters/merging/02_matching")
    listed = page.xpath("//section[@id = 'references']//div[@class = 'citation']")
    assert [text(entry.xpath("p")[0]).partition(".")[0] for entry in listed] == ["Samuel K", "Yixuan Li"]
    links = page.xpath("//div[contains(@class, 'bk-badges')]//a[@title]/@href")
    assert links == [f"#{entry.get('id')}" for entry in listed]


def test_pages_without_references_cite_from_the_page_of_references(good):
    cited = good.page("book/results").xpath("//td//a[@title]/@href")
    assert cited
    assert all(href.startswith("references.html#") for href in cited)


def test_ledger_says_what_was_claimed_and_measured(good):
    page = good.page("book/results")
    (table,) = page.xpath("//section[@id = 'merging']//table[contains(@class, 'bk-ledger')]")
    assert text(table.xpath("caption")[0]).startswith("The claims of the part Merging")
    assert [text(th) for th in table.xpath("thead//th[@scope = 'col']")] == list(ledger.HEADER)
    matched, exact = ([text(cell) for cell in row] for row in table.xpath("tbody/tr"))
    assert matched == [
        "Reproduced",
        r"Matching lowers the barrier \(B\). The experiment",
        "Ainsworth [2023], Li [2016] Figure 2",
        "about 0 MNIST",
        "0.104 [0.090, 0.118] ratio of barriers",
        "5",
        "0.980 [0.924, 1.036] random permutation",
    ]
    assert exact[1] == "Reordering changes nothing. The symmetry"
    assert exact[4:] == ["1.00 × 10⁻¹⁶ largest difference", "1", "–"]


def test_the_opener_of_a_part_shows_its_claims(good):
    (table,) = good.page("chapters/merging/index").xpath("//table[contains(@class, 'bk-ledger')]")
    assert [text(row[0]) for row in table.xpath("tbody/tr")] == ["Reproduced", "Reproduced"]
    assert table.xpath("tbody/tr/th//a/@href")[0] == "02_matching.html#claim-matching-helps"


def test_ledger_leads_to_the_card(good):
    link = good.page("book/results").xpath("//tbody/tr[1]/th//a/@href")[0]
    assert link == "../chapters/merging/02_matching.html#claim-matching-helps"
    (card,) = good.page("chapters/merging/02_matching").xpath("//*[@id = 'claim-matching-helps']")
    assert "claim-reproduced" in card.get("class")


def test_ledger_can_be_downloaded(good):
    links = good.page("book/results").xpath("//article//a[contains(@class, 'download')]/@href")
    sheet, whole = ((good.root / "_build/html/book" / link).read_text(encoding="utf-8") for link in links)
    rows = list(csv.DictReader(io.StringIO(sheet)))
    assert [row["id"] for row in rows] == ["matching-helps", "same-function"]
    assert float(rows[0]["mean"]) == pytest.approx(0.104)
    assert float(rows[0]["control_mean"]) == pytest.approx(0.98)
    assert (rows[0]["accept_upper"], rows[1]["control_mean"]) == ("0.5", "")
    assert rows[0]["page"] == "chapters/merging/02_matching"
    assert [entry["values"] for entry in json.loads(whole)] == [[0.1, 0.12, 0.11, 0.09, 0.1], [1e-16]]


def test_summary_counts(good):
    assert "2 claims of 2 papers: 2 reproduced." in text(good.page("index"))


def test_map_shows_every_paper_with_its_state(good):
    page = good.page("book/papers")
    assert "5 papers: 2 with a running claim, 1 cited, 1 planned, 1 beyond a laptop." in text(page)
    rows = {text(row[0]): [text(cell) for cell in row[1:]] for row in page.xpath("//tbody/tr")}
    assert rows == {
        "92": ["Git Re-Basin, Ainsworth [2023]", "Running claim: The experiment, The symmetry"],
        "133": ["Convergent Learning, Li [2016]", "Running claim: The experiment"],
        "7": ["A $5 * question_", "Planned"],
        "5": ["The Hungarian method, Kuhn [1955]", "Cited"],
        "8": ["Brains", "Needs recordings."],
    }
    parts = [text(heading)[:-1] for heading in page.xpath("//section/section/h2")]
    assert parts == ["Merging", "Theory", "Other"]


def test_figures_in_cells_can_be_referred_to(good):
    page = good.page("chapters/merging/02_matching")
    assert page.xpath("//section[@id = 'the-experiment']/p//a/@href") == ["#fig-line", "#fig-line"]


def test_exercises_do_not_share_an_id(good):
    ids = good.page("chapters/merging/02_matching").xpath("//article//@id")
    assert sorted(ids) == sorted(set(ids))
    assert {"ex-one", "ex-two"} <= set(ids)


def test_no_page_asks_another_host(good):
    for name in ("index", "book/results", "chapters/merging/02_matching"):
        scripts = good.page(name).xpath("//script")
        assert scripts
        assert not [s for s in scripts if "http" in s.get("src", "") or "http" in (s.text or "")]


@pytest.fixture(scope="module")
def broken(shared):
    """A book with every mistake that a writer can make, and the warnings of its build."""
    book = shared()
    image = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    book.write("claims-of-no-page.md", "")
    claims_file = CLAIMS + CLAIMS.split("- id: same-function")[0].replace(
        "matching-helps", "nobody-records-me"
    )
    book.write("chapters/merging/claims.yaml", claims_file.replace("Reordering changes nothing", "New words"))
    book.write("data/papers.csv", PAPERS.replace("ICLR,merging,1,claim", "ICLR,merging,1,planned", 1))
    book.write(
        "index.md", INDEX.replace("Assignment {cite:p}`kuhn1955hungarian`.", "![](book/_static/favicon.svg)")
    )
    book.execute(
        [
            *book.cells,
            cell("markdown", "A {ref}`broken <nowhere>` label, [another](#no-place), {cite:t}`nobody2020`."),
            cell("markdown", "A {term}`wordless` term, {doc}`/no/page`, {glue:text}`no-number:.2f`."),
            cell("code", "plot", shown({"image/png": image})),
            cell("code", "html", shown({"text/html": "<p><img src='x.png'></p>"})),
        ]
    )
    status, warnings = book.build()
    assert status == 1
    return warnings.splitlines()


@pytest.mark.parametrize(
    ("place", "said", "advice"),
    [
        ("02_matching.ipynb:", "'nowhere'", "put the label above the heading"),
        ("02_matching.ipynb:", "'no-place'", "put the label above the heading"),
        ("02_matching.ipynb:", '"nobody2020"', "add the entry to book/references.bib"),
        ("02_matching.ipynb:", "wordless", "define it in book/glossary.md"),
        ("02_matching.ipynb:", "/no/page", "must stand in _toc.yml"),
        ("02_matching.ipynb:", "no-number", "claims.record or claims.glue"),
        ("02_matching.ipynb:", "no alternative text", "bookkit.figures.show(fig, alt="),
        ("index.md:", "no alternative text", "![what it shows](file)"),
        ("merging/claims.yaml:16:", "claim 'nobody-records-me': no notebook records", "claims.record"),
        ("merging/claims.yaml:9:", "claim 'same-function'", "run `make book`"),
        ("papers.md:", "paper 92", "correct the status"),
        ("papers", "paper 5", "no page cites 'kuhn1955hungarian'; cite it"),
    ],
)
def test_a_mistake_fails_the_build_and_says_where_and_what_to_do(broken, place, said, advice):
    found = [line for line in broken if said in line]
    assert found, f"{said} is not in {broken}"
    assert any(place in line and advice in line for line in found), found


def test_both_kinds_of_images_need_alternative_text(broken):
    assert sum("no alternative text" in line and "02_matching" in line for line in broken) == 2


def test_each_mistake_is_reported_once(broken):
    assert sum("nobody-records-me" in line for line in broken) == 1


def test_a_chapter_that_was_not_executed_ends_the_build(tiny):
    tiny.copy.unlink()
    status, warnings = tiny.build()
    assert status != 0
    assert "chapters/merging/02_matching.ipynb was not executed since" in warnings
    assert "make book" in warnings


def test_building_by_hand_executes_first(tiny, monkeypatch):
    called = []
    monkeypatch.delenv("BOOK_NO_EXECUTE")
    monkeypatch.setattr(stage, "run", lambda: called.append("run"))
    assert tiny.build()[0] == 0
    assert called == ["run"]


def test_a_failing_notebook_ends_the_build_with_its_message(tiny, monkeypatch):
    def fail():
        raise stage.BookError("cell 3 of 02_matching failed: mend it")

    monkeypatch.delenv("BOOK_NO_EXECUTE")
    monkeypatch.setattr(stage, "run", fail)
    status, warnings = tiny.build()
    assert status != 0
    assert "cell 3 of 02_matching failed: mend it" in warnings


def test_a_new_run_is_on_the_page_without_a_clean_build(tiny):
    tiny.build()
    later = time.time() + 5
    tiny.execute(
        [cell("markdown", "# Matching\n\nAnother question."), *tiny.cells[1:]], seconds=130, dirty=True
    )
    for file in (tiny.copy, tiny.copy.with_suffix(".json")):
        os.utime(file, (later, later))
    os.utime(tiny.source, (0, 0))  # only the copy is newer than the page
    tiny.build()
    said = text(tiny.page("chapters/merging/02_matching"))
    assert "Another question." in said
    assert "Runs in 2 min 10 s on one core" in said
    assert "with changes that are not in it" in said


def test_outside_version_control_no_commit_is_claimed(tiny):
    tiny.execute(tiny.cells, commit=None)
    assert tiny.build() == (0, "")
    assert "sources outside version control" in text(tiny.page("chapters/merging/02_matching"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,,Title,,,,merging,1,done,", "paper 1 has status 'done'; expected one of claim, cited"),
        ("1,,Title,,,,merging,1,planned,Needs a robot.", "`why` goes with 'not-on-a-laptop' alone"),
        ("1,,Title,,,,merging,1,not-on-a-laptop,", "paper 1 is 'not-on-a-laptop'"),
    ],
)
def test_the_catalogue_is_checked(tmp_path, row, message):
    file = tmp_path / "papers.csv"
    file.write_text(f"{PAPERS.splitlines()[0]}\n{row}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        papers.read(file)


def test_an_unknown_part_comes_last():
    assert sorted(["zebra", "other", "merging"], key=records.part_order) == ["merging", "other", "zebra"]


def test_a_page_without_a_title_begins_with_the_line():
    cells = [cell("code", "x")]
    assert [each["source"] for each in pages.below_title(cells, "Badges.")] == ["Badges.", "x"]
    assert cells == [cell("code", "x")]


def test_a_claim_without_a_heading_above_has_no_section():
    assert records.heading_above([cell("code", "x")], 0) == ""
