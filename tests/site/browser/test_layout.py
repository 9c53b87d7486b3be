"""Pages fit every width from a phone to 4K: none scrolls sideways, and nothing leaks out of its column."""

WIDTHS = [360, 768, 1280, 3840]

# What is wider than the article, unless something around it, inside the article, scrolls or cuts it.
LEAKS = """() => {
  const article = document.querySelector("article.bd-article") || document.querySelector("main");
  const room = article.getBoundingClientRect();
  const held = (element) => {
    for (let each = element.parentElement; each && each !== article; each = each.parentElement) {
      if (getComputedStyle(each).overflowX !== "visible") return true;
    }
    return false;
  };
  const parts = "figure, figure svg, img, table, pre, .math, .katex, .admonition, input, p";
  return [...article.querySelectorAll(parts)]
    .filter((part) => part.checkVisibility())
    .filter((part) => part.getBoundingClientRect().right > room.right + 1 && !held(part))
    .map((part) => part.outerHTML.slice(0, 120));
}"""

UNFOLD = "for (const details of document.querySelectorAll('details')) details.open = true"


def test_nothing_is_too_wide(visit, settle, name):
    page = visit(name, "file")
    page.evaluate(UNFOLD)
    trouble = []
    for width in WIDTHS:
        settle(page, {"width": width, "height": 900})
        wide, room = page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        if wide > room:
            trouble.append(f"at {width} px the page is {wide} px wide")
        trouble += [f"at {width} px leaks: {part}" for part in page.evaluate(LEAKS)]
    assert not trouble, "\n".join(trouble)


def test_text_grows_with_a_very_wide_window(visit, settle):
    page = visit("index", "file", viewport={"width": 3840, "height": 2160})
    assert page.evaluate("document.querySelector('main p').getBoundingClientRect().width") > 0.2 * 3840
    sizes = []
    for width in WIDTHS:
        settle(page, {"width": width, "height": 900})
        sizes.append(page.evaluate("parseFloat(getComputedStyle(document.querySelector('main p')).fontSize)"))
    assert sizes[0] == sizes[1] == sizes[2] == 16
    assert sizes[3] >= 20
