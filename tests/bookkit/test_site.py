"""The Sphinx extension, on a book of a few pages that is built in a second."""

import csv
import io
import json
import os
import re
import time
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace

import lxml.html
import pytest
from jupyter_book.sphinx import build_sphinx
from sphinx.util.console import strip_colors

from bookkit import claimcard, claims, stage
from bookkit.site import course, ledger, minutes, pages, papers, records

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

Assignment {cite:p}`kuhn1955hungarian`. A barrier, which is no chapter's.

## Map

```{reading-map}
```
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
TEACHING = """\
# Teaching

## Six weeks

```{reading-rates}
```

```{course-plan} 6
```

## Twelve weeks

```{course-plan} 12
```

## Objectives

```{chapter-objectives}
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
  - file: book/teaching
  - file: book/how_to_read
  - file: book/notation
  - file: book/glossary
  - file: book/references
"""
GLOSSARY = """\
# Glossary

:::{glossary}
barrier
  A height.

error barrier
  Another height.

symmetry
  What does not change.

ReLU
  A kink.

seed
  A number.
:::
"""
PROSE = """\
## Symmetries of words

*The Error
barriers*, `seed`, $seed$, [a seed](#the-experiment), reluctance and relu, a seed-like word. One barrier.

- seeds; {term}`the symmetry <symmetry>` of symmetries
- ReLUs, a barrier, another seed

| seed |
| ---- |
| seed |
"""
BOOK = Path(__file__).resolve().parents[2]
FILES = {
    "_config.yml": (BOOK / "_config.yml").read_text(encoding="utf-8"),
    "_toc.yml": TOC,
    "index.md": INDEX,
    "book/glossary.md": GLOSSARY,
    "book/references.bib": BIB,
    "book/references.md": "# References\n\n```{bibliography}\n```\n",
    "book/how_to_read.md": "# How to read a page\n",
    "book/notation.md": "# Notation\n",
    "book/teaching.md": TEACHING,
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
            cell(
                "markdown",
                "# Matching\n\nYou need: [order](index.md),\nand time.\n\nOne question.\n\n"
                "## You will\n\n- match units;\n- count $n!$ orders.",
            ),
            cell("markdown", "## The symmetry\n\n```python\n# no heading\n```"),
            cell("code", "exact", shown({"text/markdown": self.card(exact)})),
            cell("markdown", "## The experiment\n\nSee {ref}`the line <fig-line>` and [it](#fig-line)."),
            cell("code", "fig", shown({"text/html": figure, "image/png": "iVBORw0KGgo="})),
            cell("code", "matched", shown({"text/markdown": self.card(matched)})),
            cell("markdown", "## Exercises\n\n" + EXERCISES),
            cell("markdown", PROSE),
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
    seen = node.xpath(".//text()[not(ancestor::annotation or ancestor::*[@class = 'katex-html'])]")
    return " ".join("".join(seen).split())


def test_a_sound_book_builds_without_a_warning(good):
    assert good.outcome == (0, "")


def test_the_line_below_the_title(good):
    page = good.page("chapters/merging/02_matching")
    (badges,) = page.xpath("//article//h1/following-sibling::*[1][contains(@class, 'bk-badges')]")
    said = [text(item) for item in badges.xpath(".//li")]
    assert said == [
        "Open in Colab",
        "Open in Binder",
        "Download the notebook",
        "1 min to read, runs in 48 s on one core",
        "You need: order, and time.",
        "Tests claims of Ainsworth [2023], Li [2016]",
    ]
    assert "You need" not in text(badges.getnext())
    colab, binder, notebook = badges.xpath(".//a/@href")[:3]
    place = "gh/layer-by-layer-book/layer-by-layer/main?labpath=chapters%2Fmerging%2F02_matching.ipynb"
    assert binder == f"https://mybinder.org/v2/{place}"
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
    (table,) = page.xpath("//table[@id = 'ledger'][contains(@class, 'bk-ledger bk-sortable')]")
    assert text(table.xpath("caption")[0]).startswith("All claims of the book")
    assert [text(th) for th in table.xpath("thead//th[@scope = 'col']")] == [
        "Verdict",
        "Part",
        *ledger.HEADER[1:],
    ]
    parts = [row.xpath("string(td[2])") for row in table.xpath("tbody/tr")]
    assert parts == ["Merging", "Merging"]
    for cell in table.xpath("tbody/tr/td[2]"):
        cell.getparent().remove(cell)
    matched, exact = ([text(cell) for cell in row] for row in table.xpath("tbody/tr"))
    assert matched == [
        "Reproduced",
        "Matching lowers the barrier B. The experiment",
        "Ainsworth [2023], Li [2016] Figure 2",
        "about 0 MNIST",
        "0.104 [0.090, 0.118] ratio of barriers",
        "5",
        "0.980 [0.924, 1.036] random permutation",
    ]
    assert exact[1] == "Reordering changes nothing. The symmetry"
    keys = [row.xpath("td/@data-sort") for row in table.xpath("tbody/tr")]
    assert keys == [["0.104", "5", "0.98"], ["1e-16", "1"]]  # measured, n, control
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
        "92": ["Git Re-Basin, Ainsworth [2023]", "Merging", "Running claim: The experiment, The symmetry"],
        "133": ["Convergent Learning, Li [2016]", "Merging", "Running claim: The experiment"],
        "7": ["A $5 * question_", "Theory", "Planned"],
        "5": ["The Hungarian method, Kuhn [1955]", "Other", "Cited"],
        "8": ["Brains", "Other", "Beyond a laptop: Needs recordings."],
    }
    firsts = {id: text(page.xpath(f"//tr[@id = '{id}']")[0][0]) for id in page.xpath("//tbody/tr/@id")}
    assert firsts == {"papers-merging": "92", "papers-theory": "7", "papers-other": "5"}


