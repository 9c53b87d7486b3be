"""Uniform affine quantization: x ≈ scale · (code − zero), a scale and a zero point per group of weights.

A weight is (out, …): its first axis counts the units, the rest is flattened to the inputs of a unit
(in · height · width of a kernel). Codes are integers of few bits, kept one per byte; `packed` stores them
at their own size.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from layerlab.quantization._values import check_finite, check_values
from layerlab.quantization.scheme import (
    Parameters,
    Quantized,
    Scheme,
    bits_per_weight,
    check_codes,
    check_how,
    check_parameters,
    check_scale_dtype,
    check_scheme,
    schemes_of,
)

__all__ = [
    "Parameters",
    "Quantized",
    "Scheme",
    "bits_per_weight",
    "decode",
    "encode",
    "fit",
    "quantize",
    "round_trip",
    "snr_db",
]

By = Literal["range", "percentile", "mse"]


@torch.no_grad()
def fit(
    x: Tensor,
    scheme: Scheme,
    *,
    by: By = "range",
    percentile: float = 99.9,
    scale_dtype: torch.dtype = torch.float32,
) -> Parameters:
    """Choose the scale and the zero point of each group.

    The range always includes zero, which is represented exactly: padding, ReLU and pruned weights need it.
    Of a group that holds nothing but zeros the scale is 1.

    Args:
        x: (out, …) floating point; with `group="tensor"` of any shape.
        scheme: bits, symmetry and groups.
        by: "range", lowest to highest value; "percentile", the part that holds so many percent of the values
            (of their magnitudes if symmetric, else with equal shares cut at both ends; the range where that
            leaves only zero); "mse", the range shrunk so that the squared error of the group is least of 80
            widths.
        percentile: for `by="percentile"`, in (0, 100].
        scale_dtype: the type in which scales are kept: float16, bfloat16, float32 or float64. They are
            rounded to it before anything is encoded.

    Raises:
        TypeError: `x` is no floating-point tensor, `scheme` no `Scheme`.
        ValueError: NaN or infinity; a group that does not divide; `by` or `percentile` unknown; a range that
            `scale_dtype` cannot hold.

    >>> fit(torch.tensor([[-1.0, 3.0], [0.0, 0.0]]), Scheme(2, symmetric=False))
    Parameters(scale=tensor([1.3333, 1.0000]), zero=tensor([1, 0], dtype=torch.int32))
    """
    check_finite(x)
    check_scheme(scheme)
    check_how(by, percentile)
    check_scale_dtype(scale_dtype)
    shape = scheme.groups(x.shape)
    scale, zero = fit_rows(rows_of(x, scheme), scheme, by, percentile, scale_dtype)
    if not torch.isfinite(scale).all():
        raise ValueError(f"x: expected a range whose scale {scale_dtype} can hold, got up to {x.abs().max()}")
    return Parameters(scale.view(shape), zero.view(shape))


def rows_of(x: Tensor, scheme: Scheme) -> Tensor:
    """One row per group, at least in float32; the scheme must fit the shape."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if scheme.group == "tensor":
        return x.reshape(1, -1)
    return x.reshape(x.shape[0], -1) if scheme.group == "channel" else x.reshape(-1, scheme.group)


def fit_rows(rows: Tensor, scheme: Scheme, by: By, percentile: float, dtype: torch.dtype) -> Parameters:
    """`fit` of groups (groups, n), without checks; scale and zero (groups,)."""
    low, high = rows.aminmax(dim=1)
    if by == "percentile":
        low, high = _percentile(rows, scheme, percentile)
    if by == "mse":
        return least_error(rows, None, low, high, scheme, dtype)
    return from_range(low, high, scheme, dtype)


def from_range(low: Tensor, high: Tensor, scheme: Scheme, dtype: torch.dtype) -> Parameters:
    """Scale and zero (groups,) that spread the codes over [low, high], zero included."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    width = torch.maximum(-low, high) if scheme.symmetric else high - low
    scale = width / scheme.high
    # Not zero in its type, and with an inverse that is finite in float32.
    info = torch.finfo(dtype)
    least = max(info.tiny * info.eps, torch.finfo(torch.float32).tiny)
    scale = torch.where(scale > 0, scale.clamp(min=least), 1).to(dtype)
    if scheme.symmetric:
        return Parameters(scale, torch.zeros_like(scale, dtype=torch.int32))
    return Parameters(scale, (-low / scale).round().clamp(0, scheme.high).to(torch.int32))


def _percentile(rows: Tensor, scheme: Scheme, percentile: float) -> tuple[Tensor, Tensor]:
    def at(ordered: Tensor, share: float) -> Tensor:  # torch.quantile takes no more than 2^24 values
        place = share * (ordered.shape[1] - 1)
        i = int(place)
        return torch.lerp(ordered[:, i], ordered[:, min(i + 1, ordered.shape[1] - 1)], place - i)

    least, most = rows.aminmax(dim=1)
    if scheme.symmetric:
        high = at(rows.abs().sort(dim=1).values, percentile / 100)
        low = -high
    else:
        ordered, cut = rows.sort(dim=1).values, (1 - percentile / 100) / 2
        low, high = at(ordered, cut), at(ordered, 1 - cut)
    empty = (low >= 0) & (high <= 0)
    return torch.where(empty, least, low), torch.where(empty, most, high)


def least_error(
    rows: Tensor, counts: Tensor | None, low: Tensor, high: Tensor, scheme: Scheme, dtype: torch.dtype
) -> Parameters:
    """Of [low, high] shrunk to 80 widths, the one of least squared error per group; counts (n,) weigh it."""
    best = from_range(low, high, scheme, dtype)
    least, width = _error(rows, counts, best, scheme), torch.ones_like(low)

    def search(factors: Tensor) -> None:
        nonlocal best, least, width
        for factor in factors:  # (groups,)
            tried = from_range(low * factor, high * factor, scheme, dtype)
            error = _error(rows, counts, tried, scheme)
            better = error < least
            best = Parameters(*(torch.where(better, a, b) for a, b in zip(tried, best, strict=True)))
            least, width = torch.where(better, error, least), torch.where(better, factor, width)

    coarse = torch.logspace(0, -2, 64, dtype=low.dtype, device=low.device)
    search(coarse[1:, None].expand(-1, len(low)))
    step = coarse[0] / coarse[1]
    powers = torch.linspace(-1, 1, 18, dtype=low.dtype, device=low.device)[1:-1]
    search((width * step ** powers[:, None]).clamp(max=1))
    return best


def _error(rows: Tensor, counts: Tensor | None, parameters: Parameters, scheme: Scheme) -> Tensor:
    square = (round_rows(rows, parameters, scheme)[0] - rows).square()
    return (square if counts is None else square * counts).sum(1)


def round_rows(rows: Tensor, parameters: Parameters, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Values rounded to the grid, and where they lie in its range; without checks."""
    scale, zero = (p.reshape(-1, 1).to(rows.dtype) for p in parameters)
    codes = nearest_codes(rows, scale, zero)
    inside = (codes >= scheme.low) & (codes <= scheme.high)
    return (codes.clamp(scheme.low, scheme.high) - zero) * scale, inside


