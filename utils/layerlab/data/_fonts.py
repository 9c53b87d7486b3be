"""The scripts and typefaces that the rendered glyphs come from, and reading outlines out of font files.

The files are those inside matplotlib, so that nothing is downloaded. Of these only the text faces are listed:
the symbol fonts (cmsy10, cmex10, STIXSiz*, STIXNonUni*) claim to contain letters but draw something else
there, and the "last resort" font draws a box for everything.
"""

import hashlib
from functools import cache
from pathlib import Path as File
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.path import Path

SCRIPTS = MappingProxyType(
    {
        "latin_upper": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "latin_lower": "abcdefghijklmnopqrstuvwxyz",
        "digits": "0123456789",
        "greek_upper": "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ",
        "greek_lower": "αβγδεζηθικλμνξοπρστυφχψω",
        "cyrillic_upper": "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ",
        "cyrillic_lower": "абвгдежзийклмнопрстуфхцчшщъыьэюя",
        "armenian_upper": "".join(map(chr, range(0x531, 0x557))),
        "armenian_lower": "".join(map(chr, range(0x561, 0x587))),
        "georgian": "".join(map(chr, range(0x10D0, 0x10F1))),
        "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
        "lao": "ກຂຄງຈຊຍດຕຖທນບປຜຝພຟມຢຣລວສຫອຮ",
        "math": "∀∂∃∆∇∈∋∏∑√∝∞∠∧∨∩∪∫∼≈≠≡≤≥⊂⊃⊕⊗⊥±×÷",
        "arrows": "←↑→↓↔↕↖↗↘↙⇐⇑⇒⇓",
    }
)
"""Characters of each script, in the order of its classes."""

FAMILIES = MappingProxyType(
    {
        "DejaVu Sans": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
        "DejaVu Serif": ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
        "Computer Modern Roman": ("cmr10", "cmb10", "cmti10", "cmmi10"),
        "DejaVu Sans Mono": (
            "DejaVuSansMono",
            "DejaVuSansMono-Bold",
            "DejaVuSansMono-Oblique",
            "DejaVuSansMono-BoldOblique",
        ),
        "STIX": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
        "Computer Modern Sans": ("cmss10",),
        "Computer Modern Typewriter": ("cmtt10",),
    }
)
"""Faces of each family, named as their files."""

TRAIN_FAMILIES = ("DejaVu Sans", "DejaVu Serif", "Computer Modern Roman")
TEST_FAMILIES = ("DejaVu Sans Mono", "STIX", "Computer Modern Sans", "Computer Modern Typewriter")


def file_of(face: str) -> File:
    """Where the installed matplotlib keeps a face."""
    import matplotlib

    return File(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")


@cache
def fingerprint(face: str) -> str:
    """SHA-256 of a face's file."""
    return hashlib.sha256(file_of(face).read_bytes()).hexdigest()


@cache
def characters(face: str) -> frozenset[str]:
    """What a face can draw, by its character map."""
    from matplotlib.font_manager import get_font

    return frozenset(map(chr, get_font(str(file_of(face))).get_charmap()))


def covers(face: str, script: str) -> bool:
    """Whether a face draws every character of a script.

    >>> covers("DejaVuSerif", "armenian_lower"), covers("cmr10", "armenian_lower")
    (True, False)
    """
    return characters(face).issuperset(SCRIPTS[script])


@cache
def outline(face: str, character: str) -> "Path":
    """Outline of a character in capital heights ("H" is one high), the middle of its extent at the origin.

    Curves are already broken into short lines, so that the extent is that of the vertices.
    """
    from matplotlib.path import Path

    if character not in characters(face):
        raise ValueError(f"character: {character!r} is not in the face {face!r}")
    polygons = _polygons(face, character)
    vertices = np.concatenate(polygons)
    middle, height = (
        (vertices.min(0) + vertices.max(0)) / 2,
        np.ptp(np.concatenate(_polygons(face, "H"))[:, 1]),
    )
    return Path.make_compound_path(*(Path((p - middle) / height, closed=True) for p in polygons))


@cache
def _polygons(face: str, character: str) -> list[np.ndarray]:
    """Closed polygons (n, 2) of a character set at 100 points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), character, size=100, prop=FontProperties(fname=str(file_of(face)))).to_polygons()
