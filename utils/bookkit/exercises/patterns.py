"""Recognise how numbers are wrong: transposed, a factor off, in another order, …

Each pattern takes pairs of arrays (answer, reference), one or more for each failing case, and holds only if
it holds for every one of them. So one coincidence on a small case does not make a reason.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from .compare import Difference, as_array, close, dtype_name, tolerance

CONSTANTS = {"π": math.pi, "2π": 2 * math.pi, "√2": math.sqrt(2), "√(2π)": math.sqrt(2 * math.pi)}
CONSTANTS |= {"ln 2": math.log(2), "ln 10": math.log(10)}
FACTORS_OF_SIZE: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "n": (lambda n: n, "is a division by n missing"),
    "1/n": (lambda n: 1 / n, "is there one division by n too many"),
    "√n": (np.sqrt, "is a division by √n missing"),
    "1/√n": (lambda n: 1 / np.sqrt(n), "is there one division by √n too many"),
    "n/(n − 1)": (lambda n: n / (n - 1), "does n − 1 stand where n should"),
    "(n − 1)/n": (lambda n: (n - 1) / n, "does n stand where n − 1 should"),
    "√(n/(n − 1))": (lambda n: np.sqrt(n / (n - 1)), "does n − 1 stand where n should"),
    "√((n − 1)/n)": (lambda n: np.sqrt((n - 1) / n), "does n stand where n − 1 should"),
}
LARGEST_FOR_ORDER = 400


@dataclass(frozen=True)
class Pair:
    """The numbers at one place of one failing case; `sizes` names every length among the case's arguments."""

    answer: np.ndarray
    reference: np.ndarray
    tol: float
    sizes: Mapping[str, int]


Pattern = Callable[[Sequence[Pair]], str | None]


def sizes(arguments: Mapping[str, Any]) -> dict[str, int]:
    """Name the lengths that a factor may come from.

    >>> sizes({"x": np.ones((2, 3)), "nets": [1, 2, 3]})
    {'the length of axis 0 of `x`': 2, 'the length of axis 1 of `x`': 3, 'the number of elements of `x`': 6,
     'the number of entries of `nets`': 3}
    """
    named = {}
    for name, value in arguments.items():
        if isinstance(value, list | tuple | dict):
            named[f"the number of entries of `{name}`"] = len(value)
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            for axis, length in enumerate(value.shape):
                named[f"the length of axis {axis} of `{name}`"] = int(length)
            if len(value.shape) > 1:
                named[f"the number of elements of `{name}`"] = int(np.prod(value.shape))
    return named


def axes_order(answer: Any, reference: Any, tol: float) -> tuple[int, ...] | None:
    """Return the order of axes that turns the answer into the reference, if there is one."""
    a, r = as_array(answer), as_array(reference)
    if a.ndim != r.ndim or not 2 <= a.ndim <= 5:
        return None
    orders = itertools.islice(itertools.permutations(range(a.ndim)), 1, None)
    return next((order for order in orders if close(a.transpose(order), r, tol)), None)


def reshaped(answer: Any, reference: Any, tol: float) -> str | None:
    """Say how a result of the wrong shape is the right one all the same, or one step away from it."""
    a, r = as_array(answer), as_array(reference)
    if order := axes_order(a, r, tol):
        how = (
            "it is transposed"
            if a.ndim == 2
            else f"its axes are in another order, permute{order} puts it right"
        )
        return f"The numbers are right, but {how}"
    if close(a.ravel(), r.ravel(), tol):
        if tuple(n for n in a.shape if n != 1) == tuple(n for n in r.shape if n != 1):
            what = "many (keepdim=True, unsqueeze, None in an index?)" if a.ndim > r.ndim else "few"
            return f"The numbers are right: one axis of length 1 too {what}"
        return "The numbers and their order are right: a reshape is missing"
    for axis in range(a.ndim):
        for verb in ("sum", "mean"):
            if close(getattr(a, verb)(axis), r, tol):
                return f"A {verb} over axis {axis} of your result gives the reference"
    for axis in range(r.ndim):
        for verb in ("sum", "mean"):
            if close(a, getattr(r, verb)(axis), tol):
                return f"Your result is the reference after a {verb} over axis {axis}, which should stay"
    return None


