import json
import re
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from lxml import html as lxml_html

import bookkit
from bookkit import figures, figuresvg, slider, sliderpage
from bookkit.figurestyle import settle, style

X = np.linspace(0, 1, 30)


def alt_of_two(frequency, phase):
    return f"Line plot of a sine wave with frequency {frequency} and phase {phase}."


ALT = "Line plot of a sine wave whose frequency changes, over x from 0 to 1."


@pytest.fixture(autouse=True)
def agg(monkeypatch):
    matplotlib.use("agg")
    monkeypatch.setenv("BOOK_STATIC", "1")
    yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    bundles = []
    for module in (sliderpage, figures):
        monkeypatch.setattr(module, "emit", lambda bundle, metadata=None: bundles.append(bundle))
    return bundles


def draw(frequency, phase=0):
    fig, ax = figures.subplots(figsize=(4, 2))
    ax.plot(X, np.cos(3 * X), color=figures.COLORS["baseline"])  # stays where it is
    ax.plot(X, np.sin(frequency * X + phase), "o-", color=figures.COLORS["method"])
    ax.set(xlabel="x", ylabel="y", ylim=(-1.1, 1.1))
    return fig


def explore(draw=draw, **options):
    slider.explore(draw, **({"alt": ALT, "caption": "A wave."} | options))


def parse(bundle):
    return lxml_html.fragment_fromstring(bundle["text/html"])


def visible(figure):
    return [i for i, frame in enumerate(figure.find_class("bk-frame")) if "hidden" not in frame.attrib]


def test_page_holds_a_labelled_slider_and_every_frame(shown):
    explore(frequency=[1.0, 2.5, -4.0], labels={"frequency": "frequency (Hz) <&"}, name="wave")
    (bundle,) = shown
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert bundle["text/plain"] == ALT
    figure = parse(bundle)
    assert (figure.tag, figure.get("class"), figure.get("id")) == ("figure", "bk-explore", "wave")
    (control,) = figure.iter("input")
    (label,) = figure.iter("label")
    (output,) = figure.iter("output")
    assert (control.get("type"), control.get("min"), control.get("max")) == ("range", "0", "2")
    assert label.get("for") == output.get("for") == control.get("id")
    assert label.text == "frequency (Hz) <&"
    assert json.loads(control.get("data-texts")) == ["1", "2.5", "−4"]
    assert output.text == control.get("aria-valuetext") == "2.5"
    assert control.get("value") == "1"
    assert len(figure.find_class("bk-frame")) == 3
    assert visible(figure) == [1]
    assert all(svg.get("aria-label") == ALT for svg in figure.xpath(".//div[@class='bk-frame']/svg"))
    assert figure.find("figcaption").text == "A wave."
    assert "frequency (Hz) <& = 2.5" in figure.find("noscript").text_content()
    assert "hidden" in figure.find_class("bk-controls")[0].attrib  # until the script runs
    assert not figure.find_class("bk-said")
    assert not list(figure.iter("button"))
    assert len(list(figure.iter("script"))) == 1
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", bundle["text/html"])


def test_frames_of_two_controls_are_in_order(shown):
    seen = []

    def record(frequency, phase):
        seen.append((frequency, phase))
        return draw(frequency, phase)

    explore(
        record,
        frequency=[1, 2],
        phase=(0, 1, 2),
        start={"frequency": 1, "phase": 2},
        play="phase",
        alt=lambda frequency, phase: (
            f"Line plot of a sine wave with frequency {frequency} and phase {phase}."
        ),
    )
    figure = parse(shown[0])
    assert seen == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert visible(figure) == [2]
    labels = [frame[0].get("aria-label") for frame in figure.find_class("bk-frame")]
    assert labels == [alt_of_two(*values) for values in seen]
    assert shown[0]["text/plain"] == labels[2]
    (button,) = figure.iter("button")
    assert button.get("data-plays") == [control.get("id") for control in figure.iter("input")][1]
    (said,) = figure.find_class("bk-said")
    assert said.get("aria-live") == "polite"
    assert not plt.get_fignums()


def test_what_frames_share_is_there_once(shown):
    explore(frequency=list(range(1, 3)))
    explore(frequency=list(range(1, 13)))
    two, twelve = (len(bundle["text/html"]) for bundle in shown)
    assert twelve - two < 10 * 5000
    text = shown[1]["text/html"]
    still = f"stroke:{figures.COLORS['baseline']}"
    assert text.count(still) == 1
    assert text.count(f"stroke:{figures.COLORS['method']}") >= 12


