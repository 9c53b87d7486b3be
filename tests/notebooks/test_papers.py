"""The list of papers, the bibliography and the claims say the same."""

import csv
import re
import unicodedata
from pathlib import Path

import pytest
import yaml
from pybtex.database import Entry, parse_file

ROOT = Path(__file__).parents[2]
STATUSES = {"claim", "cited", "planned", "not-on-a-laptop"}
BIBLIOGRAPHIC = ("first_author", "year", "venue")

with (ROOT / "data/papers.csv").open(encoding="utf-8", newline="") as file:
    PAPERS = list(csv.DictReader(file))
CITED = [paper for paper in PAPERS if paper["key"]]
BIBLIOGRAPHY: dict[str, Entry] = dict(parse_file(ROOT / "book/references.bib", bib_format="bibtex").entries)
CLAIMS = [
    claim
    for path in ROOT.glob("chapters/*/claims.yaml")
    for claim in yaml.safe_load(path.read_text("utf-8")) or []
]


def plain(text: str) -> str:
    """Letters and digits only, so that braces, dashes and line breaks do not matter."""
    return "".join(c for c in text.lower() if c.isalnum())


def claimed() -> set[str]:
    """The keys of the papers that a claim names."""
    papers = (claim["paper"] for claim in CLAIMS)
    return {key for paper in papers for key in ([paper] if isinstance(paper, str) else paper)}


def test_all_432_papers_are_listed_once():
    assert [int(paper["id"]) for paper in PAPERS] == list(range(1, 433))
    assert all(paper["title"] and paper["part"] for paper in PAPERS)
    assert {paper["tier"] for paper in PAPERS} == {"1", "2", "3", "4"}
    keys = [paper["key"] for paper in CITED]
    assert len(keys) == len(set(keys))


def test_status_agrees_with_the_key():
    assert {paper["status"] for paper in PAPERS} <= STATUSES
    for paper in PAPERS:
        if paper["status"] in ("claim", "cited"):
            assert paper["key"], f"paper {paper['id']} is {paper['status']} but has no key in references.bib"
        else:
            assert not paper["key"], f"paper {paper['id']} has a key, so its status is claim or cited"


def test_a_paper_that_no_laptop_shows_has_one_sentence_of_reason():
    for paper in PAPERS:
        if paper["status"] == "not-on-a-laptop":
            assert re.fullmatch(r"[A-Z][^.!?]{30,}\.", paper["why"]), (
                f"paper {paper['id']}: one sentence of reason"
            )
        else:
            assert not paper["why"], f"paper {paper['id']}: `why` is for papers that no laptop shows"


def test_uncited_papers_claim_no_bibliographic_facts():
    for paper in PAPERS:
        filled = [field for field in BIBLIOGRAPHIC if paper[field]]
        assert filled == (list(BIBLIOGRAPHIC) if paper["key"] else []), f"paper {paper['id']} has {filled}"


@pytest.mark.parametrize("paper", CITED, ids=lambda paper: paper["key"])
def test_fields_agree_with_the_bibliography(paper):
    assert paper["key"] in BIBLIOGRAPHY, f"add {paper['key']} to book/references.bib"
    entry = BIBLIOGRAPHY[paper["key"]]
    first = entry.persons["author"][0]
    name = " ".join(first.first_names + first.middle_names + first.prelast_names + first.last_names)
    assert plain(paper["title"]) == plain(entry.fields["title"])
    assert plain(paper["first_author"]) == plain(name)
    assert paper["year"] == entry.fields["year"]
    if paper["venue"].startswith("arXiv:"):
        assert paper["venue"] == f"arXiv:{entry.fields['eprint']}"
    else:
        name = entry.fields.get("booktitle") or entry.fields["journal"]
        assert name == paper["venue"] or f"({paper['venue']})" in name


def test_a_catalogued_paper_in_the_bibliography_has_its_key():
    listed = {plain(paper["title"]): paper for paper in PAPERS}
    for key, entry in BIBLIOGRAPHY.items():
        paper = listed.get(plain(entry.fields["title"]))
        assert paper is None or paper["key"] == key, f"paper {paper['id']} is cited as {key}: fill in its row"


@pytest.mark.parametrize("key", BIBLIOGRAPHY)
def test_entries_can_be_looked_up(key):
    entry = BIBLIOGRAPHY[key]
    written = re.fullmatch(r"([a-z]+)(\d{4})([a-z0-9]+)", key)
    assert written, f"{key}: family name of the first author, year, first significant word"
    family = unicodedata.normalize("NFKD", entry.persons["author"][0].last_names[-1])
    assert written[1] == re.sub("[^a-z]", "", family.lower())
    assert written[2] == entry.fields["year"]
    assert written[3] in plain(entry.fields["title"])
    assert {"doi", "eprint", "isbn", "url"} & set(entry.fields), f"{key}: say where it can be found"


def test_claims_and_statuses_agree():
    if not CLAIMS:
        pytest.skip("no part has claims yet")
    missing = claimed() - set(BIBLIOGRAPHY)
    assert not missing, f"claims cite {missing}: add them to book/references.bib"
    with_claim = {paper["key"] for paper in PAPERS if paper["status"] == "claim"}
    catalogued = {paper["key"] for paper in CITED}
    assert with_claim == claimed() & catalogued
