"""Lists of irreducible representations of SO(3), and products of the features that they describe.

A feature of degree l has 2l + 1 numbers, turned by D_l (`layerlab.equivariance.so3`). Most networks keep one
of each degree 0 … L side by side, (L + 1)² numbers on the last axis, with channels on the axis before it; the
functions here that take no `Irreps` mean that layout ("spherical features"), and read L from the last axis.
"""

import math
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

import torch
from torch import Tensor

from layerlab.equivariance.groups import Representation, SpecialOrthogonal
from layerlab.equivariance.so3 import check_degree, clebsch_gordan, wigner_d


class Irreps(Representation):
    """So many features of each degree, one behind the other: a representation of SO(3).

    Args:
        terms: pairs (multiplicity, degree), or a string such as "8x0 + 4x1 + 2x2"; "1" alone means "1x1".

    `.terms` are the pairs, in the order given, `.dimension` the sum of multiplicity · (2 · degree + 1);
    `irreps(R)` is the matrix of a rotation (3, 3), `irreps.act(R, x)` turns the last axis of x. Two are equal
    if their terms are. There is no parity: a vector and the cross product of two vectors both have degree 1.

    Raises:
        ValueError: no terms, a multiplicity below 1, a degree out of range, or a string that does not read
            so.

    >>> features = Irreps("2x0 + 1x1")
    >>> features.dimension, features.terms
    (5, [(2, 0), (1, 1)])
    >>> Irreps.spherical(2)
    Irreps('1x0 + 1x1 + 1x2')
    """

    def __init__(self, terms: str | Iterable[tuple[int, int]]):
        self.terms = _parse(terms) if isinstance(terms, str) else [tuple(term) for term in terms]
        if not self.terms:
            raise ValueError("terms: expected at least one (multiplicity, degree), got none")
        for multiplicity, degree in self.terms:
            if isinstance(multiplicity, bool) or not isinstance(multiplicity, int) or multiplicity < 1:
                raise ValueError(f"terms: expected multiplicities of at least 1, got {multiplicity!r}")
            check_degree(degree, "terms")
        super().__init__(SpecialOrthogonal(3), sum(n * (2 * ell + 1) for n, ell in self.terms), self._blocks)

    @classmethod
    def spherical(cls, degree: int) -> "Irreps":
        """One of each degree 0 … `degree`: the coefficients of a function on the sphere."""
        check_degree(degree)
        return cls([(1, ell) for ell in range(degree + 1)])

    def slices(self) -> list[slice]:
        """Where each term lies on the last axis."""
        sizes = [n * (2 * ell + 1) for n, ell in self.terms]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]

    def split(self, x: Tensor) -> list[Tensor]:
        """(…, dimension) to one (…, multiplicity, 2 · degree + 1) for each term.

        Raises:
            ValueError: the last axis of `x` is not `dimension`.
        """
        if x.ndim < 1 or x.shape[-1] != self.dimension:
            raise ValueError(f"x: expected a last axis of {self.dimension} ({self}), got {tuple(x.shape)}")
        return [
            x[..., part].unflatten(-1, (n, 2 * ell + 1))
            for (n, ell), part in zip(self.terms, self.slices(), strict=True)
        ]

    def product(self, other: "Irreps", max_degree: int | None = None) -> "Irreps":
        """What `tensor_product` gives: terms sorted by degree, one for each pair of terms that has it."""
        found = [(a * b, ell) for a, b, _, _, ell in _pairs(self, other, max_degree)]
        return Irreps(sorted(found, key=lambda term: term[1]))

    def _blocks(self, rotation: Tensor) -> Tensor:
        return torch.block_diag(*(d for n, ell in self.terms for d in [wigner_d(ell, rotation)] * n))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Irreps) and other.terms == self.terms

    def __hash__(self) -> int:
        return hash(tuple(self.terms))

    def __repr__(self) -> str:
        return f"Irreps('{' + '.join(f'{n}x{ell}' for n, ell in self.terms)}')"


