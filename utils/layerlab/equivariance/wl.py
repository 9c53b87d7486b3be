"""Weisfeiler and Leman's color refinement, and what it cannot tell apart.

Chapter: `chapters/equivariance/02_permutation_layers.ipynb`.
"""

import torch
from torch import Tensor


def check_graph(graph: Tensor) -> None:
    """Raise ValueError unless `graph` is a square matrix of finite numbers."""
    if graph.ndim != 2 or graph.shape[0] != graph.shape[1] or len(graph) == 0:
        raise ValueError(f"graph: expected an adjacency matrix (n, n), got shape {tuple(graph.shape)}")
    if graph.is_floating_point() and not torch.isfinite(graph).all():
        raise ValueError("graph: expected finite entries, got NaN or infinity")


def wl_colours(graph: Tensor, colours: Tensor | None = None, *, rounds: int | None = None) -> Tensor:
    """1-WL: give each vertex a new color for its color together with its neighbors' colors, again and again.

    Args:
        graph: (n, n) adjacency matrix; entries other than 0 and 1 are kinds of edges, and the matrix need
            not be symmetric.
        colours: int64 (n,) to start from; without it all vertices are alike.
        rounds: how often; without it until nothing splits.

    Returns:
        int64 (n,), colours 0, 1, … Two graphs' colours compare only where both are parts of one (disjoint)
        graph; see `wl_equivalent`.

    Raises:
        ValueError: a shape does not fit.

    >>> from layerlab.equivariance.small_graphs import path
    >>> wl_colours(path(5))
    tensor([0, 1, 2, 1, 0])
    """
    check_graph(graph)
    n = len(graph)
    if colours is not None and colours.shape != (n,):
        raise ValueError(f"colours: expected a shape ({n},), got {tuple(colours.shape)}")
    A = graph.tolist()
    found = [0] * n if colours is None else colours.tolist()
    near = [[j for j in range(n) if j != i and (A[i][j] or A[j][i])] for i in range(n)]
    found = _ranked([(c, A[i][i]) for i, c in enumerate(found)])
    for _ in range(n if rounds is None else rounds):
        refined = _ranked(
            [(found[i], *sorted((A[i][j], A[j][i], found[j]) for j in near[i])) for i in range(n)]
        )
        if len(set(refined)) == len(set(found)):
            break
        found = refined
    return torch.tensor(found)


def _ranked(signatures: list) -> list[int]:
    rank = {signature: i for i, signature in enumerate(sorted(set(signatures)))}
    return [rank[signature] for signature in signatures]


def wl_equivalent(a: Tensor, b: Tensor) -> bool:
    """Whether 1-WL cannot tell two graphs apart: refined side by side, they have the same colours as often.

    >>> from layerlab.equivariance.small_graphs import cycle, union
    >>> wl_equivalent(cycle(6), union(cycle(3), cycle(3)))
    True
    """
    check_graph(a)
    check_graph(b)
    if len(a) != len(b):
        return False
    colours = wl_colours(torch.block_diag(a, b))
    return torch.equal(colours[: len(a)].sort().values, colours[len(a) :].sort().values)
