"""Lloyd–Max grids: the values of least mean squared error for samples, a density or a Gaussian."""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import stats
from sklearn.cluster import KMeans
from torch import Tensor

from layerlab.quantization._values import check_integer, check_values

POINTS = 1 << 16  # intervals that a density's support is cut into


def lloyd_max(
    source: Tensor | Callable[[np.ndarray], np.ndarray],
    levels: int,
    *,
    support: tuple[float, float] | None = None,
    iterations: int = 1000,
    seed: int = 0,
) -> Tensor:
    """The grid of least mean squared error: each value is the mean of what is nearest to it.

    Lloyd's iteration (Lloyd, 1982; Max, 1960), which only ever lowers the error; it ends where no sample
    changes its value, or no value moves by more than 1e-10 of the support. A value that nothing is nearest
    to stays where it is. That is a local minimum; it is the only one where the density is log-concave
    (Fleischer, 1964), as a Gaussian's or a uniform one.

    Args:
        source: samples, shape (n,); samples of vectors, (n, p), for which scikit-learn's k-means does the
            work; or a density, a function from a float64 array to one of the same shape, of any norm.
        levels: 1 to 4096.
        support: of a density, its finite interval.
        iterations: at most.
        seed: of k-means; nothing else is random.

    Returns:
        (levels,) ascending, or (levels, p).

    Raises:
        TypeError, ValueError: `levels` out of range; samples not finite, or fewer that differ than levels;
            `support` missing, infinite or empty, or given with samples; a density that is negative or NaN
            somewhere, or zero everywhere.

    >>> lloyd_max(torch.tensor([0.0, 1.0, 5.0, 6.0, 7.0]), 2)
    tensor([0.5000, 6.0000], dtype=torch.float64)
    """
    check_integer(levels, "levels", 1, 4096)
    check_integer(iterations, "iterations", 1, None)
    if not isinstance(source, Tensor):
        return _lloyd_density(source, levels, support, iterations)
    if support is not None:
        raise ValueError(f"support: expected none with samples, got {support!r}")
    samples = check_values(source, "source").cpu().numpy()
    if samples.ndim not in (1, 2):
        raise ValueError(f"source: expected samples (n,) or (n, p), got shape {tuple(source.shape)}")
    points, counts = np.unique(samples, axis=0, return_counts=True)
    if len(points) < levels:
        raise ValueError(f"source: expected at least {levels} samples that differ, got {len(points)}")
    if samples.ndim == 2:
        means = KMeans(levels, n_init=1, max_iter=iterations, random_state=seed).fit(
            points, sample_weight=counts
        )
        return torch.from_numpy(means.cluster_centers_.astype(np.float64))
    mass = np.concatenate([[0.0], np.cumsum(counts)])
    moment = np.concatenate([[0.0], np.cumsum(counts * points)])
    grid = points[((np.arange(levels) + 0.5) * len(points) / levels).astype(int)]
    edges = None
    for _ in range(iterations):
        new = np.searchsorted(points, (grid[1:] + grid[:-1]) / 2)
        if edges is not None and np.array_equal(new, edges):
            break
        edges = new
        ends = np.concatenate([[0], edges, [len(points)]])
        inside = np.diff(mass[ends])
        # A value that nothing is nearest to stays where it is.
        grid = np.where(inside > 0, np.diff(moment[ends]) / np.maximum(inside, 1), grid)
    return torch.from_numpy(grid)


def gaussian_lloyd_max(levels: int) -> Tensor:
    """The grid of least mean squared error for a standard Gaussian, to about 1e-10, by Newton's method.

    With φ and Φ the Gaussian's density and distribution, each value is (φ(a) − φ(b)) / (Φ(b) − Φ(a)) for the
    midpoints a and b to its neighbours (Max, 1960).

    Raises:
        TypeError, ValueError: `levels` is no integer in 1..256.

    >>> gaussian_lloyd_max(4)
    tensor([-1.5104, -0.4528,  0.4528,  1.5104], dtype=torch.float64)
    """
    check_integer(levels, "levels", 1, 256)
    # The best density of values is the cube root of the source's: a Gaussian of variance 3.
    grid = stats.norm.ppf((np.arange(levels) + 0.5) / levels) * math.sqrt(3)
    for _ in range(50):
        edges = np.concatenate([[-np.inf], (grid[1:] + grid[:-1]) / 2, [np.inf]])
        density, mass = stats.norm.pdf(edges), np.diff(stats.norm.cdf(edges))
        mean = -np.diff(density) / mass
        inner = edges[1:-1]
        up = density[1:-1] * (inner - mean[:-1]) / mass[:-1] / 2  # of the upper edge; half for each side
        low = density[1:-1] * (mean[1:] - inner) / mass[1:] / 2
        jacobian = np.eye(levels)
        rows = np.arange(levels - 1)
        jacobian[rows, rows] -= up
        jacobian[rows, rows + 1] -= up
        jacobian[rows + 1, rows + 1] -= low
        jacobian[rows + 1, rows] -= low
        step = np.linalg.solve(jacobian, mean - grid)
        grid = grid + step
        if np.abs(step).max() < 1e-13:
            break
    return torch.from_numpy((grid - grid[::-1]) / 2)


def _lloyd_density(
    density: Callable[[np.ndarray], np.ndarray],
    levels: int,
    support: tuple[float, float] | None,
    iterations: int,
) -> Tensor:
    if support is None or not np.isfinite(support).all() or not support[0] < support[1]:
        raise ValueError(f"support: expected the finite interval (low, high) of the density, got {support!r}")
    points = np.linspace(*support, POINTS + 1)
    height = np.asarray(density(points), dtype=np.float64)
    if height.shape != points.shape:
        raise ValueError(f"source: expected a density of shape {points.shape}, got {height.shape}")
    if not np.isfinite(height).all() or height.min() < 0 or not height.any():
        raise ValueError("source: expected a finite density, never negative and somewhere positive")
    mass, moment, spread = (_running_integral(v, points) for v in (height, height * points, np.cbrt(height)))
    # Values as dense as the cube root of the density are the best start where there are many.
    grid = np.interp((np.arange(levels) + 0.5) / levels * spread[-1], spread, points)
    for _ in range(iterations):
        edges = np.concatenate([[support[0]], (grid[1:] + grid[:-1]) / 2, [support[1]]])
        inside = np.diff(np.interp(edges, points, mass))
        filled = inside > 0
        means = np.diff(np.interp(edges, points, moment)) / np.where(filled, inside, 1)
        old, grid = grid, np.where(filled, means, grid)
        if np.abs(grid - old).max() < 1e-10 * (support[1] - support[0]):
            break
    return torch.from_numpy(grid)


def _running_integral(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2 * np.diff(points))])
