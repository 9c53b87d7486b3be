"""Claims: what a paper reports, what this book measures, and a rule that fails the build when they part.

A part declares its claims in `chapters/<part>/claims.yaml` (the fields: `bookkit.claimfile`). A notebook
measures, over several seeds, and records:

```python
claims.record("rebasin-removes-barrier", ratios, control=ratios_of_random_permutations)
```

The interval decides, not the mean: with `accept: {upper: 0.2}` the one-sided 95 % confidence limit of the
mean (Student's t) has to be at most 0.2. So a claim whose true mean lies on its bound passes one time in
twenty, and one that is comfortably true passes nearly always.

One in twenty is exact for values that spread like a normal distribution. With few and strongly skewed
values, such as ratios with a long tail, and the bound on the side of the tail, it is more: five
exponentially distributed values pass an upper bound at their true mean one time in six. Leave room in the
bound, or record the logarithm.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import ArrayLike

from bookkit import claimcard, paths
from bookkit.claimfile import Claim, ClaimError, Control, Rule, near, read
from bookkit.claimrule import Summary, summarize
from bookkit.display import emit, is_static

__all__ = [
    "Claim",
    "ClaimError",
    "ClaimFailed",
    "Control",
    "Result",
    "Rule",
    "Summary",
    "glue",
    "load",
    "load_all",
    "record",
    "seeds",
]

Verdict = Literal["reproduced", "not-reproduced", "failed"]

_FEWEST = 5
_recorded: set[str] = set()


class ClaimFailed(AssertionError):  # noqa: N818  it is the claim that failed, not the code
    """A measurement does not keep the rule that its claim declares, or keeps one that it was said not to."""


@dataclass(frozen=True)
class Result:
    """What `record` found."""

    claim: Claim
    verdict: Verdict
    summary: Summary
    control: Summary | None
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the result's JSON file."""
        claim = self.claim
        declared = {
            name: getattr(claim, name) for name in ("id", "part", "where", "statement", "reported", "measure")
        }
        declared |= {
            "differs": claim.differs,
            "expect": claim.expect,
            "reason": claim.reason,
            "few": claim.few,
        }
        control = None
        if claim.control and self.control:
            accept = claim.control.accept
            control = {
                "measure": claim.control.measure,
                "accept": accept and asdict(accept),
                **asdict(self.control),
            }
        return {
            **declared,
            "paper": list(claim.paper),
            "accept": asdict(claim.accept),
            "claim_key": claim.key,
            "verdict": self.verdict,
            **asdict(self.summary),
            "control": control,
            "seed": self.seed,
        }

    def _ipython_display_(self) -> None:
        """Show nothing: `record` has shown the card, and is often the last line of its cell."""


def _book_seed() -> int:
    text = os.environ.get("BOOK_SEED", "").strip() or "0"
    if not text.isdecimal():
        raise ValueError(
            f"the environment variable BOOK_SEED is {text!r}; expected a whole number, 0 or more"
        )
    return int(text)


def seeds(n: int) -> list[int]:
    """Return `n` seeds, one for each repetition; the environment variable `BOOK_SEED` shifts them all.

    Raises:
        ValueError: `n` is not a whole number above 0, or `BOOK_SEED` is not a whole number.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n is {n!r}; expected a whole number of seeds, 1 or more")
    first = _book_seed()
    return list(range(first, first + n))


def _short(path: Path) -> str:
    top = paths.root()
    return str(path.relative_to(top)) if top and path.is_relative_to(top) else str(path)


def _packaged() -> Path:
    return Path(__file__).resolve().parent / "_claims"


def load(part: str | Path) -> dict[str, Claim]:
    """Read the claims of one part, by id.

    Args:
        part: the part's name, such as `"merging"`, or the path of a YAML file. A name is looked up in the
            repository's `chapters/<part>/claims.yaml`, outside a repository in the package's own copy.

    Raises:
        ClaimError: there is no such file, or it is wrong somewhere; the message names the file and the claim.
    """
    if isinstance(part, Path):
        return read(part, part.parent.name if part.name == "claims.yaml" else part.stem, _short(part))
    top = paths.root()
    file = top / "chapters" / part / "claims.yaml" if top else _packaged() / f"{part}.yaml"
    return read(file, part, _short(file))


def load_all(root: Path | None = None) -> dict[str, Claim]:
    """Read the claims of every part, by id.

    Args:
        root: the repository; by default the one around the working directory, failing that the package's own
            copy of the claims.

    Raises:
        ClaimError: a file is wrong, or two parts use the same id.
    """
    top = root or paths.root()
    files = (top / "chapters").glob("*/claims.yaml") if top else _packaged().glob("*.yaml")
    claims: dict[str, Claim] = {}
    for file in sorted(files):
        for id, claim in load(file).items():
            if id in claims:
                raise ClaimError(
                    f"{_short(file)}, claim {id!r}: {_short(claims[id].file)} has it too; ids are unique"
                )
            claims[id] = claim
    return claims


def _require_enough(summary: Summary, rule: Rule | None, claim: Claim, what: str) -> None:
    if (rule or claim.accept).on == "every":
        return
    fewest = 2 if claim.few else _FEWEST
    if summary.n < fewest:
        way_out = "" if claim.few else ", or say in the claim's field `few` why fewer are enough"
        raise ClaimError(f"{what} are {summary.n} in number; a mean is judged on {fewest} or more{way_out}")


def _find(id: str) -> Claim:
    claims = load_all()
    if id not in claims:
        files = "chapters/*/claims.yaml" if paths.root() else _short(_packaged())
        raise ClaimError(f"no claim is called {id!r} among the {len(claims)} in {files}{near(id, claims)}")
    return claims[id]


def _notebooks(claim: Claim) -> str:
    """Name the part's notebooks that mention the claim, for messages."""
    found = [
        _short(file)
        for file in sorted(claim.file.parent.glob("*.ipynb"))
        if claim.id in file.read_text("utf-8")
    ]
    return ", ".join(found) or "a notebook of the part"


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _download(path: Path | None) -> str | None:
    """The result file's path from the source root, as Sphinx wants it, where it lies below that root."""
    top = paths.root()
    return f"/{path.relative_to(top).as_posix()}" if path and top and path.is_relative_to(top) else None


