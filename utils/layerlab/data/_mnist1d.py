"""One-dimensional "digits" under translation, stretching, tilt and noise, as MNIST-1D is described."""

import numpy as np
import torch

from ._checks import at_least
from .types import Dataset, Split

_LENGTH = 40
_PADDING = (36, 60)  # zeros beside a template, before the whole is resampled to _LENGTH
_GAIN, _TILT, _CORRELATED, _WHITE = 0.2, 0.75, 0.15, 0.02  # deviations, except the greatest tilt

# How far right (+) or left (-) of its middle the pen is at twelve heights of a digit, from top to bottom.
_TEMPLATES = np.array(
    [
        [0.0, 0.5, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.5, 0.0],
        [-0.6, -0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.7],
        [0.1, 0.6, 0.9, 1.0, 0.8, 0.4, 0.0, -0.4, -0.7, -0.9, 0.0, 0.9],
        [-0.6, 0.5, 1.0, 0.8, 0.2, -0.4, 0.2, 0.8, 1.0, 0.9, 0.4, -0.6],
        [0.3, 0.1, -0.1, -0.3, -0.5, -0.7, -0.9, 1.0, 0.4, 0.4, 0.4, 0.4],
        [0.9, -0.4, -0.6, -0.6, -0.4, 0.2, 0.7, 1.0, 1.0, 0.8, 0.4, -0.3],
        [0.6, 0.1, -0.3, -0.6, -0.8, -0.9, -0.9, 0.1, 0.7, 0.8, 0.5, 0.0],
        [-0.8, 0.9, 0.9, 0.7, 0.5, 0.3, 0.1, -0.1, -0.3, -0.5, -0.7, -0.9],
        [0.0, 0.5, 0.6, 0.4, 0.1, 0.4, 0.8, 1.0, 1.0, 0.8, 0.5, 0.0],
        [0.2, 0.7, 1.0, 0.9, 0.6, 0.5, 0.5, 0.5, 0.4, 0.2, -0.2, -0.7],
    ]
)


def mnist1d(n: int = 4000, test_n: int = 1000, seed: int = 0) -> Dataset:
    """`n` training and `test_n` test signals of 40 points in ten classes of equal size (to within one).

    A template of twelve points stands somewhere in 36 to 60 zeros; the whole is resampled to 40 points,
    scaled, tilted by a straight line, and covered with smooth and with white noise. `X` is float32 of shape
    (N, 1, 40), around zero and not bounded. The first 10 × k examples hold k of each class.

    After the description in Greydanus and Kobak, "Scaling Down Deep Learning with MNIST-1D" (ICML 2024,
    arXiv:2011.14439), with templates and noise of our own: accuracies compare in their order, not in their
    digits.

    Raises ValueError when a split has fewer than ten examples or `seed` is negative.

    >>> mnist1d(100, 50)
    Dataset('mnist1d': train (100, 1, 40), test (50, 1, 40), 10 classes)
    """
    at_least(10, n=n, test_n=test_n)
    at_least(0, seed=seed)
    splits = (_signals(count, np.random.default_rng([seed, part])) for part, count in enumerate((n, test_n)))
    return Dataset("mnist1d", *splits, classes=tuple("0123456789"))


def _signals(count: int, rng: np.random.Generator) -> Split:
    from scipy.ndimage import gaussian_filter1d

    y = np.arange(count) % 10
    length = 12 + rng.integers(_PADDING[0], _PADDING[1], size=(count, 1), endpoint=True)
    start = rng.uniform(0, length - 12)
    place = (
        np.linspace(0, 1, _LENGTH) * (length - 1) - start
    )  # (count, 40): where in its template each point falls
    X = np.stack(
        [np.interp(p, np.arange(12), _TEMPLATES[k], left=0, right=0) for p, k in zip(place, y, strict=True)]
    )
    X *= 1 + _GAIN * rng.standard_normal((count, 1))
    X += _TILT * rng.uniform(-1, 1, (count, 1)) * np.linspace(-0.5, 0.5, _LENGTH)
    smooth = gaussian_filter1d(rng.standard_normal((count, _LENGTH)), 2.0, axis=1)
    X += _CORRELATED * smooth / smooth.std() + _WHITE * rng.standard_normal((count, _LENGTH))
    return Split(torch.from_numpy(X).float()[:, None], torch.from_numpy(y))