def nearest_codes(rows: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Codes as floating point, not clamped; ties to even, and a product with 1 / scale, as torch has it."""
    return (rows * (1 / scale)).round() + zero


@torch.no_grad()
def encode(x: Tensor, scheme: Scheme, parameters: Parameters) -> Tensor:
    """The code of the nearest level of each entry, of the shape of `x`; int8 if symmetric, else uint8.

    What lies outside the range gets the lowest or the highest code. Ties go to the even code.

    Raises:
        TypeError: `x` is no floating-point tensor, `scheme` no `Scheme`, `parameters` not two tensors.
        ValueError: NaN or infinity; parameters of another shape or out of range.

    >>> s = Scheme(3)
    >>> encode(torch.tensor([[0.1, -0.6, 3.0]]), s, Parameters(torch.tensor([0.5]), torch.tensor([0])))
    tensor([[ 0, -1,  3]], dtype=torch.int8)
    """
    check_finite(x)
    check_parameters(parameters, scheme, x.shape)
    rows = rows_of(x, scheme)
    scale, zero = (p.reshape(-1, 1).to(rows.dtype) for p in parameters)
    return nearest_codes(rows, scale, zero).clamp(scheme.low, scheme.high).to(scheme.dtype).view(x.shape)


@torch.no_grad()
def decode(
    codes: Tensor, scheme: Scheme, parameters: Parameters, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The values scale · (code − zero), of the shape of `codes`, computed at least in float32.

    Raises:
        TypeError: codes of another type than `Scheme.dtype`.
        ValueError: codes out of range; parameters of another shape or out of range.

    >>> decode(torch.tensor([[0, 3]], dtype=torch.uint8), Scheme(2, False),
    ...        Parameters(torch.tensor([0.5]), torch.tensor([1])))
    tensor([[-0.5000,  1.0000]])
    """
    check_codes(codes, scheme)
    check_parameters(parameters, scheme, codes.shape)
    rows = rows_of(codes.to(torch.promote_types(dtype, torch.float32)), scheme)
    scale, zero = (p.reshape(-1, 1).to(rows.dtype) for p in parameters)
    return ((rows - zero) * scale).to(dtype).view(codes.shape)


def round_trip(x: Tensor, scheme: Scheme, **how) -> Tensor:
    """What is left of `x` after `fit` (which takes `how`), `encode` and `decode`; of the same type.

    >>> round_trip(torch.tensor([[0.2, -1.0, 3.0]]), Scheme(2))
    tensor([[0., 0., 3.]])
    """
    parameters = fit(x, scheme, **how)
    return decode(encode(x, scheme, parameters), scheme, parameters, x.dtype)


def quantize(
    weights: Mapping[str, Tensor], schemes: Scheme | Mapping[str, Scheme], **how
) -> dict[str, Quantized]:
    """`fit` (which takes `how`) and `encode` of several weights by key, each with its scheme.

    Raises:
        ValueError: no weights; keys that differ; as `fit`, naming the key.
    """
    if not weights:
        raise ValueError("weights: expected at least one, got none")
    schemes = schemes_of(schemes, weights)
    if schemes.keys() != weights.keys():
        raise ValueError(f"schemes: expected the keys {list(weights)}, got {list(schemes)}")
    found = {}
    for key, weight in weights.items():
        try:
            parameters = fit(weight, schemes[key], **how)
        except ValueError as error:
            raise ValueError(f"weights[{key!r}]: {error}") from error
        found[key] = Quantized(encode(weight, schemes[key], parameters), schemes[key], parameters)
    return found


def snr_db(x: Tensor, x_hat: Tensor) -> float:
    """Signal-to-noise ratio 10 · log10(Σ x² / Σ (x − x̂)²), in decibels; infinite where nothing is lost.

    Raises:
        ValueError: shapes differ; NaN or infinity; `x` is zero everywhere.

    >>> snr_db(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5]))
    20.0
    """
    x, x_hat = check_values(x), check_values(x_hat, "x_hat")
    if x.shape != x_hat.shape:
        raise ValueError(f"x_hat: expected shape {tuple(x.shape)}, got {tuple(x_hat.shape)}")
    signal = x.square().sum()
    if not signal:
        raise ValueError("x: expected some value that is not zero, got only zeros")
    noise = (x - x_hat).square().sum()
    return float(10 * torch.log10(signal / noise))
