import base64
import io
import itertools
import re
from xml.etree import ElementTree

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from lxml import html as lxml_html
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from bookkit import figures, figuresvg
from bookkit.figurestyle import settle

ALT = "Line plot of loss against width: the loss falls from 2 to 1 as the width grows."
X = np.arange(10.0)
RUNS = np.random.default_rng(0).normal(size=(5, 10)).cumsum(axis=1)


@pytest.fixture(autouse=True)
def no_figure_left_open():
    matplotlib.use("agg")
    yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    bundles = []
    monkeypatch.setattr(figures, "emit", lambda bundle, metadata=None: bundles.append(bundle))
    return bundles


def line_figure(**axes):
    fig, ax = figures.subplots()
    figures.band(ax, X, RUNS, label="matched")
    ax.set(**({"xlabel": "width", "ylabel": "loss", "title": "Loss falls with width"} | axes))
    return fig, ax


def show(fig, **options):
    figures.show(fig, **({"alt": ALT, "caption": "Five seeds."} | options))


def ids_and_references(text):
    ids = re.findall(r'\bid="([^"]+)"', text)
    references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)
    return ids, {a or b for a, b in references}


# Colours and style


def linear(color):
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2.1, relative luminance and contrast ratio."""
    low, high = sorted(linear(color) @ [0.2126, 0.7152, 0.0722] for color in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("background", ["#ffffff", "#121212", "#14181e"])
@pytest.mark.parametrize("role", [role for role in figures.COLORS if role != "reference"])
def test_colours_stand_out_on_light_and_dark_pages(role, background):
    assert contrast(figures.COLORS[role], background) >= 3


# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colours_are_told_apart(blindness):
    seen = {}
    for role in set(figures.COLORS) - {"reference"}:
        channels = np.clip(np.array(BLINDNESS[blindness]) @ linear(figures.COLORS[role]), 0, 1)
        srgb = np.where(channels <= 0.0031308, 12.92 * channels, 1.055 * channels ** (1 / 2.4) - 0.055)
        seen[role] = rgb2lab(srgb[None, None])[0, 0]
    assert min(deltaE_ciede2000(seen[a], seen[b]) for a, b in itertools.combinations(seen, 2)) >= 14


def test_reference_is_ink_and_the_cycle_is_of_the_colours():
    assert figures.COLORS["reference"] == figures.INK == "black"
    assert sorted(figures.CYCLE) == sorted(set(figures.COLORS.values()) - {"black"})


def test_settings_of_matplotlib_stay_as_they_are(shown):
    before = dict(matplotlib.rcParams)
    fig, ax = line_figure()
    figures.label_ends(ax)
    show(fig)
    assert dict(matplotlib.rcParams) == before
    with figures.style():
        assert not matplotlib.rcParams["axes.spines.top"]
    assert dict(matplotlib.rcParams) == before


def test_subplots_passes_options_on():
    fig, axes = figures.subplots(2, 3, sharex=True, gridspec_kw={"wspace": 0.1})
    assert axes.shape == (2, 3)
    assert tuple(fig.get_size_inches()) == pytest.approx((7.2, 6.6))
    fig, ax = figures.subplots(figsize=(3, 2))
    assert tuple(fig.get_size_inches()) == (3, 2)
    assert not ax.spines["right"].get_visible()


# band


def test_band_draws_runs_median_and_middle_half():
    _, ax = figures.subplots()
    line = figures.band(ax, X, RUNS, label="matched", color="#123456")
    assert line.get_label() == "matched"
    np.testing.assert_allclose(line.get_ydata(), np.median(RUNS, axis=0))
    thin = [other for other in ax.lines if other is not line]
    np.testing.assert_allclose([other.get_ydata() for other in thin], RUNS)
    assert all(other.get_linewidth() < line.get_linewidth() for other in thin)
    assert all(other.get_zorder() < line.get_zorder() for other in thin)
    assert {other.get_color() for other in ax.lines} == {"#123456"}
    (shade,) = ax.collections
    heights = shade.get_paths()[0].vertices[:, 1]
    low, high = np.quantile(RUNS, [0.25, 0.75], axis=0)
    assert set(np.round(heights, 6)) == set(np.round([*low, *high], 6))
    assert ax.get_legend_handles_labels()[1] == ["matched"]


def test_band_of_one_run_is_a_line_and_colours_follow_the_cycle():
    _, ax = figures.subplots()
    first, second = figures.band(ax, X, RUNS[:1]), figures.band(ax, X, RUNS[:2])
    assert len(ax.collections) == 1
    assert [first.get_color(), second.get_color()] == figures.CYCLE[:2]


@pytest.mark.parametrize(
    ("x", "runs", "message"),
    [
        (X, RUNS.T, r"runs has the shape \(10, 5\); expected \(n_runs, 10\)"),
        (X, RUNS[0], r"runs has the shape \(10,\)"),
        (X, np.empty((0, 10)), r"runs has the shape \(0, 10\)"),
        (X[None], RUNS, r"x has the shape \(1, 10\)"),
        ([], np.empty((5, 0)), r"x has the shape \(0,\)"),
        (X, np.where(RUNS[2, 3] == RUNS, np.nan, RUNS), r"runs holds nan at index \(2, 3\)"),
        ([np.inf, 1], [[1, 2]], r"x holds inf at index \(0,\)"),
    ],
)
def test_band_refuses_wrong_shapes_and_values(x, runs, message):
    _, ax = figures.subplots()
    with pytest.raises(ValueError, match=message):
        figures.band(ax, x, runs)
    assert not ax.lines


# label_ends


def test_labels_stand_at_the_ends_apart_and_in_colour():
    fig, ax = figures.subplots()
    for i, name in enumerate(["one", "two", "three", "four"]):
        ax.plot([0, 1], [0, 1e-3 * i], label=name, color=figures.CYCLE[i])
    ax.plot([0, 0.5], [0, 5], label="short", color="black")
    ax.axhline(3)
    figures.label_ends(ax)
    assert ax.get_legend() is None
    fig.draw_without_rendering()
    texts = {text.get_text(): text for text in ax.texts}
    assert set(texts) == {"one", "two", "three", "four", "short"}
    assert texts["two"].get_color() == figures.CYCLE[1]
    assert texts["short"].xy == pytest.approx((0.5, 5))
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    heights = [texts[name].get_window_extent().y0 for name in ("one", "two", "three", "four")]
    assert heights == sorted(heights)
    assert min(box.y0 for box in boxes) > ax.bbox.y0 - 2
    assert max(box.x1 for box in boxes) <= fig.bbox.x1


def test_labels_keep_inside_at_the_top():
    fig, ax = figures.subplots()
    for i in range(3):
        ax.plot([0, 1], [0, 1 + 1e-3 * i], label=f"line {i}")
    ax.set_ylim(0, 1.002)
    figures.label_ends(ax)
    fig.draw_without_rendering()
    assert max(text.get_window_extent().y1 for text in ax.texts) < ax.bbox.y1 + 2


def test_label_ends_needs_labels_and_points():
    _, ax = figures.subplots()
    ax.plot([0, 1], [0, 1])
    with pytest.raises(ValueError, match="no line of the axes has a label"):
        figures.label_ends(ax)
    ax.plot([0, 1], [np.nan, np.nan], label="diverged")
    with pytest.raises(ValueError, match="'diverged' has no finite point"):
        figures.label_ends(ax)


# show


def test_output_is_one_bundle_and_the_figure_is_closed(shown):
    fig, _ = line_figure()
    show(fig, caption="Loss < 2 & <em>five</em> <code>seeds</code> <script>x</script>", name="loss-by-width")
    assert not plt.fignum_exists(fig.number)
    (bundle,) = shown
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert bundle["text/plain"] == ALT
    figure = lxml_html.fragment_fromstring(bundle["text/html"])
    assert (figure.tag, figure.get("class"), figure.get("id")) == ("figure", "bk-figure", "loss-by-width")
    svg, caption = figure
    assert (svg.tag, svg.get("role"), svg.get("aria-label")) == ("svg", "img", ALT)
    assert "max-width:43.2rem" in svg.get("style")
    assert re.search(r'viewBox="0 0 518.4 288"', bundle["text/html"])
    assert "width:100%" in svg.get("style")
    assert caption.text_content() == "Loss < 2 & five seeds <script>x</script>"
    assert [element.tag for element in caption] == ["em", "code"]


def test_svg_takes_the_ink_of_the_page_and_nothing_from_outside(shown):
    fig, ax = line_figure()
    ax.text(1, 1, "note")
    ax.plot([1], [1], "ks")
    show(fig)
    text = shown[0]["text/html"]
    for unwanted in ("#000000", "<metadata", "<style", "<?xml", "<!DOCTYPE", "xlink", "matplotlib"):
        assert unwanted not in text
    assert "currentColor" in text
    assert figures.COLORS["method"] in text
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "fill:#ffffff" not in text  # no background
    assert len(text) < 60_000


def label_figure():
    fig, ax = figures.subplots()
    for height, role in enumerate(figures.CYCLE):
        ax.text(0.1, height / 5, "label", color=role)
    ax.text(0.6, 0.5, "on a map", color="white")
    ax.text(0.6, 0.2, "note")
    return fig


def test_labels_in_color_are_mixed_with_the_ink(shown):
    fig = label_figure()
    show(fig)
    text = shown[0]["text/html"]
    for color in figures.CYCLE:
        assert f"fill:{color};fill:color-mix(in srgb,{color} 70%,currentColor)" in text
        for ground, ink in (("#ffffff", "#222832"), ("#121212", "#ced6dd")):  # the theme's
            mixed = to_hex(0.7 * np.array(to_rgb(color)) + 0.3 * np.array(to_rgb(ink)))
            assert contrast(mixed, ground) >= 4.5, (color, ground)
    assert text.count("color-mix") == len(figures.CYCLE)
    show(line_figure()[0])
    assert "color-mix" not in shown[1]["text/html"]  # lines keep their color


def test_labels_in_color_are_darker_on_white_and_the_figure_stays(monkeypatch):
    fig = label_figure()
    before = [text.get_color() for text in fig.findobj(Text)]
    drawn = []
    save = fig.savefig
    monkeypatch.setattr(
        fig,
        "savefig",
        lambda *a, **b: drawn.extend(t.get_color() for t in fig.axes[0].texts) or save(*a, **b),
    )
    figuresvg.png(fig)
    assert [text.get_color() for text in fig.findobj(Text)] == before
    assert drawn[-2:] == ["white", "black"]
    assert all(contrast(color, "#ffffff") >= 4.5 for color in drawn[:-2])


def test_ids_are_unique_on_a_page_and_all_references_meet(shown):
    for title in ("First", "Second"):
        show(line_figure(title=title)[0])
    show(line_figure()[0], name="named")
    ids, references = ids_and_references("".join(bundle["text/html"] for bundle in shown))
    assert len(ids) == len(set(ids))
    assert references <= set(ids)
    assert references


def test_same_figure_same_output(shown):
    for _ in range(2):
        show(line_figure()[0])
    assert shown[0] == shown[1]


def test_png_is_ink_on_white_at_twice_the_size(shown):
    fig, ax = line_figure()
    ax.text(1, 1, "note")
    show(fig)
    image = plt.imread(io.BytesIO(base64.b64decode(shown[0]["image/png"])))
    assert image.shape[1] == pytest.approx(2 * 7.2 * 96, abs=1)
    assert image[0, 0, :3].tolist() == [1, 1, 1]
    assert (image[..., :3] == 0).all(axis=-1).any()


def test_marks_alike_share_one_group_that_says_how_they_look(shown):
    fig, ax = line_figure()
    ax.plot(X, X, "o", color="#123456", alpha=0.5)
    for k in range(30):
        ax.plot(X, k + 0.1 * X, color="#654321", alpha=0.3)
    show(fig)
    svg = lxml_html.fragment_fromstring(shown[0]["text/html"])[0]
    (dots,) = svg.xpath("//g[contains(@style, '#123456')]")
    (lines,) = svg.xpath("//g[contains(@style, '#654321')]")
    assert ([d.tag for d in dots], [li.tag for li in lines]) == (["use"] * len(X), ["path"] * 30)
    assert all(lines.get(name) for name in ("clip-path", "style"))
    assert not svg.xpath("//g[@style]/*[@style or @clip-path]")
    assert not svg.xpath("//defs/g")  # what is referred to inherits from where it is referred to


def test_black_of_a_colour_map_stays_black_and_contours_become_ink(shown):
    fig, ax = figures.subplots()
    z = np.add.outer(X, X)
    ax.contourf(z, levels=5, cmap="gray")
    ax.scatter(X, X, c=X, cmap="gray")
    ax.set(xlabel="u", ylabel="v")
    show(fig)
    assert "#010101" in shown[0]["text/html"]
    fig, ax = figures.subplots()
    ax.contour(z, levels=5, colors="black")
    ax.set(xlabel="u", ylabel="v")
    show(fig)
    assert "#010101" not in shown[1]["text/html"]


def test_marks_that_are_moved_keep_their_own_clip():
    marks = "".join(f'<path transform="translate({k} 0)" clip-path="url(#a)" />' for k in range(4))
    svg = ElementTree.fromstring(f"<svg>{marks}</svg>")
    figuresvg.gather(svg)
    assert [(mark.tag, mark.get("clip-path")) for mark in svg] == [("path", "url(#a)")] * 4


def test_images_of_few_colours_are_lighter_and_the_same(shown, monkeypatch):
    many = np.linspace(0, 5, 80)

    def drawn():
        fig, ax = figures.subplots()
        ax.imshow(np.sin(np.multiply.outer(many, many)), interpolation="none", alpha=0.9)
        ax.set_axis_off()
        show(fig)
        coded = re.search(r'base64,([^"]+)"', shown[-1]["text/html"])[1]
        return len(coded), np.asarray(Image.open(io.BytesIO(base64.b64decode(coded))).convert("RGBA"))

    size, pixels = drawn()
    monkeypatch.setattr(figuresvg, "_small", lambda reference: reference)
    before, expected = drawn()
    assert size < before
    assert np.array_equal(pixels, expected)


def test_raster_parts_are_inside_the_svg(shown):
    fig, ax = figures.subplots()
    ax.imshow(np.eye(8))
    ax.set_axis_off()
    show(fig)
    assert re.search(r'<image [^>]*href="data:image/png;base64,[A-Za-z0-9+/=]+"', shown[0]["text/html"])
    assert not ax.xaxis.get_gridlines()[0].get_visible()


def test_heavy_svg_is_warned_about(shown):
    fig, ax = figures.subplots()
    ax.pcolormesh(np.random.default_rng(0).random((60, 60)))
    ax.set(xlabel="u", ylabel="v")
    with pytest.warns(UserWarning, match=r"KB of SVG; .*rasterized=True"):
        show(fig)


def test_titles_are_left_bold_and_broken_to_fit():
    long = "Matching the hidden units removes the barrier that averaging two networks meets on its way across"
    fig, ax = line_figure(title=long)
    settle(fig)
    assert ax.get_title(loc="center") == ""
    assert ax.get_title(loc="left").replace("\n", " ") == long
    assert ax.get_title(loc="left").count("\n") == 1
    text = next(t for t in ax.findobj(matplotlib.text.Text) if t.get_text().startswith("Matching"))
    assert (text.get_size(), text.get_weight()) == (13, "bold")
    assert text.get_window_extent().x1 <= fig.bbox.x1
    assert text.get_window_extent().y1 <= fig.bbox.y1


def test_a_panels_title_keeps_to_its_panel_and_mathematics_whole():
    fig, axes = figures.subplots(1, 3)
    for ax in axes:
        ax.set_title("A title too wide for a panel")
    axes[2].set_title(r"$\alpha$ and then a title that is much too wide for a panel")
    settle(fig)
    assert axes[0].get_title(loc="left").split() == ["A", "title", "too", "wide", "for", "a", "panel"]
    assert "\n" in axes[0].get_title(loc="left")
    text = next(t for t in axes[0].findobj(matplotlib.text.Text) if t.get_text().startswith("A title"))
    assert text.get_window_extent().x1 <= axes[1].bbox.x0
    assert "\n" not in axes[2].get_title(loc="left")


def test_legend_has_no_frame():
    fig, ax = line_figure()
    legend = ax.legend(frameon=True)
    settle(fig)
    assert not legend.get_frame_on()


@pytest.mark.parametrize(
    ("alt", "fault"),
    [
        ("", "has 0 characters"),
        ("Loss against width.", "has 19 characters; expected at least 40"),
        ("../figures/a_long_name_of_a_picture_of_loss_by_width.png", "is a file name"),
        ("Image of the loss of five networks against their width.", "starts by saying"),
        ("the figure that has the loss of networks against width.", "starts by saying"),
        (" five seeds:  the loss of the network falls as its width grows.", "is the caption again"),
    ],
)
def test_alt_text_that_says_nothing_is_refused(shown, alt, fault):
    fig, _ = line_figure()
    with pytest.raises(ValueError, match=rf"(?s)caption 'Five seeds: .*{fault}.*what kind of figure"):
        show(fig, alt=alt, caption="Five seeds: the loss of the network falls as its width grows.")
    assert not shown


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alt": None}, TypeError, "alt of the figure"),
        ({"caption": None}, TypeError, "caption is None"),
        ({"caption": " "}, ValueError, "caption is empty"),
        ({"name": "A b"}, ValueError, "name is 'A b'"),
        ({"name": 3}, ValueError, "name is 3"),
    ],
)
def test_other_texts_are_checked(shown, options, error, message):
    with pytest.raises(error, match=message):
        show(line_figure()[0], **options)
    assert not shown


def test_figures_that_start_like_the_forbidden_words_pass(shown):
    show(line_figure()[0], alt="Pictures of ten glyphs in a row, from the sharpest to the most blurred.")


def test_axes_with_numbers_need_labels(shown):
    with pytest.raises(
        ValueError, match=r"axes 0 .*'Five seeds.' have numbers on y and no label.*set_ylabel"
    ):
        show(line_figure(ylabel="")[0])
    with pytest.raises(ValueError, match="have numbers on x"):
        show(line_figure(xlabel="", xscale="log")[0])
    with pytest.raises(TypeError, match="fig is a Axes"):
        show(line_figure()[1])
    assert not shown


def test_axes_that_explain_themselves_need_no_labels(shown):
    fig, axes = figures.subplots(2, 2, sharex=True, sharey=True)
    for ax in axes.flat:
        ax.plot(X, RUNS[0])
    fig.supxlabel("width")
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("loss")
    show(fig)
    fig, ax = figures.subplots()
    ax.bar(["naive", "matched"], [1, 2])
    ax.set_ylabel("loss")
    show(fig)
    fig, (left, right) = figures.subplots(1, 2)
    fig.colorbar(left.imshow(np.eye(3)))
    right.set_axis_off()
    show(fig)
    assert len(shown) == 3


def test_references_in_styles_are_renamed():
    fig, ax = figures.subplots()
    ax.bar([1], [1], hatch="/")
    root = figuresvg.drawing(fig)
    figuresvg.number_ids([root], "p")
    ids, references = ids_and_references(figuresvg.text(root))
    assert references <= set(ids)
    assert all(re.fullmatch(r"p-\d+", id) for id in ids)
