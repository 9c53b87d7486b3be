"""Polynomials of a graph that commute with relabelling: one per multigraph, each a tensor contraction.

Draw a small multigraph, put an index on each of its vertices and a factor X[i, j] on each edge, multiply, and
sum over the indices of all vertices that are not outputs: the result is a number, a vector or a matrix that
follows every relabelling of X's vertices. All equivariant polynomials are sums of these.

Chapter: `chapters/equivariance/02_permutation_layers.ipynb`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from layerlab.equivariance.multigraphs import Multigraph, check_multigraph, multigraphs

__all__ = ["Multigraph", "contraction_order", "evaluate", "multigraphs"]

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def contraction_order(H: Multigraph) -> tuple[list[int], int]:
    """In which order to sum over the inner vertices of `H`, and what it costs.

    Summing over a vertex multiplies the factors that touch it into one tensor over its neighbors, so n to
    the number of those and itself is the work of this step. The next one is always a vertex with the fewest
    neighbors, which is optimal for forests and cycles and not always beyond.

    Returns:
        the inner vertices in order, and the largest number of indices held at once: with width w the
        polynomial costs O(nʷ). Width 2 is what matrix-vector products with X do (message passing),
        width 3 what products of n×n matrices do; K₄ needs 4.

    >>> contraction_order(Multigraph(4, ((0, 1), (1, 2), (2, 3))))
    ([0, 1, 2, 3], 2)
    >>> contraction_order(Multigraph(4, ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))))[1]
    4
    """
    check_multigraph(H)
    neighbors: dict[int, set[int]] = {r: set() for r in range(H.vertices)}
    for r, s in H.edges:
        if r != s:
            neighbors[r].add(s)
            neighbors[s].add(r)
    inner, order = set(neighbors) - set(H.outputs), []
    width = max(len(set(H.outputs)), *(len({*edge}) for edge in H.edges), 0)
    while inner:
        r = min(inner, key=lambda v: (len(neighbors[v]), v))
        inner.remove(r)
        order.append(r)
        around = neighbors.pop(r)
        width = max(width, 1 + len(around))
        for s in around:
            neighbors[s] |= around - {s}
            neighbors[s].discard(r)
    return order, width


def evaluate(H: Multigraph, X: Tensor | Sequence[Tensor]) -> Tensor:
    """The polynomial of `H` at X: Σ over the inner indices of ∏ over edges (r, s) of X[iᵣ, iₛ].

    Args:
        H: which factors, and which indices stay.
        X: (…, n, n), the factor of every edge: an adjacency matrix, or any numbers on pairs, with features
            of the vertices on the diagonal, which the loops of `H` read. Or a sequence with one tensor per
            edge, to mix several features: (…, n, n), and (…, n) for a loop; leading axes are broadcast.

    Returns:
        (…, n, …, n) with one axis per output, in the order of `H.outputs`, in X's type. A vertex that is an
        output twice gives a tensor that is zero off the diagonal; one without edges is constant along it.

    Raises:
        ValueError: a shape does not fit, or H has no edges and X is an empty sequence.

    Source: Puny et al. (2023), Equivariant Polynomials for Graph Neural Networks.

    >>> X = torch.tensor([[0.0, 1, 1], [1, 0, 0], [1, 0, 0]])  # a path of three vertices
    >>> evaluate(Multigraph(2, ((0, 1),), (0,)), X)  # degrees
    tensor([2., 1., 1.])
    >>> evaluate(Multigraph(3, ((0, 1), (1, 2)), (0, 2)), X)  # X @ X
    tensor([[2., 0., 0.],
            [0., 1., 1.],
            [0., 1., 1.]])
    """
    check_multigraph(H)
    factors = [X] * H.degree if isinstance(X, Tensor) else list(X)
    if len(factors) != H.degree:
        raise ValueError(f"X: expected one tensor per edge, {H.degree} of them, got {len(factors)}")
    like = X if isinstance(X, Tensor) else factors[0] if factors else None
    if like is None or like.ndim < 1:
        raise ValueError("X: expected a tensor of shape (…, n, n)")
    n = like.shape[-1]
    # each factor is a pair: the vertices that its last axes stand for, and the tensor
    terms: list[tuple[tuple[int, ...], Tensor]] = []
    for (r, s), factor in zip(H.edges, factors, strict=True):
        vector = r == s and not isinstance(X, Tensor)
        expected = (n,) if vector else (n, n)
        if factor.shape[-len(expected) :] != expected:
            raise ValueError(
                f"X: expected its last axes to be {expected} on the edge {(r, s)}, got {tuple(factor.shape)}"
            )
        if r == s:
            terms.append(((r,), factor if vector else factor.diagonal(dim1=-2, dim2=-1)))
        else:
            terms.append(((r, s), factor))
    if isinstance(X, Tensor) and not terms:
        if X.shape[-2:] != (n, n):
            raise ValueError(f"X: expected a shape (…, n, n), got {tuple(X.shape)}")
        terms.append(((), X.new_ones(X.shape[:-2])))
    for r in contraction_order(H)[0]:
        touching = [t for t in terms if r in t[0]]
        terms = [t for t in terms if r not in t[0]]
        keep = tuple(sorted({v for where, _ in touching for v in where} - {r}))
        terms.append((keep, _einsum(touching, keep)) if touching else ((), like.new_full((), n)))
    outputs = tuple(dict.fromkeys(H.outputs))
    ones = [((r,), like.new_ones(n)) for r in outputs if all(r not in where for where, _ in terms)]
    y = _einsum([*terms, *ones], outputs)
    return _spread(y, H.outputs, n)


def _einsum(terms: Sequence[tuple[tuple[int, ...], Tensor]], keep: tuple[int, ...]) -> Tensor:
    """Multiply, and sum over what is not kept; two at a time, so that no more axes arise than have to."""
    where, y = terms[0]
    for other, factor in terms[1:]:
        both = tuple(dict.fromkeys((*where, *other)))
        y = torch.einsum(f"...{_names(where)},...{_names(other)}->...{_names(both)}", y, factor)
        where = both
    return torch.einsum(f"...{_names(where)}->...{_names(keep)}", y)


def _names(vertices: Sequence[int]) -> str:
    return "".join(_LETTERS[r] for r in vertices)


def _spread(y: Tensor, outputs: tuple[int, ...], n: int) -> Tensor:
    """One axis per output from one axis per different output: repeated ones become diagonals."""
    different = list(dict.fromkeys(outputs))
    if len(different) == len(outputs):
        return y
    lead = y.shape[: y.ndim - len(different)]
    spread = y.new_zeros(*lead, *[n] * len(outputs))
    index = torch.meshgrid(*[torch.arange(n)] * len(different), indexing="ij")
    spread[(..., *(index[different.index(r)] for r in outputs))] = y
    return spread