def tensor_product(
    x: Tensor, y: Tensor, irreps_x: Irreps, irreps_y: Irreps, max_degree: int | None = None
) -> Tensor:
    """Every Clebsch–Gordan product of a feature of x with one of y, side by side.

    Without `max_degree` an orthogonal change of basis of x ⊗ y: nothing is lost. Nothing is learned either: a
    linear map that mixes features of equal degree comes after it.

    Args:
        x, y: (…, irreps_x.dimension) and (…, irreps_y.dimension); what stands before broadcasts.
        max_degree: leave out products of higher degree.

    Returns: (…, d) for d = irreps_x.product(irreps_y, max_degree).dimension, in that order.

    Raises:
        ValueError: a last axis that does not match.

    >>> vector = Irreps("1x1")
    >>> vector.product(vector)  # dot product, cross product, traceless symmetric part
    Irreps('1x0 + 1x1 + 1x2')
    >>> x, y = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    >>> tensor_product(x, y, vector, vector)[1:4]  # z, over √2
    tensor([0.0000, 0.0000, 0.7071])
    """
    parts_x, parts_y = irreps_x.split(x), irreps_y.split(y)
    found = []
    for _, _, i, j, ell in _pairs(irreps_x, irreps_y, max_degree):
        table = clebsch_gordan(irreps_x.terms[i][1], irreps_y.terms[j][1], ell).to(x)
        z = torch.einsum("...ua,...vb,abc->...uvc", parts_x[i], parts_y[j], table)
        found.append((ell, z.flatten(-3)))
    return torch.cat([z for _, z in sorted(found, key=lambda pair: pair[0])], -1)


def paths(degree_x: int, degree_y: int, degree_out: int) -> list[tuple[int, int, int]]:
    """All (l1, l2, l3) with l1 ≤ degree_x, l2 ≤ degree_y, l3 ≤ degree_out and |l1 - l2| ≤ l3 ≤ l1 + l2.

    >>> len(paths(1, 1, 1)), len(paths(8, 8, 8))
    (5, 369)
    """
    for name, degree in (("degree_x", degree_x), ("degree_y", degree_y), ("degree_out", degree_out)):
        check_degree(degree, name)
    return [
        (l1, l2, l3)
        for l1 in range(degree_x + 1)
        for l2 in range(degree_y + 1)
        for l3 in range(abs(l1 - l2), min(l1 + l2, degree_out) + 1)
    ]


def spherical_product(
    x: Tensor, y: Tensor, degree_out: int | None = None, weights: Tensor | None = None
) -> Tensor:
    """The full product of spherical features: all paths (l1, l2, l3), each with its own weight, summed.

    z[l3] = Σ w[l1, l2, l3] C(l1, l2, l3) x[l1] y[l2]; some L³ paths of up to L³ multiplications.

    Args:
        x, y: (…, (L1 + 1)²) and (…, (L2 + 1)²).
        degree_out: highest l3; by default the larger of L1 and L2.
        weights: (…, number of paths), in the order of `paths(L1, L2, degree_out)`; by default all 1.

    Returns: (…, (degree_out + 1)²).

    Raises:
        ValueError: a last axis that is no square of a whole number, or weights for another number of paths.

    >>> spherical_product(torch.randn(5, 9), torch.randn(5, 9), degree_out=3).shape
    torch.Size([5, 16])
    """
    degree_x, degree_y = degree_of(x, "x"), degree_of(y, "y")
    degree_out = max(degree_x, degree_y) if degree_out is None else degree_out
    routes = paths(degree_x, degree_y, degree_out)
    if weights is not None and weights.shape[-1:] != (len(routes),):
        raise ValueError(f"weights: expected (…, {len(routes)}), one per path, got {tuple(weights.shape)}")
    found: list[list[Tensor]] = [[] for _ in range(degree_out + 1)]
    p = 0
    for l1 in range(degree_x + 1):
        for l2 in range(degree_y + 1):
            if abs(l1 - l2) > degree_out:
                continue
            first, second = x[..., l1**2 : (l1 + 1) ** 2, None], y[..., None, l2**2 : (l2 + 1) ** 2]
            table = _pair_table(l1, l2, degree_out, x.dtype, x.device)
            z = (first * second).flatten(-2) @ table  # all l3 of the pair, in the order of `paths`
            degrees = range(abs(l1 - l2), min(l1 + l2, degree_out) + 1)
            for l3, part in zip(degrees, z.split([2 * l3 + 1 for l3 in degrees], -1), strict=True):
                found[l3].append(part if weights is None else weights[..., p, None] * part)
                p += 1
    shape = torch.broadcast_shapes(*(z[0].shape[:-1] for z in found if z))
    return torch.cat(
        [
            sum(z).expand(*shape, 2 * ell + 1) if z else x.new_zeros(*shape, 2 * ell + 1)
            for ell, z in enumerate(found)
        ],
        -1,
    )


