"""Three ways to find the permutation that lays one network's units onto another's (Ainsworth et al., 2023).

All of them return permutations π such that `apply_permutation(spec, π, b)` lies close to `a`. The assignment
problem inside is solved by `scipy.optimize.linear_sum_assignment`, which is exact.

Chapter: `chapters/merging/02_permutation_matching.ipynb`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import functional_call

from layerlab.merging.interpolate import State, check_compatible, lerp
from layerlab.symmetry import (
    Permutations,
    PermutationSpec,
    apply_permutation,
    check_permutations,
    check_spec,
    identity_permutations,
    permutation_spec,
    permute_axis,
    unit_activations,
)
from layerlab.train import check_state, evaluate, evaluating

_STATISTICS = ("running_mean", "running_var")


class Match(NamedTuple):
    """Permutations, and the objective after each sweep (for straight-through: the loss of each step)."""

    permutations: Permutations
    history: list[float]


def assign(similarity: Tensor) -> Tensor:
    """The permutation π that maximises Σ_i similarity[i, π(i)], exactly.

    Args:
        similarity: (n, n); entry (i, j) is the gain of laying unit j of B onto unit i of A.

    Raises:
        ValueError: not square, or not finite.

    >>> assign(torch.tensor([[0.1, 0.9], [0.8, 0.7]]))
    tensor([1, 0])
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity: expected a square matrix, got shape {tuple(similarity.shape)}")
    if not torch.isfinite(similarity).all():
        raise ValueError("similarity: expected finite values, got NaN or infinity")
    return torch.as_tensor(linear_sum_assignment(similarity.numpy(), maximize=True)[1])


def _weights(spec: PermutationSpec, state: Mapping[str, Tensor]) -> State:
    keys = {key for group in spec.values() for key, _ in group.axes if not key.endswith(_STATISTICS)}
    return {key: state[key].double() for key in sorted(keys)}


def similarity(
    spec: PermutationSpec,
    permutations: Permutations,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    group: str,
) -> Tensor:
    """Inner products between the units of A and B, their other axes aligned by the current permutations.

    Entry (i, j) is what Σ_keys ⟨a, π(b)⟩ gains when unit j of B is laid onto unit i of A: the matrix of the
    linear assignment problem in algorithm 1 of Ainsworth et al. (2023). BatchNorm's running statistics are
    left out: they follow a permutation but do not steer it.

    Args:
        spec: the symmetries.
        permutations: the current permutation of every group.
        a: weights of A.
        b: weights of B.
        group: the group whose units are compared.

    Returns:
        A (n, n) matrix.
    """
    n = spec[group].size
    total = torch.zeros(n, n, dtype=torch.float64)
    for key, axis in spec[group].axes:
        if key.endswith(_STATISTICS):
            continue
        other = b[key].double()
        for name, permutation in permutations.items():
            for k, ax in spec[name].axes:
                if k == key and (name, ax) != (group, axis):
                    other = permute_axis(other, ax, permutation)
        pair = (a[key].double(), other)
        rows_a, rows_b = (w.unflatten(axis, (n, -1)).movedim(axis, 0).reshape(n, -1) for w in pair)
        total += rows_a @ rows_b.T
    return total


def _inner(spec: PermutationSpec, permutations: Permutations, a: State, b: State) -> float:
    moved = dict(b)
    for name, permutation in permutations.items():
        for key, axis in spec[name].axes:
            if key in moved:
                moved[key] = permute_axis(moved[key], axis, permutation)
    return sum((a[key] * moved[key]).sum().item() for key in a)