def test_ids_are_unique_on_a_page_and_all_references_meet(shown):
    explore(frequency=[1, 2])
    explore(frequency=[1, 3])
    explore(frequency=[1, 2], phase=[0, 1], caption="Another.")
    text = "".join(bundle["text/html"] for bundle in shown)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    references = {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)}
    assert references
    assert references <= set(ids)


def test_same_call_same_output(shown):
    explore(frequency=[1, 2])
    explore(frequency=[1, 2])
    assert shown[0] == shown[1]


def test_budget_is_kept(shown):
    with pytest.raises(ValueError, match=r"'A wave.' has \d+ KB in 2 frames, over .* of 5 KB; use fewer"):
        explore(frequency=[1, 2], budget=5000)
    assert not shown


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "0 controls; expected one or two"),
        ({"a": [1, 2], "b": [1, 2], "c": [1, 2]}, ValueError, "3 controls"),
        ({"frequency": [1]}, ValueError, "frequency has 1 values; expected two or more"),
        ({"frequency": 3}, TypeError, "frequency is 3; expected a sequence"),
        (
            {"frequency": [1, 2], "labels": {"freq": "f"}},
            ValueError,
            "labels names 'freq'; the controls",
        ),
        ({"frequency": [1, 2], "start": {"phase": 0}}, ValueError, "start names 'phase'"),
        ({"frequency": [1, 2], "start": {"frequency": 3}}, ValueError, "frequency = 3, which is not among"),
        ({"frequency": [1, 2], "play": "time"}, ValueError, "play names 'time'"),
        ({"frequency": [1, 2], "alt": "short"}, ValueError, "alt of the figure"),
        ({"frequency": [1, 2], "alt": lambda frequency: "short"}, ValueError, "alt of the figure"),
        ({"frequency": [1, 2], "caption": ""}, ValueError, "caption is empty"),
        ({"frequency": [1, 2], "name": "A b"}, ValueError, "name is 'A b'"),
        ({"frequency": [1.5, 2], "draw": lambda f: None}, TypeError, r"draw\(1.5\) returned a NoneType"),
        ({"frequency": [1, 2], "draw": lambda f: unlabelled()}, ValueError, "have numbers on x and no label"),
    ],
)
def test_wrong_arguments_are_named(shown, options, error, message):
    with pytest.raises(error, match=message):
        explore(**options)
    assert not shown


def draw_cloud(scale):
    """A figure whose SVG is heavy: every frame has thousands of points of its own."""
    fig, ax = figures.subplots(figsize=(4, 2))
    points = np.random.default_rng(0).normal(size=(2, 3000))
    ax.scatter(*(scale * points), s=4, color=figures.COLORS["method"])
    ax.set(xlabel="x", ylabel="y", xlim=(-5, 5), ylim=(-5, 5), title="A cloud")
    return fig


def cloud_alt(scale):
    return f"Scatter plot of y against x: a cloud & its size {scale}."


def test_heavy_frames_are_png_on_a_white_card(shown):
    explore(draw_cloud, scale=[0.5, 1.0, 1.5], alt=cloud_alt)
    figure = parse(shown[0])
    pictures = figure.xpath(".//div[@class='bk-frame']/img")
    assert [each.get("alt") for each in pictures] == [cloud_alt(scale) for scale in (0.5, 1.0, 1.5)]
    assert visible(figure) == [1]
    assert not figure.xpath(".//svg")
    for each in pictures:
        assert each.get("src").startswith("data:image/png;base64,")
        assert "background:white" in each.get("style")
        assert "width:100%" in each.get("style")
    assert len({each.get("src") for each in pictures}) == 3
    assert len(shown[0]["text/html"]) < 100_000


def test_png_is_taken_only_where_it_is_much_smaller(shown, monkeypatch):
    explore(draw_cloud, scale=[0.5, 1.0])
    monkeypatch.setattr(sliderpage, "_CLOSE", 0.01)
    explore(draw_cloud, scale=[0.5, 1.0])
    explore(frequency=[1, 2])
    assert [len(parse(bundle).xpath(".//div/img")) for bundle in shown] == [2, 0, 0]


