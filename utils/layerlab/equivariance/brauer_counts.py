"""The diagrams of O(n), SO(n) and Sp(n): which span the equivariant maps, and how many are independent.

Diagrams always span. They are independent only where n is large against the number m = k + l of points: for
O(n) from n ≥ m/2 on, for Sp(n) from n ≥ m on. Below, some combination of them is zero (the first:
antisymmetrize over more vectors than the space has dimensions). The exact number of independent maps is a
count of standard Young tableaux, since an irreducible part of (ℝⁿ)^⊗m under all invertible matrices holds at
most one vector that the group fixes:

- O(n): shapes with at most n rows, all of even length;
- SO(n): these, and shapes with exactly n rows, all of odd length (a vector that reflections negate);
- Sp(n): shapes with at most n rows, all columns of even length.

The tests compare these counts with numerical null spaces.

Sources: Pearce-Crump, "Brauer's Group Equivariant Neural Networks" (2023, ICML, arXiv:2212.08630), for the
spanning sets; that these span all the paper takes from Brauer, "On Algebras Which are Connected with the
Semisimple Continuous Groups" (1937).
"""

import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from layerlab.equivariance.brauer import Matching, apply_brauer, brauer_matrix, compose_brauer, matchings
from layerlab.equivariance.determinants import (
    DeterminantDiagram,
    apply_determinant,
    determinant_diagrams,
    determinant_matrix,
)
from layerlab.equivariance.diagrams import Diagram
from layerlab.equivariance.groups import MatrixGroup, Orthogonal, SpecialOrthogonal, Symplectic

AnyDiagram = Matching | DeterminantDiagram

MOST_POINTS = 8  # the table of all inner products of SO(2) has 525 rows
_PRIME = 2**31 - 1  # products of two residues fit into int64


def group_diagrams(group: MatrixGroup, k: int, l: int) -> list[AnyDiagram]:  # noqa: E741
    """The diagrams whose matrices span the maps from k to l axes that commute with the group.

    Matchings of the k + l points, outputs first, for O(n) and Sp(n); for SO(n) the determinant diagrams after
    them.

    Raises:
        TypeError: another group.
        ValueError: k or l is negative.

    >>> len(group_diagrams(Orthogonal(3), 2, 2)), len(group_diagrams(SpecialOrthogonal(3), 2, 1))
    (3, 1)
    """
    if k < 0 or l < 0:
        raise ValueError(f"k, l: expected at least 0, got k={k}, l={l}")
    found: list[AnyDiagram] = [*matchings(k + l)]
    if isinstance(_known(group), SpecialOrthogonal):
        found += determinant_diagrams(k + l, group.n)
    return found


def group_matrix(diagram: AnyDiagram, group: MatrixGroup, k: int, l: int) -> Tensor:  # noqa: E741
    """Matrix (n^l, n^k) of one of the group's diagrams, float64."""
    if isinstance(diagram, DeterminantDiagram):
        return determinant_matrix(diagram, _known(group).n, k, l)
    return brauer_matrix(diagram, group.n, k, l, form=form_of(group))


def group_apply(diagram: AnyDiagram, x: Tensor, group: MatrixGroup, k: int, l: int) -> Tensor:  # noqa: E741
    """Product of `group_matrix` with x (…, n, …, n), without the matrix: (…, n, …, n) with l axes."""
    if isinstance(diagram, DeterminantDiagram):
        return apply_determinant(diagram, x, k, l, _known(group).n)
    return apply_brauer(diagram, x, k, l, group.n, form=form_of(group))


def form_of(group: MatrixGroup) -> Tensor | None:
    """What lines within a row carry: J for Sp(n), None (the identity) for O(n) and SO(n)."""
    return group.form if isinstance(_known(group), Symplectic) else None