def record(id: str, values: ArrayLike, control: ArrayLike | None = None) -> Result:
    """Hold measured values against the claim's rule, keep the outcome, and show it.

    Writes `results/<part>/<id>.json` in the build folder, also when the claim fails; displays a card; glues
    `<id>.mean`, `.low`, `.high`, `.min`, `.max`, `.n` and `.control` (the control's mean) for the prose.

    Args:
        id: the claim, as declared in a part's `claims.yaml`.
        values: shape (n,): one finite number per independent repetition; at least five, unless the rule is
            `on: every` or the claim says in `few` why two are enough.
        control: shape (m,): the control's values, given exactly where the claim declares a control.

    Returns:
        The result, whose verdict is "reproduced" or "not-reproduced".

    Raises:
        ClaimError: no claim has this id; the values cannot be judged; the control does not fit the
            declaration; the claim was recorded before in the same static build.
        ClaimFailed: the rule fails; the control's rule fails; the rule holds though it was expected not to.
    """
    claim = _find(id)
    place = f"{_short(claim.file)}, claim {id!r}: "
    if claim.control is None and control is not None:
        raise ClaimError(f"{place}a control is given and none is declared; declare `control` or leave it out")
    if claim.control is not None and control is None:
        raise ClaimError(f"{place}no control is given; the claim declares one ({claim.control.measure})")
    if is_static() and id in _recorded:
        raise ClaimError(f"{place}it is recorded twice in one notebook; record each claim once")
    summary = summarize(values, f"{place}the values")
    _require_enough(summary, claim.accept, claim, f"{place}the values")
    control_summary, control_held = None, True
    if claim.control is not None:
        control_summary = summarize(control, f"{place}the control's values")
        _require_enough(control_summary, claim.control.accept, claim, f"{place}the control's values")
        control_held = claim.control.accept is None or control_summary.keeps(claim.control.accept)
    held = summary.keeps(claim.accept)
    as_expected = control_held and held == (claim.expect == "reproduced")
    result = Result(claim, claim.expect if as_expected else "failed", summary, control_summary, _book_seed())

    build = paths.build_dir()
    path = build / "results" / claim.part / f"{id}.json" if build else None
    if path:
        _write(path, result.as_dict())
    card = claimcard.myst(result, _download(path)) if is_static() else claimcard.markdown(result)
    emit({"text/markdown": card, "text/plain": claimcard.markdown(result)})
    if not as_expected:
        raise ClaimFailed(claimcard.complaint(result, control_held, _short(claim.file), _notebooks(claim)))
    _recorded.add(id)
    numbers = {name: getattr(summary, name) for name in ("mean", "low", "high", "min", "max", "n")}
    numbers["control"] = control_summary and control_summary.mean
    for name, x in numbers.items():
        if x is not None:
            glue(f"{id}.{name}", x)
    return result


def glue(name: str, value: float | str) -> None:
    """Keep a number, or a short text, for the page's prose: ``{glue:text}`name:.2f` ``.

    Emits an output that MyST-NB collects and hides; only in a static build, for no live notebook reads it.

    Raises:
        ValueError: the value is NaN or infinite.
        TypeError: the value is neither a real number nor a text.
    """
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, bool) or not isinstance(plain, int | float | str):
        raise TypeError(f"glue({name!r}) got {value!r}; expected a real number or a text")
    if isinstance(plain, float) and not math.isfinite(plain):
        raise ValueError(f"glue({name!r}) got {plain}; expected a finite number")
    if is_static():
        prefix = "application/papermill.record/"
        scrapbook = {"scrapbook": {"name": name, "mime_prefix": prefix}}
        emit({f"{prefix}text/plain": repr(plain)}, scrapbook)
