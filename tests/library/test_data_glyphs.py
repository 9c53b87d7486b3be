"""Rendered glyphs: each is what its class says, whole, centred, varied, and in a face of its own split."""

import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from layerlab.data import FAMILIES, SCRIPTS, _fonts, glyphs

FACES = [face for faces in FAMILIES.values() for face in faces]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERLAB_CACHE", str(tmp_path))


def rows(X: torch.Tensor) -> set[bytes]:
    return {x.numpy().tobytes() for x in X}


def test_shapes_ranges_names_and_order():
    data = glyphs(("digits", "greek_lower"), size=16, per_class=5, test_per_class=2)
    X, y = data.train
    assert X.shape == (5 * 34, 1, 16, 16)
    assert data.test.X.shape == (2 * 34, 1, 16, 16)
    assert X.dtype == torch.float32
    assert y.dtype == torch.int64
    assert X.min() == 0
    assert 0.9 < X.max() <= 1
    assert data.classes[:2] == ("digits/0", "digits/1")
    assert data.classes[10] == "greek_lower/α"
    assert y.tolist() == list(range(34)) * 5
    assert data.test.y.tolist() == list(range(34)) * 2


def test_characters_are_what_their_script_says():
    names = {
        "latin_upper": "LATIN CAPITAL LETTER",
        "latin_lower": "LATIN SMALL LETTER",
        "digits": "DIGIT",
        "greek_upper": "GREEK CAPITAL LETTER",
        "greek_lower": "GREEK SMALL LETTER",
        "cyrillic_upper": "CYRILLIC CAPITAL LETTER",
        "cyrillic_lower": "CYRILLIC SMALL LETTER",
        "armenian_upper": "ARMENIAN CAPITAL LETTER",
        "armenian_lower": "ARMENIAN SMALL LETTER",
        "georgian": "GEORGIAN LETTER",
        "arabic": "ARABIC LETTER",
        "lao": "LAO LETTER",
    }
    for script, characters in SCRIPTS.items():
        assert len(set(characters)) == len(characters)
        for character in characters:
            if script in names:
                assert unicodedata.name(character).startswith(names[script])
            else:
                assert unicodedata.category(character) in ("Sm", "So")
    assert len(set("".join(SCRIPTS.values()))) == len("".join(SCRIPTS.values()))


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_has_faces_of_its_own_in_both_splits(script):
    faces = {
        split: {face for family in families for face in FAMILIES[family] if _fonts.covers(face, script)}
        for split, families in (("train", _fonts.TRAIN_FAMILIES), ("test", _fonts.TEST_FAMILIES))
    }
    assert len(faces["train"]) >= 2
    assert len(faces["test"]) >= 2
    assert not faces["train"] & faces["test"]
    assert not set(_fonts.TRAIN_FAMILIES) & set(_fonts.TEST_FAMILIES)


def test_test_glyphs_are_in_faces_never_trained_on():
    # Without jitter a face draws a character in one way only, so that a picture tells its face.
    still = {"size": 20, "per_class": 1, "test_per_class": 1, "jitter": 0}
    data = glyphs("latin_upper", **{**still, "per_class": 30, "test_per_class": 30})
    pictures = {}
    for face in FACES:
        other = FACES[0] if face != FACES[0] else FACES[1]
        pictures[face] = rows(glyphs("latin_upper", fonts=face, test_fonts=other, **still).train.X)
    drawn = {"train": rows(data.train.X), "test": rows(data.test.X)}
    used = {split: {face for face in FACES if pictures[face] <= found} for split, found in drawn.items()}
    assert used["train"] == {face for family in _fonts.TRAIN_FAMILIES for face in FAMILIES[family]}
    assert used["test"] == {face for family in _fonts.TEST_FAMILIES for face in FAMILIES[family]}
    for split, found in drawn.items():
        assert found == set().union(*(pictures[face] for face in used[split]))
    assert not drawn["train"] & drawn["test"]


def test_no_face_draws_a_box_or_nothing():
    for face in FACES:
        missing = "\U0010fffd"
        assert missing not in _fonts.characters(face)
        for script, characters in SCRIPTS.items():
            if _fonts.covers(face, script):
                vertices = [_fonts.outline(face, character).vertices for character in characters]
                assert all(len(v) >= 4 for v in vertices)
                # the sign for a missing glyph would be the same for all
                shapes = {np.round(v, 4).tobytes() for v in vertices}
                assert len(shapes) == len(characters), (face, script)


def test_an_outline_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="'ა' is not in the face 'cmr10'"):
        _fonts.outline("cmr10", "ა")


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("size", "ink", "edge"), [(28, 0.5, 0.45), (8, 0.25, 1)]
)  # 8: thin strokes turn grey
def test_every_glyph_is_whole_and_near_the_middle(script, size, ink, edge):
    data = glyphs(script, size=size, per_class=6, test_per_class=6)
    for X, _ in (data.train, data.test):
        assert (X.amax((1, 2, 3)) > ink).all()
        frame = X.clone()
        frame[:, :, 1:-1, 1:-1] = 0
        assert frame.max() <= edge  # at most a blur on the outermost pixels
        marked = X[:, 0] > 0.2
        for axis in (1, 2):
            found = marked.any(axis)  # (N, size)
            middle = (found.int().argmax(1) + size - 1 - found.flip(1).int().argmax(1)) / 2
            assert (middle - (size - 1) / 2).abs().max() <= 0.07 * size + 1


