"""Set partitions, and the matrices that they stand for: all linear maps that a permutation of n things keeps.

A tensor with k axes of length n holds a number for each k of n interchangeable things. A linear map from such
tensors to tensors with l axes is equivariant under the symmetric group S_n when renumbering the things before
it or after it is the same. Its matrix (n^l, n^k) is then constant on each orbit of index tuples, and an orbit
is known by which of the k + l indices are equal: a partition of k + l points into at most n blocks.

Two bases follow. The orbit matrix of a partition is 1 where indices are equal exactly within blocks; the
diagram matrix is 1 where they are equal within blocks, and lets blocks agree. A diagram matrix is the sum of
the orbit matrices of all partitions as coarse or coarser; Möbius inversion on their lattice leads back.

Points 0 to l - 1 are the indices of the output (the upper row of a diagram), points l to l + k - 1 those of
the input (the lower row): the order in which a matrix has its rows and columns.

Sources: Pearce-Crump, "Connecting Permutation Equivariant Neural Networks and Partition Diagrams" (2022,
arXiv:2212.08648); Rota, "On the Foundations of Combinatorial Theory I" (1964; the Möbius function). Chapter:
`chapters/equivariance/02_permutation_layers.ipynb`.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Partition = tuple[tuple[int, ...], ...]

MOST_POINTS = 10  # set_partitions(10) lists 115 975
MOST_TRANSFORMED = 8  # moebius(8) has 4140 rows and columns
MOST_ENTRIES = 2**27  # of a dense matrix: 1 GiB in float64


def _check_count(name: str, value: object, least: int = 0) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


@functools.lru_cache(maxsize=None, typed=True)
def stirling(m: int, blocks: int) -> int:
    """Number of partitions of m points into exactly `blocks` blocks, exact (Stirling, second kind).

    >>> [stirling(4, b) for b in range(6)]
    [0, 1, 7, 6, 1, 0]
    """
    _check_count("m", m)
    _check_count("blocks", blocks)
    signed = (
        (-1) ** (blocks - j) * math.comb(blocks, j) * j**m for j in range(blocks + 1)
    )  # maps onto the blocks, by inclusion and exclusion
    return sum(signed) // math.factorial(blocks)


def bell(m: int, blocks: int | None = None) -> int:
    """Number of partitions of m points, into at most `blocks` blocks where that is given; exact.

    >>> bell(4), bell(4, 3), bell(4, 2)
    (15, 14, 8)
    """
    _check_count("m", m)
    if blocks is not None:
        _check_count("blocks", blocks)
    return sum(stirling(m, b) for b in range((m if blocks is None else min(m, blocks)) + 1))


def dimension(n: int, k: int, l: int) -> int:  # noqa: E741
    """Number of independent linear S_n-equivariant maps from tensors with k axes to tensors with l axes.

    The number of partitions of k + l points into at most n blocks (Pearce-Crump 2022): the Bell number only
    where n is at least k + l.

    >>> dimension(4, 2, 2), dimension(3, 2, 2)
    (15, 14)
    """
    _check_count("n", n, least=1)
    _check_count("k", k)
    _check_count("l", l)
    return bell(k + l, n)


def _labels(m: int, most: int) -> Iterator[list[int]]:
    """Restricted growth strings: the block of each point, blocks numbered as they appear."""
    if m == 0:
        yield []
        return
    for head in _labels(m - 1, most):
        used = max(head, default=-1) + 1
        for label in range(min(used + 1, most)):
            yield [*head, label]


def from_labels(labels: Sequence[object]) -> Partition:
    """The partition that puts points with equal labels into one block.

    Read off an index tuple, it names the tuple's orbit under S_n.

    >>> from_labels([7, 2, 7])
    ((0, 2), (1,))
    """
    blocks: dict[object, list[int]] = {}
    for point, label in enumerate(labels):
        blocks.setdefault(label, []).append(point)
    return tuple(tuple(block) for block in blocks.values())


def set_partitions(m: int, blocks: int | None = None) -> list[Partition]:
    """All partitions of the points 0 to m - 1, into at most `blocks` blocks where that is given.

    A partition is a tuple of blocks, a block a tuple of points. Points rise within a block, and blocks are in
    the order of their first points. The list is in lexicographic order of the points' block numbers: first
    one block for all points, last a block for each.

    Raises:
        TypeError: m or blocks is no integer.
        ValueError: m or blocks is negative, or m is above 10 (115 975 partitions).

    >>> for partition in set_partitions(3):
    ...     print(partition)
    ((0, 1, 2),)
    ((0, 1), (2,))
    ((0, 2), (1,))
    ((0,), (1, 2))
    ((0,), (1,), (2,))
    >>> len(set_partitions(4, blocks=3)), bell(4, 3)
    (14, 14)
    """
    _check_count("m", m)
    if m > MOST_POINTS:
        raise ValueError(f"m: expected at most {MOST_POINTS}, got {m} ({bell(m)} partitions)")
    if blocks is not None:
        _check_count("blocks", blocks)
    return [from_labels(labels) for labels in _labels(m, m if blocks is None else blocks)]


def check_partition(partition: Partition, k: int, l: int) -> Partition:  # noqa: E741
    """The partition in canonical order.

    Raises:
        ValueError: the blocks do not hold each of the points 0 to k + l - 1 exactly once, or one is empty.
    """
    _check_count("k", k)
    _check_count("l", l)
    blocks = sorted(tuple(sorted(block)) for block in partition)
    if not all(blocks) or sorted(point for block in blocks for point in block) != list(range(k + l)):
        raise ValueError(
            f"partition: expected non-empty blocks that hold each of the {k + l} points 0 to l + k - 1 once "
            f"(k={k} inputs, l={l} outputs), got {partition!r}"
        )
    return tuple(blocks)


def _indices(n: int, k: int, l: int) -> list[Tensor]:  # noqa: E741
    """The value of each point, ready to be broadcast over a tensor with k + l axes of length n."""
    _check_count("n", n, least=1)
    if n ** (k + l) > MOST_ENTRIES:
        raise ValueError(
            f"n, k, l: a matrix of {n}^{k + l} entries is too large (limit {MOST_ENTRIES}), got n={n}, "
            f"k={k}, l={l}; diagrams.apply_diagram needs no matrix"
        )
    values = torch.arange(n)
    return [values.reshape([n if axis == point else 1 for axis in range(k + l)]) for point in range(k + l)]


def diagram_matrix(
    partition: Partition,
    n: int,
    k: int,
    l: int,  # noqa: E741
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Matrix (n^l, n^k) with 1 where all indices of each block are equal, 0 elsewhere.

    Row and column numbers are index tuples read as numbers to base n, as `reshape` reads a tensor.

    Args:
        partition: of l + k points, the outputs 0 to l - 1 first.
        n: number of things that are permuted.
        k: axes of the input.
        l: axes of the output.
        dtype: of the matrix.

    Raises:
        ValueError: no partition of l + k points, or more than 2^27 entries.

    >>> diagram_matrix(((0, 1),), 2, 1, 1)  # output index = input index
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    >>> diagram_matrix(((0,), (1,)), 2, 1, 1)  # the sum of the inputs at each output
    tensor([[1., 1.],
            [1., 1.]], dtype=torch.float64)
    """
    blocks = check_partition(partition, k, l)
    index = _indices(n, k, l)
    keep = torch.ones((n,) * (k + l), dtype=torch.bool)
    for first, *rest in blocks:
        for point in rest:
            keep &= index[first] == index[point]
    return keep.to(dtype).reshape(n**l, n**k)


