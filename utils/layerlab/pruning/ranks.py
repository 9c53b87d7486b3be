"""How much rank to which layer: one share for all, one energy for all, or the least maximal error (ALDS).

Liebenwein et al. (2021, "Compressing neural networks: towards determining the optimal layer-wise
decomposition") slice a layer's input channels into k groups, approximate each by its truncated SVD of rank j,
and choose k and j of every layer so that the largest relative error of a layer is as small as the budget
allows.

Chapter: `chapters/pruning/03_low_rank.ipynb`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from layerlab.pruning._matrices import check_rank
from layerlab.pruning.low_rank import rank_for, stored


class Option(NamedTuple):
    """A way to store a layer: `cost` numbers, a relative `error`, (slices, rank), or None for dense."""

    cost: int
    error: float
    choice: tuple[int, int] | None


def singular_values(weight: Tensor, slices: int = 1) -> list[Tensor]:
    """Singular values of each slice of the input channels, falling, float64.

    Raises:
        ValueError: slices that do not divide the input channels; a weight that is not finite.

    >>> singular_values(torch.diag(torch.tensor([3.0, 1.0])), 2)
    [tensor([3.], dtype=torch.float64), tensor([1.], dtype=torch.float64)]
    """
    if slices < 1 or weight.shape[1] % slices:
        raise ValueError(f"slices: expected a divisor of {weight.shape[1]} input channels, got {slices}")
    return [torch.linalg.svdvals(part) for part in check_rank(weight, 1).chunk(slices, dim=1)]


def relative_error(values: Tensor | Sequence[Tensor], rank: int, *, norm: float | None = None) -> float:
    """Bound on the relative spectral error of a layer whose slices have rank r: √k · max σᵢ,ᵣ₊₁ / σ₁(W).

    For one slice it is the error itself (Eckart–Young). For k slices it is a bound, since the errors of the
    slices stand side by side: ‖[E₁ … Eₖ]‖² ≤ Σ‖Eᵢ‖². The authors' code leaves √k out.

    Args:
        values: singular values of the weight, falling; or of each of its slices.
        rank: r ≥ 0, of each slice.
        norm: σ₁(W), the spectral norm of the whole weight; needed with several slices.

    Raises:
        ValueError: a negative rank; several slices without a norm; a norm of zero.

    >>> relative_error(torch.tensor([4.0, 2.0, 1.0]), 1)
    0.5
    """
    slices = [values] if isinstance(values, Tensor) else list(values)
    if rank < 0:
        raise ValueError(f"rank: expected at least 0, got {rank}")
    if norm is None:
        if len(slices) > 1:
            raise ValueError("norm: expected the spectral norm of the whole weight with several slices")
        norm = slices[0][0].item()
    if not norm > 0:
        raise ValueError(f"norm: expected a positive number, got {norm}")
    rest = max(part[rank].item() if rank < len(part) else 0.0 for part in slices)
    return math.sqrt(len(slices)) * rest / norm


def options(weight: Tensor, slices: Sequence[int] = (1, 2, 4)) -> list[Option]:
    """Every way to store a layer that no other beats in cost and error, cheapest first; dense is the last.

    Numbers of slices that do not divide the input channels are left out.

    Raises:
        ValueError: a weight that is zero or not finite, or no number of slices that divides.
    """
    found = [Option(weight.numel(), 0.0, None)]
    norm = singular_values(weight)[0][0].item()
    if not norm > 0:
        raise ValueError("expected some value that is not zero, got only zeros")
    for k in slices:
        if weight.shape[1] % k == 0:
            values = singular_values(weight, k)
            for r in range(1, len(values[0]) + 1):
                cost = stored(tuple(weight.shape), r, k)
                found.append(Option(cost, relative_error(values, r, norm=norm), (k, r)))
    return _frontier(found)


def _frontier(found: list[Option]) -> list[Option]:
    front: list[Option] = []
    for option in sorted(found, key=lambda o: (o.cost, o.error, o.choice is not None)):
        if not front or option.error < front[-1].error:
            front.append(option)
    return front


def minimax(fronts: Mapping[str, list[Option]], budget: float) -> dict[str, Option]:
    """The choice for each layer whose largest error is least within a budget; what is left serves the others.

    Starts with the cheapest way for every layer, and moves the layer with the largest error to its next
    cheapest way with a smaller one. A layer that cannot be paid for stays, and the rest go on.

    Raises:
        ValueError: a budget below the cheapest way.
    """
    place = dict.fromkeys(fronts, 0)
    cost = sum(front[0].cost for front in fronts.values())
    if cost > budget:
        raise ValueError(f"share: expected a budget of at least {cost} numbers, got {budget:.0f}")
    active = {key for key, front in fronts.items() if len(front) > 1}
    while active:
        key = max(sorted(active), key=lambda k: fronts[k][place[k]].error)
        front, i = fronts[key], place[key]
        more = front[i + 1].cost - front[i].cost
        if cost + more > budget:
            active.remove(key)
            continue
        cost, place[key] = cost + more, i + 1
        if i + 2 == len(front):
            active.remove(key)
    return {key: front[place[key]] for key, front in fronts.items()}


def _budget(weights: Mapping[str, Tensor], share: float) -> float:
    if not weights:
        raise ValueError("weights: expected at least one, got none")
    if not 0 < share <= 1:
        raise ValueError(f"share: expected a number in (0, 1], got {share}")
    return share * sum(weight.numel() for weight in weights.values()) + 1e-6


def alds(
    weights: Mapping[str, Tensor], share: float, *, slices: Sequence[int] = (1, 2, 4)
) -> dict[str, tuple[int, int]]:
    """Slices and rank of every layer that minimise the largest relative error of a layer under a budget.

    The paper alternates between the ranks (a line search over the error) and the numbers of slices, and
    restarts; with each layer's options on their frontier of cost and error, the minimum is found outright.

    Args:
        weights: (out, in) or (out, in, kh, kw), by key.
        share: numbers stored, as a share of all the weights' numbers.
        slices: numbers of slices to choose from.

    Returns:
        (slices, rank) by key; layers that are best left dense are missing, as `low_rank.factorize` expects.

    Raises:
        ValueError: a share outside (0, 1] or too small for the cheapest factors; a weight that is zero.

    >>> W = torch.diag(torch.tensor([4.0, 2.0, 1.0, 1.0]))
    >>> alds({"flat": torch.eye(4), "steep": W}, 0.8, slices=(1,))
    {'steep': (1, 1)}
    """
    budget = _budget(weights, share)
    fronts = {}
    for key, weight in weights.items():
        try:
            fronts[key] = options(weight, slices)
        except ValueError as error:
            raise ValueError(f"weights[{key!r}]: {error}") from error
    chosen = minimax(fronts, budget)
    return {key: option.choice for key, option in chosen.items() if option.choice is not None}


def uniform_ranks(weights: Mapping[str, Tensor], share: float) -> dict[str, int]:
    """The same share of its numbers for every layer, rounded down to whole ranks, but at least rank 1.

    Where rank 1 is more than a small layer's share, all others get as much less as keeps the total.

    Raises:
        ValueError: a share outside (0, 1], or too small for rank 1 of every layer.

    >>> uniform_ranks({"a": torch.ones(10, 20), "b": torch.ones(8, 8)}, 0.5)
    {'a': 3, 'b': 2}
    """
    budget = _budget(weights, share)
    shapes = {key: tuple(weight.shape) for key, weight in weights.items()}
    steps = {key: stored(shape, 1) / weights[key].numel() for key, shape in shapes.items()}
    levels = {r * step for step in steps.values() for r in range(1, int(share / step) + 1)} | {share}
    for level in sorted((s for s in levels if s <= share), reverse=True):
        ranks = {k: rank_for(s, level) if steps[k] <= level else 1 for k, s in shapes.items()}
        if sum(stored(shapes[key], rank) for key, rank in ranks.items()) <= budget:
            return ranks
    least = sum(stored(shape, 1) for shape in shapes.values())
    raise ValueError(f"share: expected room for rank 1 of every layer, {least} numbers, got {budget:.0f}")


def energy_ranks(weights: Mapping[str, Tensor], share: float) -> dict[str, int]:
    """Ranks by energy: the largest share of squared singular values that a layer loses is made least.

    Returns:
        Rank by key; layers that are best left dense are missing.

    Raises:
        ValueError: as `alds`.

    >>> W = torch.diag(torch.tensor([4.0, 2.0, 1.0, 1.0]))
    >>> energy_ranks({"flat": torch.eye(4), "steep": W}, 0.8)
    {'steep': 1}
    """
    budget = _budget(weights, share)
    fronts = {}
    for key, weight in weights.items():
        squares = singular_values(weight)[0].square()
        if not squares[0] > 0:
            raise ValueError(f"weights[{key!r}]: expected some value that is not zero, got only zeros")
        tail = squares.flip(0).cumsum(0).flip(0) / squares.sum()
        shape = tuple(weight.shape)
        found = [Option(stored(shape, r), tail[r].item(), (1, r)) for r in range(1, len(tail))]
        fronts[key] = _frontier([*found, Option(weight.numel(), 0.0, None)])
    chosen = minimax(fronts, budget)
    return {key: option.choice[1] for key, option in chosen.items() if option.choice is not None}
