"""Attention in one bit: each row of a softmax as zeros and one value, by where its mass lies.

A softmax has no negative entries, so its signs say nothing; and its entries are long-tailed, so that a
threshold that fits one row misses the next. BiViT (He et al., 2023) ties the threshold to the row's largest
entry.

Chapter: `chapters/quantization/03_one_bit.ipynb`.
"""

from torch import Tensor

from layerlab.quantization._values import check_positive, check_values
from layerlab.quantization.binary import ternary


def softmax_aware(attention: Tensor, share: float = 0.25) -> tuple[Tensor, Tensor]:
    """1 where an entry is at least `share` of its row's largest, else 0; and the row's best scale.

    The threshold is that of BiViT, whose code has `share` = 0.25; the scale, the mean of the entries that
    stay, is best in squared error for these ones.

    Args:
        attention: (…, queries, keys), each row without negative entries, as `softmax` returns it.
        share: above 0, at most 1.

    Returns:
        ones, 0 or 1, of the attention's shape and dtype; scale (…, queries, 1): `ones * scale`.

    Raises:
        TypeError, ValueError: not floating point, empty, NaN, infinity, negative; `share` out of range.

    >>> import torch
    >>> softmax_aware(torch.tensor([[0.6, 0.3, 0.1, 0.0]]))
    (tensor([[1., 1., 0., 0.]]), tensor([[0.4500]]))
    """
    _check(attention)
    check_positive(share, "share")
    if share > 1:
        raise ValueError(f"share: expected at most 1, got {share}")
    return _with_scale(attention, attention >= share * attention.amax(-1, keepdim=True))


def fixed_threshold(attention: Tensor, threshold: float | None = None) -> tuple[Tensor, Tensor]:
    """1 where an entry is at least one threshold for all rows, else 0; and each row's best scale.

    What is done with other activations, and does not look at the row. A row without an entry that large is
    all zeros.

    Args:
        attention: as in `softmax_aware`.
        threshold: positive; by default half of the largest entry of all, as if rounding to 0 and that.

    Returns:
        As `softmax_aware`.

    Raises:
        TypeError, ValueError: as `softmax_aware`; `threshold` is not positive.

    >>> import torch
    >>> fixed_threshold(torch.tensor([[0.9, 0.1], [0.4, 0.4]]))[0]
    tensor([[1., 0.],
            [0., 0.]])
    """
    _check(attention)
    if threshold is None:
        return _with_scale(attention, attention >= attention.max() / 2)
    check_positive(threshold, "threshold")
    return _with_scale(attention, attention >= threshold)


def least_error(attention: Tensor) -> tuple[Tensor, Tensor]:
    """The ones and the scale that come closest to each row in squared error: what a threshold can reach.

    The same problem as `binary.ternary`'s, of entries that have no sign.

    Args:
        attention: as in `softmax_aware`.

    Returns:
        As `softmax_aware`.

    Raises:
        TypeError, ValueError: as `softmax_aware`.

    >>> import torch
    >>> least_error(torch.tensor([[0.6, 0.3, 0.1, 0.0]]))
    (tensor([[1., 1., 0., 0.]]), tensor([[0.4500]]))
    """
    _check(attention)
    ones, scale = ternary(attention.reshape(-1, attention.shape[-1]))
    return ones.view(attention.shape), scale.view(*attention.shape[:-1], 1)


def _with_scale(attention: Tensor, ones: Tensor) -> tuple[Tensor, Tensor]:
    attention = attention.detach()
    scale = (attention * ones).sum(-1, keepdim=True) / ones.sum(-1, keepdim=True).clamp(min=1)
    return ones.to(attention.dtype), scale.to(attention.dtype)


def _check(attention: Tensor) -> None:
    values = check_values(attention, "attention")
    if not values.ndim:
        raise ValueError("attention: expected shape (…, keys), got a scalar")
    if (values < 0).any():
        raise ValueError(f"attention: expected no negative entry, got {values.min().item()}")
