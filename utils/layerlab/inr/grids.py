"""Grids of learned features, interpolated between their vertices: dense ones, and many levels in hash tables.

Müller et al. 2022, "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding", Section 3.
"""

import math
import warnings
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import _check_sizes

_PRIMES = (1, 2_654_435_761, 805_459_861)  # of the hash, Equation 4
_SPREAD = 1e-4  # features start in U(-1e-4, 1e-4)


class Levels(nn.Module):
    """Where a place lies in grids of several resolutions; the features are kept by those who build on it.

    Level l has ⌊coarsest · bˡ⌋ cells along an axis, where b leads from `coarsest` to `finest`. Where its
    vertices are at most `table_size`, each has a row of the table of its own; else vertices share the rows of
    a table of that size: vertex c, with primes π, that at (⊕ᵢ cᵢ πᵢ) mod `table_size`.

    Args:
        levels: number of grids.
        coarsest: cells along an axis of the first.
        finest: cells along an axis of the last, not fewer; with one level as many.
        table_size: vertices that a level holds at most.
        dims: number of coordinates, 1 to 3.

    >>> grids = Levels(levels=3, coarsest=4, finest=16, table_size=100)
    >>> grids.resolutions.tolist(), grids.sizes.tolist(), grids.rows
    ([4, 8, 16], [25, 81, 100], 206)
    """

    def __init__(self, levels: int, coarsest: int, finest: int, table_size: int, dims: int = 2):
        _check_sizes(levels=levels, coarsest=coarsest, finest=finest, table_size=table_size, dims=dims)
        if dims > len(_PRIMES):
            raise ValueError(f"dims: expected at most {len(_PRIMES)}, got {dims}")
        if finest < coarsest:
            raise ValueError(f"finest: expected at least coarsest={coarsest}, got {finest}")
        if levels == 1 and finest != coarsest:
            raise ValueError(f"finest: expected coarsest={coarsest} with one level, got {finest}")
        super().__init__()
        growth = math.log(finest / coarsest) / max(1, levels - 1)
        # a little more than the power, so that the last level is `finest` and not one cell less
        cells = [math.floor(coarsest * math.exp(level * growth) + 1e-6) for level in range(levels)]
        vertices = [(n + 1) ** dims for n in cells]
        sizes = [min(n, table_size) for n in vertices]
        self.dims, self.rows = dims, sum(sizes)
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None  # see `keep`
        self.hashed = sizes != vertices
        fixed = {
            "resolutions": cells,
            "sizes": sizes,
            "offsets": [sum(sizes[:level]) for level in range(levels)],
            "dense": [size == n for size, n in zip(sizes, vertices, strict=True)],
            "strides": [[(n + 1) ** (dims - 1 - axis) for axis in range(dims)] for n in cells],
            "primes": _PRIMES[:dims],
            "corners": list(product((0, 1), repeat=dims)),
        }
        for name, numbers in fixed.items():
            self.register_buffer(name, torch.tensor(numbers), persistent=False)

    def interpolate(self, x: Tensor, table: Tensor) -> Tensor:
        """Features at (N, dims) from those of all vertices, (rows, k): (N, levels × k), level after level."""
        if self._kept is not None and x is self._kept[0]:
            return _Product.apply(table, *self._kept[1:]).view(len(x), -1)
        index, weight = self.vertices(x)
        return (F.embedding(index, table) * weight[..., None]).sum(2).flatten(1)

    def keep(self, x: Tensor) -> None:
        """Remember where the places (N, dims) lie, for a fit whose steps all take this tensor, unchanged.

        Interpolation at it is then a product with a sparse matrix, about ten times as fast. It has gradients
        with respect to the features alone. Other tensors are interpolated as before.
        """
        index, weight = (part.detach().flatten(0, 1) for part in self.vertices(x))
        place = torch.arange(len(index), device=x.device).repeat_interleave(index.shape[1])
        entries = torch.stack([place, index.flatten()])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            kept = [
                torch.sparse_coo_tensor(at, weight.flatten(), size, check_invariants=False)
                .coalesce()
                .to_sparse_csr()
                for at, size in (
                    (entries, (len(index), self.rows)),
                    (entries.flip(0), (self.rows, len(index))),
                )
            ]
        self._kept = (x, *kept)

    def __getstate__(self) -> dict:
        """What is copied or pickled: all but what `keep` has made, since sparse matrices cannot be copied."""
        return self.__dict__ | {"_kept": None}

    def vertices(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the table around each place, and how much each counts: both (N, levels, 2ᵈ).

        Weights of a place and level sum to 1; they can be differentiated with respect to x.
        """
        if x.ndim != 2 or x.shape[1] != self.dims:
            raise ValueError(f"x: expected coordinates (N, {self.dims}), got {tuple(x.shape)}")
        _check_inside(x)
        cells = self.resolutions[:, None]
        place = (x[:, None] + 1) / 2 * cells  # (N, levels, dims)
        low = torch.minimum(place.detach().floor().long(), cells - 1)
        part = (place - low)[:, :, None]  # (N, levels, 1, dims)
        weight = torch.where(self.corners.bool(), part, 1 - part).prod(-1)
        vertex = low[:, :, None] + self.corners  # (N, levels, 2ᵈ, dims)
        row = (vertex * self.strides[:, None]).sum(-1)
        if self.hashed:
            mixed = vertex * self.primes
            shared = mixed[..., 0]
            for axis in range(1, self.dims):
                shared = shared ^ mixed[..., axis]
            row = torch.where(self.dense[:, None], row, shared % self.sizes[:, None])
        return row + self.offsets[:, None], weight


class HashGrid(Levels):
    """Learned features of several grids at a place, each interpolated between the vertices around it.

    Args:
        levels, coarsest, finest: grids and the cells along an axis of the first and the last, as in `Levels`.
        features: numbers at a vertex.
        table_size: vertices that a level holds at most; those of finer levels share them.
        dims: number of coordinates, 1 to 3.

    Shapes: (N, dims) in [-1, 1] to (N, levels × features), level after level. All features are the parameter
    `table`, (rows, features), level after level; those of a dense level are in the order of
    `fit.coordinates`, the last axis running fastest. They are drawn from U(-1e-4, 1e-4), as in the paper.

    >>> HashGrid(levels=3, coarsest=4, finest=16, features=2, table_size=100)(torch.zeros(5, 2)).shape
    torch.Size([5, 6])
    """

    def __init__(
        self, levels: int, coarsest: int, finest: int, features: int, table_size: int, dims: int = 2
    ):
        _check_sizes(features=features)
        super().__init__(levels, coarsest, finest, table_size, dims)
        self.table = nn.Parameter(torch.empty(self.rows, features).uniform_(-_SPREAD, _SPREAD))

    def forward(self, x: Tensor) -> Tensor:
        """(N, dims) to (N, levels × features)."""
        return self.interpolate(x, self.table)


class DenseGrid(HashGrid):
    """Features at the vertices of one grid, interpolated in between; the grid's ends are at -1 and 1.

    Args:
        resolution: cells along an axis; there is one vertex more.
        features: numbers at a vertex.
        dims: number of coordinates, 1 to 3.

    Shapes: (N, dims) in [-1, 1] to (N, features). `values` is the table as a grid.

    >>> grid = DenseGrid(4, features=3)
    >>> grid(torch.zeros(5, 2)).shape, grid.values.shape
    (torch.Size([5, 3]), torch.Size([3, 5, 5]))
    """

    def __init__(self, resolution: int, features: int, dims: int = 2):
        _check_sizes(resolution=resolution, features=features, dims=dims)
        super().__init__(1, resolution, resolution, features, (resolution + 1) ** dims, dims)

    @property
    def values(self) -> Tensor:
        """(features, vertices, …), one axis for each coordinate."""
        return self.table.T.unflatten(1, [int(self.resolutions[0]) + 1] * self.dims)


class _Product(torch.autograd.Function):
    """A sparse matrix times the table, given the matrix and its transpose; only the table has a gradient."""

    @staticmethod
    def forward(ctx, table: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        ctx.transpose = transpose
        return matrix @ table

    @staticmethod
    def backward(ctx, slope: Tensor):
        return ctx.transpose @ slope, None, None


def _check_inside(x: Tensor) -> None:
    """Raise unless all coordinates are in [-1, 1]; NaN is not."""
    inside = (x >= -1) & (x <= 1)
    try:
        if inside.all():
            return
    except RuntimeError:  # mapped by torch.func, under which values cannot be looked at
        return
    row = int((~inside).any(1).nonzero()[0])
    raise ValueError(f"x: expected coordinates in [-1, 1], got {x[row].tolist()} at row {row}")
