"""Finite groups by their multiplication tables."""

from collections.abc import Sequence
from itertools import permutations as all_permutations

import torch
from torch import Tensor

LARGEST_DEGREE = 6  # the table of all permutations of 7 things has 25 million entries


def _check_table(table: Tensor) -> tuple[int, Tensor]:
    """The identity and the inverses of a table, or a ValueError that names the axiom that fails and where."""
    n = len(table)
    outside = ((table < 0) | (table >= n)).nonzero()
    if len(outside):
        g, h = outside[0].tolist()
        raise ValueError(f"table: closure fails, {g}·{h} = {table[g, h]} is not among 0..{n - 1}")
    order = torch.arange(n)
    neutral = (table == order).all(1) & (table == order[:, None]).all(0)
    if not neutral.any():
        raise ValueError("table: no identity, no element e has e·g = g·e = g for all g")
    identity = int(neutral.nonzero()[0])
    mutual = (table == identity) & (table == identity).T
    without = (~mutual.any(1)).nonzero()
    if len(without):
        raise ValueError(
            f"table: no inverse, no h has {int(without[0])}·h = h·{int(without[0])} = {identity}"
        )
    inverse = mutual.int().argmax(1)
    # Light's test: the g with (a·g)·b = a·(g·b) for all a, b are closed under products: try generators.
    for g in _generating(table, identity):
        wrong = (table[table[:, g]] != table[:, table[g]]).nonzero()
        if len(wrong):
            a, b = wrong[0].tolist()
            raise ValueError(f"table: associativity fails, ({a}·{g})·{b} is not {a}·({g}·{b})")
    return identity, inverse


def _generating(table: Tensor, identity: int) -> list[int]:
    """Elements whose products reach all others, chosen greedily in the order of the table."""
    reached = torch.zeros(len(table), dtype=torch.bool)
    reached[identity] = True
    found: list[int] = []
    while not reached.all():
        found.append(int((~reached).int().argmax()))
        reached[found[-1]] = True
        size = 0
        while size != int(reached.sum()):
            size = int(reached.sum())
            for g in found:
                reached[table[reached, g]] = True
    return found


class FiniteGroup:
    """A finite group; its elements are the integers 0..order − 1, its product is a table.

    Args:
        table: (n, n) integers, `table[g, h]` = g·h (apply h first, then g, where they act).
        names: what messages call the elements; their indices by default.
        permutations: (n, m), for a group of permutations: `permutations[g, i]` is where g takes i.
        planar: (n, 2, 2), for a group of the plane: the rotation or reflection of each element.

    Attributes: `table`; `order`; `identity`, an index; `inverse`, (n,) indices; `permutations`, `planar`.

    Two groups are equal if their tables are.

    Raises:
        ValueError: the table is not square, or no group; the message names the axiom and where it fails.

    >>> klein = FiniteGroup(torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]))
    >>> klein.order, klein.identity, klein.generators(), klein.product(1, 2)
    (4, 0, [1, 2], 3)
    """

    def __init__(
        self,
        table: Tensor | Sequence[Sequence[int]],
        names: Sequence[str] | None = None,
        *,
        permutations: Tensor | None = None,
        planar: Tensor | None = None,
    ):
        table = torch.as_tensor(table)
        if table.is_floating_point() or table.is_complex() or table.dtype == torch.bool:
            raise TypeError(f"table: expected integers, got {table.dtype}")
        if table.ndim != 2 or table.shape[0] != table.shape[1] or not len(table):
            raise ValueError(f"table: expected shape (n, n), n at least 1, got {tuple(table.shape)}")
        if names is not None and len(names) != len(table):
            raise ValueError(f"names: expected {len(table)}, one per element, got {len(names)}")
        self.table = table.to(torch.int64)
        self.identity, self.inverse = _check_table(self.table)
        self.names = None if names is None else list(names)
        self.permutations, self.planar = permutations, planar

    @property
    def order(self) -> int:
        """The number of elements."""
        return len(self.table)

    def check(self, g: int) -> int:
        """Return `g` as an int; ValueError where it is no element."""
        if isinstance(g, bool) or not isinstance(g, int | Tensor) or not 0 <= int(g) < self.order:
            raise ValueError(f"g: expected an element 0..{self.order - 1}, got {g!r}")
        return int(g)

    def product(self, g: int, h: int) -> int:
        """g·h: apply h first, then g."""
        return int(self.table[self.check(g), self.check(h)])

    def generators(self) -> list[int]:
        """A few elements whose products are all elements; none for the group of one element."""
        return _generating(self.table, self.identity)

    def random(self, generator: torch.Generator | None = None) -> int:
        """An element, each as likely as the others."""
        return int(torch.randint(self.order, (), generator=generator))

    def name(self, g: int) -> str:
        """What messages call the element."""
        return str(g) if self.names is None else self.names[g]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FiniteGroup) and torch.equal(self.table, other.table)

    def __hash__(self) -> int:
        return hash((self.order, self.identity))

    def __repr__(self) -> str:
        return f"FiniteGroup(order={self.order})"


def _check_degree(n: int, largest: int | None = None) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1 or (largest is not None and n > largest):
        expected = "of at least 1" if largest is None else f"in 1..{largest}"
        raise ValueError(f"n: expected an integer {expected}, got {n!r}")