def test_a_draw_that_fails_says_at_which_values(shown):
    def broken(frequency, phase):
        return draw(frequency, 1 / phase)

    with pytest.raises(ZeroDivisionError) as raised:
        explore(broken, frequency=[1.5, 2], phase=[1, 0])
    assert raised.value.__notes__ == ["in the frame (1.5, 0) of the explorer with the caption 'A wave.'"]
    assert not shown


def test_a_control_that_changes_nothing_is_an_error(shown):
    with pytest.raises(
        ValueError, match=r"'A wave.' draws the same for every value of phase; use the argument"
    ):
        explore(lambda frequency, phase: draw(frequency), frequency=[1, 2], phase=[0, 1])
    assert not shown


def test_frames_of_different_sizes_are_an_error(shown):
    def grow(frequency):
        fig = draw(frequency)
        fig.set_figheight(frequency)
        return fig

    with pytest.raises(ValueError, match=r"'A wave.' draws frames of different sizes"):
        explore(grow, frequency=[2, 3])
    assert not shown


def test_the_book_offers_it_by_its_short_name():
    assert bookkit.explore is slider.explore
    with pytest.raises(AttributeError, match="module 'bookkit' has no attribute 'explode'"):
        bookkit.explode  # noqa: B018


def test_the_short_name_costs_nothing_until_it_is_used():
    code = "import sys, bookkit; print(len({'torch', 'matplotlib', 'numpy', 'IPython'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def unlabelled():
    fig, ax = figures.subplots()
    ax.plot(X, X)
    return fig


# Live


def test_live_notebook_gets_widgets_that_draw_anew(shown, monkeypatch):
    widgets = pytest.importorskip("ipywidgets")
    monkeypatch.delenv("BOOK_STATIC")
    displayed = []
    monkeypatch.setattr(slider, "display", displayed.append)
    explore(
        frequency=[1.0, 2.5, 4.0],
        phase=[0, 1],
        start={"frequency": 1.0},
        labels={"frequency": "frequency (Hz)"},
        alt=lambda frequency, phase: (
            f"Line plot of a sine wave with frequency {frequency} and phase {phase}."
        ),
    )
    (box,) = displayed
    assert isinstance(box, widgets.interactive)
    first, second = box.children[:2]
    assert (first.description, first.label, second.label) == ("frequency (Hz)", "1", "1")
    first.value = 2
    assert [bundle["text/plain"] for bundle in shown] == [
        "Line plot of a sine wave with frequency 1.0 and phase 1.",
        "Line plot of a sine wave with frequency 4.0 and phase 1.",
    ]


def test_live_notebook_gets_a_play_button_too(shown, monkeypatch):
    widgets = pytest.importorskip("ipywidgets")
    monkeypatch.delenv("BOOK_STATIC")
    displayed = []
    monkeypatch.setattr(slider, "display", displayed.append)
    explore(frequency=[1, 2, 4], phase=[0, 1], play="frequency", labels={"frequency": "time (s)"})
    (box,) = displayed
    first, _, button, picture = box.children
    assert isinstance(button, widgets.Play)
    assert isinstance(picture, widgets.Output)
    assert (button.min, button.max, button.value, button.description) == (0, 2, 1, "Play time (s)")
    button.value = 2
    assert first.label == "4"
    first.index = 0
    assert button.value == 0


def test_without_ipywidgets_a_live_notebook_gets_the_static_form(shown, monkeypatch):
    monkeypatch.delenv("BOOK_STATIC")
    monkeypatch.setattr(slider.importlib.util, "find_spec", lambda name: None)
    explore(frequency=[1, 2])
    assert len(parse(shown[0]).find_class("bk-frame")) == 2


# In a browser


