"""What a layer gains that need only respect even permutations: jellyfish beside the partitions.

The alternating group A_n has the even permutations. An orbit of index tuples under S_n stays one orbit under
A_n as long as two of the n values do not occur in a tuple, because swapping them turns odd into even. With n
or n - 1 different values it splits in two, and the difference of the halves is a new map: its sign tells
whether the values, in the order of the blocks, are an even or an odd arrangement. As a diagram it is a
partition whose blocks hang from one body with n legs, the determinant tensor; with n - 1 blocks one leg is
free.

Source: Pearce-Crump, "How Jellyfish Characterise Alternating Group Equivariant Neural Networks" (2023,
arXiv:2301.10152). Chapter: `chapters/equivariance/02_permutation_layers.ipynb`.
"""

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from layerlab.equivariance.diagrams import check_axes
from layerlab.equivariance.partitions import (
    Partition,
    check_partition,
    diagram_matrix,
    dimension,
    set_partitions,
    stirling,
)
from layerlab.equivariance.permutation_layers import PermutationLinear

MOST_THINGS = 8  # a jellyfish has n! entries


def sign(order: Sequence[int]) -> int:
    """1 for an even permutation of 0 to len(order) - 1, -1 for an odd one.

    >>> sign([0, 1, 2]), sign([1, 0, 2]), sign([1, 2, 0])
    (1, -1, 1)
    """
    if sorted(order) != list(range(len(order))):
        raise ValueError(f"order: expected a permutation of 0 to {len(order) - 1}, got {order!r}")
    return (-1) ** sum(a > b for a, b in itertools.combinations(order, 2))


def alternating_dimension(n: int, k: int, l: int) -> int:  # noqa: E741
    """Number of independent linear A_n-equivariant maps from tensors with k axes to tensors with l axes.

    Those of S_n, and one more for each partition of k + l points into n - 1 or n blocks. (A_1 is S_1.)

    >>> [alternating_dimension(3, 0, m) for m in (2, 3, 4)], alternating_dimension(4, 2, 2)
    ([3, 9, 27], 22)
    """
    symmetric = dimension(n, k, l)
    return symmetric + (stirling(k + l, n - 1) + stirling(k + l, n) if n > 1 else 0)


def jellyfish_partitions(n: int, m: int) -> list[Partition]:
    """The partitions of m points whose orbit splits under A_n: into n - 1 or n blocks; none for n = 1."""
    dimension(n, 0, m)  # checks both
    return [p for p in set_partitions(m, n) if n > 1 and len(p) >= n - 1]


@functools.lru_cache(maxsize=256, typed=True)
def _entries(partition: Partition, n: int, k: int, l: int) -> tuple[Tensor, Tensor, Tensor]:  # noqa: E741
    """Rows, columns and signs of the n! entries that are not zero."""
    blocks = check_partition(partition, k, l)
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n: expected an integer, got {n!r}")
    if not 2 <= n <= MOST_THINGS:
        raise ValueError(f"n: expected 2 to {MOST_THINGS}, got {n}")
    if len(blocks) not in (n - 1, n):
        raise ValueError(
            f"partition: expected {n - 1} or {n} blocks for n={n}, got {len(blocks)} in {partition!r}"
        )
    values = torch.tensor(list(itertools.permutations(range(n))))
    signs = torch.tensor([sign(order) for order in values.tolist()], dtype=torch.int8)
    points = [next(i for i, block in enumerate(blocks) if point in block) for point in range(k + l)]
    index = values[:, points]  # with n - 1 blocks the last value is the one that does not occur
    rows, columns = torch.zeros(len(values), dtype=torch.int64), torch.zeros(len(values), dtype=torch.int64)
    for point in range(l):
        rows = rows * n + index[:, point]
    for point in range(l, l + k):
        columns = columns * n + index[:, point]
    return rows, columns, signs


