"""Hadamard rotations: orthogonal, of ±1 up to a factor, applied in n log n additions."""

import torch
from torch import Tensor

from layerlab.quantization._values import check_floating, check_integer


def hadamard(n: int) -> Tensor:
    """Sylvester's Hadamard matrix divided by √n: symmetric, orthonormal, float64, (n, n).

    Raises:
        TypeError, ValueError: n is no power of two.

    >>> hadamard(4) * 2
    tensor([[ 1.,  1.,  1.,  1.],
            [ 1., -1.,  1., -1.],
            [ 1.,  1., -1., -1.],
            [ 1., -1., -1.,  1.]], dtype=torch.float64)
    """
    check_integer(n, "n", 1, None)
    _check_power(n, "n")
    return _transform(torch.eye(n, dtype=torch.float64))


def rotate(x: Tensor, seed: int) -> Tensor:
    """Multiply the last axis by random signs, then by `hadamard`: x D H.

    Norms and inner products stay; an outlier is spread over all entries. No matrix is formed. bfloat16 and
    float16 are computed in float32.

    Args:
        x: (…, d), d a power of two.
        seed: of the d signs.

    Returns:
        x's shape and dtype; a gradient passes.

    Raises:
        TypeError, ValueError: x is not floating point; d is no power of two; the seed is no integer.

    >>> rotate(torch.tensor([0.0, 0.0, 8.0, 0.0]), seed=0).abs()
    tensor([4., 4., 4., 4.])
    """
    work = _working(x)
    return _transform(work * _signs(x, seed)).to(x.dtype)


def unrotate(x: Tensor, seed: int) -> Tensor:
    """The inverse of `rotate` with the same seed: x H D. Arguments and errors as there.

    >>> unrotate(rotate(torch.tensor([1.0, 2.0, 3.0, 4.0]), seed=0), seed=0)
    tensor([1., 2., 3., 4.])
    """
    work = _working(x)
    return (_transform(work) * _signs(x, seed)).to(x.dtype)


def _working(x: Tensor) -> Tensor:
    check_floating(x)
    if not x.ndim:
        raise ValueError("x: expected shape (…, d), got a single number")
    _check_power(x.shape[-1], "x: last axis")
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _signs(x: Tensor, seed: int) -> Tensor:
    check_integer(seed, "seed", 0, None)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (x.shape[-1],), generator=generator) * 2 - 1
    return signs.to(x.device)


def _transform(x: Tensor) -> Tensor:
    shape, n = x.shape, x.shape[-1]
    half = 1
    while half < n:
        pairs = x.reshape(*shape[:-1], n // (2 * half), 2, half)
        first, second = pairs.unbind(-2)
        x = torch.stack([first + second, first - second], -2)
        half *= 2
    return x.reshape(shape) / n**0.5


def _check_power(n: int, name: str) -> None:
    if n < 1 or n & (n - 1):
        raise ValueError(f"{name}: expected a power of two, got {n}")
