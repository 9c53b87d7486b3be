"""Small multigraphs with output vertices, up to isomorphism: the names of the equivariant graph polynomials.

Chapter: `chapters/equivariance/02_permutation_layers.ipynb`.
"""

from functools import lru_cache
from itertools import combinations_with_replacement, permutations, product
from typing import NamedTuple

LARGEST_DEGREE, LARGEST_OUTPUTS = 6, 4
Edges = tuple[tuple[int, int], ...]


class Multigraph(NamedTuple):
    """A small graph with vertices 0 … vertices − 1, a tuple of edges, and a tuple of output vertices.

    An edge may stand there several times, an edge (r, r) is a loop, and two outputs may be the same vertex.

    >>> Multigraph(3, ((0, 1), (1, 2), (0, 2))).degree
    3
    """

    vertices: int
    edges: Edges
    outputs: tuple[int, ...] = ()

    @property
    def degree(self) -> int:
        """Number of edges, counted with multiplicity: the degree of the polynomial."""
        return len(self.edges)


def check_multigraph(H: Multigraph, name: str = "H") -> None:
    """Raise unless the edges and outputs of `H` are vertices of it, at most 26.

    Raises:
        ValueError: naming the edge or output and what was expected.
    """
    if not 0 <= H.vertices <= 26:
        raise ValueError(f"{name}.vertices: expected 0 … 26, got {H.vertices}")
    for edge in H.edges:
        if len(edge) != 2 or any(not 0 <= r < H.vertices for r in edge):
            raise ValueError(f"{name}.edges: expected pairs of vertices 0 … {H.vertices - 1}, got {edge}")
    for r in H.outputs:
        if not 0 <= r < H.vertices:
            raise ValueError(f"{name}.outputs: expected vertices 0 … {H.vertices - 1}, got {r}")


def components(H: Multigraph) -> list[list[int]]:
    """The vertices of each connected component.

    >>> components(Multigraph(4, ((0, 2), (3, 3))))
    [[0, 2], [1], [3]]
    """
    part = list(range(H.vertices))
    for r, s in H.edges:
        a, b = sorted((part[r], part[s]))
        part = [a if p == b else p for p in part]
    return [[v for v in range(H.vertices) if part[v] == p] for p in sorted(set(part))]


def canonical(H: Multigraph, *, directed: bool = False) -> Multigraph:
    """The same multigraph for all isomorphic ones: vertices renumbered, edges sorted.

    An isomorphism keeps the outputs in their order. Each component is colored by refinement, then the
    smallest of all numberings that respect the colors is taken, so the cost is factorial in the size of a
    color class.

    >>> a, b = Multigraph(3, ((0, 1), (1, 2)), (1,)), Multigraph(3, ((2, 1), (0, 2)), (2,))
    >>> canonical(a) == canonical(b) != canonical(a._replace(outputs=(0,)))
    True
    """
    check_multigraph(H)
    parts = []
    for vertices in components(H):
        place = {v: i for i, v in enumerate(vertices)}
        edges = tuple(sorted((place[r], place[s]) for r, s in H.edges if r in place))
        labels = tuple(tuple(i for i, r in enumerate(H.outputs) if r == v) for v in vertices)
        parts.append(_smallest(labels, edges, directed))
    edges, outputs, first = [], [0] * len(H.outputs), 0
    for labels, part in sorted(parts, key=lambda p: (len(p[0]), p)):
        edges += [(first + r, first + s) for r, s in part]
        for v, label in enumerate(labels):
            for i in label:
                outputs[i] = first + v
        first += len(labels)
    return Multigraph(H.vertices, tuple(edges), tuple(outputs))


@lru_cache(maxsize=100_000)
def _smallest(labels: tuple, edges: Edges, directed: bool) -> tuple[tuple, Edges]:
    """The smallest (labels, edges) over the numberings of one component."""
    colors = _refined(labels, edges, directed)
    classes = [[v for v, c in enumerate(colors) if c == color] for color in sorted(set(colors))]
    best = None
    for orders in product(*map(permutations, classes)):
        number = {v: i for i, v in enumerate(v for order in orders for v in order)}
        moved = ((number[r], number[s]) for r, s in edges)
        found = tuple(sorted(moved if directed else (tuple(sorted(edge)) for edge in moved)))
        if best is None or found < best:
            best = found
    return tuple(labels[v] for group in classes for v in group), best


