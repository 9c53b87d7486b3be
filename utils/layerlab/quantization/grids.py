"""Grids: the values that few bits may stand for, evenly spaced or not, and rotations that make one grid fit.

A grid is a float64 tensor of ascending values, or of shape (levels, p) where a code stands for p numbers at
once. A grid says nothing about scale: `round_groups` and `higgs_like` bring weights to it and back.
"""

import math
from typing import Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from layerlab.quantization._hadamard import hadamard, rotate, unrotate
from layerlab.quantization._lloyd import gaussian_lloyd_max, lloyd_max
from layerlab.quantization._values import check_integer, check_positive, check_values

__all__ = [
    "fp8",
    "gaussian_lloyd_max",
    "grid_bits",
    "hadamard",
    "higgs_like",
    "lloyd_max",
    "nearest",
    "nf4",
    "power",
    "power_round",
    "rotate",
    "round_groups",
    "uniform",
    "unrotate",
]

CHUNK = 1 << 22  # entries of the largest distance table that `nearest` makes for vector grids


def uniform(bits: int, *, zero: bool = True) -> Tensor:
    """Evenly spaced values from −1 to 1.

    Args:
        bits: 2 to 8, or from 1 without zero.
        zero: have zero among them, 2^bits − 1 values, as symmetric integer codes have; otherwise 2^bits.

    Raises:
        TypeError, ValueError: `bits` is no integer, or out of range.

    >>> uniform(2), uniform(1, zero=False)
    (tensor([-1., 0., 1.], dtype=torch.float64), tensor([-1., 1.], dtype=torch.float64))
    """
    check_integer(bits, "bits", 2 if zero else 1, 8)
    last = 2**bits - 1 - int(zero)
    return torch.arange(-last, last + 1, 2, dtype=torch.float64) / last


def power(bits: int, exponent: float) -> Tensor:
    """The 2^bits − 1 values of a power quantizer: sign(k) · |k / K|^(1 / exponent), K = 2^(bits − 1) − 1.

    These are the codes of `power_round` decoded (PowerQuant, Yvinec et al., 2023; NUPES, Yvinec et al.,
    2025). An exponent below 1 places them closer around zero, 1 gives `uniform`.

    Raises:
        TypeError, ValueError: `bits` is no integer in 2..8; `exponent` is not positive.

    >>> power(3, 0.5)
    tensor([-1.0000, -0.4444, -0.1111,  0.0000,  0.1111,  0.4444,  1.0000], dtype=torch.float64)
    """
    check_integer(bits, "bits", 2, 8)
    check_positive(exponent, "exponent")
    half = (torch.arange(2 ** (bits - 1), dtype=torch.float64) / (2 ** (bits - 1) - 1)) ** (1 / exponent)
    return torch.cat([-half[1:].flip(0), half])


def power_round(x: Tensor, bits: int, exponent: float) -> tuple[Tensor, Tensor]:
    """Round sign(x) · (|x| / max |x|)^exponent to one of 2^bits − 1 even steps; decode by the inverse.

    Rounding is to the nearest power, not to the nearest number: `nearest` on the grid `power` errs less or
    equally, but needs the grid's midpoints. One scale, max |x|, for all of x; of zeros all codes are zero.

    Args:
        x: any shape.
        bits: 2 to 8.
        exponent: positive.

    Returns:
        codes int8 in −K..K, K = 2^(bits − 1) − 1, and the values that they stand for, both of x's shape.

    Raises:
        TypeError, ValueError: as `power`; x is empty, not floating point or not finite.

    >>> power_round(torch.tensor([-1.0, 0.04, 0.0, 0.3]), 3, 0.5)[0]
    tensor([-3,  1,  0,  2], dtype=torch.int8)
    """
    check_integer(bits, "bits", 2, 8)
    check_positive(exponent, "exponent")
    wide = check_values(x)
    largest, steps = wide.abs().max(), 2 ** (bits - 1) - 1
    share = wide.abs() / torch.where(largest > 0, largest, 1)
    codes = wide.sign() * (steps * share**exponent).round()
    values = codes.sign() * largest * (codes.abs() / steps) ** (1 / exponent)
    return codes.to(torch.int8), values.to(x.dtype)


