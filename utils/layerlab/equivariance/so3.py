"""Rotations of space and what they do to functions on the sphere: harmonics, Wigner matrices, Clebsch–Gordan.

The convention, which is that of e3nn: real harmonics, orthonormal over the sphere (∫ Y² dΩ = 1), order
m = -l … l, and degree 1 is the vector itself, Y₁(x, y, z) = √(3/4π) (x, y, z). So the polar axis is y, a
rotation R has D₁(R) = R, and a vector can be read as a feature of degree 1. m counts turns about y: m > 0
goes with cos mφ, m < 0 with sin |m|φ, where φ runs from z to x. Features stand on the last axis of a tensor.

Lists of irreducible representations, and products of whole features, are in `layerlab.equivariance.irreps`.
"""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

MAX_DEGREE = 32  # beyond, tables grow large and nobody has checked them


def spherical_harmonics(degree: int, directions: Tensor, *, normalize: bool = True) -> Tensor:
    """The real harmonics of one degree l at these directions.

    Args:
        degree: l, from 0 to `MAX_DEGREE`.
        directions: (…, 3), as (x, y, z), of any length but zero.
        normalize: use the direction only. Otherwise the length r counts too: rˡ Yₗ, a polynomial of degree l
            in x, y, z, smooth also at the origin ("solid harmonics").

    Polynomials throughout, so that gradients are finite at the poles.

    Shapes: (…, 3) to (…, 2l + 1), order m = -l … l.

    Raises:
        ValueError: a degree below 0 or above `MAX_DEGREE`; a last axis that is not 3; with `normalize`, a
            direction of length zero.

    >>> spherical_harmonics(1, torch.tensor([0.0, 5.0, 0.0]))
    tensor([0.0000, 0.4886, 0.0000])
    """
    check_degree(degree)
    return harmonics_to(degree, directions, normalize=normalize)[..., degree**2 :]


def harmonics_to(degree: int, directions: Tensor, *, normalize: bool = True) -> Tensor:
    """The harmonics of all degrees 0 … `degree`, side by side; otherwise as `spherical_harmonics`.

    Shapes: (…, 3) to (…, (degree + 1)²); those of degree l are [..., l² : (l + 1)²].

    >>> harmonics_to(4, torch.randn(10, 3)).shape
    torch.Size([10, 25])
    """
    check_degree(degree)
    if not torch.is_tensor(directions) or not directions.is_floating_point():
        raise TypeError(f"directions: expected a tensor of floats, got {directions!r}")
    if directions.ndim < 1 or directions.shape[-1] != 3:
        raise ValueError(f"directions: expected a last axis of 3 (x, y, z), got {tuple(directions.shape)}")
    if normalize:
        length = directions.norm(dim=-1, keepdim=True)
        if not ((length > 0) & length.isfinite()).all():
            raise ValueError(
                "directions: expected vectors of positive, finite length, got zero, infinity or NaN"
            )
        directions = directions / length
    x, y, z = directions.unbind(-1)
    square = directions.square().sum(-1)  # 1, or r² for solid harmonics
    # (z + ix)ᵐ = rᵐ sinᵐθ (cos mφ + i sin mφ), without an angle
    cos, sin = [torch.ones_like(y)], [torch.zeros_like(y)]
    for _ in range(degree):
        cos, sin = [*cos, z * cos[-1] - x * sin[-1]], [*sin, z * sin[-1] + x * cos[-1]]
    legendre = _legendre(degree, y, square)
    parts = []
    for ell in range(degree + 1):
        parts += [math.sqrt(2) * legendre[ell, m] * sin[m] for m in range(ell, 0, -1)]
        parts += [legendre[ell, 0]]
        parts += [math.sqrt(2) * legendre[ell, m] * cos[m] for m in range(1, ell + 1)]
    return torch.stack(parts, -1)


