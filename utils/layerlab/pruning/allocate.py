"""Allocation: how much goes from which layer, for one sparsity of the whole.

Every function returns the sparsity of each layer by key, for `masks.unstructured(scores, …)`. Rounded to
whole weights in each layer, the total is met to within one weight per layer.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from layerlab.activations import check_inputs
from layerlab.pruning.masks import check_sparsity, layer_sparsity, masked, unstructured
from layerlab.train import evaluating

Shares = dict[str, float]


def uniform(weights: Mapping[str, Tensor], sparsity: float) -> Shares:
    """The same share of every layer."""
    _check(weights, sparsity)
    return dict.fromkeys(weights, sparsity)


def erk(weights: Mapping[str, Tensor], sparsity: float) -> Shares:
    """Erdős–Rényi kernel: densities in proportion to (sum of the axes) / (product of the axes).

    The rule of RigL (Evci et al., 2020, section 3), for a convolution (in + out + height + width) over
    (in · out · height · width). A layer whose density would pass 1 stays dense; the others share the rest.

    >>> erk({"a": torch.zeros(100, 100), "b": torch.zeros(10, 100)}, 0.9)
    {'a': 0.9290..., 'b': 0.6096...}
    """
    _check(weights, sparsity)
    sizes = {key: w.numel() for key, w in weights.items()}
    keep = _fill(
        {key: float(sum(w.shape)) for key, w in weights.items()},
        dict.fromkeys(weights, 0.0),
        sizes,
        (1 - sparsity) * sum(sizes.values()),
    )
    return {key: 1 - keep[key] / sizes[key] for key in weights}


def from_scores(scores: Mapping[str, Tensor], sparsity: float) -> Shares:
    """What one threshold over all layers removes of each.

    With magnitudes this is global pruning, with `scores.lamp` LAMP. A layer that the threshold empties has
    share 1, which `unstructured` refuses.
    """
    return layer_sparsity(unstructured(scores, sparsity, per="model", allow_empty=True))


def from_importance(
    importance: Mapping[str, float],
    weights: Mapping[str, Tensor],
    sparsity: float,
    *,
    max_sparsity: float | None = None,
) -> Shares:
    """More of the budget to layers that matter more, the coarse step of ECoFLaP (Sung et al., 2024).

    Every layer keeps 1 − `max_sparsity` of its weights; what is left of the budget is shared in proportion to
    importance, and what a full layer cannot take goes to the others in the same proportion.

    Args:
        importance: by key, at least 0; only their ratios matter.
        weights: by key.
        sparsity: share to remove in total, in [0, 1).
        max_sparsity: largest share of a layer, from `sparsity` to 1; halfway between the two where not given.

    Raises:
        ValueError: keys differ; an importance is negative or not finite; a share is out of range.
    """
    _check(weights, sparsity)
    if importance.keys() != weights.keys():
        raise ValueError(f"importance: expected the keys {list(weights)}, got {list(importance)}")
    for key, value in importance.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"importance[{key!r}]: expected a finite number of at least 0, got {value}")
    top = (1 + sparsity) / 2 if max_sparsity is None else max_sparsity
    if not sparsity <= top <= 1:
        raise ValueError(f"max_sparsity: expected a number from sparsity={sparsity} to 1, got {top}")
    sizes = {key: w.numel() for key, w in weights.items()}
    least = {key: (1 - top) * n for key, n in sizes.items()}
    keep = _fill(importance, least, sizes, (1 - sparsity) * sum(sizes.values()))
    return {key: 1 - keep[key] / sizes[key] for key in weights}


def _fill(
    parts: Mapping[str, float], least: Mapping[str, float], most: Mapping[str, float], total: float
) -> dict[str, float]:
    """Amounts least + c · parts, at most `most`, with c such that they add up to `total`."""
    out, full = dict(least), set()
    while True:
        rest = total - sum(most[k] if k in full else least[k] for k in out)
        free = {k: parts[k] for k in out if k not in full}
        if free and not sum(free.values()):
            free = {k: most[k] - least[k] for k in free}  # nothing tells them apart: in proportion to size
        scale = rest / sum(free.values()) if free and sum(free.values()) else 0.0
        out = {k: least[k] + scale * free[k] if k in free else float(most[k]) for k in out}
        over = {k for k in free if out[k] > most[k]}
        if not over:
            return out
        full |= over


@torch.no_grad()
def distortion_curves(
    model: nn.Module,
    X: Tensor,
    scores: Mapping[str, Tensor],
    levels: Sequence[float],
    *,
    batch_size: int = 1024,
) -> dict[str, Tensor]:
    """How far the model's output moves when one layer alone is pruned to each level.

    Args:
        model: run in evaluation mode, without masks; not modified.
        X: inputs (N, …).
        scores: by key of the layers to measure, higher = keep.
        levels: sparsities in [0, 1).
        batch_size: inputs per forward pass.

    Returns:
        By key the mean squared change of an output, over examples and outputs, float64, (levels,).

    Raises:
        ValueError: no examples or NaN; no levels, or one that empties a layer; scores do not fit the weights.
    """
    check_inputs(X, batch_size)
    if not len(levels):
        raise ValueError("levels: expected at least one, got none")
    state = model.state_dict()

    def outputs(changed: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([functional_call(model, dict(changed), (x,)) for x in X.split(batch_size)]).double()

    curves = {}
    with evaluating(model):
        before = outputs(state)
        for key, score in scores.items():
            found = [
                (outputs(masked(state, unstructured({key: score}, level))) - before).square().mean()
                for level in levels
            ]
            curves[key] = torch.stack(found)
    return curves


def dynamic_program(
    curves: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    levels: Sequence[float],
    sparsity: float,
    *,
    bins: int = 20_000,
) -> Shares:
    """The levels that minimise the summed distortion while `sparsity` of all weights go (Xu et al., 2023).

    A knapsack over the layers: the least distortion of the first layers with at least b weights removed. It
    is exact where all weights together are at most `bins`; beyond, counts are rounded to units of
    total / bins, on the side on which the budget is met.

    Args:
        curves: distortion of each layer at each level, (levels,), by key.
        sizes: number of weights of each layer.
        levels: the sparsities that a layer may have, in [0, 1].
        sparsity: share of all weights to remove at least, in [0, 1).
        bins: resolution of the table.

    Raises:
        ValueError: keys or lengths differ; values are not finite or out of range; the highest levels together
            do not reach `sparsity`.
    """
    removed, goal = _problem(curves, sizes, levels, sparsity)
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, got {bins}")
    unit = max(1, math.ceil(sum(sizes.values()) / bins))
    while True:
        table = [[count // unit for count in counts] for counts in removed.values()]
        chosen = _knapsack(list(curves.values()), table, math.ceil(goal / unit))
        if chosen is not None:
            return {key: float(levels[j]) for key, j in zip(curves, chosen, strict=True)}
        unit = max(1, unit // 2)  # rounding left no way


def _knapsack(curves: list[Tensor], removed: list[list[int]], goal: int) -> list[int] | None:
    best = torch.full((goal + 1,), torch.inf, dtype=torch.float64)
    best[0] = 0
    need, choices = torch.arange(goal + 1), []
    for curve, counts in zip(curves, removed, strict=True):
        options = torch.stack(
            [best[(need - n).clamp(min=0)] + float(c) for n, c in zip(counts, curve, strict=True)]
        )
        best, choice = options.min(0)
        choices.append(choice)
    if best[goal].isinf():
        return None
    chosen, left = [], goal
    for choice, counts in zip(reversed(choices), reversed(removed), strict=True):
        chosen.append(int(choice[left]))
        left = max(0, left - counts[chosen[-1]])
    return chosen[::-1]


def brute_force(
    curves: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    levels: Sequence[float],
    sparsity: float,
) -> Shares:
    """What `dynamic_program` finds, by trying all combinations of levels; for up to a million of them.

    Raises:
        ValueError: as `dynamic_program`; there are more than a million combinations.
    """
    removed, goal = _problem(curves, sizes, levels, sparsity)
    if len(levels) ** len(curves) > 1e6:
        raise ValueError(
            f"curves, levels: expected at most a million combinations, got {len(levels)} ** {len(curves)}"
        )
    costs, counts = [curve.tolist() for curve in curves.values()], list(removed.values())
    feasible = (
        choice
        for choice in itertools.product(range(len(levels)), repeat=len(costs))
        if sum(n[j] for n, j in zip(counts, choice, strict=True)) >= goal
    )
    best = min(feasible, key=lambda choice: sum(c[j] for c, j in zip(costs, choice, strict=True)))
    return {key: float(levels[j]) for key, j in zip(curves, best, strict=True)}


def _problem(curves, sizes, levels, sparsity) -> tuple[dict[str, list[int]], int]:
    """Weights that each layer loses at each level, and how many must go."""
    check_sparsity(sparsity)
    if not curves or curves.keys() != sizes.keys():
        raise ValueError(f"curves, sizes: expected the same keys, got {list(curves)} and {list(sizes)}")
    if any(not 0 <= level <= 1 for level in levels):
        raise ValueError(f"levels: expected numbers in [0, 1], got {list(levels)}")
    for key, curve in curves.items():
        if curve.shape != (len(levels),) or not torch.isfinite(curve).all():
            raise ValueError(f"curves[{key!r}]: expected {len(levels)} finite values, got {curve}")
        if sizes[key] < 1:
            raise ValueError(f"sizes[{key!r}]: expected at least 1, got {sizes[key]}")
    removed = {key: [round(level * sizes[key]) for level in levels] for key in curves}
    goal, most = round(sparsity * sum(sizes.values())), sum(max(counts) for counts in removed.values())
    if most < goal:
        raise ValueError(
            f"sparsity: expected at most {most / sum(sizes.values()):.4g}, which the highest of `levels` "
            f"remove, got {sparsity}"
        )
    return removed, goal


def zeroth_order(
    loss: Callable[[dict[str, Tensor]], float | Tensor],
    weights: Mapping[str, Tensor],
    *,
    probes: int = 16,
    eps: float = 1e-3,
    seed: int = 0,
) -> dict[str, float]:
    """Norm of the loss's gradient by each layer, from forward passes alone (ECoFLaP; Sung et al., 2024).

    A layer is moved by ±ε z with z standard normal; the mean square of (L₊ − L₋) / 2ε over the probes
    estimates ‖∂L/∂W‖². Two evaluations of `loss` per layer and probe.

    Args:
        loss: maps all `weights`, with one layer moved, to a number.
        weights: by key; not modified.
        probes: random directions per layer.
        eps: length of a step in units of the weights.
        seed: of the directions.

    Raises:
        ValueError: `probes` or `eps` is out of range; there are no weights; the loss is not finite.
    """
    _check(weights, 0.0)
    if probes < 1:
        raise ValueError(f"probes: expected at least 1, got {probes}")
    if not 0 < eps < math.inf:
        raise ValueError(f"eps: expected a positive number, got {eps}")
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for key, weight in weights.items():
        squares = 0.0
        for _ in range(probes):
            z = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight) * eps
            up, down = (float(loss({**weights, key: weight + sign * z})) for sign in (1, -1))
            squares += ((up - down) / (2 * eps)) ** 2
        if not math.isfinite(squares):
            raise ValueError(f"loss: expected finite values, got NaN or infinity near weights[{key!r}]")
        out[key] = math.sqrt(squares / probes)
    return out


def _check(weights: Mapping[str, Tensor], sparsity: float) -> None:
    check_sparsity(sparsity)
    if not weights:
        raise ValueError("weights: expected at least one layer, got none")
