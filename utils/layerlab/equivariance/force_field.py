"""A small force field: clusters of equal atoms with known energies and forces, to learn from.

Pairs attract and repel by the Morse potential; triples prefer an angle, as in Stillinger and Weber's silicon.
The energy does not change when the cluster is moved, turned, mirrored or its atoms renumbered; the forces
turn with it. Units: the pair's equilibrium distance is 1, the depth of its well 1.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from layerlab.equivariance.so3 import random_rotation


class Clusters(NamedTuple):
    """Positions (N, n, 3), energies (N,) and forces (N, n, 3), float64; units as in the module's text."""

    positions: Tensor
    energies: Tensor
    forces: Tensor


def energy(
    positions: Tensor,
    *,
    steepness: float = 3.0,
    bending: float = 1.0,
    cosine: float = -1 / 3,
    reach: float = 2.0,
) -> Tensor:
    """Σ over pairs of (1 - exp(-a (r - 1)))² - 1, and over angles of bending · w(r) w(r') (cos θ - cosine)².

    Args:
        positions: (…, n, 3), n ≥ 2, no two atoms in one place.
        steepness: a of the Morse potential.
        bending: weight of the triples; 0 leaves the pairs alone.
        cosine: of the angle that costs nothing, at each atom between two others.
        reach: distance at which w(r) = (1 + cos(π r / reach)) / 2 comes to 0.

    Shapes: (…, n, 3) to (…,).

    Raises:
        ValueError: a shape that is not (…, n ≥ 2, 3).

    >>> energy(torch.tensor([[0.0, 0, 0], [1.0, 0, 0]]))  # a pair at the bottom of its well
    tensor(-1.)
    """
    _check_positions(positions)
    n = positions.shape[-2]
    others = torch.tensor([[j for j in range(n) if j != i] for i in range(n)], device=positions.device)
    arms = (
        positions[..., others, :] - positions[..., :, None, :]
    )  # (…, n, n - 1, 3): from each atom to the others
    length = arms.norm(dim=-1)
    pairs = ((1 - torch.exp(-steepness * (length - 1))).square() - 1).sum((-2, -1)) / 2
    if bending == 0 or n == 2:
        return pairs
    near = torch.where(length < reach, (1 + torch.cos(math.pi * length / reach)) / 2, 0.0)
    units = arms / length[..., None]
    j, k = torch.triu_indices(n - 1, n - 1, 1, device=positions.device)
    cosines = (units[..., j, :] * units[..., k, :]).sum(-1)
    triples = near[..., j] * near[..., k] * (cosines - cosine).square()
    return pairs + bending * triples.sum((-2, -1))


def energy_and_forces(positions: Tensor, **settings: float) -> tuple[Tensor, Tensor]:
    """`energy` and minus its gradient: (…, n, 3) to (…,) and (…, n, 3).

    >>> _, forces = energy_and_forces(torch.tensor([[0.0, 0, 0], [1.5, 0, 0]]))
    >>> bool(forces[0, 0] > 0)  # stretched: pulled towards each other
    True
    """
    positions = positions.detach().requires_grad_()
    with torch.enable_grad():
        values = energy(positions, **settings)
        (slope,) = torch.autograd.grad(values.sum(), positions)
    return values.detach(), -slope


def sample_clusters(
    count: int,
    points: int = 5,
    *,
    seed: int = 0,
    noise: float = 0.08,
    shapes: int | None = None,
    turn: bool = True,
    **settings: float,
) -> Clusters:
    """Clusters near rest: random starts, led downhill, then shaken by Gaussian noise.

    Args:
        count: how many clusters.
        points: atoms in each, at least 2.
        seed: of everything random here.
        noise: standard deviation of the shaking, in units of the pair's distance.
        shapes: how many different starts; by default each cluster has its own. With 1, all are shaken copies
            of one molecule, as in the data sets of molecular dynamics.
        turn: turn each cluster at random. Without, copies of one shape keep its orientation.
        settings: of `energy`.

    Returns: `Clusters`, each centred at the origin.

    Raises:
        ValueError: a count below 1, fewer than two points, negative noise, or `shapes` outside 1 … count.

    >>> clusters = sample_clusters(10, 4, seed=1)
    >>> clusters.positions.shape, clusters.energies.shape
    (torch.Size([10, 4, 3]), torch.Size([10]))
    """
    for name, value, least in (("count", count, 1), ("points", points, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    if not noise >= 0:
        raise ValueError(f"noise: expected at least 0, got {noise}")
    shapes = count if shapes is None else shapes
    if not 1 <= shapes <= count:
        raise ValueError(f"shapes: expected 1 to {count}, got {shapes}")
    generator = torch.Generator().manual_seed(seed)
    size = 1.2 * points ** (1 / 3)
    starts = size * torch.rand(shapes, points, 3, generator=generator, dtype=torch.float64)
    for step in (0.05, 0.02, 0.005):
        for _ in range(60):
            forces = energy_and_forces(starts, **settings)[1]
            length = forces.norm(dim=-1, keepdim=True)
            starts = starts + step * forces / (1 + length)  # never further than `step`
    positions = starts[torch.arange(count) % shapes]
    positions = positions + noise * torch.randn(positions.shape, generator=generator, dtype=torch.float64)
    positions = positions - positions.mean(-2, keepdim=True)
    if turn:
        positions = positions @ random_rotation(generator, count).mT
    return Clusters(positions, *energy_and_forces(positions, **settings))


def turn_clusters(clusters: Clusters, rotations: Tensor) -> Clusters:
    """The same clusters turned: positions and forces by (3, 3) or (N, 3, 3), energies as they are."""
    return Clusters(clusters.positions @ rotations.mT, clusters.energies, clusters.forces @ rotations.mT)


def moment_of_inertia(positions: Tensor, masses: Tensor | None = None) -> Tensor:
    """Σ m (|r|² I - r rᵀ) about the origin: what spinning a body costs about each axis.

    Degrees 0 and 2 only: it is symmetric. `irreps.matrix_to_features` takes it there.

    Shapes: positions (…, n, 3), masses (…, n) (by default all 1) to (…, 3, 3).

    >>> moment_of_inertia(torch.tensor([[0.0, 2.0, 0.0]])).diagonal()
    tensor([4., 0., 4.])
    """
    _check_positions(positions, least=1)
    masses = torch.ones_like(positions[..., 0]) if masses is None else masses
    if masses.shape[-1:] != positions.shape[-2:-1]:
        raise ValueError(
            f"masses: expected one for each of {positions.shape[-2]} points, got {tuple(masses.shape)}"
        )
    eye = torch.eye(3, dtype=positions.dtype, device=positions.device)
    square = positions.square().sum(-1)[..., None, None] * eye
    outer = positions[..., :, None] * positions[..., None, :]
    return (masses[..., None, None] * (square - outer)).sum(-3)


def _check_positions(positions: Tensor, least: int = 2) -> None:
    if positions.ndim < 2 or positions.shape[-1] != 3 or positions.shape[-2] < least:
        raise ValueError(
            f"positions: expected (…, n, 3) with n at least {least}, got {tuple(positions.shape)}"
        )
