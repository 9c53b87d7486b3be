"""Groups and their representations: what acts, and how it acts on the last axis of a tensor.

Finite groups are given by their tables (`cyclic`, `dihedral`, `symmetric`, `alternating`,
`permutation_group`, or any `FiniteGroup(table)`), the orthogonal and symplectic ones by matrices
(`Orthogonal`, `SpecialOrthogonal`, `Symplectic`). A `Representation` gives each element a matrix.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from layerlab.equivariance._finite import (
    FiniteGroup,
    alternating,
    cyclic,
    dihedral,
    permutation_group,
    symmetric,
)
from layerlab.equivariance._matrix_groups import MatrixGroup, Orthogonal, SpecialOrthogonal, Symplectic

__all__ = [
    "FiniteGroup",
    "Group",
    "MatrixGroup",
    "Orthogonal",
    "Representation",
    "SpecialOrthogonal",
    "Symplectic",
    "alternating",
    "cyclic",
    "defining",
    "dihedral",
    "permutation_group",
    "regular",
    "rotation_irrep",
    "symmetric",
    "trivial",
]

Group = FiniteGroup | MatrixGroup
Element = int | Tensor


class Representation:
    """ρ: a group → invertible d×d matrices with ρ(g·h) = ρ(g) ρ(h).

    Args:
        group: a finite group (elements are indices) or a group of matrices (elements are matrices).
        dimension: d.
        matrix: element → (d, d).

    `rep(g)` is ρ(g) in float64; `rep.act(g, x)` applies it to the last axis of x. `a + b` is the direct sum
    (dimensions add; `a`'s coordinates first), `a @ b` the Kronecker product (dimensions multiply; the
    coordinates of `b` vary fastest, as in `x.flatten()` of a tensor of shape (d_a, d_b)), `a.tensor(k)` the
    k-fold product a @ … @ a, `a.dual()` the matrices ρ(g)⁻ᵀ.

    Raises:
        ValueError: `dimension` is below 1; two representations are of different groups; `x`'s last axis does
            not match; `matrix` returns another shape.

    >>> permute = defining(symmetric(3))
    >>> g = 3  # takes 0 → 1, 1 → 2, 2 → 0
    >>> permute.act(g, torch.tensor([10.0, 20.0, 30.0]))
    tensor([30., 10., 20.])
    >>> (permute + trivial(permute.group)).dimension, permute.tensor(2).dimension
    (4, 9)
    """

    def __init__(self, group: Group, dimension: int, matrix: Callable[[Element], Tensor]):
        if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < 1:
            raise ValueError(f"dimension: expected an integer of at least 1, got {dimension!r}")
        self.group, self.dimension, self._matrix = group, dimension, matrix

    def __call__(self, g: Element) -> Tensor:
        """The matrix of `g`, (d, d) float64."""
        found = torch.as_tensor(self._matrix(self.group.check(g)), dtype=torch.float64)
        if found.shape != (self.dimension, self.dimension):
            raise ValueError(
                f"matrix: expected shape {(self.dimension, self.dimension)}, got {tuple(found.shape)}"
            )
        return found

    def act(self, g: Element, x: Tensor) -> Tensor:
        """Apply ρ(g) to the last axis of x, (…, d) → (…, d), in x's dtype.

        Raises:
            ValueError: x has another last axis.
            TypeError: x's dtype cannot hold the matrix, such as integers and a rotation.
        """
        if x.ndim < 1 or x.shape[-1] != self.dimension:
            raise ValueError(f"x: expected a last axis of {self.dimension}, got shape {tuple(x.shape)}")
        matrix = self(g)
        if not (x.is_floating_point() or x.is_complex()):
            whole = matrix.round().to(x.dtype)  # permutations and signs may act on integers
            if x.dtype == torch.bool or (whole.double() - matrix).abs().max() > 1e-12:
                raise TypeError(
                    f"x: expected real or complex numbers, since the matrix of {self.group.name(g)} does not "
                    f"fit into {x.dtype}, got a tensor of {x.dtype}"
                )
            matrix = whole
        return x @ matrix.to(x).T

    def _same_group(self, other: "Representation") -> None:
        if self.group != other.group:
            raise ValueError(f"representations of different groups: {self.group} and {other.group}")

    def __add__(self, other: "Representation") -> "Representation":
        self._same_group(other)
        return Representation(
            self.group,
            self.dimension + other.dimension,
            lambda g: torch.block_diag(self(g), other(g)),
        )

    def __matmul__(self, other: "Representation") -> "Representation":
        self._same_group(other)
        return Representation(
            self.group,
            self.dimension * other.dimension,
            lambda g: torch.kron(self(g), other(g)),
        )

    def tensor(self, k: int) -> "Representation":
        """The k-fold Kronecker product with itself; for k = 0 the trivial representation on numbers."""
        if isinstance(k, bool) or not isinstance(k, int) or k < 0:
            raise ValueError(f"k: expected an integer of at least 0, got {k!r}")
        product = trivial(self.group)
        for i in range(k):
            product = product @ self if i else self
        return product

    def dual(self) -> "Representation":
        """ρ(g)⁻ᵀ: how the coefficients of linear functions on this space change."""
        return Representation(self.group, self.dimension, lambda g: torch.linalg.inv(self(g)).T)

    def __repr__(self) -> str:
        return f"Representation({self.group}, dimension={self.dimension})"


def trivial(group: Group, d: int = 1) -> Representation:
    """Every element leaves all d coordinates as they are."""
    return Representation(group, d, lambda g: torch.eye(d, dtype=torch.float64))


def _permuting(images: Tensor) -> Tensor:
    """(n, n): column i has its one at row images[i]."""
    matrix = torch.zeros(len(images), len(images), dtype=torch.float64)
    matrix[images, torch.arange(len(images))] = 1.0
    return matrix


def regular(group: FiniteGroup) -> Representation:
    """A finite group permuting coordinates named after its elements: ρ(g) e_h = e_{g·h}.

    >>> regular(cyclic(3)).act(1, torch.tensor([10.0, 20.0, 30.0]))
    tensor([30., 10., 20.])
    """
    if not isinstance(group, FiniteGroup):
        raise ValueError(f"group: expected a finite group, got {group}")
    return Representation(group, group.order, lambda g: _permuting(group.table[g]))


def defining(group: Group) -> Representation:
    """The matrices that the group is defined by.

    For groups of permutations ρ(g) e_i = e_{g(i)}; for O(n), SO(n), Sp(n) the element itself; for `cyclic`
    and `dihedral` the 2×2 rotations and reflections.

    Raises:
        ValueError: a finite group that was given by its table alone.
    """
    if isinstance(group, MatrixGroup):
        return Representation(group, group.n, lambda g: g)
    if group.permutations is not None:
        return Representation(group, group.permutations.shape[1], lambda g: _permuting(group.permutations[g]))
    if group.planar is not None:
        return Representation(group, 2, lambda g: group.planar[g])
    raise ValueError("group: expected permutations or matrices, got a group given by its table alone")


def rotation_irrep(group: Group, k: int) -> Representation:
    """The irreducible representation of frequency k of C_n, D_n, SO(2) or O(2).

    A rotation by θ turns the coordinates by k·θ; the flip of D_n and O(2) negates the second. The dimension
    is 2, and 1 where that splits or all stays: for k = 0, and for k = n/2 of C_n and D_n, where rotations
    have the signs (−1)^r and the flip is left out.

    Raises:
        ValueError: another group, or k outside 0..n/2 (C_n, D_n) or below 0 (SO(2), O(2)).

    >>> rotation_irrep(cyclic(8), 2)(1).round().abs()
    tensor([[0., 1.],
            [1., 0.]], dtype=torch.float64)
    """
    plane = isinstance(group, Orthogonal) and group.n == 2  # SO(2) is a subclass
    if not plane and getattr(group, "planar", None) is None:
        raise ValueError(f"group: expected cyclic, dihedral, SO(2) or O(2), got {group}")
    n = None if plane else int((group.planar.det() > 0).sum())
    if isinstance(k, bool) or not isinstance(k, int) or k < 0 or (n is not None and k > n // 2):
        raise ValueError(
            f"k: expected an integer of at least 0{'' if n is None else f' and at most {n // 2}'}, got {k!r}"
        )
    if k == 0:
        return trivial(group)
    if n is not None and 2 * k == n:
        return Representation(group, 1, lambda g: torch.tensor([[(-1.0) ** (g % n)]], dtype=torch.float64))

    def matrix(g: Element) -> Tensor:
        g = g.double() if plane else group.planar[g]
        angle = k * torch.atan2(g[1, 0], g[0, 0])
        turn = torch.stack(
            [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
        )
        return turn * torch.stack([torch.ones_like(angle), g.det().sign()])

    return Representation(group, 2, matrix)
