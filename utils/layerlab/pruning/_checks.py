"""What the pruning functions ask of their arguments; each error says what was expected and what came."""

from collections.abc import Mapping
from numbers import Real

import torch
from torch import Tensor


def check_sparsity(sparsity: float, name: str = "sparsity") -> None:
    """Raise unless `sparsity` is a number in [0, 1)."""
    if not isinstance(sparsity, Real):
        raise TypeError(f"{name}: expected a number in [0, 1), got {sparsity!r}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"{name}: expected a number in [0, 1), got {sparsity}")


def shares_of(sparsity: float | Mapping[str, float], keys: Mapping[str, object]) -> dict[str, float]:
    """The sparsity of each key, checked, from one number or one per key."""
    if not isinstance(sparsity, Mapping):
        check_sparsity(sparsity)
        return dict.fromkeys(keys, sparsity)
    if sparsity.keys() != keys.keys():
        raise ValueError(f"sparsity: expected the keys {list(keys)}, got {list(sparsity)}")
    for key, share in sparsity.items():
        check_sparsity(share, f"sparsity[{key!r}]")
    return dict(sparsity)


def check_scores(scores: Mapping[str, Tensor]) -> None:
    """Raise unless there are scores, (out, in, …), floating point, without NaN; infinity may say "keep"."""
    if not scores:
        raise ValueError("scores: expected at least one layer, got none")
    for key, score in scores.items():
        if not score.is_floating_point():
            raise TypeError(f"scores[{key!r}]: expected a floating-point tensor, got {score.dtype}")
        if not score.numel() or score.ndim < 2:
            raise ValueError(
                f"scores[{key!r}]: expected shape (out, in, …), not empty, got {tuple(score.shape)}"
            )
        if score.max().isnan():  # NaN where any entry is
            raise ValueError(f"scores[{key!r}]: expected numbers, got NaN")


def check_weights(weights: Mapping[str, Tensor]) -> None:
    """Raise unless there are weights, each as `check_weight` wants it."""
    if not weights:
        raise ValueError("weights: expected at least one layer, got none")
    for key, weight in weights.items():
        check_weight(weight, f"weights[{key!r}]")


def check_weight(weight: Tensor, name: str = "weight") -> None:
    """Raise unless the weight is (out, in, …), floating point, finite."""
    if not weight.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {weight.dtype}")
    if not weight.numel() or weight.ndim < 2:
        raise ValueError(f"{name}: expected shape (out, in, …), not empty, got {tuple(weight.shape)}")
    if not torch.isfinite(torch.stack(weight.detach().aminmax())).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")


def check_gram(gram: Tensor, size: int, name: str = "gram") -> Tensor:
    """The Gram matrix in float64; raise ValueError unless it is finite and has the shape (size, size)."""
    if gram.shape != (size, size):
        raise ValueError(f"{name}: expected shape {(size, size)}, got {tuple(gram.shape)}")
    if not torch.isfinite(gram).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    return gram.detach().double()


def check_rank(weight: Tensor, rank: int) -> Tensor:
    """The weight as a float64 matrix, a row per unit; raise unless 1 ≤ rank ≤ min(rows, columns)."""
    check_weight(weight)
    matrix = weight.detach().double().flatten(1)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank: expected an integer in 1..{min(matrix.shape)}, got {rank!r}")
    return matrix


def check_mask(mask: Tensor, weight: Tensor, name: str = "mask") -> None:
    """Raise ValueError unless `mask` is bool and has the weight's shape."""
    if mask.dtype != torch.bool:
        raise ValueError(f"{name}: expected bool, True = kept, got {mask.dtype}")
    if mask.shape != weight.shape:
        raise ValueError(f"{name}: expected shape {tuple(weight.shape)}, got {tuple(mask.shape)}")
