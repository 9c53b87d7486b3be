"""No page asks another host for anything, misses a file or reports an error, served or from files.

`visit` watches for that in every test of this folder; here each page is opened both ways.
"""

import pytest

WAYS = ["http", "file"]


@pytest.mark.parametrize("over", WAYS)
def test_a_page_is_complete_without_a_network(visit, name, over):
    page = visit(name, over)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")  # what loads when it comes into view does so
    page.wait_for_load_state("networkidle")
    assert page.title()
    unseen = (
        "[...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src)"
    )
    assert page.evaluate(unseen) == []


def test_every_page_of_the_site_is_opened(pages, toc):
    assert {path.removesuffix(".html") for path in pages} == {*toc, "search"}


@pytest.mark.parametrize("over", WAYS)
def test_search_finds_a_word(visit, over):
    page = visit("index", over)
    page.keyboard.press("Control+k")
    page.keyboard.type("permutation")
    page.keyboard.press("Enter")
    found = page.locator("#search-results")
    found.locator("ul.search a", has_text="Permutation matching").first.wait_for()
    page.get_by_text("finished, found").wait_for()
    if over == "http":
        found.locator("p.context").first.wait_for()  # with the lines of each page that hold the word
    else:
        assert not found.locator("p.context").count()


def test_search_says_that_it_found_nothing(visit):
    page = visit("search")
    page.locator("input[type=search]:visible").first.fill("qwertzuiop")
    page.keyboard.press("Enter")
    page.get_by_text("did not match any").wait_for()
