"""Rounding that looks at what a layer reads: optimal brain quantization, and GPTQ, which makes it fast.

For inputs X (n, d) of a layer, rounding w to ŵ costs a unit (w − ŵ)ᵀ XᵀX (w − ŵ), so the Gram matrix XᵀX,
which is half of that error's Hessian, says all that is needed. Everything is computed in float64.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from layerlab.activations import damped, inverse_factor
from layerlab.quantization._values import check_values
from layerlab.quantization.affine import decode, fit, nearest_codes
from layerlab.quantization.scheme import Parameters, Scheme, check_parameters, check_scheme

LARGEST = 2_000_000  # rows of codes that `exhaustive` tries for a unit


class Rounded(NamedTuple):
    """Codes in the shape of the weight, scales and zero points, and the weight that they stand for."""

    codes: Tensor
    parameters: Parameters
    w_hat: Tensor


def output_error(weight: Tensor, w_hat: Tensor, gram: Tensor) -> float:
    """‖X Wᵀ − X Ŵᵀ‖², summed over the examples of the Gram matrix and the units.

    Args:
        weight, w_hat: (out, in) or (out, in, height, width).
        gram: XᵀX of the layer's inputs, (d, d), d the number of inputs of a unit.

    Raises:
        ValueError: shapes differ; values are not finite.

    >>> X = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> output_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 3.0]]), X.T @ X)
    1.0
    """
    W, G = check_layer(weight, gram)
    rounded = check_values(w_hat, "w_hat")
    if rounded.shape != weight.shape:
        raise ValueError(f"w_hat: expected shape {tuple(weight.shape)}, got {tuple(rounded.shape)}")
    change = W - rounded.flatten(1)
    return ((change @ G) * change).sum().item()


@torch.no_grad()
def obq(
    weight: Tensor,
    gram: Tensor,
    quantize: Callable[[Tensor], Tensor],
    *,
    damp: float = 0.01,
    greedy: bool = True,
) -> Tensor:
    """Optimal brain quantization (Frantar & Alistarh, 2022), step by step; for small layers.

    Of the weights F of a unit that are not rounded yet, the one of least (w_p − q_p)² / [H_FF⁻¹]_pp is, and
    the others make up for it: w_F −= (w_p − q_p) / [H_FF⁻¹]_pp · [H_FF⁻¹]_:p. Here H_FF is inverted anew each
    time, d inversions a unit. Weights outside the grid are not rounded first, as the paper also considers.

    Args:
        weight: (out, in) or (out, in, height, width).
        gram: XᵀX of the layer's inputs, (d, d), d the number of inputs of a unit.
        quantize: maps a float64 matrix (out, d) to the nearest values of a grid that stays the same.
        damp: as in `layerlab.activations.inverse_factor`.
        greedy: choose by the formula, each unit in its own order; else from left to right, as GPTQ does.

    Returns:
        The rounded weight, in the type and shape of `weight`.

    Raises:
        ValueError: shapes differ, values are not finite, or the Hessian is singular.

    >>> obq(torch.tensor([[0.4, 0.4]]), torch.tensor([[1.0, 0.9], [0.9, 1.0]]), torch.round, damp=0)
    tensor([[0., 1.]])
    """
    W, G = check_layer(weight, gram)
    inverse_factor(G, damp)  # says what is wrong with the Gram matrix
    H = damped(G, damp)
    left = [list(range(len(H))) for _ in W]
    for _ in range(len(H)):
        Q = quantize(W)
        for row, q, F in zip(W, Q, left, strict=True):
            inverse = torch.linalg.inv(H[F][:, F])
            error = row[F] - q[F]
            p = int((error.square() / inverse.diagonal()).argmin()) if greedy else 0
            rounded, value = F[p], q[F[p]].item()
            row[F] -= error[p] / inverse[p, p] * inverse[p]
            row[rounded] = value
            del F[p]
    return W.view(weight.shape).to(weight.dtype)


@torch.no_grad()
def gptq(
    weight: Tensor,
    gram: Tensor,
    scheme: Scheme,
    *,
    damp: float = 0.01,
    block: int = 128,
    act_order: bool = False,
    **how: object,
) -> Rounded:
    """Round one layer column by column, later ones making up for it (GPTQ; Frantar et al., 2023).

    What `obq` does, in one order for all units: then the inverses of all steps are in one Cholesky factor U
    (`inverse_factor`), and rounding w_j adds −(w_j − q_j) U_jk / U_jj to each later w_k. Columns after the
    present block get the changes of the whole block in one matrix product, so the size of a block changes
    the time and not the result. 1024 inputs and 1024 outputs take about twice the time of one linear solve of
    that size; `benchmarks/quantize.py` measures it.

    Args:
        weight: (out, in) or (out, in, height, width).
        gram: XᵀX of the layer's inputs, (d, d), d the number of inputs of a unit.
        scheme: bits, symmetry and groups. Groups of consecutive inputs get their scales when the first is
            reached, from the weights as they are then; with `act_order` at the start, like the others.
        damp: as in `layerlab.activations.inverse_factor`.
        block: columns per block, rounded up to whole groups.
        act_order: round first what belongs to the inputs of largest squared sum.
        **how: for `affine.fit`.

    Returns:
        Codes in the shape of `weight`, parameters as of `affine.fit`, and the decoded weight in the type of
        `weight`. Weights of inputs that are always zero are rounded to nearest.

    Raises:
        TypeError: `scheme` is no `Scheme`; a tensor is not floating point.
        ValueError: shapes differ; values are not finite; a group that does not divide; a number out of range;
            a singular Hessian, from too few examples without damping.

    >>> gptq(torch.tensor([[0.4, 0.4, 1.0]]), torch.eye(3) + 1, Scheme(2), damp=0).w_hat
    tensor([[0., 1., 1.]])
    """
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise ValueError(f"block: expected an integer of at least 1, got {block!r}")
    W, G = check_layer(weight, gram)
    d = len(G)
    parameters = fit(W, scheme, **how)
    refit = isinstance(scheme.group, int) and not act_order
    alone = replace(scheme, group="channel")
    width = width_of(scheme, d)
    step = -(-block // width) * width if refit else block
    order = G.diagonal().argsort(descending=True, stable=True) if act_order else torch.arange(d)
    U = inverse_factor(G[order][:, order], damp)
    V = W.T[order].contiguous()  # one row per input: what a step touches lies together
    codes, groups = torch.empty_like(V), (order // width).tolist()
    scale, zero = per_unit(parameters, len(W))
    for start in range(0, d, step):
        stop = min(start + step, d)
        errors = V.new_empty(stop - start, V.shape[1])
        for j in range(start, stop):
            g = groups[j]
            if refit and j % width == 0:
                found = fit(V[j : j + width].T, alone, **how)
                parameters.scale[:, g], parameters.zero[:, g] = found
                scale[g], zero[g] = found
            codes[j] = nearest_codes(V[j], scale[g], zero[g]).clamp_(scheme.low, scheme.high)
            error = errors[j - start] = (V[j] - (codes[j] - zero[g]) * scale[g]) / U[j, j]
            V[j + 1 : stop].addr_(U[j, j + 1 : stop], error, alpha=-1)
        V[stop:].addmm_(U[start:stop, stop:].T, errors, alpha=-1)
    found = torch.empty_like(codes)
    found[order] = codes
    return finish(found.T, weight, scheme, parameters)


@torch.no_grad()
def exhaustive(weight: Tensor, gram: Tensor, scheme: Scheme, parameters: Parameters) -> Rounded:
    """The best codes of all for given scales, by trying each: the optimum of a tiny layer.

    Args:
        weight: (out, in, …); at most `LARGEST` = levels^d rows of codes.
        gram: XᵀX of the layer's inputs, (d, d).
        scheme, parameters: the grid, as from `affine.fit`.

    Raises:
        ValueError: there are too many codes; shapes differ; values are not finite or out of range.

    >>> scheme, weight = Scheme(2), torch.tensor([[0.4, 0.4, 1.0]])
    >>> exhaustive(weight, torch.eye(3) + 1, scheme, fit(weight, scheme)).codes
    tensor([[0, 1, 1]], dtype=torch.int8)
    """
    W, G = check_layer(weight, gram)
    check_scheme(scheme)
    levels = torch.arange(scheme.low, scheme.high + 1, dtype=torch.float64)
    if len(levels) ** len(G) > LARGEST:
        raise ValueError(
            f"weight: expected at most {LARGEST} codes of a unit, got {len(levels)} to the {len(G)}"
        )
    check_parameters(parameters, scheme, weight.shape)
    every = torch.cartesian_prod(*[levels] * len(G)).view(-1, len(G))
    groups = torch.arange(len(G)) // width_of(scheme, len(G))
    scale, zero = per_unit(parameters, len(W))
    codes = torch.empty_like(W)
    for i, row in enumerate(W):
        change = row - (every - zero[groups, i]) * scale[groups, i]
        codes[i] = every[((change @ G) * change).sum(1).argmin()]
    return finish(codes, weight, scheme, parameters)


def check_layer(weight: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """A copy of the weight, one row per unit, and the Gram matrix, both float64; raise unless they fit."""
    W = check_values(weight, "weight")
    if W.ndim < 2:
        raise ValueError(f"weight: expected shape (out, in, …), got {tuple(W.shape)}")
    W, G = W.flatten(1).clone(), check_values(gram, "gram")
    d = W.shape[1]
    if G.shape != (d, d):
        raise ValueError(f"gram: expected shape {(d, d)}, got {tuple(G.shape)}")
    if not torch.allclose(G, G.T, rtol=1e-4, atol=1e-6 * G.abs().max().item()) or (G.diagonal() < 0).any():
        raise ValueError("gram: expected XᵀX, symmetric and without negative numbers on the diagonal")
    return W, G


def width_of(scheme: Scheme, d: int) -> int:
    """How many consecutive inputs of a unit share a scale."""
    return scheme.group if isinstance(scheme.group, int) else d


def per_unit(parameters: Parameters, out: int) -> tuple[Tensor, Tensor]:
    """Scales and zero points (groups of a unit, out), float64."""
    scale, zero = (p.double().reshape(-1, p.shape[1] if p.ndim == 2 else 1) for p in parameters)
    return scale.expand(out, -1).T.clone(), zero.expand(out, -1).T.clone()


def finish(codes: Tensor, weight: Tensor, scheme: Scheme, parameters: Parameters) -> Rounded:
    """Codes (out, d) in the type and shape that they are kept in, with what they stand for."""
    whole = codes.to(scheme.dtype).reshape(weight.shape)
    return Rounded(whole, parameters, decode(whole, scheme, parameters, weight.dtype))
