"""Diagrams as maps: drawn one above the other they multiply, and taken apart they multiply fast.

A diagram is a partition of l points in an upper row and k points in a lower row. Stacked, two diagrams join
their blocks where rows meet; a component that touches neither outer row is removed and counts a factor n.
That makes the step from diagrams to matrices a functor: to compute with diagrams is to compute with matrices.

Any diagram is a permutation of the input axes, a planar diagram, and a permutation of the output axes. The
planar middle is a Kronecker product of one-block diagrams, so nobody has to write down the matrix (n^l, n^k):
take diagonals of the input, sum over blocks without an output, copy the rest onto diagonals of the output.

Sources: Pearce-Crump, "Categorification of Group Equivariant Neural Networks" (2023, arXiv:2304.14144) and
"An Algorithm for Computing with Brauer's Group Equivariant Neural Network Layers" (2023, arXiv:2304.14165);
for S_n first in Godfrey, Rawson, Brown and Kvinge (2023, arXiv:2303.06208). Chapter:
`chapters/equivariance/02_permutation_layers.ipynb`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from layerlab.equivariance.partitions import Partition, check_partition, diagram_matrix, from_labels


@dataclass(frozen=True)
class Diagram:
    """A partition of l + k points, with l of them in the upper row (outputs) and k in the lower (inputs).

    Attributes:
        partition: of the points 0 to l + k - 1, the outputs first; put into canonical order.
        k: points in the lower row, the axes of the input.
        l: points in the upper row, the axes of the output.

    Raises:
        ValueError: no partition of l + k points.

    >>> Diagram(((1, 0),), 1, 1)
    Diagram(partition=((0, 1),), k=1, l=1)
    """

    partition: Partition
    k: int
    l: int  # noqa: E741

    def __post_init__(self) -> None:
        object.__setattr__(self, "partition", check_partition(self.partition, self.k, self.l))

    def matrix(self, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """The diagram matrix (n^l, n^k)."""
        return diagram_matrix(self.partition, n, self.k, self.l, dtype)

    def apply(self, x: Tensor, n: int | None = None) -> Tensor:
        """The product with x (…, n, …, n), as `apply_diagram`."""
        return apply_diagram(self.partition, x, self.k, self.l, n)

    def transpose(self) -> "Diagram":
        """The diagram upside down; its matrix is the transpose."""
        moved = {point: (point - self.l) % (self.k + self.l) for point in range(self.k + self.l)}
        return Diagram(_moved(self.partition, moved), self.l, self.k)

    def beside(self, other: "Diagram") -> "Diagram":
        """Both diagrams side by side, this one at the left; its matrix is the Kronecker product."""
        left = {p: p if p < self.l else p + other.l for p in range(self.l + self.k)}
        right = {p: p + self.l + (self.k if p >= other.l else 0) for p in range(other.l + other.k)}
        both = _moved(self.partition, left) + _moved(other.partition, right)
        return Diagram(both, self.k + other.k, self.l + other.l)


def _moved(partition: Partition, to: dict[int, int]) -> Partition:
    return tuple(tuple(to[point] for point in block) for block in partition)


def compose(d1: Diagram, d2: Diagram) -> tuple[Diagram, int]:
    """The diagram of d1 after d2, and how many components were left in the middle.

    `d1.matrix(n) @ d2.matrix(n) == n**loops * diagram.matrix(n)` for every n.

    Args:
        d1: from m to l, drawn above.
        d2: from k to m, drawn below.

    Returns:
        The diagram from k to l, and `loops`, the number of components that touch no outer row.

    Raises:
        ValueError: d1 has not as many inputs as d2 has outputs.

    >>> total, spread = Diagram(((0,),), 1, 0), Diagram(((0,),), 0, 1)
    >>> compose(total, spread)
    (Diagram(partition=(), k=0, l=0), 1)
    >>> compose(spread, total)
    (Diagram(partition=((0,), (1,)), k=1, l=1), 0)
    """
    if d1.k != d2.l:
        raise ValueError(f"d1, d2: expected d1.k == d2.l, got {d1.k} inputs of d1 and {d2.l} outputs of d2")
    points = d1.l + d1.k + d2.k  # upper, middle and lower row
    root = list(range(points))

    def find(point: int) -> int:
        while root[point] != point:
            point = root[point]
        return point

    shifted = _moved(d2.partition, {p: p + d1.l for p in range(d2.l + d2.k)})
    for first, *rest in (*d1.partition, *shifted):
        for point in rest:
            root[find(point)] = find(first)
    roots = [find(point) for point in range(points)]
    outer = roots[: d1.l] + roots[d1.l + d1.k :]
    return Diagram(from_labels(outer), d2.k, d1.l), len(set(roots) - set(outer))


def permutation_diagram(order: list[int] | tuple[int, ...]) -> Diagram:
    """The diagram that moves axes: output axis i is input axis order[i], as `Tensor.permute` has it.

    Raises:
        ValueError: order is no permutation of 0 to its length - 1.
    """
    if sorted(order) != list(range(len(order))):
        raise ValueError(f"order: expected a permutation of 0 to {len(order) - 1}, got {order!r}")
    size = len(order)
    return Diagram(tuple((i, size + axis) for i, axis in enumerate(order)), size, size)


def factor(diagram: Diagram) -> tuple[Diagram, list[Diagram], Diagram]:
    """Take a diagram apart into a permutation, one-block diagrams side by side, and a permutation.

    Returns:
        (after, blocks, before) such that the diagram is `after`, over all of `blocks` side by side, over
        `before`. Blocks with inputs and outputs come first, then those with inputs alone, which sum, then
        those with outputs alone, which copy: side by side they are planar. No step makes a component to
        remove.

    >>> swap = permutation_diagram([1, 0])
    >>> after, blocks, before = factor(swap)
    >>> after.partition, [block.partition for block in blocks], before == swap
    (((0, 2), (1, 3)), [((0, 1),), ((0, 1),)], True)
    """
    l = diagram.l  # noqa: E741
    ins = [[p - l for p in block if p >= l] for block in diagram.partition]
    outs = [[p for p in block if p < l] for block in diagram.partition]
    parts = [(i, o) for i, o in zip(ins, outs, strict=True) if i and o]
    parts += [(i, o) for i, o in zip(ins, outs, strict=True) if not o]
    parts += [(i, o) for i, o in zip(ins, outs, strict=True) if not i]
    blocks = [Diagram((tuple(range(len(i) + len(o))),), len(i), len(o)) for i, o in parts]
    before = permutation_diagram([axis for i, _ in parts for axis in i])
    after = permutation_diagram([axis for _, o in parts for axis in o]).transpose()
    return after, blocks, before


def plan(partition: Partition, k: int, l: int) -> tuple[tuple[int, ...], tuple[int, ...], int, int, int]:  # noqa: E741
    """What `apply_diagram` does: a label per input axis, a label per output axis, and counts of labels.

    Returns:
        (input labels, output labels, through, summed, copied). Axes with one label are taken on their
        diagonal. Labels 0 to through - 1 are the blocks with inputs and outputs; in the input the next
        `summed` labels are the blocks without an output, in the output the next `copied` labels those
        without an input.

    Raises:
        ValueError: no partition of l + k points.

    >>> plan(((0, 2), (1,), (3,)), 2, 2)
    ((0, 1), (0, 1), 1, 1, 1)
    """
    return _plan(tuple(tuple(block) for block in partition), k, l)


@functools.lru_cache(maxsize=None, typed=True)
def _plan(partition: Partition, k: int, l: int) -> tuple[tuple[int, ...], tuple[int, ...], int, int, int]:  # noqa: E741
    blocks = check_partition(partition, k, l)
    through = [block for block in blocks if block[0] < l <= block[-1]]
    summed = [block for block in blocks if block[0] >= l]
    copied = [block for block in blocks if block[-1] < l]
    ins, outs = [0] * k, [0] * l
    for label, block in [*enumerate(through + summed), *enumerate(through + copied)]:
        for point in block:
            if point >= l:
                ins[point - l] = label
            else:
                outs[point] = label
    return tuple(ins), tuple(outs), len(through), len(summed), len(copied)


def diagonals(x: Tensor, labels: tuple[int, ...]) -> Tensor:
    """View of x with one axis for each label, in order of labels, where axes of one label are equal.

    Args:
        x: (…, n, …, n), its last axes as many as there are labels.
        labels: of the last axes; each of 0 to the largest occurs.

    >>> diagonals(torch.arange(9).reshape(3, 3), (0, 0))
    tensor([0, 4, 8])
    """
    lead, left = x.ndim - len(labels), list(labels)
    for label in range(max(left, default=-1) + 1):
        while left.count(label) > 1:
            i = left.index(label)
            j = left.index(label, i + 1)
            x = x.diagonal(dim1=lead + i, dim2=lead + j)  # the diagonal becomes the last axis
            left = [other for axis, other in enumerate(left) if axis not in (i, j)] + [label]
    return x.permute((*range(lead), *(lead + left.index(label) for label in range(len(left)))))


def check_axes(x: Tensor, k: int, n: int | None, name: str = "x") -> int:
    """The common length n of the last k axes of x.

    Raises:
        ValueError: fewer than k axes, axes of unequal lengths, a length that is not `n`, or k = 0 without n.
    """
    shape = tuple(x.shape)
    lengths = set(shape[x.ndim - k :]) if 0 < k <= x.ndim else set()
    if x.ndim < k or len(lengths) > 1 or (k and n is not None and lengths != {n}):
        length = "one length" if n is None else f"length {n}"
        raise ValueError(f"{name}: expected shape (…, n, …, n) with {k} last axes of {length}, got {shape}")
    if k == 0 and n is None:
        raise ValueError(
            "n: expected the number of things, which an input without such axes (k=0) does not tell"
        )
    return lengths.pop() if k else n


def apply_diagram(
    partition: Partition,
    x: Tensor,
    k: int,
    l: int,  # noqa: E741
    n: int | None = None,
) -> Tensor:
    """Product of the diagram matrix with x, without the matrix: diagonals, sums and copies.

    Reads at most n^k numbers of each example and writes n^l, where the matrix takes n^(k + l)
    multiplications. Differentiable; any dtype.

    Args:
        partition: of l + k points, the outputs 0 to l - 1 first.
        x: (…, n, …, n) with k axes of things.
        k: axes of the input.
        l: axes of the output.
        n: number of things; needed only where k is 0.

    Returns:
        (…, n, …, n) with l axes.

    Raises:
        ValueError: no partition of l + k points, or x has not k last axes of one length.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> apply_diagram(((0,), (1,)), x, 1, 1)  # row by row: the sum at each output
    tensor([[3., 3.],
            [7., 7.]])
    >>> apply_diagram(((0, 1),), x, 2, 0)  # the trace
    tensor(5.)
    """
    ins, outs, through, summed, copied = plan(partition, k, l)
    n = check_axes(x, k, n)
    batch = x.shape[: x.ndim - k]
    y = diagonals(x, ins)
    if summed:
        y = y.sum(tuple(range(-summed, 0)))
    out = x.new_zeros((*batch, *(n,) * l))
    diagonals(out, outs).copy_(y.reshape((*batch, *(n,) * through, *(1,) * copied)))
    return out


def cost(partition: Partition, n: int, k: int, l: int) -> dict[str, int]:  # noqa: E741
    """Operations on one example: `additions` and `copies` of `apply_diagram`, `dense` multiply-adds.

    >>> cost(((0, 2), (1,), (3,)), 10, 2, 2)
    {'additions': 90, 'copies': 100, 'dense': 10000}
    """
    _, _, through, summed, copied = plan(partition, k, l)
    additions = n ** (through + summed) - n**through
    return {"additions": additions, "copies": n ** (through + copied), "dense": n ** (k + l)}


def on_vectors(f: Callable[[Tensor], Tensor], n: int, k: int, l: int) -> Callable[[Tensor], Tensor]:  # noqa: E741
    """The same function on flattened tensors: (…, n^k) to (…, n^l), as representations act on the last axis.

    >>> transposed = on_vectors(lambda x: x.mT, 2, 2, 2)
    >>> transposed(torch.tensor([1, 2, 3, 4]))
    tensor([1, 3, 2, 4])
    """

    def flat(x: Tensor) -> Tensor:
        if x.ndim < 1 or x.shape[-1] != n**k:
            raise ValueError(f"x: expected a last axis of n^k = {n}^{k} = {n**k}, got shape {tuple(x.shape)}")
        y = f(x.reshape(*x.shape[:-1], *(n,) * k))
        return y.reshape(*y.shape[: y.ndim - l], n**l)

    return flat
