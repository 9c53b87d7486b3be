"""axe-core finds no violation of WCAG 2.1 A and AA on any page, in light and dark, wide and narrow."""

import pytest

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
OPTIONS = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
    "resultTypes": ["violations"],
    "preload": False,  # which would fetch the style sheets again
}

# axe takes a minute for the thousands of parts of a chapter's drawings and code, or of a long table, so
# - a drawing is emptied: what is in it has role="img" around it, and its contrast is test_contrast.py's;
# - one colored piece of code of each kind stands for all: its color comes from its class alone;
# - the first rows of a table stand for the rest.
UNFOLD_AND_THIN = """() => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const svg of document.querySelectorAll("figure svg")) svg.replaceChildren();
  for (const row of document.querySelectorAll("tbody > tr:nth-child(n + 40)")) row.remove();
  const seen = new Set();
  for (const span of document.querySelectorAll("pre span[class]")) {
    if (seen.has(span.className)) span.replaceWith(span.textContent);
    seen.add(span.className);
  }
}"""
EMPTY = "document.querySelector('article').replaceChildren()"


@pytest.fixture(scope="module")
def axe():
    return pytest.importorskip("axe_playwright_python.sync_playwright").Axe()


@pytest.fixture
def violations(axe):
    """A function that lists the violations on a page, each with its element and what to do."""

    def violations(page, context=None):
        found = axe.run(page, context, OPTIONS).response["violations"]
        return [
            f"{each['id']}: {node['html'][:200]}\n    {node['failureSummary']}"
            for each in found
            for node in each["nodes"][:3]
        ]

    return violations


def test_axe_finds_no_violation(visit, settle, violations, name):
    page = visit(name, viewport=DESKTOP)
    page.evaluate(UNFOLD_AND_THIN)
    found = []
    for viewport, scheme in [(DESKTOP, "light"), (PHONE, "dark")]:  # neither colors nor rules join the two
        settle(page, viewport, scheme)
        found += [f"{scheme}, {viewport['width']} px: {each}" for each in violations(page)]
    assert not found, "\n".join(found)


def test_axe_finds_no_violation_around_the_article(visit, settle, violations, chapter):
    """What stands there at one width only, in the other colors."""
    page = visit(chapter, viewport=DESKTOP)
    page.evaluate(EMPTY)
    for viewport, scheme in [(DESKTOP, "dark"), (PHONE, "light")]:
        settle(page, viewport, scheme)
        assert not violations(page), scheme


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("button", "dialog", "viewport"),
    [
        (".primary-toggle", "#pst-primary-sidebar-modal", PHONE),
        (".secondary-toggle", "#pst-secondary-sidebar-modal", PHONE),
        (".search-button__button, .search-button", "#pst-search-dialog", DESKTOP),
    ],
)
def test_axe_finds_no_violation_in_an_open_dialog(
    visit, settle, violations, chapters, button, dialog, viewport, scheme
):
    page = visit(chapters[0], viewport=viewport, color_scheme=scheme)
    page.evaluate(EMPTY)
    page.locator(button).locator("visible=true").first.click()
    page.locator(f"{dialog}[open]").wait_for()
    settle(page)
    assert not violations(page, {"include": [[dialog]]})


def test_the_switch_and_the_system_give_the_same_colors(visit, settle):
    colors = """[...document.querySelectorAll("body, article, article *")].map(
      (element) => getComputedStyle(element)).map((style) => style.color + style.backgroundColor)"""
    by_system = visit("index", viewport=DESKTOP, color_scheme="dark")
    by_switch = visit("index", viewport=DESKTOP, color_scheme="light")
    light = by_switch.evaluate(colors)
    for _ in range(3):  # light, dark, and as the system has it
        if by_switch.evaluate("document.documentElement.dataset.theme") == "dark":
            break
        by_switch.locator(".theme-switch-button").locator("visible=true").first.click()
    settle(by_switch)
    dark = by_switch.evaluate(colors)
    assert light != dark
    assert dark == by_system.evaluate(colors)