def test_the_map_links_a_section_once():
    def recorded(id, place):
        return SimpleNamespace(claim=SimpleNamespace(id=id), place=place)

    here, there = records.Place("one", "The experiment"), records.Place("two", "The experiment")
    found = [recorded("a", here), recorded("b", there), recorded("c", here)]
    links = "{ref}`The experiment <claim-a>`, {ref}`The experiment <claim-b>`"
    assert papers.state({}, found) == f"[Running claim]{{.bk-key}}: {links}"


def test_only_the_tables_of_the_whole_book_bring_the_script(good):
    def scripts(name):
        return [s for s in good.page(name).xpath("//script/text()") if "bk-sortable" in s]

    assert len(scripts("book/results")) == len(scripts("book/papers")) == 1
    assert not scripts("index") + scripts("chapters/merging/index") + scripts("chapters/merging/02_matching")


def test_the_reading_map_says_what_a_chapter_needs_takes_and_shows(good):
    page = good.page("index")
    (part,) = page.xpath("//section[@id = 'map']/section[@id = 'merging']")
    assert text(part.xpath("p")[0]) == "The part: what it is about, 2 papers."
    chapter = part.xpath("ol/li")[0]
    lines = [text(line) for line in chapter.xpath("p")]
    assert lines == ["Matching", "1 min to read, runs in 48 s on one core.", "You need: order, and time."]
    assert chapter.xpath("p//a/@href") == [
        "chapters/merging/02_matching.html",
        "chapters/merging/index.html",  # the link holds where the map stands
    ]
    shown = text(chapter.xpath("details")[0])
    assert shown.startswith("Shows: 2 claims of 2 papers: 2 reproduced.")
    assert "Reordering changes nothing. Card" in shown
    (rest,) = page.xpath("//section[@id = 'not-written-yet']/p")
    assert text(rest) == "These parts have no chapter yet: Theory (1 paper), Other (2 papers)."
    assert rest.xpath(".//a/@href") == ["book/papers.html#papers-theory", "book/papers.html#papers-other"]