def weight_matching(
    spec: PermutationSpec,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    seed: int = 0,
    start: Permutations | None = None,
    max_sweeps: int = 100,
) -> Match:
    """Permute B's units so that its weights lie as close to A's as coordinate descent can bring them.

    Minimising ‖a − π(b)‖² is maximising ⟨a, π(b)⟩. With all groups but one held fixed that is a linear
    assignment problem, solved exactly; groups are visited in random order until none improves (algorithm 1,
    section 3.2). Uses no data. A group that stands on both axes of one weight makes the step quadratic; there
    the assignment is taken only when it improves the objective, so that the history never falls.

    Args:
        spec: the symmetries, from `permutation_spec`.
        a: the reference weights.
        b: the weights to permute; not modified.
        seed: order of the visits.
        start: permutations to start from, for some or all groups; the identity for the others.
        max_sweeps: bound on the number of sweeps.

    Returns:
        The permutations, and ⟨a, π(b)⟩ before the first and after each sweep, summed over the weights that
        the spec names but for running statistics.

    Raises:
        ValueError: a and b differ in keys or shapes, hold NaN, or do not fit the spec; `start` does not fit
            the spec; `max_sweeps` below 1.
        TypeError: `start` holds something that is no tensor of int64.
    """
    check_compatible(a, b)
    check_spec(spec, a)
    check_permutations(spec, start or {}, name="start")
    if max_sweeps < 1:
        raise ValueError(f"max_sweeps: expected at least 1, got {max_sweeps}")
    wa, wb = _weights(spec, a), _weights(spec, b)
    permutations = {**identity_permutations(spec), **(start or {})}
    generator = torch.Generator().manual_seed(seed)
    names = sorted(spec)
    history = [_inner(spec, permutations, wa, wb)]
    for _ in range(max_sweeps):
        for i in torch.randperm(len(names), generator=generator).tolist():
            permutations = _improve(spec, permutations, wa, wb, names[i])
        history.append(_inner(spec, permutations, wa, wb))
        if history[-1] <= history[-2] + 1e-12 * abs(history[-2]):
            break
    return Match(permutations, history)


