"""Layers that are rounded together: losses of pairs, an order that knows of them, a search along an order.

A Hessian's diagonal blocks say what rounding a layer costs alone. What it costs beside another rounded layer
also depends on the block between the two, which one measurement per pair gives.

Chapter: `chapters/quantization/02_using_the_hessian.ipynb`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from torch import Tensor

Weights = Mapping[str, Tensor]
Choice = dict[str, float]


class Losses(NamedTuple):
    """By how much the loss rises: each layer rounded alone, by key; and each two together, by both keys."""

    single: dict[str, float]
    joint: dict[tuple[str, str], float]


class Found(NamedTuple):
    """The bits of each layer, and how often the score was asked for."""

    choice: Choice
    evaluations: int


def measure(loss: Callable[[dict[str, Tensor]], float], weights: Weights, rounded: Weights) -> Losses:
    """Measure the loss with each layer rounded alone, and with each two rounded together.

    Args:
        loss: maps a dict with the keys of `weights` to a number; called 1 + n + n(n−1)/2 times for n layers.
        weights: before rounding.
        rounded: after it, with the same keys and shapes.

    Returns:
        Rises above the loss of `weights`.

    Raises:
        ValueError: no layers; keys or shapes differ; a loss that is not finite.

    >>> import torch
    >>> a, b = torch.tensor([1.0]), torch.tensor([2.0])
    >>> def loss(w): return (w["a"] + w["b"]).square().item()
    >>> measure(loss, {"a": a, "b": -a}, {"a": b, "b": -b})
    Losses(single={'a': 1.0, 'b': 1.0}, joint={('a', 'b'): 0.0})
    """
    if not weights:
        raise ValueError("weights: expected at least one layer, got none")
    if rounded.keys() != weights.keys():
        raise ValueError(f"rounded: expected the keys {list(weights)}, got {list(rounded)}")
    for key, w in weights.items():
        if rounded[key].shape != w.shape:
            raise ValueError(
                f"rounded[{key!r}]: expected shape {tuple(w.shape)}, got {tuple(rounded[key].shape)}"
            )

    def at(*keys: str) -> float:
        value = float(loss({**weights, **{key: rounded[key] for key in keys}}))
        if not math.isfinite(value):
            raise ValueError(f"loss: expected a finite number with {list(keys)} rounded, got {value}")
        return value

    base = at()
    single = {key: at(key) - base for key in weights}
    return Losses(single, {pair: at(*pair) - base for pair in combinations(weights, 2)})


def dependencies(losses: Losses) -> dict[tuple[str, str], float]:
    """What two layers cost together beyond what they cost alone; negative where one makes up for the other.

    For a quadratic loss that is Δ_iᵀ H_ij Δ_j, with the block of the Hessian between the two.

    Raises:
        ValueError: a pair of unknown layers.

    >>> dependencies(Losses({"a": 1.0, "b": 1.0}, {("a", "b"): 0.0}))
    {('a', 'b'): -2.0}
    """
    for pair in losses.joint:
        for key in pair:
            if key not in losses.single:
                raise ValueError(f"joint: expected pairs of {list(losses.single)}, got {pair}")
    return {(a, b): rise - losses.single[a] - losses.single[b] for (a, b), rise in losses.joint.items()}


def augmented(sensitivity: Mapping[str, float], losses: Losses) -> dict[str, float]:
    """A layer's own sensitivity and its dependencies on all others, summed.

    For a quadratic loss and the exact sensitivity, that is what leaving this layer as it is would save when
    all others are rounded.

    Args:
        sensitivity: by key, in units of the loss, such as half a Hessian's mean eigenvalue times the squared
            rounding error, or `losses.single`.
        losses: as from `measure`.

    Raises:
        ValueError: keys differ; a number that is not finite.

    Source: after Schaefer et al. (2023), who add measured terms between layers to the Hessian's.

    >>> augmented({"a": 0.9, "b": 1.2}, Losses({"a": 1.0, "b": 1.0}, {("a", "b"): 2.5}))
    {'a': 1.4, 'b': 1.7}
    """
    if sensitivity.keys() != losses.single.keys():
        raise ValueError(f"sensitivity: expected the keys {list(losses.single)}, got {list(sensitivity)}")
    total = {key: float(value) for key, value in sensitivity.items()}
    for pair, extra in dependencies(losses).items():
        for key in pair:
            total[key] += extra
    for key, value in total.items():
        if not math.isfinite(value):
            raise ValueError(f"sensitivity[{key!r}]: expected finite numbers, got {value}")
    return total


def bisection(
    order: Sequence[str], bits: Sequence[float], score: Callable[[Choice], float], target: float
) -> Found:
    """Lower the bits along an order as far as a score stays at its target, in few evaluations.

    All layers begin with the most bits. For each lower number of bits in turn, the layers at the front of the
    order that already have the one before take it: how many is found by bisection, which supposes that the
    score falls with their number. The choice that is returned has been scored, and meets the target.

    Args:
        order: keys, the least sensitive first.
        bits: to choose from, at least one.
        score: of a choice, such as accuracy on held-out data; higher is better.
        target: least score that is accepted.

    Raises:
        ValueError: no layers, or one twice; no bits, or some that are not positive; with the most bits
            everywhere the score is below the target already.

    Source: after Schaefer et al. (2023), a search guided by an order of the layers under an accuracy target.

    >>> bisection(["a", "b", "c"], [8, 4], lambda c: -sum(b == 4 for b in c.values()), -2)
    Found(choice={'a': 4, 'b': 4, 'c': 8}, evaluations=3)
    """
    keys, levels = list(order), sorted(set(bits), reverse=True)
    if not keys or len(set(keys)) < len(keys):
        raise ValueError(f"order: expected keys, each once, got {keys}")
    if not levels or not 0 < levels[-1] <= levels[0] < math.inf:
        raise ValueError(f"bits: expected at least one positive number, got {list(bits)}")
    choice, evaluations = dict.fromkeys(keys, levels[0]), 1
    first = score(choice)
    if not first >= target:
        raise ValueError(f"target: expected at most {first}, the score with {levels[0]} bits, got {target}")
    reached = len(keys)
    for level in levels[1:]:
        low, high = 0, reached  # `low` layers can have it; `high` + 1 and more cannot
        while low < high:
            middle = (low + high + 1) // 2
            tried = choice | dict.fromkeys(keys[:middle], level)
            evaluations += 1
            if score(tried) >= target:
                low = middle
            else:
                high = middle - 1
        choice, reached = choice | dict.fromkeys(keys[:low], level), low
    return Found(choice, evaluations)
