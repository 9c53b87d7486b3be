"""Checks that the methods on single weights share."""

import torch
from torch import Tensor


def check_rank(weight: Tensor, rank: int) -> Tensor:
    """The weight as a float64 matrix (out, in·kh·kw), after a check of the rank.

    Raises:
        ValueError: a weight without two axes, or not finite; a rank outside 1 … min(out, in).
    """
    if weight.ndim < 2:
        raise ValueError(f"weight: expected at least two axes, got shape {tuple(weight.shape)}")
    if not torch.isfinite(weight).all():
        raise ValueError("weight: expected finite values, got NaN or infinity")
    matrix = weight.detach().double().flatten(1)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank: expected an integer in 1..{min(matrix.shape)}, got {rank!r}")
    return matrix


def check_gram(gram: Tensor, size: int, name: str = "gram") -> Tensor:
    """The Gram matrix in float64, after a check.

    Raises:
        ValueError: another shape than (size, size), or not finite; called `name` in the message.
    """
    if gram.shape != (size, size):
        raise ValueError(f"{name}: expected shape {(size, size)}, got {tuple(gram.shape)}")
    if not torch.isfinite(gram).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    return gram.detach().double()