def _improve(
    spec: PermutationSpec, permutations: Permutations, a: State, b: State, group: str
) -> Permutations:
    gain = similarity(spec, permutations, a, b, group)
    best = assign(gain)
    proposal = {**permutations, group: best}
    keys = [key for key, _ in spec[group].axes if key in a]
    if len(set(keys)) < len(keys):  # twice on one weight: the gains of single pairings do not add up
        before, after = (_inner(spec, p, a, b) for p in (permutations, proposal))
    else:
        before, after = (gain.gather(1, p[:, None]).sum().item() for p in (permutations[group], best))
    return proposal if after > before + 1e-12 * abs(before) else permutations


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation between the columns of two matrices; 0 for a unit that never changes.

    Args:
        x: (samples, m).
        y: (samples, n), the same samples.

    Returns:
        (m, n), in [−1, 1].

    Raises:
        ValueError: not two matrices; or the numbers of samples differ, or are below 2.
    """
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(f"x and y: expected two matrices, got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"x and y: expected one number of samples, at least 2, got {len(x)} and {len(y)}")

    def standardise(z: Tensor) -> Tensor:
        changes = z.amax(0) > z.amin(0)  # the norm will not do: a rounded mean leaves it above 0
        z = z.double() - z.double().mean(0)
        return torch.where(changes, z / z.norm(dim=0), 0.0)

    return standardise(x).T @ standardise(y)


def activation_matching(
    model: nn.Module,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    X: Tensor,
    *,
    spec: PermutationSpec | None = None,
) -> Match:
    """Pair the units whose answers to the same inputs correlate most (section 3.1; Li et al., 2016).

    Each group is one assignment problem of its own: no iteration, but data are needed. Correlation, not the
    raw inner product of equation (1), so that loud units do not decide everything.

    Args:
        model: the architecture.
        a: the reference weights.
        b: the weights to permute; not modified.
        X: inputs (N, …), no labels.
        spec: the symmetries; derived from the model if not given.

    Returns:
        The permutations, and Σ over groups of the matched correlations before and after.

    Raises:
        ValueError: a and b differ in keys or shapes, hold NaN, or do not fit the model or the spec; fewer
            than two inputs, or NaN among them.
    """
    check_compatible(a, b)
    check_state(model, a, name="a")
    if len(X) < 2:
        raise ValueError(f"X: expected at least 2 examples to correlate, got {len(X)}")
    if not torch.isfinite(X).all():
        raise ValueError("X: expected finite values, got NaN or infinity")
    spec = permutation_spec(model, X[:1]) if spec is None else spec
    check_spec(spec, a)
    za, zb = (unit_activations(model, spec, X, state=s) for s in (a, b))
    gain = {name: correlation(za[name], zb[name]) for name in spec}
    permutations = {name: assign(gain[name]) for name in spec}
    before = sum(g.diagonal().sum().item() for g in gain.values())
    after = sum(gain[n][torch.arange(len(p)), p].sum().item() for n, p in permutations.items())
    return Match(permutations, [before, after])


def _through_midpoint(model: nn.Module, middle: State, X: Tensor, y: Tensor) -> tuple[float, State]:
    """Loss of the midpoint ½ (a + π(b)), and its gradient with respect to π(b)."""
    leaves = {k: middle[k].detach().requires_grad_() for k, _ in model.named_parameters()}
    with evaluating(model):
        loss = F.cross_entropy(functional_call(model, middle | leaves, (X,)), y)
    gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return loss.item(), {k: g / 2 for k, g in zip(leaves, gradients, strict=True)}  # ∂ middle / ∂ π(b) = ½


def straight_through_matching(
    model: nn.Module,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    X: Tensor,
    y: Tensor,
    *,
    spec: PermutationSpec | None = None,
    steps: int = 50,
    lr: float = 1e-2,
    batch_size: int = 256,
    seed: int = 0,
) -> Match:
    """Search the permutation that minimises the loss of the midpoint itself (section 3.3).

    Free weights w start at A. Each step projects them to the nearest permutation of B (weight matching),
    takes the loss of the midpoint ½ (a + π(b)), and passes its gradient straight through the projection to w.
    The permutation with the lowest loss on all of the data is kept.

    Args:
        model: the architecture; not modified.
        a: the reference weights.
        b: the weights to permute; not modified.
        X: inputs (N, …).
        y: labels (N,), int64.
        spec: the symmetries; derived from the model if not given.
        steps: gradient steps, at least 1.
        lr: learning rate of Adam.
        batch_size: examples per step, drawn with replacement.
        seed: order of batches and of the projections' visits.

    Returns:
        The permutations, and the midpoint's loss on the batch of each step.

    Raises:
        ValueError: a and b differ in keys or shapes, hold NaN, or do not fit the model or the spec; X and y
            are not as in `layerlab.train.evaluate`; `steps`, `lr` or `batch_size` is out of range.
    """
    check_compatible(a, b)
    check_state(model, a, name="a")
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if not lr > 0:
        raise ValueError(f"lr: expected a positive number, got {lr}")
    spec = permutation_spec(model, X[:1]) if spec is None else spec
    free = {k: a[k].detach().clone() for k, _ in model.named_parameters()}
    opt = torch.optim.Adam(free.values(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    permutations: Permutations = identity_permutations(spec)
    best, best_loss, history = permutations, float("inf"), []
    for step in range(steps):
        match = weight_matching(spec, {**a, **free}, b, seed=seed + step, start=permutations)
        permutations = match.permutations
        middle = lerp(a, apply_permutation(spec, permutations, b), 0.5)
        loss = evaluate(model, X, y, state=middle).loss
        if loss < best_loss:
            best, best_loss = permutations, loss
        batch = torch.randint(len(X), (min(batch_size, len(X)),), generator=generator)
        batch_loss, gradients = _through_midpoint(model, middle, X[batch], y[batch])
        for key, gradient in gradients.items():
            free[key].grad = gradient
        opt.step()
        history.append(batch_loss)
    return Match(best, history)
