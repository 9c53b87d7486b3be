"""The entries of highest score, exactly so many, without sorting all of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

_SAMPLE = 100_000  # entries that say where to look for a threshold


def keep_largest(scores: Sequence[Tensor], keep: int) -> list[Tensor]:
    """Masks of the `keep` highest entries of several tensors together; of equal entries the first.

    Args:
        scores: floating-point tensors of any shapes, without NaN.
        keep: from 0 to the number of entries.
    """
    total = sum(s.numel() for s in scores)
    if keep in (0, total):
        return [torch.full(s.shape, keep > 0, device=s.device) for s in scores]
    dtype = scores[0].dtype
    for score in scores:
        dtype = torch.promote_types(dtype, score.dtype)
    threshold = _kth_smallest([s.to(dtype).flatten() for s in scores], total - keep + 1)
    masks = [s.to(dtype) > threshold.to(s.device) for s in scores]
    missing = keep - sum(int(m.sum()) for m in masks)
    for score, mask in zip(scores, masks, strict=True):
        ties = (score.to(dtype) == threshold.to(score.device)).flatten().nonzero().flatten()[:missing]
        mask.view(-1)[ties] = True
        missing -= len(ties)
        if not missing:
            break
    return masks


def keep_in_rows(scores: Tensor, keep: int) -> Tensor:
    """Mask of the `keep` ≥ 1 highest entries of each row of (rows, n); of equal entries the first."""
    threshold = scores.kthvalue(scores.shape[1] - keep + 1, dim=1, keepdim=True).values
    mask, ties = scores > threshold, scores == threshold
    missing = keep - mask.sum(1, keepdim=True)
    return mask | (ties & (ties.cumsum(1) <= missing))


def _kth_smallest(parts: list[Tensor], k: int) -> Tensor:
    """The k-th smallest entry (from 1) of one-dimensional tensors of one type, taken together.

    A sorted sample gives two values that lie around it; only what is between them is ranked exactly. Where
    the sample misleads, the bounds widen.
    """
    total = sum(len(p) for p in parts)
    sample = torch.cat([p[:: max(1, total // _SAMPLE)].cpu() for p in parts]).sort().values
    place, margin = round(len(sample) * k / total), max(2, len(sample) // 100)
    while True:
        low, high = place - margin, place + margin
        bottom = sample[low] if low >= 0 else sample.new_tensor(-torch.inf)
        top = sample[high] if high < len(sample) else sample.new_tensor(torch.inf)
        below = sum(int((p < bottom.to(p.device)).sum()) for p in parts)
        upto = sum(int((p <= bottom.to(p.device)).sum()) for p in parts)
        if below < k <= upto:
            return bottom
        if upto < k:
            between = [p[(p > bottom.to(p.device)) & (p < top.to(p.device))].cpu() for p in parts]
            count = sum(map(len, between))
            if k <= upto + count:
                return torch.cat(between).kthvalue(k - upto).values
            if high >= len(sample):
                return top  # infinite scores
        margin *= 4