@pytest.fixture
def open_page(browser, tmp_path):
    """Open HTML from a file; fails on a script error or a request for anything but the file."""
    contexts, trouble = [], []

    def open_page(body, **options):
        file = tmp_path / f"page{len(contexts)}.html"
        file.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title><body>{body}',
            encoding="utf-8",
        )
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: trouble.append(message.text))
        page.on("request", lambda request: trouble.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [each for each in trouble if not each.startswith(("data:", "file:"))] == []


def visible_frames(page, id):
    return page.evaluate(
        "id => [...document.querySelectorAll(`#${id} .bk-frame`)].map((f, i) => f.checkVisibility() ? i : -1)"
        ".filter(i => i >= 0)",
        id,
    )


def test_arrow_keys_move_each_of_several_explorers(shown, open_page):
    explore(frequency=[1, 2, 3], name="one")
    explore(
        frequency=[1, 2],
        phase=[0, 1, 2],
        name="two",
        alt=lambda frequency, phase: (
            f"Line plot of a sine wave with frequency {frequency} and phase {phase}."
        ),
    )
    page = open_page("".join(bundle["text/html"] for bundle in shown))
    assert (visible_frames(page, "one"), visible_frames(page, "two")) == ([1], [4])
    page.get_by_role("slider", name="frequency").first.press("ArrowRight")
    assert (visible_frames(page, "one"), visible_frames(page, "two")) == ([2], [4])
    page.get_by_role("slider", name="phase").press("ArrowLeft")
    assert visible_frames(page, "two") == [3]
    page.locator("#two").get_by_role("slider", name="frequency").press("Home")
    assert visible_frames(page, "two") == [0]
    assert page.locator("#one output").inner_text() == "3"
    assert page.locator("#one input").get_attribute("aria-valuetext") == "3"
    page.wait_for_function(
        "document.querySelector('#two .bk-said').textContent.includes('frequency 1 and phase 0')"
    )


def test_play_runs_to_the_end_and_stops(shown, open_page, stop_clock):
    explore(frequency=[1, 2, 3, 4], play="frequency", name="one")
    page = open_page(shown[0]["text/html"])
    clock = stop_clock(page)
    page.get_by_role("button", name="Play").click()
    clock.run_for(3 * 310)
    assert visible_frames(page, "one") == [3]
    clock.run_for(310)
    page.get_by_role("button", name="Play").click()  # from the start again
    assert visible_frames(page, "one") == [0]
    page.get_by_role("button", name="Stop").click()
    clock.run_for(5 * 310)
    assert visible_frames(page, "one") == [0]


def test_play_is_slow_where_less_motion_is_asked_for(shown, open_page, stop_clock):
    explore(frequency=[1, 2, 3, 4, 5, 6], start={"frequency": 1}, play="frequency", name="one")
    page = open_page(shown[0]["text/html"], reduced_motion="reduce")
    clock = stop_clock(page)
    page.get_by_role("button", name="Play").click()
    clock.run_for(900)
    assert visible_frames(page, "one") == [0]
    clock.run_for(200)
    assert visible_frames(page, "one") == [1]


def test_png_frames_move_and_are_spoken(shown, open_page):
    explore(
        draw_cloud,
        scale=[0.5, 1.0],
        name="one",
        alt=cloud_alt,
    )
    page = open_page(shown[0]["text/html"])
    before = page.locator("#one").screenshot()
    page.get_by_role("slider", name="scale").press("ArrowLeft")
    assert visible_frames(page, "one") == [0]
    assert page.locator("#one").screenshot() != before
    page.wait_for_function("document.querySelector('#one .bk-said').textContent.includes('its size 0.5')")


def test_without_scripts_the_first_choice_stays(shown, open_page):
    explore(frequency=[1, 2, 3], play="frequency", name="one")
    page = open_page(shown[0]["text/html"], java_script_enabled=False)
    assert page.locator("#one .bk-frame:visible").count() == 1
    assert not page.locator("#one input").is_visible()


def test_a_frame_looks_like_the_figure_itself(shown, open_page):
    """What is shared between frames is drawn where, and as, it was."""
    explore(frequency=[1, 2, 3], name="one")
    fig = draw(2)
    with style():
        settle(fig)
        root = figuresvg.drawing(fig)
    figuresvg.number_ids([root], "alone")
    page = open_page(
        f"<style>body {{ margin: 0; color: #204060 }}</style><div>{figuresvg.text(root)}</div>"
        + shown[0]["text/html"]
    )
    pictures = []
    for selector in ("body > div > svg", "#one .bk-frame:not([hidden]) svg"):
        # At the same place on the page, so that both are rasterised alike.
        page.evaluate(
            "selector => { document.querySelector(selector).style ="
            "'position:fixed; top:0; left:0; z-index:9; width:400px; height:200px; background:white' }",
            selector,
        )
        pictures.append(page.screenshot(clip={"x": 0, "y": 0, "width": 400, "height": 200}))
        page.evaluate("selector => document.querySelector(selector).removeAttribute('style')", selector)
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) > 3000  # something is drawn
