"""The symmetries of one graph: its automorphisms, their orbits, and the linear maps that commute with them.

Where a signal lives on the vertices of a fixed graph, only the relabelings that keep its edges are
symmetries. They are fewer than n!, so more linear maps commute with them: one for each orbit of index tuples.
The matrices that count homomorphisms from small graphs span the same maps.

Chapter: `chapters/equivariance/02_permutation_layers.ipynb`.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from layerlab.equivariance.multigraphs import Edges, Multigraph, components, multigraphs
from layerlab.equivariance.polynomials import evaluate
from layerlab.equivariance.wl import check_graph, wl_colours, wl_equivalent

__all__ = [
    "AutomorphismLinear",
    "BilabelledGraph",
    "automorphisms",
    "bilabelled_graphs",
    "homomorphism_matrix",
    "homomorphism_rank",
    "orbit_matrices",
    "orbits",
    "wl_colours",
    "wl_equivalent",
]


def automorphisms(graph: Tensor, *, colours: Tensor | None = None, limit: int = 50_000) -> Tensor:
    """All permutations p of the vertices with graph[p[i], p[j]] = graph[i, j].

    A search by backtracking: the image of one vertex after the other, among the vertices of the same 1-WL
    color whose edges to the images so far are right.

    Args:
        graph: (n, n), as in `wl_colours`.
        colours: int64 (n,) that have to be kept too, for vertices of different kinds.
        limit: the most automorphisms to list.

    Returns:
        int64 (order, n), p[i] is the image of i; in lexicographic order, so the identity comes first.

    Raises:
        ValueError: a shape does not fit, or there are more than `limit`.

    >>> from layerlab.equivariance.small_graphs import path
    >>> automorphisms(path(3))
    tensor([[0, 1, 2],
            [2, 1, 0]])
    """
    kinds = wl_colours(graph, colours).tolist()
    A, n = graph.tolist(), len(graph)
    found: list[list[int]] = []
    images: list[int] = []

    def extend() -> None:
        i = len(images)
        if i == n:
            if len(found) == limit:
                raise ValueError(f"graph: expected at most {limit} automorphisms (limit), got more")
            found.append(images.copy())
            return
        for p in range(n):
            if kinds[p] != kinds[i] or p in images:
                continue
            if all(A[p][images[j]] == A[i][j] and A[images[j]][p] == A[j][i] for j in range(i)):
                images.append(p)
                extend()
                images.pop()

    extend()
    return torch.tensor(found)


def orbits(permutations: Tensor, k: int) -> Tensor:
    """Which tuples of k indices the permutations carry into one another.

    Args:
        permutations: int64 (count, n); generators of a group are enough, since what they connect is joined.
        k: length of the tuples; nᵏ of them, at most two million.

    Returns:
        int64 (n, …, n), the number of each tuple's orbit: 0, 1, … in the order of first appearance. One more
        than the largest is the dimension of the linear maps from order a to order b tensors that commute, for
        a + b = k.

    Raises:
        ValueError: the rows are no permutations, or k is out of range.

    >>> orbits(torch.tensor([[1, 2, 0]]), 2)  # the cyclic group of three: circulant matrices
    tensor([[0, 1, 2],
            [2, 0, 1],
            [1, 2, 0]])
    """
    if permutations.ndim != 2 or permutations.shape[1] == 0 or permutations.is_floating_point():
        raise ValueError(
            f"permutations: expected integers of shape (count, n), got {tuple(permutations.shape)} "
            f"of {permutations.dtype}"
        )
    n = permutations.shape[1]
    if not torch.equal(permutations.sort(1).values, torch.arange(n).expand_as(permutations)):
        raise ValueError(f"permutations: expected each row to hold 0 … {n - 1} once each")
    if isinstance(k, bool) or not isinstance(k, int) or k < 0 or n**k > 2_000_000:
        raise ValueError(f"k: expected 0 or more and n**k at most two million for n={n}, got {k!r}")
    size = n**k
    rows, columns = [np.arange(size)], [np.arange(size)]
    index = np.arange(size).reshape((n,) * k)
    for p in permutations.numpy():
        rows.append(index.ravel())
        columns.append(index[np.ix_(*[p] * k)].ravel() if k else index.ravel())
    pairs = (np.ones(len(rows) * size, dtype=np.int8), (np.concatenate(rows), np.concatenate(columns)))
    labels = connected_components(coo_matrix(pairs, shape=(size, size)), directed=False)[1]
    _, first, where = np.unique(labels, return_index=True, return_inverse=True)
    return torch.from_numpy(np.argsort(np.argsort(first))[where].reshape((n,) * k))


def orbit_matrices(permutations: Tensor, k: int, l: int) -> Tensor:  # noqa: E741
    """A basis of the linear maps from order k to order l tensors that commute: one 0/1 matrix per orbit.

    Args:
        permutations: int64 (count, n), as in `orbits`.
        k, l: orders of the input and of the output.

    Returns:
        float64 (orbits, nˡ, nᵏ); they sum to the matrix of ones.

    >>> len(orbit_matrices(torch.tensor([[1, 2, 0]]), 1, 1))
    3
    """
    labels = orbits(permutations, k + l)
    count, n = int(labels.max()) + 1, permutations.shape[1]
    return (labels.reshape(n**l, n**k) == torch.arange(count)[:, None, None]).double()


class BilabelledGraph(NamedTuple):
    """A small graph with k input and l output labels on its vertices; a vertex may carry several or none.

    >>> BilabelledGraph(3, ((0, 1), (1, 2)), (0,), (2,))  # its matrix counts the walks of two steps
    BilabelledGraph(vertices=3, edges=((0, 1), (1, 2)), inputs=(0,), outputs=(2,))
    """

    vertices: int
    edges: Edges
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def homomorphism_matrix(pattern: BilabelledGraph, graph: Tensor) -> Tensor:
    """Count the maps of the pattern's vertices that keep its edges and send its labels to given vertices.

    Args:
        pattern: with k inputs and l outputs.
        graph: (n, n) adjacency matrix of 0 and 1.

    Returns:
        (nˡ, nᵏ), type of `graph`: entry (I, J) counts those that send the outputs to I and the inputs
        to J. It commutes with every automorphism of the graph.

    Raises:
        ValueError: a shape does not fit, or a label is no vertex of the pattern.

    Source: Pearce-Crump and Knottenbelt (2024), Graph Automorphism Group Equivariant Neural Networks: the
    matrices of all bilabelled graphs span the equivariant maps.

    >>> from layerlab.equivariance.small_graphs import path
    >>> homomorphism_matrix(BilabelledGraph(3, ((0, 1), (1, 2)), (0,), (2,)), path(3))
    tensor([[1., 0., 1.],
            [0., 2., 0.],
            [1., 0., 1.]], dtype=torch.float64)
    """
    check_graph(graph)
    H = Multigraph(pattern.vertices, pattern.edges, (*pattern.outputs, *pattern.inputs))
    return evaluate(H, graph).reshape(len(graph) ** len(pattern.outputs), -1)


def bilabelled_graphs(k: int, l: int, degree: int) -> list[BilabelledGraph]:  # noqa: E741
    """The simple bilabelled graphs with up to `degree` edges up to isomorphism, fewest edges first.

    Without repeated edges and loops, which say nothing new about a simple graph, and without components that
    carry no label, which only multiply the matrix by a number.

    Args:
        k, l: numbers of inputs and outputs, at most 4 together.
        degree: largest number of edges, 0 to 6.

    >>> [len(bilabelled_graphs(1, 1, d)) for d in range(4)]
    [2, 6, 16, 45]
    """
    found = []
    for d in range(degree + 1):
        for H in multigraphs(d, k + l, multiple=False):
            if all(set(part) & set(H.outputs) for part in components(H)):
                found.append(BilabelledGraph(H.vertices, H.edges, H.outputs[l:], H.outputs[:l]))
    return found


def homomorphism_rank(graph: Tensor, k: int, l: int, degree: int) -> int:  # noqa: E741
    """Dimension of the span of the homomorphism matrices of all bilabelled graphs with up to `degree` edges.

    It grows with `degree` to the number of orbits of Aut(graph) on tuples of k + l vertices, and never
    exceeds it. How many edges that takes depends on the graph: Shrikhande's has 4 orbits of pairs, of which
    patterns with up to 4 edges see 3, as 2-WL does, and those with 5 edges all.

    Raises:
        ArithmeticError: the singular values show no clear gap.

    >>> from layerlab.equivariance.small_graphs import cycle
    >>> homomorphism_rank(cycle(4), 1, 1, 0), homomorphism_rank(cycle(4), 1, 1, 1)  # of 3 orbits
    (2, 3)
    """
    graph = graph.double()
    matrices = [homomorphism_matrix(H, graph).flatten() for H in bilabelled_graphs(k, l, degree)]
    rows = torch.stack(matrices).unique(dim=0)
    rows = rows[rows.any(1)]
    rows = rows.unique(dim=1)  # entries of one orbit are equal
    # one row after the other against what is there: rows of counts differ by orders of magnitude in size
    basis = rows.new_zeros(0, rows.shape[1])
    for row in torch.nn.functional.normalize(rows):
        rest = row - basis.T @ (basis @ row)
        rest = rest - basis.T @ (basis @ rest)
        size = float(rest.norm())
        if 1e-12 < size < 1e-9:
            raise ArithmeticError(f"no clear gap between zero and not zero: a remainder of {size:.1g}")
        if size > 1e-9:
            basis = torch.cat([basis, rest[None] / size])
        if len(basis) == rows.shape[1]:
            break
    return len(basis)


class AutomorphismLinear(nn.Module):
    """All linear maps between tensors on a graph that commute with its automorphisms, one weight per orbit.

    Args:
        permutations: int64 (count, n), generators or all elements of the group; `automorphisms(graph)`.
        k, l: orders of the input and of the output.
        channels_in, channels_out: as of a convolution.

    Shapes: input (B, channels_in, n, …, n) with k axes n, output (B, channels_out, n, …, n) with l of them.

    >>> from layerlab.equivariance.small_graphs import cycle
    >>> layer = AutomorphismLinear(automorphisms(cycle(6)), 1, 1, 3, 5)
    >>> layer.weight.shape, layer(torch.zeros(2, 3, 6)).shape
    (torch.Size([5, 3, 4]), torch.Size([2, 5, 6]))
    """

    def __init__(self, permutations: Tensor, k: int, l: int, channels_in: int, channels_out: int):  # noqa: E741
        super().__init__()
        self.k, self.l, self.n = k, l, permutations.shape[1]
        labels = orbits(permutations, k + l).reshape(self.n**l, self.n**k)
        self.register_buffer("labels", labels)
        self.register_buffer("places", orbits(permutations, l).reshape(-1))
        count = int(labels.max()) + 1
        scale = (channels_in * self.n**k) ** -0.5
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, count) * scale)
        self.bias = nn.Parameter(torch.zeros(channels_out, int(self.places.max()) + 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, n, …) to (B, channels_out, n, …)."""
        expected = (self.weight.shape[1], *[self.n] * self.k)
        if x.shape[1:] != expected:
            raise ValueError(
                f"x: expected a shape (B, {', '.join(map(str, expected))}), got {tuple(x.shape)}"
            )
        matrix = self.weight[:, :, self.labels]
        y = torch.einsum("bcj,dcij->bdi", x.flatten(2) if self.k else x[..., None], matrix)
        y = y + self.bias[:, self.places]
        return y.reshape(len(x), -1, *[self.n] * self.l)