def _refined(labels: tuple, edges: Edges, directed: bool) -> list[int]:
    """Colors of the vertices that isomorphic multigraphs share, refined until no more split."""
    ranks = sorted(set(labels))
    colors = [ranks.index(label) for label in labels]
    while True:
        seen: list[list] = [[] for _ in labels]
        for r, s in edges:
            seen[r].append((0, r == s, colors[s]))
            seen[s].append((int(directed), r == s, colors[r]))
        signatures = [(c, *sorted(around)) for c, around in zip(colors, seen, strict=True)]
        ranks = sorted(set(signatures))
        refined = [ranks.index(signature) for signature in signatures]
        if len(ranks) == len(set(colors)):
            return refined
        colors = refined


def multigraphs(
    degree: int,
    outputs: int = 0,
    *,
    directed: bool = False,
    loops: bool = False,
    multiple: bool = True,
) -> list[Multigraph]:
    """All multigraphs with so many edges and outputs, one of each isomorphism class.

    Every vertex has an edge or is an output. Which ones to take depends on X: for X symmetric with a zero
    diagonal the default is right; `loops` where the diagonal carries features of the vertices; `directed`
    where X is not symmetric; `multiple=False` where X holds only 0 and 1, so that X² = X entry by entry.

    Args:
        degree: number of edges, counted with multiplicity; 0 to 6.
        outputs: 0 for invariant polynomials, 1 for a number per vertex, 2 per pair; 0 to 4.
        directed, loops, multiple: what edges there may be.

    Returns:
        canonical multigraphs, sorted. Without outputs there are 1, 1, 3, 8, 23, 66, 212 for degree 0 … 6 by
        default, and 1, 1, 2, 5, 11, 26, 68 with `multiple=False`. With degree 6 and two outputs there are
        5787, in a second.

    Raises:
        ValueError: degree or outputs out of range.

    Source: Puny et al. (2023), Equivariant Polynomials for Graph Neural Networks: with n at least the
    number of vertices, the polynomials of different ones are linearly independent, and those of all degrees
    up to d span the equivariant polynomials of degree d.

    >>> [len(multigraphs(d)) for d in range(5)]
    [1, 1, 3, 8, 23]
    >>> multigraphs(1, 1)[0]  # the degree of each vertex; the other one counts the edges beside it
    Multigraph(vertices=2, edges=((0, 1),), outputs=(1,))
    """
    for name, value, most in (("degree", degree, LARGEST_DEGREE), ("outputs", outputs, LARGEST_OUTPUTS)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise ValueError(f"{name}: expected an integer 0 … {most}, got {value!r}")
    places = product(*(range(i + 1) for i in range(outputs)))
    starts = [p for p in places if all(p[i] <= max(p[:i], default=-1) + 1 for i in range(outputs))]
    found = {canonical(Multigraph(max(p, default=-1) + 1, (), p), directed=directed) for p in starts}
    for _ in range(degree):
        found = {
            canonical(bigger, directed=directed)
            for H in found
            for bigger in _one_more(H, directed, loops, multiple)
        }
    return sorted(found)


def _one_more(H: Multigraph, directed: bool, loops: bool, multiple: bool):
    """`H` with one more edge, between vertices that are there or new."""
    n = H.vertices
    for r, s in combinations_with_replacement(range(n + 2), 2):
        if s == n + 1 and r != n:  # a second new vertex only beside the first
            continue
        if r == s and not loops:
            continue
        for edge in [(r, s), (s, r)] if directed and r != s else [(r, s)]:
            if multiple or edge not in H.edges:
                yield H._replace(vertices=max(n, s + 1), edges=(*H.edges, edge))
