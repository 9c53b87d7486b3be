"""Every slider of every page: moved by keyboard, it changes the picture and says where it stands."""

import pytest

STATE = """(figure) => ({
  shown: [...figure.querySelectorAll(".bk-frame")].map((f, i) => f.checkVisibility() ? i : -1)
    .filter((i) => i >= 0),
  values: [...figure.querySelectorAll("input")].map((input) => Number(input.value)),
  spoken: [...figure.querySelectorAll("input")].map((input) => input.getAttribute("aria-valuetext")),
  written: [...figure.querySelectorAll("output")].map((output) => output.textContent),
})"""
PICTURES = """(figure) => [...figure.querySelectorAll(".bk-frame")].map(
  (frame) => frame.querySelector("img")?.src || frame.innerHTML.replace(/ aria-label="[^"]*"/, ""))"""

SLOW = 1100  # milliseconds in which a figure moves on by a frame, where less motion is asked for


def explorers(page):
    return page.locator("figure.bk-explore").all()


@pytest.fixture
def has_explorers(site):
    """A function that says whether a page has a figure that moves, without opening it."""
    return lambda name: '<figure class="bk-explore"' in (site / f"{name}.html").read_text(encoding="utf-8")


def test_some_page_has_an_explorer(has_explorers, toc):
    assert any(map(has_explorers, toc))


@pytest.mark.parametrize("over", ["http", "file"])
def test_arrow_keys_change_the_picture(visit, has_explorers, name, over):
    if not has_explorers(name):
        return
    page = visit(name, over)
    for figure in explorers(page):
        pictures = figure.evaluate(PICTURES)
        start = figure.evaluate(STATE)
        for index, slider in enumerate(figure.locator("input[type=range]").all()):
            id, last = slider.get_attribute("id"), int(slider.get_attribute("max"))
            slider.press("Home")
            seen = [figure.evaluate(STATE)]
            for _ in range(last):
                slider.press("ArrowRight")
                seen.append(figure.evaluate(STATE))
            assert [state["values"][index] for state in seen] == list(range(last + 1)), id
            assert all(len(state["shown"]) == 1 for state in seen), f"{id}: not one frame is seen"
            frames = [state["shown"][0] for state in seen]
            assert len(set(frames)) == last + 1, f"{id} does not move on to another frame: {frames}"
            assert len({pictures[frame] for frame in frames}) > 1, f"{id}: all its frames are the same"
            assert len({state["spoken"][index] for state in seen}) == last + 1, f"{id}: the text stays"
            assert all(state["spoken"] == state["written"] for state in seen), id
            slider.press("ArrowRight")  # there is no further
            assert figure.evaluate(STATE) == seen[-1], id
            slider.press("ArrowLeft")
            assert figure.evaluate(STATE) == seen[-2], id
            for _ in range(start["values"][index], last - 1):
                slider.press("ArrowLeft")
            slider.press("Home")
            for _ in range(start["values"][index]):
                slider.press("ArrowRight")
            assert figure.evaluate(STATE) == start, id


def test_what_is_seen_changes_with_the_slider(visit, has_explorers, name):
    """By its pixels: a frame could be another one and still look the same."""
    if not has_explorers(name):
        return
    page = visit(name)
    for figure in explorers(page):
        for slider in figure.locator("input[type=range]").all():
            looks = set()
            for key in ("Home", "End"):
                slider.press(key)
                looks.add(figure.locator(".bk-frame:visible").screenshot())
            assert len(looks) == 2, slider.get_attribute("id")


@pytest.mark.parametrize("where", ["without scripts", "in print"])
def test_one_frame_stands_where_nothing_can_be_moved(visit, has_explorers, name, where):
    if not has_explorers(name):
        return
    page = visit(name, "file", java_script_enabled=where == "in print")
    if where == "in print":
        page.emulate_media(media="print")
    for figure in explorers(page):
        assert figure.locator(".bk-frame:visible").count() == 1
        assert figure.locator(".bk-frame:visible").bounding_box()["height"] > 100
        assert figure.locator("input:visible, button:visible").count() == 0
        assert figure.locator("figcaption").is_visible()


def test_play_runs_and_stops_by_keyboard(visit, stop_clock, has_explorers, name):
    if not has_explorers(name):
        return
    page = visit(name)
    clock = stop_clock(page)
    for button in page.locator("figure.bk-explore button[data-plays]").all():
        figure = button.locator("xpath=ancestor::figure")
        slider = page.locator(f"#{button.get_attribute('data-plays')}")
        slider.press("Home")
        button.press("Enter")
        assert button.inner_text() == "Stop"
        clock.run_for(SLOW)
        assert slider.input_value() == "1"
        button.press("Space")
        assert button.inner_text() == "Play"
        state = figure.evaluate(STATE)
        clock.run_for(2 * SLOW)
        assert figure.evaluate(STATE) == state