def rank(group: MatrixGroup, k: int, l: int) -> int:  # noqa: E741
    """Number of independent linear maps from k to l axes that commute with the group; exact, for any size.

    Raises:
        TypeError: another group.
        ValueError: k or l is negative.

    >>> [rank(Orthogonal(n), 3, 3) for n in (1, 2, 3)], len(group_diagrams(Orthogonal(3), 3, 3))
    ([1, 10, 15], 15)
    >>> rank(SpecialOrthogonal(3), 3, 2), len(group_diagrams(SpecialOrthogonal(3), 3, 2))
    (6, 10)
    >>> [rank(Symplectic(n), 2, 2) for n in (2, 4)]
    [2, 3]
    """
    if k < 0 or l < 0:
        raise ValueError(f"k, l: expected at least 0, got k={k}, l={l}")
    m, n = k + l, _known(group).n
    if isinstance(group, Symplectic):  # columns of even length: rows come in equal pairs
        doubled = ([row for row in rows for _ in range(2)] for rows in _shapes(m // 2, n // 2))
        return sum(tableaux(rows) for rows in doubled) if m % 2 == 0 else 0
    even = sum(tableaux([2 * row for row in rows]) for rows in _shapes(m // 2, n)) if m % 2 == 0 else 0
    if not isinstance(group, SpecialOrthogonal) or m < n or (m - n) % 2:
        return even
    padded = ([*rows, *[0] * (n - len(rows))] for rows in _shapes((m - n) // 2, n))
    return even + sum(tableaux([2 * row + 1 for row in rows]) for rows in padded)


def tableaux(rows: list[int]) -> int:
    """Number of standard Young tableaux with rows of these lengths, longest first: m! over all hook lengths.

    >>> tableaux([2, 2]), tableaux([4, 2])
    (2, 9)
    """
    columns = [sum(row > j for row in rows) for j in range(max(rows, default=0))]
    hooks = math.prod(row - j + columns[j] - i - 1 for i, row in enumerate(rows) for j in range(row))
    return math.factorial(sum(rows)) // hooks


def _shapes(m: int, most: int) -> Iterator[list[int]]:
    """Ways to write m as a sum of at most `most` positive integers, largest first."""

    def parts(rest: int, largest: int, places: int) -> Iterator[list[int]]:
        if rest == 0:
            yield []
        elif places:
            for part in range(min(rest, largest), 0, -1):
                for tail in parts(rest - part, part, places - 1):
                    yield [part, *tail]

    return parts(m, m, most)


def gram(group: MatrixGroup, m: int) -> Tensor:
    """Inner products (D, D) of the group's diagrams with all m points in the upper row, int64, exact.

    Laid upon each other, two matchings close to loops, each worth n (times a sign for Sp(n)). Two
    determinants give n! times the sign of the permutation that the lines make of their free points, or 0
    where a line joins free points of one diagram; a matching and a determinant give 0. Its rank is
    `rank(group, 0, m)`.

    Raises:
        TypeError: another group.
        ValueError: m is negative or above 8.

    >>> gram(Orthogonal(2), 4)
    tensor([[4, 2, 2],
            [2, 4, 2],
            [2, 2, 4]])
    """
    if not 0 <= m <= MOST_POINTS:
        raise ValueError(f"m: expected 0 to {MOST_POINTS}, got {m}")
    diagrams, n = group_diagrams(group, 0, m), group.n
    table = torch.zeros(len(diagrams), len(diagrams), dtype=torch.int64)
    for i, one in enumerate(diagrams):
        for j, other in enumerate(diagrams[: i + 1]):
            if isinstance(one, DeterminantDiagram) != isinstance(other, DeterminantDiagram):
                continue
            if isinstance(one, DeterminantDiagram):
                value = _determinant_product(one, other, n)
            else:
                _, loops, sign = compose_brauer(
                    Diagram(one, m, 0), Diagram(other, 0, m), symplectic=isinstance(group, Symplectic)
                )
                value = sign * n**loops
            table[i, j] = table[j, i] = value
    return table


def _determinant_product(one: DeterminantDiagram, other: DeterminantDiagram, n: int) -> int:
    """Inner product of two determinant diagrams as vectors."""
    lines = [{a: b for pair in d.pairs for a, b in (pair, pair[::-1])} for d in (other, one)]
    seen, images = set(), []
    for start in one.free:
        point, side = start, 0
        seen.add(point)
        while point in lines[side]:
            point, side = lines[side][point], 1 - side
            seen.add(point)
        if side == 1:  # ends free in `one`: the symbol meets the identity
            return 0
        images.append(other.free.index(point))
    loops = 0
    for start in lines[0]:
        if start not in seen:
            loops += 1
            point = start
            while point not in seen:
                seen.update((point, lines[0][point]))
                point = lines[1][lines[0][point]]
    inversions = sum(a > b for i, a in enumerate(images) for b in images[i + 1 :])
    return (-1) ** inversions * math.factorial(n) * n**loops


def independent_diagrams(group: MatrixGroup, k: int, l: int) -> list[AnyDiagram]:  # noqa: E741
    """The diagrams that are no combination of those before them: a basis of the equivariant maps.

    Found on the exact inner products (modulo a prime), so the choice does not depend on rounding. Whether
    points stand above or below changes no dependence.

    Raises:
        TypeError: another group.
        ValueError: k or l is negative, or k + l is above 8.

    >>> independent_diagrams(Orthogonal(1), 2, 2)
    [((0, 1), (2, 3))]
    """
    if k < 0 or l < 0:
        raise ValueError(f"k, l: expected at least 0, got k={k}, l={l}")
    diagrams, found = group_diagrams(group, k, l), rank(group, k, l)
    if found == len(diagrams):
        return diagrams
    keep = _pivots(group, k + l)
    if len(keep) != found:
        raise ArithmeticError(f"expected {found} independent diagrams, found {len(keep)}")
    return [diagrams[i] for i in keep]


@functools.lru_cache(maxsize=64)
def _pivots(group: MatrixGroup, m: int) -> tuple[int, ...]:
    """Columns of the table of inner products that are no combination of earlier ones, modulo a prime."""
    table = gram(group, m) % _PRIME
    keep: list[int] = []
    for column in range(len(table)):
        row = len(keep)
        candidates = table[row:, column].nonzero()
        if len(candidates):
            other = row + int(candidates[0])
            table[[row, other]] = table[[other, row]]
            table[row] = table[row] * pow(int(table[row, column]), -1, _PRIME) % _PRIME
            below = table[row + 1 :]
            below -= below[:, column : column + 1] * table[row] % _PRIME
            below %= _PRIME
            keep.append(column)
    return tuple(keep)


def _known(group: MatrixGroup) -> MatrixGroup:
    if not isinstance(group, Orthogonal | Symplectic):
        raise TypeError(f"group: expected Orthogonal, SpecialOrthogonal or Symplectic, got {group!r}")
    return group
