"""Second-order pruning: the weights that stay make up for those that go.

For inputs X (n, d) of a layer, the squared error of new weights W' is Σ over units of (w − w')ᵀ XᵀX (w − w'),
so the Gram matrix XᵀX says all that is needed. Everything is computed in float64.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from layerlab.activations import check_inputs, gram, inverse_factor, watch
from layerlab.layers import layers_of
from layerlab.pruning._checks import check_gram, check_mask, check_sparsity, check_weight, shares_of
from layerlab.pruning._select import keep_in_rows, keep_largest
from layerlab.pruning.masks import make_permanent


def inverse_hessian(gram: Tensor, damp: float = 0.01) -> Tensor:
    """(XᵀX + λ)⁻¹ with λ = `damp` times the mean of the diagonal; inputs that are always zero get a 1.

    Args:
        gram: XᵀX, (d, d).
        damp: share of the mean of the diagonal that is added to it, at least 0.

    Raises:
        ValueError: `damp` is negative or not finite, or the sum is singular.
    """
    U = inverse_factor(gram, damp)
    return U.T @ U


@torch.no_grad()
def sparsegpt(
    weight: Tensor,
    gram: Tensor,
    mask: Tensor | None = None,
    *,
    sparsity: float | None = None,
    n_of_m: tuple[int, int] | None = None,
    damp: float = 0.01,
    block: int = 128,
) -> tuple[Tensor, Tensor]:
    """Prune one layer column by column, later ones making up for it (SparseGPT; Frantar & Alistarh, 2023).

    With the upper Cholesky factor U of the inverse Hessian, removing w_j of a unit adds −w_j U_jk / U_jj to
    each later w_k (Algorithm 1). Where no mask is given, each block of columns chooses its own just before,
    by w² / U_jj²; `n_of_m` chooses for every m columns in turn.

    Args:
        weight: (out, in) or (out, in, height, width).
        gram: XᵀX of the layer's inputs, (d, d), d the number of inputs of a unit.
        mask: bool, of the weight's shape, True = kept. Give this, `sparsity` or `n_of_m`.
        sparsity: share to remove, in [0, 1); exactly `round(sparsity · n)` entries go.
        n_of_m: (n, m): keep n of every m consecutive inputs.
        damp: as in `inverse_hessian`.
        block: columns that choose together. Where it spans a small layer, one choice is made before any
            weight has moved; at high sparsity a smaller block is better.

    Returns:
        The new weight, in the type and shape of `weight`, and the mask.

    Raises:
        ValueError: not exactly one way to choose; a value out of range; shapes differ; values are not finite;
            a mask, or `sparsity`, that leaves nothing; a singular Hessian.
    """
    W = _rows(weight, gram)
    total, d = W.numel(), W.shape[1]
    if sum(choice is not None for choice in (mask, sparsity, n_of_m)) != 1:
        raise ValueError("mask, sparsity, n_of_m: expected exactly one of them")
    if block < 1:
        raise ValueError(f"block: expected at least 1, got {block}")
    if sparsity is not None:
        check_sparsity(sparsity)
        if round(sparsity * total) == total:
            raise ValueError(
                f"sparsity: expected one that leaves a weight, got {sparsity} of {total} weights"
            )
    if n_of_m is not None:
        n, block = n_of_m
        if not 1 <= n <= block or d % block:
            raise ValueError(f"n_of_m: expected (n, m), 1 <= n <= m, m a divisor of {d}, got {n_of_m}")
    keep = torch.ones_like(W, dtype=torch.bool) if mask is None else _flat_mask(mask, weight)
    alive = gram.diagonal() > 0
    U = inverse_factor(gram, damp)
    removed = 0
    for start in range(0, d, block):
        stop = min(start + block, d)
        if mask is None:
            score = torch.where(alive, W / U.diagonal(), 0)[:, start:stop].square()
            if n_of_m is not None:
                keep[:, start:stop] = keep_in_rows(score, n)
            else:
                goal = round(sparsity * len(W) * stop)  # so far, so that the total is exact
                (keep[:, start:stop],) = keep_largest([score], score.numel() - (goal - removed))
                removed = goal
        for j in range(start, stop):
            error = torch.where(keep[:, j], 0, W[:, j]) / U[j, j]
            W[:, j:] -= error[:, None] * U[j, j:]
            W[:, j] = torch.where(keep[:, j], W[:, j], 0)
    return W.view(weight.shape).to(weight.dtype), keep.view(weight.shape)


@torch.no_grad()
def reconstruct(weight: Tensor, gram: Tensor, mask: Tensor) -> Tensor:
    """The weights under a mask with the least squared error, by one solve per unit; no damping.

    What `sparsegpt` approaches at a fraction of the cost: with S the kept inputs of a unit and R the others,
    w'_S = w_S + (XᵀX)_SS⁻¹ (XᵀX)_SR w_R. Where many solutions are equally good, the least change.

    Args:
        weight: (out, in) or (out, in, height, width).
        gram: XᵀX of the layer's inputs, (d, d); may be singular.
        mask: bool, of the weight's shape, True = kept.

    Returns:
        The new weight, in the type and shape of `weight`.

    Raises:
        ValueError: shapes differ, the mask is not bool or keeps nothing, or values are not finite.
    """
    W = _rows(weight, gram)
    keep, H = _flat_mask(mask, weight), gram.double()
    alive = H.diagonal() > 0
    for row, kept in zip(W, keep, strict=True):
        s, r = (kept & alive).nonzero().flatten(), (~kept).nonzero().flatten()
        if len(s) and len(r):
            row[s] += _solve(H[s][:, s], H[s][:, r] @ row[r])
        row[~kept] = 0
    return W.view(weight.shape).to(weight.dtype)


def _solve(A: Tensor, b: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(A)
    pivots = factor.diagonal().square()
    if not failed and pivots.min() > 1e-9 * pivots.max():
        return torch.cholesky_solve(b[:, None], factor)[:, 0]
    return torch.linalg.lstsq(A, b[:, None], driver="gelsd").solution[:, 0]


def prune_model(
    model: nn.Module,
    X: Tensor,
    sparsity: float | Mapping[str, float],
    *,
    sequential: bool = True,
    prune: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]] | None = None,
    damp: float = 0.01,
    block: int = 128,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Prune every layer of a model with what it reads on X, by default with `sparsegpt`.

    Args:
        model: run in evaluation mode; not modified. Masks that it has are made permanent in the result.
        X: inputs (N, …), all in one forward pass.
        sparsity: share to remove; by key where layers differ, and then layers that are not named stay whole.
        sequential: each layer reads the outputs of the layers before it as they are pruned already; else as
            they were. A layer that is called several times is pruned at its first call.
        prune: maps (weight, gram, sparsity) to (new weight, mask) in place of `sparsegpt`.
        damp, block: for `sparsegpt`.

    Returns:
        The state dict of the pruned model, and the masks.

    Raises:
        ValueError: no examples or NaN; `sparsity` is out of range or names an unknown layer; a layer is not
            called by the forward pass, or is a grouped convolution; as `sparsegpt`.
    """
    check_inputs(X, len(X))
    model = make_permanent(copy.deepcopy(model))
    layers = layers_of(model)
    if isinstance(sparsity, Mapping):
        unknown = sorted(sparsity.keys() - layers.keys())
        if unknown:
            raise ValueError(f"sparsity: expected keys among {list(layers)}, got {unknown}")
        layers = {key: users for key, users in layers.items() if key in sparsity}
    shares = shares_of(sparsity, layers)
    if prune is None:

        def prune(weight: Tensor, gram: Tensor, share: float) -> tuple[Tensor, Tensor]:
            return sparsegpt(weight, gram, sparsity=share, damp=damp, block=block)

    masks: dict[str, Tensor] = {}

    def step(key: str, module: nn.Module, found: Mapping[str, Tensor], own: str) -> None:
        if own not in found:
            raise ValueError(
                f"model: expected a layer that the forward pass calls, and no groups, at {key!r}"
            )
        weight, masks[key] = prune(module.weight.detach(), found[own], shares[key])
        module.weight.data.copy_(weight)

    if not sequential:
        found = gram(model, X)
        for key, users in layers.items():
            step(key, users[0][1], found, key)
        return model.state_dict(), masks

    started = set()

    def hook(key: str) -> Callable:
        def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if key not in started:
                started.add(key)  # first, for `gram` calls the module too
                step(key, module, gram(module, args[0]), "weight")

        return before

    watch(model, X, [(m, hook(key)) for key, users in layers.items() for _, m in users], batch_size=len(X))
    missing = [key for key in layers if key not in started]
    if missing:
        raise ValueError(f"model: expected layers that the forward pass calls, it does not call {missing}")
    return model.state_dict(), {key: masks[key] for key in layers}


def _rows(weight: Tensor, gram: Tensor) -> Tensor:
    """A copy of the weight, one row per unit, float64, after checks."""
    check_weight(weight)
    check_gram(gram, weight[0].numel())
    return weight.detach().double().flatten(1).clone()


def _flat_mask(mask: Tensor, weight: Tensor) -> Tensor:
    check_mask(mask, weight)
    if not mask.any():
        raise ValueError("mask: expected at least one weight that stays, got none")
    return mask.flatten(1)