def nf4() -> Tensor:
    """NormalFloat's 16 values in [−1, 1]: quantiles of a Gaussian, 7 negative, 8 positive, and zero exactly.

    Both halves start at the same probability, the mean of 1 − 1/30 and 1 − 1/32, and go to 1/2 in even
    steps; all is divided by the largest (QLoRA, Dettmers et al., 2023).

    >>> nf4()[[0, 7, 8, 15]]
    tensor([-1.0000,  0.0000,  0.0796,  1.0000], dtype=torch.float64)
    """
    start = 1 - (1 / 30 + 1 / 32) / 2
    positive = stats.norm.ppf(np.linspace(start, 0.5, 9)[:-1])
    negative = -stats.norm.ppf(np.linspace(start, 0.5, 8)[:-1])
    values = np.sort(np.concatenate([negative, [0.0], positive]))
    return torch.from_numpy(values / values[-1])


def fp8(kind: Literal["e4m3", "e5m2"]) -> Tensor:
    """All finite values of an 8-bit float, zero once: 253 to ±448 (e4m3) or 247 to ±57344 (e5m2).

    Torch's `float8_e4m3fn` and `float8_e5m2`. The first gives up infinity for a larger range: only its
    last mantissa of the last exponent is no number. The second keeps that exponent for infinity and NaN.

    Raises:
        ValueError: another kind.

    >>> fp8("e4m3")[-3:]
    tensor([384., 416., 448.], dtype=torch.float64)
    """
    if kind not in ("e4m3", "e5m2"):
        raise ValueError(f"kind: expected 'e4m3' or 'e5m2', got {kind!r}")
    mantissa, bias, last = (8, 7, 126) if kind == "e4m3" else (4, 15, 123)
    code = torch.arange(last + 1, dtype=torch.float64)
    exponent, rest = code.div(mantissa, rounding_mode="floor"), code % mantissa
    normal = (1 + rest / mantissa) * 2 ** (exponent - bias)
    half = torch.where(exponent > 0, normal, rest / mantissa * 2.0 ** (1 - bias))
    return torch.cat([-half[1:].flip(0), half])


