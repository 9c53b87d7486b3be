"""With the keyboard alone, everything is reached, seen to be reached and opened, and nothing holds the focus.

Sliders and their Play buttons are moved in test_sliders.py.
"""

import pytest

# Lists the controls that can be seen, and notes which of them Tab comes to and whether one sees it there.
WATCH = """() => {
  const controls = 'a[href], button, input, select, textarea, summary, [tabindex="0"]';
  const seen = (element) =>
    element.checkVisibility({visibilityProperty: true}) && !element.closest("[inert]");
  window.controls = [...document.querySelectorAll(controls)].filter((element) =>
    seen(element) && !element.disabled && element.type !== "hidden");
  window.reached = new Set();
  window.unmarked = new Set();
  document.addEventListener("focusin", ({target}) => {
    reached.add(target);
    const ringed = (element) => { // the theme puts some rings around what is in the element
      const style = getComputedStyle(element);
      const outline = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
      return outline || style.boxShadow !== "none";
    };
    if (![target, ...target.children].some(ringed)) unmarked.add(target);
  });
  return controls.length;
}"""
LIST = "(elements) => [...elements].map((element) => element.outerHTML.slice(0, 150))"
SCROLLING = """() => [...document.querySelectorAll("main *")].filter((element) =>
  element.scrollWidth > element.clientWidth && element.clientWidth > 0 && element.checkVisibility() &&
  /auto|scroll/.test(getComputedStyle(element).overflowX))"""

PHONE = {"width": 360, "height": 740}


def test_tab_reaches_every_control_and_shows_where_it_is(visit, settle, chapter):
    page = visit(chapter, "file")
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    settle(page)  # the scripts have to see to what scrolls now
    page.evaluate(WATCH)
    number = page.evaluate("window.controls.length")
    assert number > 50
    for _ in range(2 * number):  # what scrolls is marked when it comes into view, so that there may be more
        page.keyboard.press("Tab")
        if page.evaluate("window.controls.every((each) => window.reached.has(each) || each.tabIndex < 0)"):
            break
    left = "window.controls.filter((each) => !window.reached.has(each) && each.tabIndex >= 0)"
    missed = page.evaluate(f"({LIST})({left})")
    assert not missed, "\n".join(missed)
    unmarked = page.evaluate(f"({LIST})(window.unmarked)")
    assert not unmarked, "\n".join(unmarked)


def test_enter_and_space_open_and_close_what_is_folded(visit, chapter):
    page = visit(chapter, "file")
    page.evaluate(
        "window.folds = [...document.querySelectorAll('summary')].filter((s) => s.checkVisibility())"
    )
    number = page.evaluate("folds.length")
    assert number > 5
    for index in range(number):
        states = [page.evaluate("(i) => { folds[i].focus(); return folds[i].parentElement.open }", index)]
        for key in ("Enter", "Space"):
            page.keyboard.press(key)
            states.append(page.evaluate("(i) => folds[i].parentElement.open", index))
        title = page.evaluate("(i) => folds[i].textContent.trim()", index)
        assert states[0] == (not states[1]) == states[2], title


@pytest.mark.parametrize("viewport", [None, PHONE], ids=["desktop", "phone"])
def test_what_scrolls_sideways_is_reached_and_scrolled(visit, settle, chapter, viewport):
    page = visit(chapter, "file", **({"viewport": viewport} if viewport else {}))
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    settle(page)
    unreached = (
        f"({SCROLLING})().filter((each) => each.tabIndex < 0 && !each.querySelector('a, button, input'))"
    )
    missed = page.evaluate(f"({LIST})({unreached})")
    assert not missed, "\n".join(missed)
    if viewport:
        assert page.evaluate(f"({SCROLLING})().length") > 5
        page.evaluate(f"({SCROLLING})().find((each) => each.tagName === 'PRE').focus()")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("document.activeElement.scrollLeft > 0")


def test_the_theme_switch(visit):
    page = visit("index", "file")
    switch = page.locator(".theme-switch-button:visible").first
    themes = set()
    for key in ("Enter", "Space", "Enter"):
        switch.press(key)
        themes.add(page.evaluate("document.documentElement.dataset.mode"))
    assert themes == {"light", "dark", "auto"}


def test_the_search_dialog_opens_and_closes(visit):
    page = visit("index", "file")
    page.locator(".search-button__button:visible").first.press("Enter")
    page.locator("#pst-search-dialog[open]").wait_for()
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.press("Escape")
    page.locator("#pst-search-dialog").wait_for(state="hidden")


@pytest.mark.parametrize("toggle", [".primary-toggle", ".secondary-toggle"])
def test_the_sidebars_of_a_phone_open_and_close(visit, chapter, toggle):
    page = visit(chapter, "file", viewport=PHONE)
    button = page.locator(f"{toggle}:visible").first
    button.press("Enter")
    page.locator("dialog[open]").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("Boolean(document.activeElement.closest('dialog[open]'))")
    page.keyboard.press("Escape")
    page.locator("dialog[open]").wait_for(state="detached")


def test_menus_open_and_lead_to_their_items(visit, chapter):
    page = visit(chapter, "file")
    menus = page.locator("button[data-bs-toggle=dropdown]:visible").all()
    assert menus
    for button in menus:
        button.press("Enter")
        assert button.get_attribute("aria-expanded") == "true"
        page.keyboard.press("Tab")
        assert page.evaluate("Boolean(document.activeElement.closest('.dropdown-menu'))")
        page.keyboard.press("Escape")
        assert button.get_attribute("aria-expanded") == "false"