def jellyfish_matrix(
    partition: Partition,
    n: int,
    k: int,
    l: int,  # noqa: E741
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Matrix (n^l, n^k) of a jellyfish: 1 and -1 where blocks have different values, 0 elsewhere.

    The entry is the sign of the permutation that takes i to the value of block i, blocks in the order of
    their first points; with n - 1 blocks the value that does not occur comes last. Its absolute value is the
    orbit matrix. An odd permutation of the things changes its sign.

    Args:
        partition: of l + k points, the outputs first, into n - 1 or n blocks.
        n: number of things, 2 to 8.
        k: axes of the input.
        l: axes of the output.
        dtype: of the matrix.

    Raises:
        TypeError: n is no integer.
        ValueError: n is out of range, or the partition has another number of blocks. (With fewer, two legs
            would be free, and an antisymmetric tensor summed over both is zero.)

    >>> jellyfish_matrix(((0,), (1,)), 3, 1, 1)  # from thing to thing, around the cycle 0, 1, 2
    tensor([[ 0.,  1., -1.],
            [-1.,  0.,  1.],
            [ 1., -1.,  0.]], dtype=torch.float64)
    """
    rows, columns, signs = _entries(check_partition(partition, k, l), n, k, l)
    matrix = torch.zeros(n**l, n**k, dtype=dtype)
    matrix[rows, columns] = signs.to(dtype)
    return matrix


def apply_jellyfish(
    partition: Partition,
    x: Tensor,
    k: int,
    l: int,  # noqa: E741
    n: int | None = None,
) -> Tensor:
    """Product of the jellyfish's matrix with x (…, n, …, n), by its n! entries; differentiable.

    Arguments, result and errors as in `diagrams.apply_diagram` and `jellyfish_matrix`.

    >>> around, back = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0.0]]), torch.eye(3).roll(1, 0)
    >>> apply_jellyfish(((0,), (1,)), around, 2, 0), apply_jellyfish(((0,), (1,)), back, 2, 0)
    (tensor(3.), tensor(-3.))
    """
    n = check_axes(x, k, n)
    rows, columns, signs = _entries(check_partition(partition, k, l), n, k, l)
    batch = x.shape[: x.ndim - k]
    terms = x.reshape((*batch, n**k))[..., columns.to(x.device)] * signs.to(x.device, x.dtype)
    out = x.new_zeros((*batch, n**l)).index_add(-1, rows.to(x.device), terms)
    return out.reshape((*batch, *(n,) * l))


def alternating_basis(n: int, k: int, l: int) -> Tensor:  # noqa: E741
    """A basis (dimension, n^l, n^k) in float64 of all linear A_n-equivariant maps.

    First the diagram matrices of `set_partitions(k + l, n)`, then the jellyfish of
    `jellyfish_partitions(n, k + l)`.

    Raises:
        ValueError: n is below 1, or above 8 where there are jellyfish; k or l is negative.
    """
    found = [diagram_matrix(p, n, k, l) for p in set_partitions(k + l, n)]
    found += [jellyfish_matrix(p, n, k, l) for p in jellyfish_partitions(n, k + l)]
    return torch.stack(found)


class AlternatingLinear(nn.Module):
    """All linear A_n-equivariant maps from (N, channels_in, n, …, n) to (N, channels_out, n, …, n).

    A `PermutationLinear` and the jellyfish of one n.

    Attributes:
        symmetric: the `PermutationLinear(…, blocks=n)`, with bias.
        jellyfish: the partitions of the further maps.
        weight: (further maps, channels_out, channels_in), normal with variance 1 / (further maps ·
            channels_in).
        constants: the partitions of the further constant tensors.
        bias: (further constant tensors, channels_out), zero at first.

    Args:
        n: number of things, 1 to 8.
        k: axes of the input, beside batch and channels.
        l: axes of the output.
        channels_in: channels of the input.
        channels_out: channels of the output.

    Raises:
        TypeError: a count is no integer.
        ValueError: a count is out of range.

    >>> AlternatingLinear(3, 2, 0, 1, 1).weight.shape  # 2 maps of S_3, and 1 more: 3 in all
    torch.Size([1, 1, 1])
    """

    def __init__(self, n: int, k: int, l: int, channels_in: int, channels_out: int):  # noqa: E741
        super().__init__()
        self.n, self.k, self.l = n, k, l
        alternating_dimension(n, k, l)  # checks them
        if n > MOST_THINGS:
            raise ValueError(f"n: expected 1 to {MOST_THINGS}, got {n}")
        self.symmetric = PermutationLinear(k, l, channels_in, channels_out, blocks=n)
        self.jellyfish, self.constants = jellyfish_partitions(n, k + l), jellyfish_partitions(n, l)
        self.weight = nn.Parameter(torch.empty(len(self.jellyfish), channels_out, channels_in))
        self.bias = nn.Parameter(torch.zeros(len(self.constants), channels_out))
        nn.init.normal_(self.weight, std=max(1, len(self.jellyfish) * channels_in) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, n, …, n) with k axes to (N, channels_out, n, …, n) with l axes.

        Raises:
            ValueError: x has another shape.
        """
        out = self.symmetric(x, self.n)
        for weight, partition in zip(self.weight, self.jellyfish, strict=True):
            mixed = torch.einsum("oc,nc...->no...", weight.to(x.dtype), x)
            out = out + apply_jellyfish(partition, mixed, self.k, self.l, self.n)
        for value, partition in zip(self.bias, self.constants, strict=True):
            out = out + apply_jellyfish(partition, value.to(x.dtype), 0, self.l, self.n)
        return out
