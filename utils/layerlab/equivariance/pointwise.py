"""Which activations may be applied coordinate by coordinate: how far they are from commuting with a group.

Every function, applied to each coordinate, commutes with matrices that only permute the coordinates; an odd
one also with changes of sign, a positively homogeneous one (ReLU) also with positive factors, and beyond that
only a linear one (an affine one where rows sum to 1). Which matrices a representation has depends on the
basis, so the question is whether there is a basis in which they are permutations.

Chapter: `chapters/equivariance/01_group_convolutions.ipynb`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from layerlab.equivariance.groups import FiniteGroup, Representation

Activation = Callable[[Tensor], Tensor]
Matrices = Literal["trivial", "permutation", "signed permutation", "monomial", "other"]


def _matrices(rep: Representation, elements: int, seed: int) -> Tensor:
    """(elements, d, d): all of a small finite group, else random ones."""
    group = rep.group
    if isinstance(elements, bool) or not isinstance(elements, int) or elements < 1:
        raise ValueError(f"elements: expected an integer of at least 1, got {elements!r}")
    if isinstance(group, FiniteGroup) and group.order <= elements + 1:
        chosen = [g for g in range(group.order) if g != group.identity] or [group.identity]
    else:
        generator = torch.Generator().manual_seed(seed)
        chosen = [group.random(generator) for _ in range(elements)]
        if isinstance(group, FiniteGroup):
            chosen += group.generators()
        else:
            chosen += list(group.components())
    return torch.stack([rep(g) for g in chosen])


def _in_basis(M: Tensor, basis: Tensor | None) -> Tensor:
    """P⁻¹ M P for each matrix."""
    if basis is None:
        return M
    d = M.shape[-1]
    if basis.shape != (d, d):
        raise ValueError(f"basis: expected a shape ({d}, {d}), got {tuple(basis.shape)}")
    basis = basis.to(M)
    values = torch.linalg.svdvals(basis.detach())
    if not torch.isfinite(basis).all() or values[-1] <= 1e-12 * values[0]:
        raise ValueError("basis: expected an invertible matrix, got one that is singular or not finite")
    return torch.linalg.solve(basis, M @ basis)


def _error(activation: Activation, M: Tensor, x: Tensor) -> Tensor:
    """Root mean square of f(Mx) − M f(x), relative to those of f(Mx) and M f(x); differentiable in M."""
    a, b = activation(x @ M.mT), activation(x) @ M.mT
    scale = a.square().mean() + b.square().mean()
    return ((a - b).square().mean() / scale.clamp_min(1e-300)).sqrt()


def commutator(
    activation: Activation,
    rep: Representation,
    basis: Tensor | None = None,
    *,
    samples: int = 256,
    elements: int = 16,
    seed: int = 0,
) -> float:
    """How far f, applied to each coordinate in a basis, is from commuting with the group.

    With M = P⁻¹ ρ(g) P the matrices in the basis, it is the root mean square of f(Mx) − M f(x) over
    elements g and normally distributed coordinates x, divided by √(mean |f(Mx)|² + mean |M f(x)|²): 0 where
    it commutes, 1 where the two have nothing to do with one another, √2 where they are opposite.

    Args:
        activation: elementwise function.
        rep: representation of dimension d.
        basis: (d, d), P, whose columns are the basis vectors; without it the coordinates of `rep`.
        samples: number of x.
        elements: number of random g; all of a finite group that has no more.
        seed: of both.

    Raises:
        ValueError: a basis of another shape or without inverse.

    >>> from layerlab.equivariance.groups import SpecialOrthogonal, cyclic, defining, regular
    >>> commutator(torch.relu, regular(cyclic(4)))
    0.0
    >>> commutator(torch.relu, defining(SpecialOrthogonal(2))) > 0.2
    True
    """
    M = _in_basis(_matrices(rep, elements, seed), basis)
    return float(_error(activation, M, _inputs(samples, rep.dimension, seed)))


def _inputs(samples: int, dimension: int, seed: int) -> Tensor:
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples: expected an integer of at least 1, got {samples!r}")
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(samples, dimension, generator=generator, dtype=torch.float64)


class BestBasis(NamedTuple):
    """The smallest commutator found, the basis (d, d) that has it, and the errors of all starts (starts,)."""

    error: float
    basis: Tensor
    errors: Tensor


def best_basis(
    activation: Activation,
    rep: Representation,
    *,
    starts: int = 4,
    steps: int = 200,
    lr: float = 0.05,
    samples: int = 256,
    elements: int = 16,
    seed: int = 0,
) -> BestBasis:
    """Search for a basis in which f commutes with the group, by gradient descent on `commutator` over P.

    The first start is P = 1, the others are normally distributed. What comes out is measured on other x and
    other elements than it was optimised on, and is an upper bound: a small value proves that there is a good
    basis, a large one says that this search found none.

    Args:
        activation: elementwise, differentiable almost everywhere.
        rep: representation of dimension d.
        starts, steps, lr: of the search, by Adam.
        samples, elements, seed: as in `commutator`.

    Raises:
        ValueError: a number out of range.
    """
    for name, value in (("starts", starts), ("steps", steps)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    d, generator = rep.dimension, torch.Generator().manual_seed(seed)
    M, x = _matrices(rep, elements, seed), _inputs(samples, d, seed)
    found, bases = [], []
    for start in range(starts):
        P = torch.eye(d, dtype=torch.float64)
        if start:
            P = torch.randn(d, d, generator=generator, dtype=torch.float64)
        P.requires_grad_()
        opt = torch.optim.Adam([P], lr=lr)
        best = (torch.inf, P.detach().clone())
        for _ in range(steps):
            error = _error(activation, torch.linalg.solve(P, M @ P), x)
            value = error.item()
            if value < best[0]:
                best = (value, P.detach().clone())
            if not value > 1e-12:  # exact, or not a number
                break
            opt.zero_grad()
            error.backward()
            opt.step()
        bases.append(best[1])
        found.append(
            commutator(activation, rep, best[1], samples=samples, elements=elements, seed=seed + 1000)
        )
    errors = torch.tensor(found)
    return BestBasis(float(errors.min()), bases[int(errors.argmin())], errors)


class Verdict(NamedTuple):
    """What the theorem says: the kinds of the matrices and of the activation, and whether they commute."""

    matrices: Matrices
    activation: str
    commutes: bool


def kind_of_matrices(M: Tensor, *, tolerance: float = 1e-9) -> Matrices:
    """What all matrices of a set are, the most special kind: (count, d, d).

    "trivial" (the identity), "permutation", "signed permutation", "monomial" (one positive entry per row and
    column), "other".

    >>> kind_of_matrices(torch.tensor([[[0.0, -1.0], [1.0, 0.0]]]))
    'signed permutation'
    """
    big = M.abs() > tolerance
    if torch.allclose(M, torch.eye(M.shape[-1], dtype=M.dtype).expand_as(M), rtol=0, atol=tolerance):
        return "trivial"
    if not ((big.sum(-1) == 1).all() and (big.sum(-2) == 1).all()):
        return "other"
    if ((M[big] - 1).abs() <= tolerance).all():
        return "permutation"
    if ((M[big].abs() - 1).abs() <= tolerance).all():
        return "signed permutation"
    return "monomial" if (M[big] > 0).all() else "other"


def kind_of_activation(activation: Activation, *, tolerance: float = 1e-9) -> str:
    """By values at points in [−4, 4]: "linear", "affine", "odd", "positively homogeneous" or "any".

    >>> [kind_of_activation(f) for f in (torch.tanh, torch.relu, torch.nn.functional.softplus)]
    ['odd', 'positively homogeneous', 'any']
    """
    x = torch.linspace(-4, 4, 161, dtype=torch.float64)
    y = activation(x)
    if y.shape != x.shape or not torch.isfinite(y).all():
        raise ValueError("activation: expected an elementwise function with finite values on [−4, 4]")
    scale = tolerance * float(y.abs().max().clamp_min(1e-300))
    zero = activation(torch.zeros(1, dtype=torch.float64))
    slope = (y[-1] - y[0]) / 8
    if (y - zero - slope * x).abs().max() <= scale:
        return "linear" if zero.abs() <= scale else "affine"
    if (activation(-x) + y).abs().max() <= scale:
        return "odd"
    if all((activation(c * x) - c * y).abs().max() <= 4 * scale for c in (0.3, 0.5, 2.0, 3.7)):
        return "positively homogeneous"
    return "any"


def allowed(
    activation: Activation,
    rep: Representation,
    basis: Tensor | None = None,
    *,
    elements: int = 64,
    seed: int = 0,
) -> Verdict:
    """What the characterization theorem says of f, a representation and a basis, without applying f to it.

    Every function commutes with permutations, odd ones also with changes of sign, positively homogeneous
    ones (ReLU, leaky ReLU) also with positive factors, and beyond that only linear ones (affine where rows
    sum to 1). A connected group has no permutations other than the identity (they would have to jump), so
    SO(n) allows on its own account nothing but trivial coordinates, unless f is linear.

    A function that is homogeneous for some factors alone, such as f(2x) = 2 f(x), counts as "any" here;
    `commutator` measures what it does.

    Args:
        activation: elementwise function.
        rep: representation of dimension d.
        basis: (d, d), as in `commutator`.
        elements: number of random g where the group is not finite or larger.
        seed: of the choice.

    Source: Pacini, Dong, Lepri and Santin (2024), A Characterization Theorem for Equivariant Networks with
    Point-wise Activations.

    >>> from layerlab.equivariance.groups import cyclic, regular, rotation_irrep
    >>> allowed(torch.relu, regular(cyclic(4))).commutes
    True
    >>> allowed(torch.relu, rotation_irrep(cyclic(4), 1))
    Verdict(matrices='signed permutation', activation='positively homogeneous', commutes=False)
    >>> allowed(torch.tanh, rotation_irrep(cyclic(4), 1)).commutes
    True
    """
    M = _in_basis(_matrices(rep, elements, seed), basis)
    matrices, kind = kind_of_matrices(M), kind_of_activation(activation)
    commutes = (
        kind == "linear"
        or matrices in ("trivial", "permutation")
        or (kind == "odd" and matrices == "signed permutation")
        or (kind == "positively homogeneous" and matrices == "monomial")
        or (kind == "affine" and bool(((M.sum(-1) - 1).abs() <= 1e-9).all()))
    )
    return Verdict(matrices, kind, commutes)
