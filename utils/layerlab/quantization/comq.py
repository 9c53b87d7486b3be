"""Rounding by coordinate descent: each code in turn takes its best value, the others held fixed.

The error of a layer's outputs is a quadratic function of every single code and of every scale, so each has a
best value in closed form: no inverse, no gradient descent, only dot products and rounding.
"""

from typing import Literal

import torch
from torch import Tensor

from layerlab.quantization.affine import encode, fit, nearest_codes
from layerlab.quantization.gptq import Rounded, check_layer, finish, per_unit, width_of
from layerlab.quantization.scheme import Parameters, Scheme


@torch.no_grad()
def comq(
    weight: Tensor,
    gram: Tensor,
    scheme: Scheme,
    *,
    sweeps: int = 3,
    order: Literal["greedy", "cyclic"] = "greedy",
    start: Literal["weight", "nearest"] = "weight",
    scales: bool = True,
    **how: object,
) -> Rounded:
    """Round one layer by minimizing ‖X Wᵀ − X Ŵᵀ‖² along one coordinate at a time (COMQ; Zhang et al., 2025).

    With r = w − ŵ of a unit and G = XᵀX, the best ŵ_j for the others as they are is ŵ_j + (G r)_j / G_jj,
    rounded to the grid; the best scale of a group with codes c (less the zero point) is
    s + cᵀ(G r) / cᵀG c. Once all weights are rounded no step makes the error larger.

    Args:
        weight: (out, in) or (out, in, height, width).
        gram: XᵀX of the layer's inputs, (d, d), d the number of inputs of a unit; may be singular.
        scheme: bits, symmetry and groups.
        sweeps: times that each code, and then each scale, is updated; at least 1.
        order: of the codes in a sweep: "greedy", each unit by falling ‖x_j‖ · |w_j|, or "cyclic", from left
            to right.
        start: "weight", as in the paper: the first sweep rounds one weight after the other, those to come
            still as they were; "nearest": all are rounded to nearest before, so the error never exceeds that.
        scales: update the scales too. Zero points stay.
        **how: for `affine.fit`, which gives the first scales.

    Returns:
        Codes in the shape of `weight`, parameters as of `affine.fit`, and the decoded weight in the type of
        `weight`. Weights of inputs that are always zero are rounded to nearest.

    Raises:
        TypeError: `scheme` is no `Scheme`; a tensor is not floating point.
        ValueError: shapes differ; values are not finite; a group that does not divide; an option unknown or
            out of range.

    >>> comq(torch.tensor([[0.4, 0.4, 1.0]]), torch.eye(3) + 1, Scheme(2), scales=False).codes
    tensor([[0, 1, 1]], dtype=torch.int8)
    """
    if isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 1:
        raise ValueError(f"sweeps: expected an integer of at least 1, got {sweeps!r}")
    for name, value, known in (
        ("order", order, ("greedy", "cyclic")),
        ("start", start, ("weight", "nearest")),
    ):
        if value not in known:
            raise ValueError(f"{name}: expected one of {known}, got {value!r}")
    W, G = check_layer(weight, gram)
    parameters = fit(W, scheme, **how)
    units, groups = torch.arange(len(W)), torch.arange(len(G)) // width_of(scheme, len(G))
    scale, zero = (p.T.contiguous() for p in per_unit(parameters, len(W)))  # (out, groups)
    norms = G.diagonal()
    steps = torch.arange(len(G)).expand_as(W)
    if order == "greedy":
        steps = (W.abs() * norms.sqrt()).argsort(dim=1, descending=True, stable=True)
    codes = encode(W, scheme, parameters).double()
    w_hat = W.clone() if start == "weight" else (codes - zero[:, groups]) * scale[:, groups]
    for _ in range(sweeps):
        Gr = (W - w_hat) @ G
        for j in steps.T:
            old, g = w_hat[units, j], groups[j]
            best = torch.where(norms[j] > 0, old + Gr[units, j] / norms[j], W[units, j])
            s, z = scale[units, g], zero[units, g]
            code = nearest_codes(best, s, z).clamp(scheme.low, scheme.high)
            new = (code - z) * s
            Gr -= (new - old)[:, None] * G[j]
            codes[units, j], w_hat[units, j] = code, new
        if scales:
            _update_scales(W, G, codes - zero[:, groups], scale, scheme, parameters.scale.dtype)
            w_hat = (codes - zero[:, groups]) * scale[:, groups]
    kept = scale[0, 0] if scheme.group == "tensor" else scale.reshape(parameters.scale.shape)
    kept = kept.to(parameters.scale.dtype)
    return finish(codes, weight, scheme, Parameters(kept, parameters.zero))


def _update_scales(
    W: Tensor, G: Tensor, shifted: Tensor, scale: Tensor, scheme: Scheme, dtype: torch.dtype
) -> None:
    """One group after the other, the best scale (out, groups), in place; codes less zero points are given."""
    width = width_of(scheme, len(G))
    Gr = (W - shifted * scale.repeat_interleave(width, 1)) @ G
    for g, part in enumerate(torch.arange(len(G)).split(width)):
        c = shifted[:, part]
        Gc = c @ G[part]
        slope, curve = (c * Gr[:, part]).sum(1), (c * Gc[:, part]).sum(1)
        if scheme.group == "tensor":
            slope, curve = slope.sum().expand_as(slope), curve.sum().expand_as(curve)
        old = scale[:, g]
        # Of the numbers of a type, the nearest to the lowest point of a parabola is the lowest on it.
        new = torch.where(curve > 0, old + slope / curve, old).to(dtype).double()
        change = torch.where((new > 0) & torch.isfinite(new), new - old, 0)
        scale[:, g] += change
        Gr -= change[:, None] * Gc
