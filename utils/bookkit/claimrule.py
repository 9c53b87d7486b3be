"""Measured values, the interval of their mean, and whether they keep a rule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from bookkit.claimfile import ClaimError, Rule


@dataclass(frozen=True)
class Summary:
    """Measured values and their mean.

    `low` and `high` bound its two-sided 95 % interval, `limit_lower` and `limit_upper` are the one-sided 95 %
    limits; all four are Student's t over independent values, and None for a single value.
    """

    values: tuple[float, ...]
    n: int
    mean: float
    min: float
    max: float
    low: float | None
    high: float | None
    limit_lower: float | None
    limit_upper: float | None

    def keeps(self, rule: Rule) -> bool:
        """Tell whether the values keep the rule; a rule `on: limit` needs two values or more."""
        ends = (self.limit_lower, self.limit_upper) if rule.on == "limit" else (self.min, self.max)
        return (rule.lower is None or ends[0] >= rule.lower) and (rule.upper is None or ends[1] <= rule.upper)


def summarize(values: ArrayLike, what: str = "the values") -> Summary:
    """Check measured values and sum them up.

    >>> found = summarize([0.1, 0.2, 0.3, 0.2, 0.2])
    >>> round(found.mean, 3), round(found.limit_upper, 3)
    (0.2, 0.267)

    Args:
        values: shape (n,), n >= 1; a single number counts as one value.
        what: what messages call the values.

    Raises:
        ClaimError: the values are not real numbers, not a flat list, empty, NaN or infinite.
    """
    try:
        array = np.asarray(values)
        if array.dtype.kind in "SUc":
            raise TypeError(f"they are {array.dtype}")
        array = np.atleast_1d(array.astype(np.float64))
    except (TypeError, ValueError) as error:
        raise ClaimError(
            f"{what} are {values!r}; expected real numbers, one a repetition ({error})"
        ) from error
    if array.ndim != 1 or not array.size:
        raise ClaimError(f"{what} have the shape {array.shape}; expected (n,), one number a repetition")
    for index in np.flatnonzero(~np.isfinite(array)):
        raise ClaimError(f"{what} hold {array[index]} at index {index}; every value has to be finite")
    x = array.tolist()
    n = len(x)
    # Equal values have no spread; computing it would leave the rounding error of the mean.
    mean = x[0] if min(x) == max(x) else math.fsum(x) / n
    low = high = limit_lower = limit_upper = None
    if n > 1:
        error = math.sqrt(math.fsum((value - mean) ** 2 for value in x) / (n - 1) / n)
        two_sided, one_sided = (float(stdtrit(n - 1, level)) * error for level in (0.975, 0.95))
        low, high = mean - two_sided, mean + two_sided
        limit_lower, limit_upper = mean - one_sided, mean + one_sided
    return Summary(tuple(x), n, mean, min(x), max(x), low, high, limit_lower, limit_upper)
