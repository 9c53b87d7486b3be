"""The handwritten digits that scikit-learn ships."""

import torch

from ._checks import at_least
from .types import Dataset, Split


def digits(test_size: float = 0.2, seed: int = 0) -> Dataset:
    """Handwritten digits, 8×8 grey levels, from the UCI repository through scikit-learn.

    `test_size` is the fraction of the 1797 pictures held out, the same share of each class; `seed` decides
    which. Writers are not recorded, so a writer may appear in both splits.

    Raises ValueError when `test_size` leaves a split with fewer pictures than classes, or `seed` is negative.

    >>> data = digits()
    >>> data
    Dataset('digits': train (1437, 1, 8, 8), test (360, 1, 8, 8), 10 classes)
    >>> X, y = data.train
    >>> X.min().item(), X.max().item(), y.dtype
    (0.0, 1.0, torch.int64)
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if not 0.01 <= test_size <= 0.99:
        raise ValueError(f"test_size: expected a fraction from 0.01 to 0.99, got {test_size}")
    at_least(0, seed=seed)
    bunch = load_digits()
    X = torch.from_numpy(bunch.images).float()[:, None] / 16  # (1797, 1, 8, 8)
    y = torch.from_numpy(bunch.target).long()
    train, test = train_test_split(
        range(len(y)), test_size=test_size, random_state=seed, stratify=bunch.target
    )
    splits = (Split(X[indices], y[indices]) for indices in (train, test))
    return Dataset("digits", *splits, classes=tuple("0123456789"))
