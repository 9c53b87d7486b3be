"""The print edition, printed from the built site: whole, with figures, page numbers and nothing raw."""

import os
import re
import unicodedata

import lxml.html
import pytest
from pypdf import PdfReader

from bookkit import editions, paths
from bookkit.editions import chromium, printed
from bookkit.notebooks import BookError


@pytest.fixture(scope="module")
def folder(site, tmp_path_factory):
    """The folder with the PDF and the page that it was printed from."""
    try:
        chromium.find()
    except BookError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOOK_BUILD_DIR", str(tmp_path_factory.mktemp("build")))
        return editions.pdf(paths.root()).parent


@pytest.fixture(scope="module")
def pdf(folder):
    return PdfReader(folder / printed.NAME)


@pytest.fixture(scope="module")
def texts(pdf):
    """What stands on each page, without spaces, which a PDF does not always keep, and without ligatures."""
    return [plain(page.extract_text()) for page in pdf.pages]


@pytest.fixture(scope="module")
def page(folder):
    return lxml.html.parse(folder / "book.html", lxml.html.HTMLParser(encoding="utf-8")).getroot()


def plain(text):
    return "".join(unicodedata.normalize("NFKC", text).split())


def outline(items):
    """The titles of an outline, nested as it is."""
    return [outline(item) if isinstance(item, list) else item.title for item in items]


def test_contents_name_every_page_of_the_book_and_where_it_is(page, toc, texts):
    entries = page.xpath("//nav//p[contains(@class, 'entry')]")
    assert [entry.xpath("string(a/@href)")[1:] for entry in entries] == [
        *map(printed.slug, toc),
        "answers",
    ]
    numbers = [int(entry.xpath("string(span[@class = 'number'])")) for entry in entries]
    assert numbers == sorted(numbers)
    for entry, number in zip(entries, numbers, strict=True):
        title = plain(entry.xpath("string(a)"))
        # the running head, the number in the foot, and then the page
        assert texts[number - 1].startswith(f"LayerbyLayer{number}{title}")


def test_no_page_is_empty(texts):
    assert [number for number, text in enumerate(texts, 1) if len(text) < 40] == []


def test_every_figure_is_printed_once_and_still(page, pages, chapters):
    count = "count(//figure[contains(@class, 'bk-')])"
    assert page.xpath(count) == sum(site_page.xpath(count) for site_page in pages.values()) > len(chapters)
    for figure in page.xpath("//figure[contains(@class, 'bk-explore')]"):
        assert len(figure.xpath(".//*[contains(@class, 'bk-frame')][not(@hidden)]")) == 1
        assert not figure.xpath(".//input | .//button")


def test_captions_and_solutions_are_there(page, texts, chapters):
    whole = "".join(texts)
    captions = [plain(caption.text_content()) for caption in page.xpath("//figcaption")]
    assert len(captions) > 5 * len(chapters)
    assert sum(caption[:25] in whole for caption in captions) > 0.8 * len(captions)  # formulas come apart
    solutions = page.xpath("//article[@id = 'answers']/section/section/section")
    assert len(solutions) == len(page.xpath("//div[contains(@class, 'exercise admonition')]"))
    assert all(solution.xpath(".//pre") for solution in solutions)


def test_nothing_raw_is_left(texts):
    raw = re.compile(
        r"\{(?:cite|ref|glue|term|doc)[:}]|\$\$|</?(?:div|span|svg|p)(?:>|[a-z-]+=)|\\(?:frac|mathrm|theta)\b|:::"
    )
    assert [found[0] for text in texts for found in [raw.search(text)] if found] == []


def test_links_within_the_book_arrive(page):
    ids = page.xpath("//@id")
    assert len(ids) == len(set(ids))
    assert [href for href in page.xpath("//a/@href") if href[0] == "#" and href[1:] not in ids] == []
    assert [href for href in page.xpath("//a/@href") if not re.match(r"#|https?:|mailto:", href)] == []


def test_readers_that_use_the_structure_find_it(pdf, page, toc):
    assert pdf.root_object["/MarkInfo"]["/Marked"]
    assert pdf.root_object["/Lang"] == "en"
    assert pdf.metadata.title == "Layer by Layer"
    titles = str(outline(pdf.outline))
    for entry in page.xpath("//nav//p[contains(@class, 'entry')]/a"):
        assert repr(entry.text_content())[1:-1] in titles