def transposed(pairs: Sequence[Pair]) -> str | None:
    """Recognise square results with their axes exchanged."""
    orders = {axes_order(p.answer, p.reference, p.tol) for p in pairs}
    if len(orders) != 1 or None in orders:
        return None
    order = orders.pop()
    return (
        "It is the transpose of the reference"
        if order == (1, 0)
        else f"permute{order} would put its axes right"
    )


def opposite(pairs: Sequence[Pair]) -> str | None:
    """Recognise a mask that is True, or 1, exactly where it should be False, or 0."""
    if all(
        np.isin(p.reference, (0, 1)).all() and close(1.0 - p.answer, 1.0 * p.reference, p.tol) for p in pairs
    ):
        return "It is the opposite of the reference: what should be kept is left out, and the other way round"
    return None


def signs(pairs: Sequence[Pair]) -> str | None:
    """Recognise a wrong sign, everywhere or at some elements."""
    if any(p.answer.dtype.kind in "bu" or p.reference.dtype.kind in "bu" for p in pairs):
        return None
    if all(close(-p.answer, p.reference, p.tol) for p in pairs):
        return "It is right but for the sign: your answer is −1 times the reference"
    if all(close(abs(p.answer), abs(p.reference), p.tol) for p in pairs):
        return "Every number has the right size, but some have the wrong sign"
    return None


def factor(pairs: Sequence[Pair]) -> str | None:
    """Recognise a constant factor, or one that is a size of the input (or its root)."""
    found = [_factor(p) for p in pairs]
    if any(c is None for c in found) or sum(np.count_nonzero(p.reference) for p in pairs) < 2:
        return None
    if np.allclose(found, found[0], rtol=1e-4):
        c = float(found[0])
        if math.isclose(c, 1, rel_tol=1e-4):
            return None
        return f"Your answer is {c:.4g} times the reference{_missing(c)}" if c else "It is zero everywhere"
    for name in pairs[0].sizes:
        n = np.array([p.sizes.get(name, 0) for p in pairs], dtype=float)
        for written, (f, question) in FACTORS_OF_SIZE.items():
            with np.errstate(all="ignore"):
                fits = np.allclose(found, f(n), rtol=1e-4)
            if fits:
                said = f"Your answer is {written} times the reference, where n is {name}"
                return f"{said} ({n[0]:g} here): {question}?"
    return None


def offset(pairs: Sequence[Pair]) -> str | None:
    """Recognise a constant that is added to every number."""
    if any(p.reference.dtype.kind not in "iuf" or p.answer.dtype.kind not in "iuf" for p in pairs):
        return None
    shift = float(pairs[0].answer.ravel()[0]) - float(pairs[0].reference.ravel()[0])
    same = all(close(p.answer - shift, p.reference, max(p.tol, 1e-12)) for p in pairs)
    if not same or sum(p.reference.size for p in pairs) < 2:
        return None
    return f"Your answer is the reference {'plus' if shift > 0 else 'minus'} {abs(shift):.4g} everywhere"


def transformed(pairs: Sequence[Pair]) -> str | None:
    """Recognise a square, a root, a logarithm, … too many or too few."""
    undo: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "square: a square root is missing": np.sqrt,
        "square root: one square root too many, or a square missing": np.square,
        "reciprocal": np.reciprocal,
        "logarithm": np.exp,
        "exponential: a logarithm is missing": np.log,
    }
    for name, function in undo.items():
        with np.errstate(all="ignore"):
            if all(
                p.answer.dtype.kind == "f" and close(function(p.answer), p.reference, p.tol) for p in pairs
            ):
                return f"Your answer is the reference's {name}"
    return None