def _rotations(n: int) -> Tensor:
    """(n, 2, 2), counterclockwise rotations by 2π/n·r; multiples of a right angle are exact."""
    angle = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
    cos, sin = angle.cos(), angle.sin()
    for r in range(n):
        if 4 * r % n == 0:
            cos[r], sin[r] = cos[r].round(), sin[r].round()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


def cyclic(n: int) -> FiniteGroup:
    """C_n: element r rotates the plane counterclockwise by 2π·r/n; r·s = r + s modulo n.

    >>> cyclic(4).product(3, 2)
    1
    """
    _check_degree(n)
    r = torch.arange(n)
    return FiniteGroup((r[:, None] + r) % n, [f"r{i}" for i in range(n)], planar=_rotations(n))


def dihedral(n: int) -> FiniteGroup:
    """D_n, of order 2n: element r + n·f first flips (f = 1: (x, y) → (x, −y)), then rotates by 2π·r/n.

    (r, f)·(s, e) = (r + s, f + e) without a flip in the left element, (r − s, f + e) with one.

    >>> group = dihedral(4)
    >>> group.order, group.product(1, 4), group.product(4, 1)
    (8, 5, 7)
    """
    _check_degree(n)
    element = torch.arange(2 * n)
    r, f = element % n, element // n
    turned = (r[:, None] + (1 - 2 * f[:, None]) * r) % n
    table = turned + n * ((f[:, None] + f) % 2)
    rotations = _rotations(n)
    planar = torch.cat([rotations, rotations @ torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)])
    return FiniteGroup(table, [f"r{i}" for i in range(n)] + [f"r{i}s" for i in range(n)], planar=planar)


def _base(permutations: Tensor) -> list[int]:
    """The first points whose images tell all rows apart; at most log2 of the number of rows, and one."""
    n, base, ranks = permutations.shape[1], [0], permutations[:, 0]
    for i in range(1, n):
        finer = torch.unique(ranks * n + permutations[:, i], return_inverse=True)[1]
        if len(finer.unique()) > len(ranks.unique()):
            base, ranks = [*base, i], finer
    return base


def _from_permutations(permutations: Tensor) -> FiniteGroup:
    """The group of all rows, which are closed under composition and in lexicographic order."""
    n, base = permutations.shape[1], _base(permutations)
    weights = n ** torch.arange(len(base) - 1, -1, -1)  # with all n points the codes would overflow at n = 17
    codes = (permutations[:, base] * weights).sum(1)
    rows = [(g[permutations[:, base]] * weights).sum(1) for g in permutations]
    table = torch.searchsorted(codes, torch.stack(rows))
    names = ["".join(map(str, p)) if n <= 10 else str(p) for p in permutations.tolist()]
    return FiniteGroup(table, names, permutations=permutations)


def symmetric(n: int) -> FiniteGroup:
    """S_n: all permutations of 0..n − 1 in lexicographic order, the identity first; n ≤ 6.

    `permutations[g, i]` is where g takes i, and (g·h)(i) = g(h(i)).

    >>> symmetric(3).permutations.tolist()
    [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    """
    _check_degree(n, LARGEST_DEGREE)
    return _from_permutations(torch.tensor(list(all_permutations(range(n)))))


def alternating(n: int) -> FiniteGroup:
    """A_n: the even permutations of 0..n − 1, in lexicographic order; n ≤ 6.

    >>> alternating(4).order
    12
    """
    _check_degree(n, LARGEST_DEGREE)
    rows = torch.tensor(list(all_permutations(range(n))))
    above = torch.triu(torch.ones(n, n, dtype=torch.bool), 1)
    inversions = ((rows[:, :, None] > rows[:, None]) & above).sum((1, 2))
    return _from_permutations(rows[inversions % 2 == 0])


def permutation_group(generators: Tensor | Sequence[Sequence[int]], limit: int = 2000) -> FiniteGroup:
    """All products of the given permutations.

    Args:
        generators: (k, n), each row a permutation of 0..n − 1: `row[i]` is where it takes i.
        limit: largest order; the table of a group of order 2000 takes 32 MB.

    Raises:
        ValueError: a row is no permutation, or there are more than `limit` products.

    >>> permutation_group([[1, 2, 3, 0]]).permutations.tolist()
    [[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1], [3, 0, 1, 2]]
    """
    rows = torch.as_tensor(generators)
    if rows.ndim != 2 or not rows.numel():
        raise ValueError(f"generators: expected shape (k, n), not empty, got {tuple(rows.shape)}")
    n = rows.shape[1]
    for i, row in enumerate(rows.tolist()):
        if sorted(row) != list(range(n)):
            raise ValueError(f"generators[{i}]: expected a permutation of 0..{n - 1}, got {row}")
    steps = [tuple(row) for row in rows.tolist()]
    found = {tuple(range(n))}
    frontier = list(found)
    while frontier:
        new = {tuple(step[i] for i in p) for p in frontier for step in steps} - found
        found |= new
        if len(found) > limit:
            raise ValueError(
                f"generators: more than {limit} products; expected a group of order at most limit"
            )
        frontier = list(new)
    return _from_permutations(torch.tensor(sorted(found)))
