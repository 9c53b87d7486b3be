"""Functions on the sphere at sampled directions: pointwise activations of features of any degree.

Features of degrees 0 … L are a function on the sphere. To apply an activation, sample it, activate each
value, and take the coefficients of the result by quadrature. The activation of a function of degree L has all
degrees; on a grid, those too high for it are taken for lower ones (aliasing), so equivariance is exact only
in the limit of fine grids.

As in Cohen et al. 2018, "Spherical CNNs", ICLR, and Liao et al. 2024, "EquiformerV2", ICLR.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from layerlab.equivariance.irreps import degree_of
from layerlab.equivariance.so3 import check_degree, harmonics_to


def grid(resolution: int) -> tuple[Tensor, Tensor]:
    """Directions and quadrature weights: `resolution` circles of 2 · `resolution` points about the y axis.

    Heights y at the nodes of Gauss–Legendre, angles equally spaced: Σ weight · f is ∫ f dΩ exactly for f of
    degree up to 2 · resolution - 1. So features up to degree resolution - 1 come back from their values.

    Returns: directions (resolution, 2 · resolution, 3) and weights (resolution, 1), float64; the weights sum
        to 4π over all points.

    Raises:
        ValueError: a resolution below 1.

    >>> directions, weights = grid(3)
    >>> directions.shape, round(weights.expand(3, 6).sum().item() / math.pi, 6)
    (torch.Size([3, 6, 3]), 4.0)
    """
    if isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < 1:
        raise ValueError(f"resolution: expected a whole number of at least 1, got {resolution!r}")
    nodes, weights = np.polynomial.legendre.leggauss(resolution)
    heights = torch.from_numpy(nodes)[:, None]
    angle = torch.arange(2 * resolution, dtype=torch.float64) * (math.pi / resolution)
    ring = (1 - heights.square()).sqrt()
    directions = torch.stack([ring * angle.sin(), heights.expand(-1, len(angle)), ring * angle.cos()], -1)
    return directions, torch.from_numpy(weights)[:, None] * (math.pi / resolution)


def to_grid(x: Tensor, resolution: int) -> Tensor:
    """Values of f = Σ x[l, m] Y_lm at `grid(resolution)`: (…, (L + 1)²) to (…, resolution, 2 · resolution).

    >>> to_grid(torch.ones(1), 1)
    tensor([[0.2821, 0.2821]])
    """
    table = _values(resolution, degree_of(x), x.dtype, x.device)
    return (x @ table.mT).unflatten(-1, (resolution, 2 * resolution))


def from_grid(values: Tensor, degree: int) -> Tensor:
    """The coefficients ∫ f Y_lm dΩ by quadrature: (…, resolution, 2 · resolution) to (…, (degree + 1)²).

    Exact for f of degree up to 2 · resolution - 1 - `degree`.

    Raises:
        ValueError: another shape, or a degree at or above the resolution.
    """
    check_degree(degree)
    if values.ndim < 2 or values.shape[-1] != 2 * values.shape[-2]:
        raise ValueError(f"values: expected (…, resolution, 2 · resolution), got {tuple(values.shape)}")
    resolution = values.shape[-2]
    if degree >= resolution:
        raise ValueError(f"degree: expected below the resolution {resolution}, got {degree}")
    return values.flatten(-2) @ _integrals(resolution, degree, values.dtype, values.device)


def s2_activation(
    x: Tensor,
    resolution: int,
    activation: Callable[[Tensor], Tensor] = F.silu,
    *,
    separable: bool = False,
) -> Tensor:
    """Activate the function on the sphere whose coefficients are x, at a grid; keep the degrees of x.

    Args:
        x: (…, (L + 1)²).
        resolution: of the `grid`, above L; 2 · (L + 1) and more for smooth activations.
        activation: of each value.
        separable: degree 0 is activated by itself, as a number, and of the function only degrees 1 … L are
            used, so that scalars do not suffer from aliasing (EquiformerV2).

    Shapes: as x.

    Raises:
        ValueError: a resolution not above L.

    >>> s2_activation(torch.randn(5, 9), 8).shape
    torch.Size([5, 9])
    """
    degree = degree_of(x)
    active = from_grid(activation(to_grid(x, resolution)), degree)
    return torch.cat([activation(x[..., :1]), active[..., 1:]], -1) if separable else active


@lru_cache(maxsize=64)
def _values(resolution: int, degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Harmonics at the grid: (2 · resolution², (degree + 1)²)."""
    return harmonics_to(degree, grid(resolution)[0]).flatten(0, 1).to(device, dtype)


@lru_cache(maxsize=64)
def _integrals(resolution: int, degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same, times the weights of the quadrature."""
    places, weights = grid(resolution)
    return (harmonics_to(degree, places) * weights[..., None]).flatten(0, 1).to(device, dtype)