def inverse(pairs: Sequence[Pair]) -> str | None:
    """Recognise a permutation returned as its inverse."""
    for p in pairs:
        a, r, every = p.answer, p.reference, np.arange(p.reference.size)
        integers = a.ndim == r.ndim == 1 and a.dtype.kind in "iu" and r.dtype.kind in "iu"
        if not integers or not np.array_equal(np.sort(a), every) or not np.array_equal(np.sort(r), every):
            return None
        if not np.array_equal(a[r], every):
            return None
    return "It is the inverse of the reference's permutation: `argsort` turns one into the other"


def reordered(pairs: Sequence[Pair]) -> str | None:
    """Recognise the right numbers, rows or columns in another order."""
    if all(p.answer.ndim > 1 and _same_rows(p.answer, p.reference, p.tol) for p in pairs):
        return "It has the right rows in another order"
    if all(p.answer.ndim > 1 and _same_rows(p.answer.T, p.reference.T, p.tol) for p in pairs):
        return "It has the right columns in another order"
    if all(p.answer.size > 1 and p.answer.dtype.kind != "b" and _same_numbers(p) for p in pairs):
        return "It has the right numbers in another order"
    return None


def rounded(pairs: Sequence[Pair]) -> str | None:
    """Recognise float64 results with the digits of float32."""
    if all(
        p.reference.dtype == np.float64 and p.tol < 1e-7 and close(p.answer, p.reference, 1e-5) for p in pairs
    ):
        return "It agrees to about 7 digits only: somewhere on the way the numbers are float32"
    return None


def coarse(d: Difference) -> bool:
    """Tell whether the numbers are right as far as the answer's own, shorter dtype goes."""
    a, r = as_array(d.answer), as_array(d.reference)
    return dtype_name(d.answer) != dtype_name(d.reference) and close(a, r, tolerance(d.answer, None))


def where(wrong: np.ndarray) -> str:
    """Say where in an array the wrong elements lie, if all lie at one index of an axis and more is right."""
    for axis in range(wrong.ndim if np.count_nonzero(wrong) > 1 else 0):
        at = np.unique(np.nonzero(wrong)[axis])
        if len(at) == 1 and wrong.shape[axis] > 1:
            end = " (the last)" if at[0] == wrong.shape[axis] - 1 else ""
            return f", all at index {at[0]}{end} of axis {axis}"
    return ""


PATTERNS: dict[str, Pattern] = {
    "transposed": transposed,
    "inverse": inverse,
    "opposite": opposite,
    "sign": signs,
    "precision": rounded,
    "factor": factor,
    "offset": offset,
    "order": reordered,
    "transform": transformed,
}


def _factor(pair: Pair) -> float | None:
    a, r = pair.answer, pair.reference
    if a.dtype.kind not in "iuf" or r.dtype.kind not in "iuf" or not np.any(r):
        return None
    a, r = a.astype(float), r.astype(float)
    c = float((a * r).sum() / (r * r).sum())
    return c if close(a, c * r, max(pair.tol, 1e-9) * max(1.0, 1 / abs(c) if c else 1.0)) else None


def _missing(c: float) -> str:
    fraction = Fraction(c).limit_denominator(12)
    top, bottom = abs(fraction.numerator), fraction.denominator
    if fraction and math.isclose(c, fraction, rel_tol=1e-4):
        return f": is a factor {bottom if top == 1 else f'{bottom}/{top}'} missing?"
    for name, constant in CONSTANTS.items():
        if math.isclose(abs(c), constant, rel_tol=1e-4):
            return f": is a division by {name} missing?"
        if math.isclose(abs(c), 1 / constant, rel_tol=1e-4):
            return f": is a factor {name} missing?"
    return ""


def _same_rows(a: np.ndarray, r: np.ndarray, tol: float) -> bool:
    if len(a) > LARGEST_FOR_ORDER or len(a) < 2:
        return False
    left = list(range(len(r)))
    for row in a:
        match = next((i for i in left if close(row, r[i], tol)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _same_numbers(pair: Pair) -> bool:
    return close(np.sort(pair.answer.ravel()), np.sort(pair.reference.ravel()), pair.tol)
