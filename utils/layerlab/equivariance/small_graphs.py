"""A few small graphs as adjacency matrices, and pairs of them that are hard to tell apart.

Chapter: `chapters/equivariance/02_permutation_layers.ipynb`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def from_edges(n: int, edges: Iterable[tuple[int, int]]) -> Tensor:
    """The adjacency matrix of a simple graph, (n, n) float64.

    Raises:
        ValueError: an edge is a loop or leaves 0 … n − 1.

    >>> from_edges(3, [(0, 1)])
    tensor([[0., 1., 0.],
            [1., 0., 0.],
            [0., 0., 0.]], dtype=torch.float64)
    """
    A = torch.zeros(n, n, dtype=torch.float64)
    for r, s in edges:
        if not (0 <= r < n and 0 <= s < n and r != s):
            raise ValueError(f"edges: expected two different vertices 0 … {n - 1}, got {(r, s)}")
        A[r, s] = A[s, r] = 1.0
    return A


def path(n: int) -> Tensor:
    """n vertices in a row; two automorphisms."""
    return from_edges(n, [(i, i + 1) for i in range(n - 1)])


def cycle(n: int) -> Tensor:
    """n ≥ 3 vertices in a ring; 2n automorphisms.

    Raises:
        ValueError: n is below 3.
    """
    if n < 3:
        raise ValueError(f"n: expected at least 3, got {n}")
    return from_edges(n, [(i, (i + 1) % n) for i in range(n)])


def complete(n: int) -> Tensor:
    """Every two vertices adjacent; n! automorphisms."""
    return torch.ones(n, n, dtype=torch.float64).fill_diagonal_(0)


def star(n: int) -> Tensor:
    """Vertex 0 adjacent to the n − 1 others; (n − 1)! automorphisms."""
    return from_edges(n, [(0, i) for i in range(1, n)])


def petersen() -> Tensor:
    """Petersen's graph: an outer ring 0 … 4, an inner star 5 … 9; 120 automorphisms, those of S₅."""
    outer = [(i, (i + 1) % 5) for i in range(5)]
    inner = [(5 + i, 5 + (i + 2) % 5) for i in range(5)]
    return from_edges(10, [*outer, *inner, *((i, i + 5) for i in range(5))])


def rook() -> Tensor:
    """The 4×4 rook's graph: squares of a board, adjacent in a row or a column.

    Strongly regular, with the same parameters (16, 6, 2, 2) as `shrikhande()`: no 1-WL and no 2-WL (folklore)
    tells the two apart. This one has 8 cliques of four, the other none.
    """
    row, column = torch.arange(16) // 4, torch.arange(16) % 4
    same = (row[:, None] == row) ^ (column[:, None] == column)
    return same.double()


def shrikhande() -> Tensor:
    """Shrikhande's graph: the torus (Z/4)², adjacent at a difference of ±(1, 0), ±(0, 1) or ±(1, 1)."""
    row, column = torch.arange(16) // 4, torch.arange(16) % 4
    a, b = (row[:, None] - row) % 4, (column[:, None] - column) % 4
    near = ((a == 1) | (a == 3)) & (b == 0) | ((b == 1) | (b == 3)) & (a == 0) | (a == b) & (a % 2 == 1)
    return near.double()


def union(*graphs: Tensor) -> Tensor:
    """Side by side, with no edges between them.

    >>> union(cycle(3), cycle(3)).sum(0)  # two triangles: as in the hexagon, every degree is 2
    tensor([2., 2., 2., 2., 2., 2.], dtype=torch.float64)
    """
    return torch.block_diag(*graphs)
