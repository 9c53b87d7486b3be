"""Determinant diagrams: the maps between tensor powers of ℝⁿ that SO(n) keeps and a reflection negates.

A determinant diagram leaves n points free and joins the others in pairs. Its matrix is that of the pairs
times the determinant of the n basis vectors at the free points, in their order: the Levi-Civita symbol ε, 1
or −1 where the n indices are an even or odd permutation of 0 to n − 1, else 0. For n = 3 and free points
alone these are the cross product (two inputs, one output) and the triple product (three inputs).

Source: Pearce-Crump, "Brauer's Group Equivariant Neural Networks" (2023, ICML, arXiv:2212.08630),
which calls them (l + k)\\n-diagrams.
"""

import functools
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from layerlab.equivariance.brauer import Matching, contract, matchings, permute_last, rows, spread
from layerlab.equivariance.diagrams import check_axes

LARGEST_DIMENSION = 7  # the Levi-Civita symbol has 7^7 = 823 543 entries


class DeterminantDiagram(NamedTuple):
    """Pairs of points joined by lines, and the n free points that the determinant reads, in rising order."""

    pairs: Matching
    free: tuple[int, ...]


def determinant_diagrams(m: int, n: int) -> list[DeterminantDiagram]:
    """All choices of n free points among m with a matching of the rest: C(m, n) (m − n − 1)!!, or none.

    None for m < n, and where m − n is odd. They span what SO(n) allows beyond O(n), but for
    m ≥ n + 2 they are never all independent (`brauer_counts.rank`).

    >>> determinant_diagrams(3, 3)
    [DeterminantDiagram(pairs=(), free=(0, 1, 2))]
    >>> len(determinant_diagrams(5, 3)), len(determinant_diagrams(4, 3))
    (10, 0)
    """
    if n < 1 or m < 0:
        raise ValueError(f"m, n: expected m of at least 0 and n of at least 1, got m={m}, n={n}")
    return [
        DeterminantDiagram(pairs, free)
        for free in combinations(range(m), n)
        for pairs in matchings([point for point in range(m) if point not in free])
    ]


def levi_civita(n: int) -> Tensor:
    """ε (n, …, n) with n axes, float64.

    Raises:
        ValueError: n is not in 1 to 7.

    >>> levi_civita(2)
    tensor([[ 0.,  1.],
            [-1.,  0.]], dtype=torch.float64)
    """
    if not 1 <= n <= LARGEST_DIMENSION:
        raise ValueError(f"n: expected 1 to {LARGEST_DIMENSION}, got {n}")
    symbol = torch.ones((1,) * n, dtype=torch.float64)
    index = torch.arange(n)
    for i in range(n):
        for j in range(i + 1, n):  # the sign of a permutation is that of all differences
            shape = [[n if axis == point else 1 for axis in range(n)] for point in (i, j)]
            symbol = symbol * (index.reshape(shape[1]) - index.reshape(shape[0])).sign()
    return symbol


def determinant_matrix(diagram: DeterminantDiagram, n: int, k: int, l: int) -> Tensor:  # noqa: E741
    """Matrix (n^l, n^k) of a diagram, float64: entries 0, 1 and −1.

    Args:
        diagram: of l + k points, the outputs 0 to l − 1 first.
        n: dimension of the space, and number of free points.
        k: axes of the input.
        l: axes of the output.

    Raises:
        ValueError: pairs and free points do not hold each point once, or the free points are not n.

    >>> cross = determinant_matrix(DeterminantDiagram((), (0, 1, 2)), 3, 2, 1)
    >>> e = torch.eye(3, dtype=torch.float64)
    >>> cross @ torch.kron(e[0], e[1])  # e₁ × e₂
    tensor([0., 0., 1.], dtype=torch.float64)
    """
    diagram = check_diagram(diagram, n, k, l)
    operands: list = [levi_civita(n), list(diagram.free)]
    for a, b in diagram.pairs:
        operands += [torch.eye(n, dtype=torch.float64), [a, b]]
    return torch.einsum(*operands, list(range(k + l))).reshape(n**l, n**k)


def apply_determinant(
    diagram: DeterminantDiagram,
    x: Tensor,
    k: int,
    l: int,  # noqa: E741
    n: int | None = None,
) -> Tensor:
    """Product of a diagram's matrix with x, without the matrix.

    As `brauer.apply_brauer`; the free inputs are summed against ε, which makes the free outputs.

    Args:
        diagram: of l + k points, the outputs 0 to l − 1 first.
        x: (…, n, …, n) with k axes of length n.
        k: axes of the input.
        l: axes of the output.
        n: dimension of the space; needed only where k is 0.

    Returns:
        (…, n, …, n) with l axes.

    Raises:
        ValueError: as `determinant_matrix`, or x has not k last axes of one length.

    >>> a, b = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    >>> apply_determinant(DeterminantDiagram((), (0, 1, 2)), torch.outer(a, b), 2, 1)  # the cross product
    tensor([0., 0., 1.])
    """
    n = check_axes(x, k, n)
    pairs, free = check_diagram(diagram, n, k, l)
    below, through, above = rows(pairs, l)
    free_in, free_out = [p - l for p in free if p >= l], [p for p in free if p < l]
    core = contract(x, k, below)
    left = sorted([i for _, i in through] + free_in)
    core = permute_last(core, [left.index(i) for _, i in through] + [left.index(i) for i in free_in])
    core = permute_last(against_symbol(core, len(free_in), n), order_of([o for o, _ in through] + free_out))
    return spread(core, l, above, n)


def against_symbol(core: Tensor, free_in: int, n: int) -> Tensor:
    """Sum the last free_in axes against the last of ε: its first n − free_in axes take their place."""
    symbol = _symbol(n).to(core).reshape(n ** (n - free_in), n**free_in)
    kept = core.shape[: core.ndim - free_in]
    summed = core.reshape((*kept, n**free_in)) @ symbol.T
    return summed.reshape((*kept, *(n,) * (n - free_in)))


@functools.cache
def _symbol(n: int) -> Tensor:
    return levi_civita(n)


def order_of(labels: list[int]) -> list[int]:
    """Where each label stands, by rising label: the permutation that sorts axes by label."""
    return sorted(range(len(labels)), key=labels.__getitem__)


def check_diagram(diagram: DeterminantDiagram, n: int, k: int, l: int) -> DeterminantDiagram:  # noqa: E741
    """The diagram in canonical order; ValueError where it does not fit."""
    pairs, free = diagram
    points = [*free, *(point for pair in pairs for point in pair)]
    if sorted(points) != list(range(k + l)) or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            f"diagram: expected pairs and free points that hold each of the {k + l} points 0 to l + k - 1 "
            f"once (k={k} inputs, l={l} outputs), got {diagram!r}"
        )
    if len(free) != n or list(free) != sorted(free):
        raise ValueError(f"diagram: expected n = {n} free points in rising order, got {free}")
    return DeterminantDiagram(tuple(sorted((min(pair), max(pair)) for pair in pairs)), tuple(free))