def test_a_class_is_drawn_the_same_whatever_else_is_asked_for():
    small = glyphs("digits", size=12, per_class=2, test_per_class=1)
    more = glyphs("digits", size=12, per_class=5, test_per_class=4)
    wide = glyphs(("math", "digits"), size=12, per_class=2, test_per_class=1)
    assert torch.equal(small.train.X, more.train.X[:20])
    assert torch.equal(small.test.X, more.test.X[:10])
    assert torch.equal(small.train.X, wide.train.X[wide.train.y >= len(SCRIPTS["math"])])


def test_the_seed_decides_and_the_global_generators_are_left_alone(monkeypatch, tmp_path):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    settings = {"size": 12, "per_class": 2, "test_per_class": 2}
    first = glyphs("arrows", **settings)
    monkeypatch.setenv("LAYERLAB_CACHE", str(tmp_path / "another"))
    again, other = glyphs("arrows", **settings), glyphs("arrows", seed=1, **settings)
    assert torch.equal(first.train.X, again.train.X)
    assert torch.equal(first.test.X, again.test.X)
    assert not rows(first.train.X) & rows(other.train.X)
    assert not rows(first.test.X) & rows(other.test.X)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_jitter_varies_each_picture_and_its_absence_none():
    one_face = {"fonts": "cmr10", "test_fonts": "cmss10", "per_class": 10, "test_per_class": 1}
    moved, still = glyphs("digits", **one_face), glyphs("digits", jitter=0, **one_face)
    assert len(rows(moved.train.X)) == 100
    assert len(rows(still.train.X)) == 10
    spread = [
        glyphs("digits", jitter=jitter, **one_face).train.X.reshape(10, 10, -1).std(0).mean().item()
        for jitter in (0, 0.5, 1, 2)
    ]
    assert spread[0] < 1e-6
    assert spread == sorted(spread)


def test_faces_take_turns():
    faces = ("cmr10", "cmb10", "cmti10")
    data = glyphs(
        "latin_lower", fonts=faces, test_fonts="STIX", per_class=6, test_per_class=4, jitter=0, size=12
    )
    by_class = data.train.X.reshape(6, 26, -1)
    for pictures in by_class.unbind(1):
        _, counts = pictures.unique(dim=0, return_counts=True)
        assert counts.tolist() == [2, 2, 2]


def test_families_and_faces_can_be_mixed():
    data = glyphs("digits", fonts=("DejaVu Serif", "cmr10"), test_fonts=["STIXGeneral"], size=8, per_class=1)
    assert len(data.train.y) == 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"scripts": "klingon"},
            ValueError,
            r"scripts: expected some of latin_upper, .*arrows; got \['klingon'\]",
        ),
        ({"scripts": ()}, ValueError, "scripts: expected at least one script"),
        ({"scripts": ("digits", "digits")}, ValueError, "scripts: .* none twice"),
        ({"fonts": "Comic Sans"}, ValueError, r"fonts: expected .*cmtt10; got \['Comic Sans'\]"),
        ({"test_fonts": "Comic Sans"}, ValueError, r"test_fonts: .* got \['Comic Sans'\]"),
        ({"fonts": ()}, ValueError, "fonts: expected at least one"),
        ({"fonts": "STIX"}, ValueError, "fonts and test_fonts: expected no face in both, got .*STIXGeneral"),
        ({"scripts": "lao", "fonts": "cmr10"}, ValueError, "fonts: expected a face that draws all of 'lao'"),
        ({"scripts": "lao", "test_fonts": "STIX"}, ValueError, "test_fonts: expected a face .* 'lao'"),
        ({"size": 7}, ValueError, "size: expected a whole number of at least 8, got 7"),
        ({"size": 28.0}, TypeError, "size: expected a whole number, got 28.0"),
        ({"per_class": 0}, ValueError, "^per_class: expected a whole number of at least 1, got 0"),
        ({"test_per_class": 0}, ValueError, "^test_per_class: expected a whole number of at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed: expected a whole number of at least 0, got -1"),
        ({"jitter": -0.1}, ValueError, "jitter: expected a number from 0"),
        ({"jitter": float("nan")}, ValueError, "jitter: expected a number from 0"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message, tmp_path):
    with pytest.raises(error, match=message):
        glyphs(**arguments)
    assert not list(tmp_path.iterdir())


def test_the_datasheet_tells_the_truth_about_the_scripts():
    text = (Path(__file__).parents[2] / "data" / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \|$", text, flags=re.MULTILINE)

    def count(families: tuple[str, ...], script: str) -> str:
        return str(sum(_fonts.covers(face, script) for family in families for face in FAMILIES[family]))

    assert told == [
        (
            script,
            str(len(characters)),
            count(_fonts.TRAIN_FAMILIES, script),
            count(_fonts.TEST_FAMILIES, script),
        )
        for script, characters in SCRIPTS.items()
    ]


@pytest.mark.parametrize("face", FACES)
def test_all_faces_are_drawn_at_the_same_capital_height_about_their_middle(face):
    vertices = _fonts.outline(face, "H").vertices
    assert np.ptp(vertices[:, 1]) == pytest.approx(1)
    assert np.allclose(vertices.min(0) + vertices.max(0), 0, atol=1e-9)
