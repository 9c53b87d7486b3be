"""Counting weights by walks: the McKay quiver of n permuted things.

Its vertices are the irreducible representations of S_n, one for each way to write n as a sum; as many arrows
lead from one to another as the second occurs in the product of the first with R^n. Multiplying by R^n is
restriction to S_(n-1) and induction back: take a box off the Young diagram, and put one on. Walks of length
k + l from the trivial representation back to itself count the equivariant maps from k axes to l.

Source: Pearce-Crump, "Connecting Permutation Equivariant Neural Networks and Partition Diagrams" (2022,
arXiv:2212.08648, first version). Chapter: `chapters/equivariance/02_permutation_layers.ipynb`.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

Shape = tuple[int, ...]  # rows of a Young diagram, from the longest


def young_shapes(n: int) -> list[Shape]:
    """All ways to write n as a sum, each from its largest term down; the trivial representation first.

    >>> young_shapes(4)
    [(4,), (3, 1), (2, 2), (2, 1, 1), (1, 1, 1, 1)]
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n: expected an integer, got {n!r}")
    if n < 0:
        raise ValueError(f"n: expected at least 0, got {n}")

    def parts(rest: int, most: int) -> Iterator[Shape]:
        if rest == 0:
            yield ()
        for first in range(min(rest, most), 0, -1):
            for others in parts(rest - first, first):
                yield (first, *others)

    return list(parts(n, n))


def _less(shape: Shape) -> Iterator[Shape]:
    """The shapes with one box less."""
    for row, length in enumerate(shape):
        if row + 1 == len(shape) or shape[row + 1] < length:
            rows = (*shape[:row], length - 1, *shape[row + 1 :])
            yield tuple(length for length in rows if length)


def mckay_quiver(n: int) -> tuple[list[Shape], Tensor]:
    """The irreducible representations of S_n and the arrows between them.

    Returns:
        Shapes in the order of `young_shapes(n)`, and the table (shapes, shapes) of int64: how often the
        representation of the column occurs in that of the row times R^n.

    Raises:
        TypeError: n is no integer.
        ValueError: n is below 1.

    >>> mckay_quiver(3)
    ([(3,), (2, 1), (1, 1, 1)], tensor([[1, 1, 0],
            [1, 2, 1],
            [0, 1, 1]]))
    """
    shapes = young_shapes(n)
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}")
    smaller = {shape: i for i, shape in enumerate(young_shapes(n - 1))}
    restrict = torch.zeros(len(shapes), len(smaller), dtype=torch.int64)
    for i, shape in enumerate(shapes):
        for less in _less(shape):
            restrict[i, smaller[less]] = 1
    return shapes, restrict @ restrict.T


def count_walks(n: int, length: int) -> int:
    """Walks of `length` arrows in the quiver of S_n from the trivial representation back to it, exact.

    >>> count_walks(3, 4), count_walks(4, 4)
    (14, 15)
    """
    _, arrows = mckay_quiver(n)
    if isinstance(length, bool) or not isinstance(length, int):
        raise TypeError(f"length: expected an integer, got {length!r}")
    if length < 0:
        raise ValueError(f"length: expected at least 0, got {length}")
    table = arrows.tolist()  # Python's integers do not overflow
    ways = [1] + [0] * (len(table) - 1)
    for _ in range(length):
        ways = [sum(w * row[j] for w, row in zip(ways, table, strict=True)) for j in range(len(table))]
    return ways[0]