def nearest(x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Round to the nearest value of a grid; what is beyond its ends goes to the end.

    Args:
        x: any shape; for a grid of vectors, the last axis a multiple of p, of which each p are one.
        grid: (levels,) ascending, or (levels, p).

    Returns:
        codes, places in the grid, uint8 (int32 beyond 256 levels), of x's shape or with the last axis / p;
        and the values, of x's shape and dtype. Halfway between two, the one nearer to zero, so that a
        symmetric grid rounds −x to the negative.

    Raises:
        TypeError, ValueError: x or the grid is empty, not floating point or not finite; the grid does not
            ascend, or has more than two axes; p does not divide the last axis.

    >>> nearest(torch.tensor([-9.0, -0.5, 0.4, 0.5, 0.6]), uniform(2))
    (tensor([0, 1, 1, 1, 2], dtype=torch.uint8), tensor([-1., 0., 0., 0., 1.]))
    """
    wide = check_values(x)
    grid = check_values(grid, "grid").to(wide.device)
    if grid.ndim == 1:
        if (grid.diff() <= 0).any():
            raise ValueError(f"grid: expected values that ascend, got {grid.tolist()}")
        middle = (grid[1:] + grid[:-1]) / 2
        up, down = (torch.bucketize(wide, middle, right=right) for right in (True, False))
        codes = torch.where(wide < 0, up, down)
        values = grid[codes]
    elif grid.ndim == 2:
        size = grid.shape[1]
        if not x.ndim or x.shape[-1] % size:
            raise ValueError(
                f"grid: expected vectors whose size divides x's last axis, got {size} for "
                f"shape {tuple(x.shape)}"
            )
        half = grid.square().sum(1) / 2
        parts = wide.reshape(-1, size).split(max(1, CHUNK // len(grid)))
        codes = torch.cat([(part @ grid.T - half).argmax(1) for part in parts])
        values = grid[codes].reshape(x.shape)
        codes = codes.view(*x.shape[:-1], -1)
    else:
        raise ValueError(f"grid: expected shape (levels,) or (levels, p), got {tuple(grid.shape)}")
    return codes.to(torch.uint8 if len(grid) <= 256 else torch.int32), values.to(x.dtype)


def round_groups(x: Tensor, grid: Tensor, group: int, *, by: Literal["max", "rms"] = "max") -> Tensor:
    """Round groups of the last axis to a grid, each under a scale of its own, kept in bfloat16.

    Args:
        x: (…, d), floating point.
        grid: as `nearest` takes it.
        group: that many consecutive entries share a scale; divides d.
        by: "max" maps a group's largest |entry| to the grid's largest, as NF4 wants it; "rms" maps its root
            mean square to 1, as a grid for a standard Gaussian wants it.

    Returns:
        x's shape and dtype; a group of zeros stays zeros. `grid_bits` is what an entry costs.

    Raises:
        TypeError, ValueError: as `nearest`; `group` does not divide d; another `by`.

    >>> round_groups(torch.tensor([0.0, 2.0, 0.7, -8.0]), uniform(2), 2)
    tensor([ 0.,  2.,  0., -8.])
    """
    wide = check_values(x)
    check_integer(group, "group", 1, None)
    if not x.ndim or x.shape[-1] % group:
        raise ValueError(f"group: expected a divisor of x's last axis, got {group} for {tuple(x.shape)}")
    if by not in ("max", "rms"):
        raise ValueError(f"by: expected 'max' or 'rms', got {by!r}")
    wide = wide.reshape(*x.shape[:-1], -1, group)
    if by == "max":
        largest = check_values(grid, "grid").abs().max().to(wide.device)
        scale = wide.abs().amax(-1, keepdim=True) / largest
    else:
        scale = wide.square().mean(-1, keepdim=True).sqrt()
    scale = scale.bfloat16().double()
    if not torch.isfinite(scale).all():
        raise ValueError(f"x: expected values whose scale bfloat16 can hold, got up to {wide.abs().max()}")
    values = nearest(wide / torch.where(scale > 0, scale, 1), grid)[1] * scale
    return values.reshape(x.shape).to(x.dtype)


def higgs_like(x: Tensor, grid: Tensor, group: int, seed: int = 0) -> Tensor:
    """Rotate groups of the last axis at random, scale each to root mean square 1, round to a grid; go back.

    After the randomized Hadamard rotation the entries of a group are about Gaussian, unless very few carried
    all of it, so that one grid fits: `gaussian_lloyd_max`, or k-means of Gaussian vectors. This is the scheme
    of HIGGS (Malinovskii et al., 2025) with rotation and scale over the same groups, in plain PyTorch.

    Args:
        x: (…, d), floating point.
        grid: for a standard Gaussian, as `nearest` takes it.
        group: a power of two that divides d.
        seed: of the rotation's signs, which all groups share.

    Returns:
        x's shape and dtype. `grid_bits` is what an entry costs; the signs are those of the seed.

    Raises:
        TypeError, ValueError: as `round_groups`; `group` is no power of two.

    >>> higgs_like(torch.tensor([0.0, 0.0, 0.0, 8.0]), uniform(1, zero=False), 4).abs()
    tensor([0., 0., 0., 8.])
    """
    wide = check_values(x)
    check_integer(group, "group", 1, None)
    if not x.ndim or x.shape[-1] % group:
        raise ValueError(f"group: expected a divisor of x's last axis, got {group} for {tuple(x.shape)}")
    turned = rotate(wide.reshape(*x.shape[:-1], -1, group), seed)
    return unrotate(round_groups(turned, grid, group, by="rms"), seed).reshape(x.shape).to(x.dtype)


def grid_bits(grid: Tensor, group: int, *, scale_bits: int = 16) -> float:
    """Bits per entry of `round_groups` or `higgs_like`: whole bits for a code, and the share of a scale.

    A code is counted as it is stored, ⌈log2(levels)⌉ bits, for the p entries that it stands for.

    Raises:
        TypeError, ValueError: `group` is no positive integer; `scale_bits` no integer from 0.

    >>> grid_bits(nf4(), 64), grid_bits(gaussian_lloyd_max(16), 1024)
    (4.25, 4.015625)
    """
    check_integer(group, "group", 1, None)
    check_integer(scale_bits, "scale_bits", 0, None)
    size = grid.shape[1] if grid.ndim == 2 else 1
    return math.ceil(math.log2(len(grid))) / size + scale_bits / group