def wigner_d(degree: int, rotation: Tensor) -> Tensor:
    """D(R) with Yₗ(R v) = D(R) Yₗ(v): how a rotation of space turns features of degree l.

    From that very equation: at a few fixed directions the harmonics form a matrix of full rank, which is
    solved for D. Polynomial in the entries of R, and so smooth; D(R S) = D(R) D(S) and D(Rᵀ) = D(R)ᵀ.

    Args:
        degree: l, from 0 to `MAX_DEGREE`.
        rotation: (…, 3, 3), each orthogonal with determinant 1 (checked to 1e-3).

    Shapes: (…, 3, 3) to (…, 2l + 1, 2l + 1), in the dtype of `rotation`.

    Raises:
        ValueError: a degree outside the range; a shape that is not (…, 3, 3); a matrix that is no rotation.

    >>> turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> torch.allclose(wigner_d(1, turn), turn, atol=1e-6)
    True
    """
    check_degree(degree)
    _check_rotation(rotation)
    places, solver = _places(degree).to(rotation), _solver(degree, degree).to(rotation)
    turned = places @ rotation.mT  # (…, places, 3): R v for each place v
    return spherical_harmonics(degree, turned, normalize=False).mT @ solver


def wigner_blocks(degree: int, rotation: Tensor) -> list[Tensor]:
    """`wigner_d` of all degrees 0 … `degree`, from one evaluation of the harmonics.

    Shapes: (…, 3, 3) to one (…, 2l + 1, 2l + 1) for each l. Raises as `wigner_d`.
    """
    check_degree(degree)
    _check_rotation(rotation)
    turned = _places(degree).to(rotation) @ rotation.mT
    values = harmonics_to(degree, turned, normalize=False)
    return [
        values[..., ell**2 : (ell + 1) ** 2].mT @ _solver(degree, ell).to(rotation)
        for ell in range(degree + 1)
    ]


def clebsch_gordan(l1: int, l2: int, l3: int) -> Tensor:
    """The coefficients C with which features of degrees l1 and l2 combine to one of degree l3.

    z[m3] = Σ C[m1, m2, m3] x[m1] y[m2] turns with D(l3) when x turns with D(l1) and y with D(l2). There is
    one such product up to a factor, wherever |l1 - l2| ≤ l3 ≤ l1 + l2. Here Σ C[m1, m2, m] C[m1, m2, m'] is 1
    for m = m' and else 0: all l3 together are an orthogonal change of basis of the (2 l1 + 1)(2 l2 + 1)
    products. (The `wigner_3j` of e3nn is C / √(2 l3 + 1), signs included.) Signs: where l1 + l2 + l3 is even,
    those of ∫ Y Y Y; where it is odd, C(l1, l1, l3) is antisymmetric, and C(1, 1, 1) is the cross product
    over √2.

    Racah's formula in whole numbers, rounded once to float64, then taken to the real basis. Cached: do not
    write into it.

    Returns: (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), float64.

    Raises:
        ValueError: a degree outside 0 … `MAX_DEGREE`; degrees that cannot combine.

    >>> clebsch_gordan(1, 1, 1)[0, 1] * math.sqrt(2)  # x cross y is z
    tensor([0., 0., 1.], dtype=torch.float64)
    """
    for name, degree in zip(("l1", "l2", "l3"), (l1, l2, l3), strict=True):
        check_degree(degree, name)
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"l3: expected {abs(l1 - l2)} to {l1 + l2} for l1 = {l1} and l2 = {l2}, got {l3}")
    return _clebsch_gordan(l1, l2, l3)


def random_rotation(generator: torch.Generator, count: int | None = None, dtype=torch.float64) -> Tensor:
    """(3, 3), or (count, 3, 3): rotations uniform over SO(3), from quaternions uniform on their sphere."""
    q = torch.randn(1 if count is None else count, 4, generator=generator, dtype=dtype)
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    entries = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    rotations = torch.stack(entries, -1).unflatten(-1, (3, 3))
    return rotations[0] if count is None else rotations


def check_degree(degree: int, name: str = "degree") -> None:
    """TypeError or ValueError, naming the argument, unless it is a whole number from 0 to `MAX_DEGREE`."""
    if isinstance(degree, bool) or not isinstance(degree, int):
        raise TypeError(f"{name}: expected a whole number, got {degree!r}")
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"{name}: expected 0 to {MAX_DEGREE}, got {degree}")


