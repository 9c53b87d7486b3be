"""The orthogonal and symplectic groups: random elements, a basis of the Lie algebra, extra components."""

import torch
from torch import Tensor


class MatrixGroup:
    """A group of real n×n matrices; an element is a tensor (n, n). Groups are equal if class and n are."""

    def __init__(self, n: int):
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"n: expected an integer of at least 1, got {n!r}")
        self.n = n

    @property
    def identity(self) -> Tensor:
        """(n, n), float64."""
        return torch.eye(self.n, dtype=torch.float64)

    def check(self, g: Tensor) -> Tensor:
        """Return `g`; ValueError where its shape is not (n, n)."""
        if not isinstance(g, Tensor) or g.shape != (self.n, self.n):
            raise ValueError(f"g: expected a matrix {(self.n, self.n)}, got {getattr(g, 'shape', g)}")
        return g

    def product(self, g: Tensor, h: Tensor) -> Tensor:
        """The matrix product g·h."""
        return self.check(g) @ self.check(h)

    def random(self, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """An element, (n, n), computed in float64."""
        raise NotImplementedError

    def algebra(self) -> Tensor:
        """A basis of the Lie algebra, (k, n, n) float64."""
        raise NotImplementedError

    def components(self) -> list[Tensor]:
        """Elements that, with the connected component of the identity, generate the group."""
        return []

    def name(self, g: Tensor) -> str:
        """What messages call the element: its rows to three decimals."""
        return str([[round(v, 3) for v in row] for row in g.tolist()])

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.n == self.n

    def __hash__(self) -> int:
        return hash((type(self), self.n))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n})"


class Orthogonal(MatrixGroup):
    """O(n): rotations and reflections; random elements follow the uniform (Haar) distribution.

    >>> group = Orthogonal(3)
    >>> q = group.random(torch.Generator().manual_seed(0))
    >>> torch.allclose(q.T @ q, group.identity), len(group.algebra()), len(group.components())
    (True, 3, 1)
    """

    def random(self, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """A uniformly distributed element, (n, n)."""
        q, r = torch.linalg.qr(torch.randn(self.n, self.n, generator=generator, dtype=torch.float64))
        return (q * r.diagonal().sign()).to(
            dtype
        )  # without the signs the distribution depends on the QR routine

    def algebra(self) -> Tensor:
        """The n(n − 1)/2 matrices e_j e_iᵀ − e_i e_jᵀ, i < j: rotations from axis i to axis j."""
        i, j = torch.triu_indices(self.n, self.n, 1)
        basis = torch.zeros(len(i), self.n, self.n, dtype=torch.float64)
        k = torch.arange(len(i))
        basis[k, j, i], basis[k, i, j] = 1.0, -1.0
        return basis

    def components(self) -> list[Tensor]:
        """One reflection, of the first axis."""
        reflection = self.identity
        reflection[0, 0] = -1
        return [reflection]


class SpecialOrthogonal(Orthogonal):
    """SO(n): rotations, determinant 1; random elements follow the uniform (Haar) distribution.

    >>> SpecialOrthogonal(4).random(torch.Generator().manual_seed(1)).det().round().item()
    1.0
    """

    def random(self, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """A uniformly distributed element, (n, n)."""
        q = super().random(generator)
        q[:, 0] *= q.det().sign()
        return q.to(dtype)

    def components(self) -> list[Tensor]:
        """None: the group is connected."""
        return []


class Symplectic(MatrixGroup):
    """Sp(n), n even: the matrices g with gᵀ J g = J, J = [[0, I], [−I, 0]] in blocks of n/2 (`form`).

    The group is not compact, so no distribution is uniform: a random element is a product of two exponentials
    of random elements of the algebra, whose entries are of the order of one.

    >>> group = Symplectic(4)
    >>> g = group.random(torch.Generator().manual_seed(0))
    >>> torch.allclose(g.T @ group.form @ g, group.form), len(group.algebra())
    (True, 10)
    """

    def __init__(self, n: int):
        super().__init__(n)
        if n % 2:
            raise ValueError(f"n: expected an even number, got {n}")
        half = torch.eye(n // 2, dtype=torch.float64)
        zero = torch.zeros_like(half)
        self.form = torch.cat([torch.cat([zero, half], 1), torch.cat([-half, zero], 1)])

    def random(self, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """An element, (n, n)."""
        basis = self.algebra()
        weights = torch.randn(2, len(basis), generator=generator, dtype=torch.float64) / (2 * self.n**0.5)
        a, b = torch.linalg.matrix_exp(torch.einsum("ik,kmn->imn", weights, basis))
        return (a @ b).to(dtype)

    def algebra(self) -> Tensor:
        """The n(n + 1)/2 matrices J·S, S the symmetric units."""
        i, j = torch.triu_indices(self.n, self.n)
        symmetric = torch.zeros(len(i), self.n, self.n, dtype=torch.float64)
        k = torch.arange(len(i))
        symmetric[k, i, j] = symmetric[k, j, i] = 1.0
        return self.form @ symmetric