def scale_degrees(x: Tensor, weights: Tensor) -> Tensor:
    """Multiply the 2l + 1 numbers of each degree by one weight: (…, (L + 1)²) and (…, L + 1), broadcast.

    >>> scale_degrees(torch.ones(4), torch.tensor([2.0, 3.0]))
    tensor([2., 3., 3., 3.])
    """
    degree = degree_of(x, "x")
    if weights.shape[-1:] != (degree + 1,):
        raise ValueError(f"weights: expected (…, {degree + 1}), one per degree, got {tuple(weights.shape)}")
    counts = torch.arange(1, 2 * degree + 2, 2, device=weights.device)
    return x * weights.repeat_interleave(counts, -1)


def matrix_to_features(matrix: Tensor) -> Tensor:
    """A 3×3 matrix that turns as R M Rᵀ, as features: its trace (degree 0), antisymmetric part (1), and the
    rest (2).

    An orthogonal change of basis: no information is lost, and lengths are kept.

    Shapes: (…, 3, 3) to (…, 9), the layout of `Irreps.spherical(2)`.

    >>> matrix_to_features(torch.eye(3))[:1]
    tensor([1.7321])
    """
    if matrix.shape[-2:] != (3, 3):
        raise ValueError(f"matrix: expected (…, 3, 3), got {tuple(matrix.shape)}")
    return matrix.flatten(-2) @ _matrix_basis().to(matrix)


def features_to_matrix(x: Tensor) -> Tensor:
    """The inverse of `matrix_to_features`: (…, 9) to (…, 3, 3); symmetric where degree 1 is zero."""
    if x.shape[-1:] != (9,):
        raise ValueError(f"x: expected a last axis of 9, got {tuple(x.shape)}")
    return (x @ _matrix_basis().to(x).mT).unflatten(-1, (3, 3))


def _matrix_basis() -> Tensor:
    return torch.cat([clebsch_gordan(1, 1, ell).flatten(0, 1) for ell in range(3)], -1)


def degree_of(x: Tensor, name: str = "x") -> int:
    """L of spherical features (…, (L + 1)²); ValueError where the last axis is no such number."""
    size = x.shape[-1] if torch.is_tensor(x) and x.ndim else 0
    degree = math.isqrt(size) - 1
    if degree < 0 or (degree + 1) ** 2 != size:
        shape = tuple(x.shape) if torch.is_tensor(x) else x
        raise ValueError(f"{name}: expected a last axis of (L + 1)² = 1, 4, 9, …, got {shape}")
    check_degree(degree, name)
    return degree


@lru_cache(maxsize=4096)
def _pair_table(l1: int, l2: int, degree_out: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The coefficients of l1 and l2 for all l3 side by side: ((2 l1 + 1)(2 l2 + 1), numbers of all l3)."""
    degrees = range(abs(l1 - l2), min(l1 + l2, degree_out) + 1)
    return torch.cat([clebsch_gordan(l1, l2, l3).flatten(0, 1) for l3 in degrees], -1).to(device, dtype)


def _parse(text: str) -> list[tuple[int, int]]:
    terms = []
    for part in text.split("+"):
        found = re.fullmatch(r"\s*(?:(\d+)\s*x\s*)?(\d+)\s*", part)
        if not found:
            raise ValueError(f'terms: expected such as "8x0 + 4x1", got {text!r}')
        terms.append((int(found[1] or 1), int(found[2])))
    return terms


def _pairs(
    irreps_x: Irreps, irreps_y: Irreps, max_degree: int | None
) -> Iterator[tuple[int, int, int, int, int]]:
    """(multiplicity of x, of y, term of x, term of y, degree of the product)."""
    for i, (a, l1) in enumerate(irreps_x.terms):
        for j, (b, l2) in enumerate(irreps_y.terms):
            for ell in range(abs(l1 - l2), l1 + l2 + 1):
                if max_degree is None or ell <= max_degree:
                    yield a, b, i, j, ell