def _legendre(degree: int, y: Tensor, square: Tensor) -> dict[tuple[int, int], Tensor]:
    """Orthonormal associated Legendre functions over sinᵐθ, by degree and order; homogeneous in y and r.

    The normalised recursion over l, which stays of size one where the factorials of the textbook's overflow.
    """
    values: dict[tuple[int, int], Tensor] = {}
    first = math.sqrt(1 / (4 * math.pi))
    for m in range(degree + 1):
        if m:
            first *= math.sqrt((2 * m + 1) / (2 * m))
        values[m, m] = torch.full_like(y, first)
        for ell in range(m + 1, degree + 1):
            scale = math.sqrt((4 * ell * ell - 1) / (ell * ell - m * m))
            values[ell, m] = scale * y * values[ell - 1, m]
            if ell > m + 1:
                back = math.sqrt(((ell - 1) ** 2 - m * m) / (4 * (ell - 1) ** 2 - 1))
                values[ell, m] = values[ell, m] - scale * back * square * values[ell - 2, m]
    return values


@cache
def _places(degree: int) -> Tensor:
    """Directions v (k, 3), float64, spread over a half sphere: enough to tell harmonics of a degree apart."""
    count = 2 * (2 * degree + 1)
    index = torch.arange(count, dtype=torch.float64)
    height, angle = (index + 0.5) / count, index * math.pi * (3 - math.sqrt(5))
    ring = (1 - height.square()).sqrt()
    return torch.stack([ring * angle.sin(), height, ring * angle.cos()], -1)


@cache
def _solver(degree: int, ell: int) -> Tensor:
    """The pseudo-inverse of the harmonics of degree `ell` at `_places(degree)`, transposed."""
    return torch.linalg.pinv(spherical_harmonics(ell, _places(degree))).mT.contiguous()  # (k, 2 ell + 1)


def _check_rotation(rotation: Tensor) -> None:
    if not torch.is_tensor(rotation) or not rotation.is_floating_point():
        raise TypeError(f"rotation: expected a tensor of floats, got {rotation!r}")
    if rotation.shape[-2:] != (3, 3):
        raise ValueError(f"rotation: expected (…, 3, 3), got {tuple(rotation.shape)}")
    with torch.no_grad():
        off = (rotation @ rotation.mT - torch.eye(3).to(rotation)).abs().amax() if rotation.numel() else 0
        if not off < 1e-3 or not (torch.linalg.det(rotation.double()) > 0).all():
            raise ValueError("rotation: expected orthogonal matrices of determinant 1, got others")


@cache
def _clebsch_gordan(l1: int, l2: int, l3: int) -> Tensor:
    table = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1), dtype=complex)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            table[l1 + m1, l2 + m2, l3 + m1 + m2] = racah(l1, m1, l2, m2, l3)
    first, second, third = (_real_basis(ell) for ell in (l1, l2, l3))
    real = np.einsum("ijk,ai,bj,ck->abc", table, first.conj(), second.conj(), third, optimize=True)
    # real up to the factor i^(l1 + l2 - l3), by which each degree may be turned
    return torch.from_numpy((real * (-1j) ** (l1 + l2 - l3)).real.copy())


def racah(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """⟨l1 m1 l2 m2 | l3 m1+m2⟩ of the complex basis with the Condon–Shortley phase; Racah's sum in integers.

    >>> racah(1, 1, 1, -1, 0) ** 2 * 3
    1.0
    """
    f, m3 = math.factorial, m1 + m2
    a, b, c = l1 + l2 - l3, l3 + l1 - l2, l3 - l1 + l2
    terms = range(max(0, l1 - m1 - b, l2 + m2 - c), min(a, l1 - m1, l2 + m2) + 1)
    total = sum(
        (-1) ** k * math.comb(a, k) * math.comb(b, l1 - m1 - k) * math.comb(c, l2 + m2 - k) for k in terms
    )
    square = (2 * l3 + 1) * f(l1 + m1) * f(l1 - m1) * f(l2 + m2) * f(l2 - m2) * f(l3 + m3) * f(l3 - m3)
    over = f(l1 + l2 + l3 + 1) * f(a) * f(b) * f(c)
    return math.copysign(math.sqrt(square * total * total / over), total)


@cache
def _real_basis(degree: int) -> np.ndarray:
    """U with Y_real = U Y_complex, rows and columns m = -l … l."""
    matrix, half = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex), 1 / math.sqrt(2)
    matrix[degree, degree] = 1
    for m in range(1, degree + 1):
        plus, minus = degree + m, degree - m
        matrix[plus, [plus, minus]] = (-1) ** m * half, half
        matrix[minus, [plus, minus]] = -1j * (-1) ** m * half, 1j * half
    return matrix
