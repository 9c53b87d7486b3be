"""Turn a matplotlib figure into SVG that lies inside a page and takes on the page's colour of text.

Black is the ink: what a figure draws in black comes out in the page's own text colour (`currentColor`), so
one drawing reads in a light and in a dark theme. The background is transparent.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from bookkit.figurestyle import LABEL_SHARE, is_label_color

_DPI = 144  # of the parts of a drawing that are images: two pixels for each of the page's
_LONG = 100  # characters, from which a thing that occurs again is worth a reference
_SVG, _HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_SPACE = re.compile(r"\s*([A-Za-z ])\s*")
_FILL = re.compile(r"\bfill:(#[0-9a-f]{6})")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")


def drawing(fig: Figure) -> ET.Element:
    """Render a figure as an SVG tree: no prolog, metadata or style sheet, coordinates to 0.01 pt.

    Ids are kept only where something refers to them. They are hashes of what they name, so equal figures
    give equal trees, and equal ids of two figures name equal things.
    """
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "bookkit"}):
        fig.savefig(file, format="svg", dpi=_DPI, transparent=True, metadata={"Date": None})
    root = ET.fromstring(file.getvalue())
    values = " ".join(value for element in root.iter() for value in element.attrib.values())
    used = set(re.findall(r"#([\w-]+)", values))
    for parent in list(root.iter()):
        parent.text = parent.tail = None
        parent.tag = parent.tag.removeprefix(_SVG)
        for child in list(parent):
            invisible = child.get("style") == "fill: none"
            if invisible or child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
        _tidy(parent, used)
    box = " ".join(f"{float(x):g}" for x in root.get("viewBox").split())
    width = fig.get_figwidth() * 6  # times the page's text size, which is 16 CSS pixels, a sixth of an inch
    root.attrib.clear()
    root.attrib.update(
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": box,
            "role": "img",
            # matplotlib's SVG leaves out a black fill, and sets joins in a style sheet for the whole page.
            "fill": "currentColor",
            "stroke-linejoin": "round",
            "style": f"display:block;width:100%;max-width:{width:.1f}rem;height:auto",
        }
    )
    return root


def _round(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _legible(match: re.Match[str]) -> str:
    """Mix a label's colour with the ink of the page; a browser that cannot mix takes the colour itself."""
    if not is_label_color(match[1]):
        return match[0]
    return f"{match[0]};fill:color-mix(in srgb,{match[1]} {LABEL_SHARE:.0%},currentColor)"


def _tidy(element: ET.Element, used: set[str]) -> None:
    """Shorten an element's attributes and let its black be the page's ink."""
    attributes = element.attrib
    if attributes.get("id") not in used:
        attributes.pop("id", None)
    if _HREF in attributes:
        attributes["href"] = _small(re.sub(r"\s", "", attributes.pop(_HREF)))
    if "style" in attributes:
        attributes["style"] = attributes["style"].replace("#000000", "currentColor").replace(": ", ":")
        if element.tag == "g":  # text
            attributes["style"] = _FILL.sub(_legible, attributes["style"])
    for name in ("d", "x", "y", "width", "height"):
        if name in attributes:
            attributes[name] = _SPACE.sub(r"\1", _LONG_NUMBER.sub(_round, attributes[name]))
    if "transform" in attributes:
        attributes["transform"] = re.sub(
            r"translate\([^)]*\)", lambda found: _LONG_NUMBER.sub(_round, found[0]), attributes["transform"]
        )


def _small(reference: str) -> str:
    """A reference; an image in it of at most 256 colours, as gray ones are, with a palette of them."""
    kind, found, content = reference.partition("base64,")
    if not found:
        return reference
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA"))
    colors, codes = np.unique(pixels.reshape(-1, 4), axis=0, return_inverse=True)
    if len(colors) > 256:
        return reference
    image, file = Image.fromarray(codes.reshape(pixels.shape[:2]).astype(np.uint8)), io.BytesIO()
    image.putpalette(colors[:, :3].tobytes())
    image.save(file, "PNG", optimize=True, transparency=colors[:, 3].tobytes())
    smaller = base64.b64encode(file.getvalue()).decode()
    return kind + found + min(smaller, content, key=len)


