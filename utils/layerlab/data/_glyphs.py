"""Characters of many scripts drawn from font files; the test split is in typefaces never trained on."""

from collections.abc import Sequence
from pathlib import Path as File

import numpy as np
import torch

from . import _fonts
from ._checks import at_least
from .cache import cached
from .types import Dataset, Split

_CAPITAL = 0.6  # height of a capital letter, as a part of the picture's side


def glyphs(
    scripts: str | Sequence[str] = ("latin_upper",),
    *,
    fonts: str | Sequence[str] | None = None,
    test_fonts: str | Sequence[str] | None = None,
    size: int = 28,
    per_class: int = 60,
    test_per_class: int = 20,
    jitter: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """Rendered characters, white on black, anti-aliased; train and test never share a typeface.

    `scripts` names one or more of `SCRIPTS`; a class is called "script/character". Scripts share shapes
    (Latin A, Greek Α and Cyrillic А): such classes stay apart, and a model can only guess between them.
    `fonts` and `test_fonts` name the families or faces (see `FAMILIES`) of the two splits; by default DejaVu
    Sans, DejaVu Serif and Computer Modern Roman train, and DejaVu Sans Mono, STIX, Computer Modern Sans and
    Typewriter test. Of these, a script uses the faces that draw all its characters, each about equally often.
    `size` is the side in pixels (at least 8); `per_class` and `test_per_class` are pictures of each class.
    `jitter` scales the random rotation, size, slant, place, stroke width and blur; with 0 every picture of a
    class in one face is the same. The first n × classes examples of a split hold n of each class.

    What is drawn for a class depends on nothing but its character, the faces, `size`, `jitter` and `seed`:
    asking for more scripts or more pictures leaves the earlier ones as they were. Kept on disk, see
    `layerlab.data.cache`.

    Raises ValueError for unknown or repeated scripts, unknown fonts, a face in both splits, a script that no
    face of a split can draw, and numbers out of range.

    >>> data = glyphs("georgian", size=12, per_class=2, test_per_class=1)
    >>> data
    Dataset('glyphs': train (66, 1, 12, 12), test (33, 1, 12, 12), 33 classes)
    >>> data.classes[0]
    'georgian/ა'
    """
    scripts = _scripts(scripts)
    train_faces = _faces("fonts", fonts, _fonts.TRAIN_FAMILIES)
    test_faces = _faces("test_fonts", test_fonts, _fonts.TEST_FAMILIES)
    if shared := [face for face in train_faces if face in test_faces]:
        raise ValueError(f"fonts and test_fonts: expected no face in both, got {shared} in both")
    at_least(8, size=size)
    at_least(1, per_class=per_class, test_per_class=test_per_class)
    at_least(0, seed=seed)
    if not 0 <= jitter <= 2:
        raise ValueError(f"jitter: expected a number from 0 (none) to 2 (twice the usual), got {jitter}")

    plan = {
        split: {script: _covering(argument, faces, script) for script in scripts}
        for split, argument, faces in (("train", "fonts", train_faces), ("test", "test_fonts", test_faces))
    }
    counts = {"train": per_class, "test": test_per_class}
    settings = {"size": int(size), "jitter": float(jitter), "seed": int(seed)}
    arrays = cached(
        "glyphs",
        {
            **settings,
            "counts": counts,
            "characters": {script: _fonts.SCRIPTS[script] for script in scripts},
            "faces": plan,
            "files": {face: _fonts.fingerprint(face) for face in (*train_faces, *test_faces)},
            "source": [File(path).read_text(encoding="utf-8") for path in (__file__, _fonts.__file__)],
        },
        lambda: {split: _draw_split(plan[split], counts[split], split=split, **settings) for split in plan},
    )
    classes = tuple(f"{script}/{character}" for script in scripts for character in _fonts.SCRIPTS[script])
    splits = (_split(arrays[split], counts[split], len(classes)) for split in ("train", "test"))
    return Dataset("glyphs", *splits, classes=classes)


def _scripts(scripts: str | Sequence[str]) -> tuple[str, ...]:
    scripts = (scripts,) if isinstance(scripts, str) else tuple(scripts)
    if unknown := [script for script in scripts if script not in _fonts.SCRIPTS]:
        raise ValueError(f"scripts: expected some of {', '.join(_fonts.SCRIPTS)}; got {unknown}")
    if not scripts or len(set(scripts)) < len(scripts):
        raise ValueError(f"scripts: expected at least one script and none twice, got {list(scripts)}")
    return scripts


def _faces(argument: str, names: str | Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """The faces meant by names of families and faces."""
    names = default if names is None else (names,) if isinstance(names, str) else tuple(names)
    known = {**_fonts.FAMILIES, **{face: (face,) for faces in _fonts.FAMILIES.values() for face in faces}}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{argument}: expected families or faces out of {', '.join(known)}; got {unknown}")
    if not names:
        raise ValueError(f"{argument}: expected at least one family or face, got none")
    return list(dict.fromkeys(face for name in names for face in known[name]))


def _covering(argument: str, faces: Sequence[str], script: str) -> list[str]:
    if covering := [face for face in faces if _fonts.covers(face, script)]:
        return covering
    raise ValueError(f"{argument}: expected a face that draws all of {script!r}, got only {list(faces)}")


def _split(pixels: np.ndarray, count: int, classes: int) -> Split:
    X = torch.from_numpy(pixels).float().div_(255)[:, None]  # (count * classes, 1, size, size)
    return Split(X, torch.arange(classes).repeat(count))


def _draw_split(plan: dict[str, list[str]], count: int, *, split: str, seed: int, **settings) -> np.ndarray:
    """Pictures of a split, uint8 (count * classes, size, size): one of each class, then another each ..."""
    drawn = []
    for script, faces in plan.items():
        for character in _fonts.SCRIPTS[script]:
            rng = np.random.default_rng([seed, split == "test", ord(character)])
            drawn.append(_draw_class(character, faces, count, rng, **settings))
    pixels = np.stack(drawn, axis=1)  # (count, classes, size, size)
    return pixels.reshape(-1, *pixels.shape[2:])


def _draw_class(
    character: str, faces: Sequence[str], count: int, rng: np.random.Generator, *, size: int, jitter: float
) -> np.ndarray:
    """`count` pictures of one character, uint8 (count, size, size), taking turns among the faces.

    The outline itself is turned and slanted, and thickened or thinned by an edge drawn in white or black;
    only the blur works on pixels. Shrinks what would leave the picture, so that every glyph is whole.
    """
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.transforms import Affine2D
    from scipy.ndimage import gaussian_filter

    order = rng.permutation(len(faces))
    turns = jitter * rng.uniform(-1, 1, size=(count, 8))  # a row a picture: asking for more keeps the first
    pixel = size / 28  # strengths below are for 28 pixels a side
    renderer = RendererAgg(size, size, dpi=72)  # at 72 dots an inch a point is a pixel
    pixels = np.empty((count, size, size), dtype=np.uint8)
    for i, (turn, scale, width, slant, right, up, stroke, blur) in enumerate(turns):
        face = faces[order[i % len(faces)]]
        edge = (0.5 * stroke + 0.1 * jitter) * pixel  # from slightly thinner to thicker
        shape = Affine2D().scale(1.1**width, 1).skew(0.15 * slant, 0).rotate_deg(10 * turn)
        path = shape.scale(_CAPITAL * size * 1.15**scale).transform_path(_fonts.outline(face, character))
        low, high = path.vertices.min(0), path.vertices.max(0)
        room = size - 2 * pixel - max(edge, 0)
        shrink = min(1.0, room / (high - low).max())
        slack = np.maximum(room - shrink * (high - low), 0) / 2
        shift = np.clip(2 * pixel * np.array([right, up]), -slack, slack)
        place = Affine2D().translate(*-(low + high) / 2).scale(shrink).translate(*(size / 2 + shift))
        drawn = _paint(renderer, path, place, edge)
        pixels[i] = np.rint(gaussian_filter(drawn, 0.3 * pixel * (jitter + blur)) * 255)
    return pixels


def _paint(renderer, path, place, edge: float) -> np.ndarray:
    """Coverage of a filled outline in [0, 1], with an edge of |edge| pixels added (positive) or cut away."""
    renderer.clear()
    context = renderer.new_gc()
    context.set_snap(False)
    context.set_antialiased(True)
    context.set_linewidth(abs(edge))
    context.set_joinstyle("round")
    context.set_foreground((1, 1, 1) if edge > 0 else (0, 0, 0))
    renderer.draw_path(context, path, place, (1.0, 1.0, 1.0))
    rgba = np.asarray(renderer.buffer_rgba()) / 255.0
    return rgba[..., 0] * rgba[..., 3]