def orbit_matrix(
    partition: Partition,
    n: int,
    k: int,
    l: int,  # noqa: E741
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Matrix (n^l, n^k) with 1 where indices are equal exactly within blocks; zero with more than n blocks.

    Arguments and errors as in `diagram_matrix`.

    >>> orbit_matrix(((0,), (1,)), 2, 1, 1)
    tensor([[0., 1.],
            [1., 0.]], dtype=torch.float64)
    """
    blocks = check_partition(partition, k, l)
    keep = diagram_matrix(blocks, n, k, l, torch.bool).reshape((n,) * (k + l))
    index = _indices(n, k, l)
    for first, second in itertools.combinations([block[0] for block in blocks], 2):
        keep &= index[first] != index[second]
    return keep.to(dtype).reshape(n**l, n**k)


def zeta(m: int) -> Tensor:
    """Table (B, B) of int64: 1 where the partition of the column is that of the row or coarser.

    Rows and columns in the order of `set_partitions(m)`. It leads from orbit matrices to diagram matrices:
    `diagram[i] = sum_j zeta[i, j] orbit[j]`, for every n.

    Raises:
        ValueError: m is negative or above 8.
    """
    _check_transform(m)
    labels = _block_numbers(m)
    pairs = torch.combinations(torch.arange(m), 2)  # points in one block, as a bit per pair
    together = (labels[:, pairs[:, 0]] == labels[:, pairs[:, 1]]).long() if len(pairs) else labels[:, :0]
    bits = (together << torch.arange(len(pairs))).sum(-1)
    return ((bits[:, None] & ~bits[None, :]) == 0).long()


def moebius(m: int) -> Tensor:
    """The exact inverse (B, B) of `zeta(m)`, int64: from diagram matrices to orbit matrices.

    `orbit[i] = sum_j moebius[i, j] diagram[j]` for every n, also where n is less than m. Weights travel the
    other way: a map with weights w on the orbit matrices has weights `moebius.T @ w` on the diagram matrices.
    The entry is the product of (-1)^(c - 1) (c - 1)! over the blocks of partition j, of which each holds c
    blocks of partition i (Rota 1964).

    Raises:
        ValueError: m is negative or above 8.

    >>> moebius(3)
    tensor([[ 1,  0,  0,  0,  0],
            [-1,  1,  0,  0,  0],
            [-1,  0,  1,  0,  0],
            [-1,  0,  0,  1,  0],
            [ 2, -1, -1, -1,  1]])
    """
    table, labels = zeta(m), _block_numbers(m)
    opens = torch.zeros(len(labels), m)  # 1 at the first point of each block
    for i, partition in enumerate(set_partitions(m)):
        opens[i, [block[0] for block in partition]] = 1
    signs = [1] + [(-1) ** (c - 1) * math.factorial(c - 1) for c in range(1, m + 1)]
    for block in range(m):
        merged = opens @ (labels == block).to(opens.dtype).T  # blocks of i whose first point lies in this one
        table *= torch.tensor(signs)[merged.long()]
    return table


def _check_transform(m: int) -> None:
    _check_count("m", m)
    if m > MOST_TRANSFORMED:
        raise ValueError(f"m: expected at most {MOST_TRANSFORMED}, got {m} (a table of {bell(m)} rows)")


def _block_numbers(m: int) -> Tensor:
    """The block of each point (B, m), in the order of `set_partitions(m)`."""
    return torch.tensor(list(_labels(m, m)), dtype=torch.int64).reshape(bell(m), m)
