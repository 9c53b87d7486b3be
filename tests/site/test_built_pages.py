"""Every built page: complete, self-contained, readable without seeing, no link that leads nowhere."""

import posixpath
import re
from urllib.parse import unquote, urlsplit

import pytest

from bookkit import paths

LOADED = "//script[@src]/@src | //img/@src | //source/@src | //iframe/@src | //object/@data | //embed/@src"
LOADED += " | //link[contains('stylesheet preload icon modulepreload prefetch', @rel)]/@href"
LOADED += " | //*[local-name() = 'image' or local-name() = 'use']/@*[local-name() = 'href']"
EXTERNAL = re.compile(r"^(https?:)?//", re.IGNORECASE)


def check(found: dict[str, list]) -> None:
    """Fail and list what was found, page by page."""
    found = {name: list(things) for name, things in found.items() if things}
    assert not found, "\n".join(f"{name}: {thing}" for name, things in found.items() for thing in things[:5])


def test_every_page_of_the_toc_is_there(toc, pages):
    missing = [name for name in toc if f"{name}.html" not in pages]
    assert not missing, f"in _toc.yml and not in the site: {missing}"
    assert len(toc) >= 10


def test_no_page_loads_anything_from_another_host(pages):
    check({name: [url for url in page.xpath(LOADED) if EXTERNAL.match(url)] for name, page in pages.items()})


def test_no_inline_script_or_style_names_another_host(pages):
    def addresses(page):
        texts = [node.text or "" for node in page.xpath("//script[not(@src)] | //style")]
        texts += page.xpath("//@style")
        return [url for text in texts for url in re.findall(r"(?:https?:)?//[\w.-]+\.\w+/\S*", text)]

    check({name: addresses(page) for name, page in pages.items()})


def test_no_style_sheet_loads_anything_from_another_host(site):
    outside = re.compile(r"(?:@import\s+|url\()\s*[\"']?(?:https?:)?//[^\"')]+")
    files = list((site / "_static").rglob("*.css"))
    assert len(files) > 5
    check({file.name: outside.findall(file.read_text(encoding="utf-8")) for file in files})


def test_every_figure_is_described(pages):
    def silent(page):
        for figure in page.xpath("//figure[@class = 'bk-figure' or @class = 'bk-explore']"):
            drawings = figure.xpath(".//*[local-name() = 'svg'][@role = 'img']")
            if not drawings or any(len(svg.get("aria-label", "")) < 40 for svg in drawings):
                yield figure.get("id")

    check({name: list(silent(page)) for name, page in pages.items()})


def test_every_image_has_alternative_text(pages):
    check({name: page.xpath("//img[not(normalize-space(@alt))]/@src") for name, page in pages.items()})


def test_nothing_is_left_unresolved(pages):
    role = re.compile(r"\{(?:glue|cite|ref|term|doc|numref|eq|download|exercise|bibliography)\b[^}]*\}")

    def leftovers(page):
        prose = "//article//text()[not(ancestor::pre or ancestor::code or ancestor::script)]"
        return role.findall(" ".join(page.xpath(prose))) + page.xpath("//*[@class = 'problematic']/text()")

    check({name: leftovers(page) for name, page in pages.items()})


def test_every_internal_link_arrives(site, pages):
    ids = {name: set(page.xpath("//@id | //a/@name")) for name, page in pages.items()}

    def broken(name, page):
        for href in page.xpath("//a/@href | //link/@href | //script/@src | //img/@src"):
            url = urlsplit(href)
            if url.scheme or url.netloc or not href:
                continue
            here = posixpath.join(posixpath.dirname(name), unquote(url.path)) if url.path else name
            target = posixpath.normpath(here)
            if not (site / target).is_file():
                yield f"{href}: there is no file {target}"
            elif url.fragment and target in ids and unquote(url.fragment) not in ids[target]:
                yield f"{href}: {target} has no element with the id {url.fragment}"

    check({name: list(broken(name, page)) for name, page in pages.items()})


def test_ids_are_unique(pages):
    def twice(page):
        ids = page.xpath("//article//@id")
        return sorted({id for id in ids if ids.count(id) > 1})

    check({name: twice(page) for name, page in pages.items()})


def test_tables_say_what_they_hold(pages):
    own = "//table[contains(@class, 'bk-table')][@id]"
    check({name: page.xpath(f"{own}[not(caption)]/@id") for name, page in pages.items()})
    check({name: page.xpath("//th[not(@scope)]//text()") for name, page in pages.items()})
    assert sum(len(page.xpath(own)) for page in pages.values()) >= 15


@pytest.mark.parametrize("limit", [1_500_000])
def test_no_page_is_heavy(site, pages, limit):
    check({name: [size] for name in pages if (size := (site / name).stat().st_size) > limit})


def test_the_repository_is_named_in_one_place(pages):
    config = (paths.root() / "_config.yml").read_text(encoding="utf-8")
    (address,) = re.findall(r"^  url: (\S+)", config, flags=re.MULTILINE)
    assert pages["index.html"].xpath(f"//a[@href = '{address}']")