def gather(parent: ET.Element) -> None:
    """Drop groups that say nothing, and let one group say what neighbours have in common.

    matplotlib draws each marker and each line of many in a group of its own, with a style of its own. Changes
    the drawing. Where several drawings share what they have in common, that comes first.
    """
    children: list[ET.Element] = []
    for child in parent:
        if child.tag != "defs":  # what is referred to inherits from where it is referred to
            gather(child)
        children.extend(child if child.tag == "g" and not child.attrib else [child])
    parent[:] = []
    for look, run in itertools.groupby(children, _look):
        alike = list(run)
        if len(alike) > 2 and look:
            group = ET.Element("g", dict(look))
            for child in alike:
                for name, _ in look:
                    del child.attrib[name]
            group.extend(alike)
            alike = [group]
        parent.extend(alike)


def _look(element: ET.Element) -> tuple[tuple[str, str], ...]:
    """What a mark inherits where it says nothing itself; of groups nothing, for they may be text.

    Nor of what is moved by a transform, with which its clip moves, and the clip of a group does not.
    """
    if element.tag not in ("path", "use") or "transform" in element.attrib:
        return ()
    return tuple((name, element.get(name)) for name in ("clip-path", "style") if name in element.attrib)


def shared_definitions(roots: Sequence[ET.Element]) -> ET.Element:
    """Take out of several drawings what they have in common and return one that holds each such thing once.

    That is glyphs, markers and clips, and whatever else occurs more than once, such as the axes and a curve
    that stays while another moves. What is returned has no size, and has to stand on the page with the
    drawings, not hidden: a clip that is not laid out does not work. Changes the drawings.
    """
    shared: dict[str, ET.Element] = {}
    for root in roots:
        for parent in list(root.iter()):
            for child in list(parent):
                if "id" in child.attrib:
                    shared.setdefault(child.get("id"), child)
                    parent.remove(child)
    occurrences = Counter(ET.tostring(element) for root in roots for element in root.iter())

    def refer(parent: ET.Element) -> None:
        for position, child in enumerate(parent):
            content = ET.tostring(child)
            if len(content) > _LONG and occurrences[content] > 1:
                id = identifier(content.decode())
                shared[id] = child
                child.set("id", id)
                parent[position] = ET.Element("use", {"href": f"#{id}"})
            else:
                refer(child)

    for root in roots:
        refer(root)
    sheet = ET.Element(
        "svg", {"width": "0", "height": "0", "style": "position:absolute", "aria-hidden": "true"}
    )
    ET.SubElement(sheet, "defs").extend(shared.values())
    return sheet


def number_ids(roots: Sequence[ET.Element], prefix: str) -> None:
    """Rename every id of the drawings, and what refers to it, to `<prefix>-1`, `<prefix>-2` …, together.

    Equal ids in several drawings stay equal. Changes the drawings.
    """
    elements = [element for root in roots for element in root.iter()]
    names: dict[str, str] = {}
    for element in elements:
        if "id" in element.attrib:
            element.set("id", names.setdefault(element.get("id"), f"{prefix}-{len(names) + 1}"))
    for element in elements:
        for attribute, value in element.attrib.items():
            if attribute == "href" and value.startswith("#"):
                element.set(attribute, f"#{names[value[1:]]}")
            elif "url(#" in value:
                element.set(
                    attribute, re.sub(r"url\(#([\w-]+)\)", lambda found: f"url(#{names[found[1]]})", value)
                )


def text(root: ET.Element, alt: str | None = None) -> str:
    """Write a drawing as HTML, with its description."""
    if alt is not None:
        root.set("aria-label", alt)
    return ET.tostring(root, encoding="unicode")


def identifier(*parts: str) -> str:
    """Return a short name that depends on the text alone, for ids that are unique on a page."""
    return "bk" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def card(fig: Figure) -> bytes:
    """Render a figure as a small PNG: black ink on white, 256 colours."""
    picture = Image.open(io.BytesIO(_on_white(fig, _DPI))).convert("RGB")
    file = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(file, format="png", optimize=True)
    return file.getvalue()


def png(fig: Figure) -> bytes:
    """Render a figure for print: black ink on white, twice the page's pixels."""
    return _on_white(fig, 2 * 96)


def _on_white(fig: Figure, dpi: int) -> bytes:
    """Render a figure as PNG, its coloured labels mixed with black as a page's are with its ink."""
    labels = [text for text in fig.findobj(Text) if text.get_text()]
    colors = [text.get_color() for text in labels]
    mixed = [to_hex(LABEL_SHARE * np.array(to_rgb(c))) if is_label_color(c) else c for c in colors]
    file = io.BytesIO()
    try:
        for text, color in zip(labels, mixed, strict=True):
            text.set_color(color)
        fig.savefig(file, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    finally:
        for text, color in zip(labels, colors, strict=True):
            text.set_color(color)
    return file.getvalue()
