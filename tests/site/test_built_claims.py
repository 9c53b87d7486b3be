"""What the site says of claims, papers and runs is what was recorded."""

import csv
import json
from urllib.parse import unquote

import pytest

from bookkit import claims, paths, stage


@pytest.fixture(scope="session")
def declared():
    found = claims.load_all(paths.root())
    assert found, "no part declares claims"
    return found


def row_of(page, id):
    """The row of the ledger that leads to a claim."""
    rows = "//table[contains(@class, 'bk-ledger')]//tr"
    return page.xpath(f"{rows}[.//a[substring-after(@href, '#') = 'claim-{id}']]")


def test_every_claim_is_in_the_ledger_and_on_its_chapter(declared, pages, results):
    for id in declared:
        (row,) = row_of(pages["book/results.html"], id)
        href = row.xpath(f".//a[substring-after(@href, '#') = 'claim-{id}']/@href")[0]
        page = pages[href.removeprefix("../").partition("#")[0]]
        (card,) = page.xpath(f"//*[@id = 'claim-{id}']")
        assert f"claim-{results[id]['verdict']}" in card.get("class").split()
        assert str(results[id]["n"]) in [cell.text_content() for cell in row.xpath("td")]
        assert f"bk-{results[id]['verdict']}" in row.xpath(".//*[contains(@class, 'bk-verdict')]/@class")[0]


def test_every_claim_is_on_the_opener_of_its_part(declared, pages):
    for id, claim in declared.items():
        assert row_of(pages[f"chapters/{claim.part}/index.html"], id), id


def test_results_can_be_downloaded(site, declared, pages, results, chapters):
    wanted = set(declared)
    for name in chapters:
        page = pages[f"{name}.html"]
        for href in page.xpath("//a[contains(@class, 'download')][contains(@href, '.json')]/@href"):
            file = (site / f"{name}.html").parent / href
            assert json.loads(file.read_text(encoding="utf-8")) == results[file.stem]
            wanted.discard(file.stem)
    assert not wanted, f"no chapter offers the results of {wanted}"


def test_the_whole_ledger_can_be_downloaded(site, declared, pages, results):
    hrefs = pages["book/results.html"].xpath("//a[contains(@class, 'download')]/@href")
    files = {href.rpartition(".")[2]: site / "book" / href for href in hrefs}
    whole = json.loads(files["json"].read_text(encoding="utf-8"))
    assert {entry["id"]: entry["mean"] for entry in whole} == {id: results[id]["mean"] for id in declared}
    with files["csv"].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["id"]: float(row["mean"]) for row in rows} == {id: results[id]["mean"] for id in declared}


def test_each_chapter_says_how_it_was_made(pages, chapters):
    assert chapters
    for name in chapters:
        copy = stage.executed(paths.root() / f"{name}.ipynb")
        assert copy, f"{name} changed since the site was built; run `make book`"
        run = json.loads(copy.with_suffix(".json").read_text(encoding="utf-8"))
        (table,) = pages[f"{name}.html"].xpath("//table[@id = 'provenance']")
        said = table.text_content()
        assert (run["commit"] or "outside version control")[:10] in said
        assert all(f"{package} {version}" in said for package, version in run["versions"].items())
        assert f"BOOK_SEED = {run['seed']}" in said


def test_each_chapter_can_be_opened_and_downloaded(site, pages, chapters):
    for name in chapters:
        (badges,) = pages[f"{name}.html"].xpath("//div[contains(@class, 'bk-badges')]")
        colab, binder, notebook = badges.xpath(".//a/@href")[:3]
        assert binder.startswith("https://mybinder.org/v2/gh/")
        assert unquote(binder).endswith(f"?labpath={name}.ipynb")
        assert colab.startswith("https://colab.research.google.com/github/")
        assert colab.endswith(f"/{name}.ipynb")
        source = (paths.root() / f"{name}.ipynb").read_bytes()
        assert ((site / f"{name}.html").parent / notebook).read_bytes() == source
        assert badges.xpath(".//a[contains(@class, 'internal')]/@title"), f"{name} cites no paper"


def test_the_reading_map_has_every_chapter(pages, chapters):
    (found,) = pages["index.html"].xpath("//section[@id = 'reading-map']")
    assert list(found.xpath("section/ol/li/p[1]//a/@href")) == [f"{n}.html" for n in chapters]
    for entry in found.xpath("section/ol/li"):
        assert " min to read, " in entry.text_content()
        assert "You need: " in entry.text_content()
        assert entry.xpath(".//a[contains(@href, '#claim-')]")


def test_each_chapter_leads_to_the_glossary(pages, chapters):
    for name in chapters:
        links = pages[f"{name}.html"].xpath("//article//p//a[contains(@href, 'glossary.html#term-')]/@href")
        assert len(links) == len(set(links)) > 3, name


def test_the_map_has_every_paper(pages):
    with (paths.root() / "data" / "papers.csv").open(encoding="utf-8", newline="") as stream:
        catalogue = {row["id"] for row in csv.DictReader(stream)}
    rows = pages["book/papers.html"].xpath("//table[contains(@class, 'bk-papers')]/tbody/tr")
    assert len(rows) == 432
    assert {row.xpath("string(td[1])") for row in rows} == catalogue
    assert all(row.xpath("string(td[last()])").strip() for row in rows)


def test_a_paper_with_a_claim_leads_to_its_page(declared, pages):
    """To the first of its claims in each section."""
    links = pages["book/papers.html"].xpath("//table[contains(@class, 'bk-papers')]//a/@href")
    linked = {link.split("#")[0].removeprefix("../") for link in links if "#claim-" in link}
    with (paths.root() / "data" / "papers.csv").open(encoding="utf-8", newline="") as stream:
        catalogue = {row["key"] for row in csv.DictReader(stream)} - {""}
    for id, claim in declared.items():
        if catalogue & set(claim.paper):
            (home,) = (name for name, page in pages.items() if page.xpath(f"//*[@id = 'claim-{id}']"))
            assert home in linked, id
