"""Bits under a budget: which layer gets how many, so that the summed cost is least.

A cost per layer and number of bits (a Hessian's trace times the squared rounding error, or a measured rise of
the loss) turns mixed precision into a knapsack with one choice per layer, which is solved exactly here.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np

Costs = Mapping[str, Mapping[float, float]]
Choice = dict[str, float]

MOST = 2_000_000  # choices that `brute_force` tries


class Point(NamedTuple):
    """The bits of all layers together, their cost, and the bits per weight of each by key."""

    bits: int
    cost: float
    choice: Choice


def total_bits(choice: Mapping[str, float], sizes: Mapping[str, int]) -> int:
    """Bits of all layers together: size times bits per weight, rounded to whole bits in each layer.

    >>> total_bits({"a": 4, "b": 2.25}, {"a": 10, "b": 100})
    265
    """
    _check_sizes(sizes, choice)
    return sum(round(sizes[key] * bits) for key, bits in choice.items())


def dynamic_program(costs: Costs, sizes: Mapping[str, int], budget_bits: float) -> Choice:
    """The bits of each layer with the least total cost that fit the budget; exact.

    Args:
        costs: key → {bits per weight: cost}. Layers may have different choices; bits may be fractions, which
            count a share of the scales; costs may be negative and need not fall with the bits.
        sizes: number of weights by key.
        budget_bits: largest number of bits of all layers together.

    Returns:
        Bits per weight by key. Among equal costs, those with fewer bits in total.

    Raises:
        ValueError: no layer, or one without a choice; keys differ; a number is out of range; the budget is
            below the fewest bits possible, which the error names.

    >>> costs = {"first": {2: 9.0, 4: 1.0}, "last": {2: 4.0, 4: 0.5}}
    >>> dynamic_program(costs, {"first": 10, "last": 10}, 60)
    {'first': 4, 'last': 2}
    """
    _check(costs, sizes, budget_bits)
    return _front(costs, sizes, budget_bits)[-1].choice


def pareto(costs: Costs, sizes: Mapping[str, int]) -> list[Point]:
    """All choices that no other one beats in both bits and cost, from the fewest bits to the least cost.

    HAWQ-V2 (Dong et al., 2020) picks from this front, with the cost of a layer its mean Hessian eigenvalue
    times the squared rounding error. Layers are added one at a time, and what is beaten is dropped at once:
    the front of some layers has at most as many points as there are different totals of bits.

    Args:
        costs, sizes: as in `dynamic_program`.

    Returns:
        Points with rising bits and falling cost; of several choices that share both, one.

    Raises:
        ValueError: as `dynamic_program`.

    >>> for point in pareto({"a": {2: 9.0, 4: 1.0}, "b": {2: 4.0, 4: 0.5}}, {"a": 10, "b": 10}):
    ...     print(point)
    Point(bits=40, cost=13.0, choice={'a': 2, 'b': 2})
    Point(bits=60, cost=5.0, choice={'a': 4, 'b': 2})
    Point(bits=80, cost=1.5, choice={'a': 4, 'b': 4})
    """
    _check(costs, sizes, math.inf)
    return _front(costs, sizes, math.inf)


def brute_force(
    costs: Costs,
    sizes: Mapping[str, int],
    budget_bits: float,
    *,
    measure: Callable[[Choice], float] | None = None,
) -> Choice:
    """The best choice of all by trying each: a check of the others on few layers.

    Args:
        costs, sizes, budget_bits: as in `dynamic_program`.
        measure: cost of a choice in place of the sum, such as the loss of the model that is quantized so;
            then only the keys and bits of `costs` matter.

    Returns:
        Bits per weight by key. Among equal costs, those with fewer bits in total.

    Raises:
        ValueError: as `dynamic_program`; there are more than `MOST` choices; a measured cost is NaN.

    >>> brute_force({"a": {2: 9.0, 4: 1.0}, "b": {2: 4.0, 4: 0.5}}, {"a": 10, "b": 10}, 60)
    {'a': 4, 'b': 2}
    """
    _check(costs, sizes, budget_bits)
    count = math.prod(len(options) for options in costs.values())
    if count > MOST:
        raise ValueError(f"costs: expected at most {MOST} choices in all, got {count}")

    def by_sum(choice: Choice) -> float:
        return sum(costs[key][bits] for key, bits in choice.items())

    best: tuple[float, int] = (math.inf, 0)
    found: Choice = {}
    for bits in itertools.product(*costs.values()):
        choice = dict(zip(costs, bits, strict=True))
        size = sum(round(sizes[key] * b) for key, b in choice.items())
        if size > budget_bits:
            continue
        cost = (measure or by_sum)(choice)
        if math.isnan(cost):
            raise ValueError(f"measure: expected a number for {choice}, got NaN")
        if not found or (cost, size) < best:
            best, found = (cost, size), choice
    return found


def by_order(
    order: Sequence[str], sizes: Mapping[str, int], bits: Sequence[float], budget_bits: float
) -> Choice:
    """Bits that never rise along an order of the layers and use as much of the budget as such bits can.

    What an order alone can decide, as HAWQ's by the top eigenvalue (Dong et al., 2019), with the most
    sensitive layer first; a random or reversed order is the control. Where several use the same number of
    bits, the earlier layers get the more.

    Args:
        order: all keys, the first deserves most.
        sizes: number of weights by key.
        bits: the bits per weight to choose from.
        budget_bits: largest number of bits of all layers together.

    Raises:
        ValueError: the order is not one of the keys of `sizes`; no bits; a number is out of range; the budget
            is too small; there are more than `MOST` ways.

    >>> by_order(["b", "a"], {"a": 10, "b": 10}, [2, 4, 8], 100)
    {'b': 8, 'a': 2}
    """
    if sorted(order) != sorted(sizes):
        raise ValueError(f"order: expected each of {list(sizes)} once, got {list(order)}")
    _check({key: dict.fromkeys(bits, 0.0) for key in order}, sizes, budget_bits)
    levels = sorted(set(bits), reverse=True)
    count = math.comb(len(order) + len(levels) - 1, len(order))
    if count > MOST:
        raise ValueError(f"order: expected at most {MOST} ways to give bits along it, got {count}")
    totals = {b: [0, *itertools.accumulate(round(sizes[key] * b) for key in order)] for b in levels}
    best, found = -1, ()
    for ways in itertools.combinations_with_replacement(levels, len(order)):  # the most bits come first
        used = sum(totals[b][i + 1] - totals[b][i] for i, b in enumerate(ways))
        if best < used <= budget_bits:
            best, found = used, ways
    return dict(zip(order, found, strict=True))


def _front(costs: Costs, sizes: Mapping[str, int], budget: float) -> list[Point]:
    """The front within a budget, layer by layer; each step remembers which point and choice it came from."""
    fewest = {key: min(round(sizes[key] * b) for b in options) for key, options in costs.items()}
    rest = sum(fewest.values())
    bits, cost = np.zeros(1, dtype=np.int64), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    for key, options in costs.items():
        rest -= fewest[key]
        added = np.array([round(sizes[key] * b) for b in options], dtype=np.int64)
        paid = np.array([float(c) for c in options.values()])
        all_bits, all_costs = (bits[:, None] + added).ravel(), (cost[:, None] + paid).ravel()
        order = np.lexsort((all_costs, all_bits))
        order = order[all_bits[order] <= budget - rest]
        sorted_costs = all_costs[order]
        before = np.minimum.accumulate(np.concatenate([[np.inf], sorted_costs[:-1]]))
        kept = order[sorted_costs < before]
        bits, cost = all_bits[kept], all_costs[kept]
        steps.append(np.divmod(kept, len(added)))
    points = []
    for i in range(len(bits)):
        choice, at = {}, i
        for (key, options), (origin, option) in zip(reversed(costs.items()), reversed(steps), strict=True):
            choice[key] = list(options)[option[at]]
            at = origin[at]
        points.append(Point(int(bits[i]), float(cost[i]), {key: choice[key] for key in costs}))
    return points


def _check_sizes(sizes: Mapping[str, int], keys: Mapping[str, object]) -> None:
    if sizes.keys() != keys.keys():
        raise ValueError(f"sizes: expected the keys {list(keys)}, got {list(sizes)}")
    for key, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
            raise ValueError(f"sizes[{key!r}]: expected an integer of at least 1, got {size!r}")


def _check(costs: Costs, sizes: Mapping[str, int], budget: float) -> None:
    if not costs:
        raise ValueError("costs: expected at least one layer, got none")
    _check_sizes(sizes, costs)
    for key, options in costs.items():
        if not options:
            raise ValueError(f"costs[{key!r}]: expected at least one number of bits, got none")
        for bits, cost in options.items():
            if isinstance(bits, bool) or not isinstance(bits, Real) or not 0 < bits < math.inf:
                raise ValueError(f"costs[{key!r}]: expected positive numbers of bits, got {bits!r}")
            if not math.isfinite(cost):
                raise ValueError(f"costs[{key!r}][{bits}]: expected a finite number, got {cost}")
    least = sum(min(round(sizes[key] * b) for b in options) for key, options in costs.items())
    if not budget >= least:
        raise ValueError(f"budget_bits: expected at least {least}, the fewest bits possible, got {budget}")