def test_the_first_use_of_a_term_leads_to_the_glossary(good):
    links = good.page("chapters/merging/02_matching").xpath("//article//a[contains(@href, 'glossary')]")
    assert [(" ".join(text(link).split()), link.get("href").partition("#")[2]) for link in links] == [
        ("Error barriers", "term-error-barrier"),
        ("barrier", "term-barrier"),
        ("seeds", "term-seed"),
        ("the symmetry", "term-symmetry"),  # the chapter's own link is the only one
        ("ReLUs", "term-ReLU"),  # "relu" is another word
    ]
    assert links[0].getparent().tag == "em"
    assert not good.page("index").xpath("//article//a[contains(@href, 'glossary')]")


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
    assert "runs in 2 min 10 s on one core" in said
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


# the course


def rows_of(page, name):
    """The cells of a table, as text."""
    (table,) = page.xpath(f"//table[@id = '{name}']")
    return [[text(cell) for cell in row.xpath("th | td")] for row in table.xpath(".//tbody/tr")]


def test_a_plan_has_a_row_a_week_and_says_what_is_not_written(good):
    page = good.page("book/teaching")
    six, twelve = rows_of(page, "course-6"), rows_of(page, "course-12")
    assert [row[0] for row in six] == [str(week) for week in range(7)]
    assert [row[0] for row in twelve] == [str(week) for week in range(13)]
    assert six[1][:2] == ["1", "Merging"]
    assert six[1][2] == "Matching (1 min)"
    assert six[1][4] == "the notebook, every check passed; a report on one of 2 claims"
    assert six[2][1:3] == ["Pruning", "Not written yet."]
    assert twelve[2][1] == "Merging: a claim taken apart"
    assert page.xpath("//table[@id = 'course-6']//a[contains(@href, '02_matching')]")


def test_objectives_are_those_of_the_chapters(good):
    page = good.page("book/teaching")
    (merging,) = page.xpath("//section[@id = 'objectives-merging']")
    assert next(text(item) for item in merging.xpath(".//li")) == "match units"
    assert "Matching: reading 1 min, running 1 min" in text(merging)
    assert "2 claims" in text(merging)
    (pruning,) = page.xpath("//section[@id = 'objectives-pruning']")
    assert "Not written yet." in text(pruning)


def test_a_plan_for_another_length_is_refused(tiny):
    tiny.write("book/teaching.md", "# Teaching\n\n```{course-plan} 7\n```\n")
    status, said = tiny.build()
    assert "no plan for '7' weeks; expected 6 or 12" in f"{status} {said}"


def chapter(number, read, exercises=60, claims=3):
    spent = minutes.Minutes(read, 1, exercises)
    return course.Chapter(f"chapters/p/{number}", f"Chapter {number}", ["do"], spent, [1, 2, 2], claims)


def test_a_week_holds_what_fits_and_offers_the_rest():
    read, do, hand_in = course.week([chapter(1, 100), chapter(2, 50), chapter(3, 10)])
    assert read.split("\\\n") == [
        "{doc}`Chapter 1 </chapters/p/1>` (100 min)",
        "if there is time: {doc}`Chapter 2 </chapters/p/2>` (110 min with its exercises)",
        "if there is time: {doc}`Chapter 3 </chapters/p/3>` (70 min with its exercises)",
    ]
    assert do == "3 exercises (1 ★, 2 ★★), 60 min"
    assert hand_in.endswith("a report on one of 3 claims")
    assert "if there is time" not in course.week([chapter(1, 60), chapter(2, 60)])[0]
    assert "Chapter 1" in course.week([chapter(1, 500)])[0].partition("if there")[0]


def test_two_weeks_share_the_chapters_of_a_part():
    plan = course.Plan.__new__(course.Plan)
    one, two = plan.weeks("inr", [chapter(1, 30), chapter(2, 30), chapter(3, 30)], 2)
    assert ("Chapter 2" in one[1], "Chapter 3" in one[1], "Chapter 3" in two[1]) == (True, False, True)
