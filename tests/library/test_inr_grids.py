"""Grids of features against PyTorch's grid_sample, and the hash against plain integers."""

import copy
import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerlab.inr.fit import coordinates, fit
from layerlab.inr.grids import DenseGrid, HashGrid, Levels
from layerlab.models import MLP, seeded


def places(count, dims, seed=0):
    return torch.rand(count, dims, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1


def filled(grid, seed=1):
    """The grid with features that are not nearly 0."""
    with torch.no_grad():
        grid.table.copy_(torch.randn(grid.table.shape, generator=torch.Generator().manual_seed(seed)))
    return grid.double()


def sampled(grid, x):
    """The same by grid_sample, which has the last axis first and wants pictures and volumes."""
    at = x.flip(1).view(1, *[1] * (grid.dims - 1), -1, grid.dims)
    return F.grid_sample(grid.values[None], at, align_corners=True).reshape(grid.table.shape[1], -1).T


# dense


@pytest.mark.parametrize(("resolution", "dims"), [(1, 2), (7, 2), (5, 3)])
def test_interpolation_and_its_gradients_are_those_of_grid_sample(resolution, dims):
    grid = filled(DenseGrid(resolution, 3, dims))
    x = torch.cat([places(200, dims), torch.ones(1, dims), -torch.ones(1, dims)]).requires_grad_()
    weight = torch.randn(202, 3, generator=torch.Generator().manual_seed(2)).double()
    results = []
    for values in (grid(x), sampled(grid, x)):
        slopes = torch.autograd.grad((values * weight).sum(), (grid.table, x))
        results.append((values.detach(), slopes[0], slopes[1][:200]))  # at the ends slopes are one-sided
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_on_a_line_it_is_linear_interpolation():
    grid = filled(DenseGrid(9, 1, 1))
    x = places(50, 1)
    expected = np.interp(x[:, 0], np.linspace(-1, 1, 10), grid.table[:, 0].detach())
    torch.testing.assert_close(grid(x)[:, 0].detach(), torch.from_numpy(expected))


def test_at_a_vertex_it_is_that_vertexs_features_in_the_order_of_coordinates():
    grid = filled(DenseGrid(4, 2))
    vertices = torch.cartesian_prod(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 5)).double()
    torch.testing.assert_close(grid(vertices), grid.table)
    torch.testing.assert_close(grid.values[:, 1, 3], grid.table[1 * 5 + 3])


# hashed


def test_levels_that_fit_are_dense_grids_side_by_side():
    grid = filled(HashGrid(3, 2, 8, 2, table_size=1000))
    x = places(40, 2)
    parts = []
    for level, (start, size) in enumerate(zip(grid.offsets, grid.sizes, strict=True)):
        dense = DenseGrid(int(grid.resolutions[level]), 2).double()
        with torch.no_grad():
            dense.table.copy_(grid.table[start : start + size])
        parts.append(dense(x))
    torch.testing.assert_close(grid(x), torch.cat(parts, 1))


@pytest.mark.parametrize("dims", [2, 3])
def test_hashed_levels_by_plain_integers(dims):
    grid = filled(HashGrid(2, 3, 9, 2, table_size=50, dims=dims))
    x = places(20, dims)
    primes = [1, 2654435761, 805459861]
    sizes = [min((n + 1) ** dims, 50) for n in (3, 9)]
    assert grid.sizes.tolist() == sizes
    for row, place in zip(grid(x), x.tolist(), strict=True):
        expected = []
        for level, cells in enumerate((3, 9)):
            at = [(p + 1) / 2 * cells for p in place]
            total = torch.zeros(2).double()
            for corner in product((0, 1), repeat=dims):
                vertex = [math.floor(a) + c for a, c in zip(at, corner, strict=True)]
                share = math.prod(1 - abs(a - v) for a, v in zip(at, vertex, strict=True))
                if (cells + 1) ** dims <= 50:
                    index = sum(v * (cells + 1) ** (dims - 1 - i) for i, v in enumerate(vertex))
                else:
                    index = 0
                    for v, prime in zip(vertex, primes, strict=False):
                        index ^= v * prime
                    index %= 50
                total += share * grid.table[level * sizes[0] + index]
            expected.append(total)
        torch.testing.assert_close(row, torch.cat(expected))


@pytest.mark.parametrize("table_size", [40, 1000])
def test_places_that_are_kept_give_the_same_features_and_gradients(table_size):
    grid, x = filled(HashGrid(3, 2, 9, 2, table_size)), places(50, 2)
    weights = torch.randn(50, 6, generator=torch.Generator().manual_seed(3)).double()
    found = []
    for keep in (False, True):
        if keep:
            grid.keep(x)
        y = grid(x)
        found.append((y, *torch.autograd.grad((y * weights).sum(), grid.table)))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*found, strict=True))
    assert torch.allclose(grid(x[:7]), found[0][0][:7])  # other places, and more of them, as before
    assert grid(places(60, 2, seed=9)).shape == (60, 6)
    assert torch.allclose(copy.deepcopy(grid)(x), found[0][0])


def test_weights_of_a_place_sum_to_one_and_rows_are_in_the_table():
    grid = HashGrid(5, 2, 100, 1, table_size=64, dims=3)
    rows, weights = grid.vertices(places(100, 3).float())
    torch.testing.assert_close(weights.sum(2), torch.ones(100, 5))
    assert weights.min() >= 0
    for level in range(5):
        start, size = int(grid.offsets[level]), int(grid.sizes[level])
        assert start <= rows[:, level].min() <= rows[:, level].max() < start + size
    assert grid.table.shape == (grid.rows, 1)
    assert len(rows[:, -1].unique()) > 50  # the hash spreads


@pytest.mark.parametrize(("levels", "coarsest", "finest"), [(1, 5, 5), (4, 4, 32), (16, 16, 512), (3, 3, 3)])
def test_resolutions_grow_by_one_ratio(levels, coarsest, finest):
    cells = Levels(levels, coarsest, finest, 10**6).resolutions.tolist()
    assert cells[0] == coarsest
    assert cells[-1] == finest
    ratio = math.exp(math.log(finest / coarsest) / max(1, levels - 1))
    assert all(0 <= coarsest * ratio**level - n + 1e-6 < 1 for level, n in enumerate(cells))


def test_it_is_drawn_small_and_learns_a_picture():
    grid = seeded(lambda: HashGrid(4, 2, 16, 2, table_size=128), 0)
    assert 0.9e-4 < grid.table.abs().max() <= 1e-4
    assert grid.state_dict().keys() == {"table"}
    x = coordinates(16, 16)
    y = ((x * 16).floor().sum(1, keepdim=True) % 2).float()  # a chessboard
    model = seeded(lambda: nn.Sequential(HashGrid(3, 4, 16, 2, 400), MLP(6, [8], 1)), 0)
    assert fit(model, x, y, steps=150, lr=2e-2).losses[-1] < 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: DenseGrid(4, 1)(torch.tensor([[0.0, 0.0], [0.5, 1.5]])),
            r"\[-1, 1\], got \[0.5, 1.5\] at row 1",
        ),
        (lambda: DenseGrid(4, 1)(torch.tensor([[-1.1, 0.0]])), "x: expected coordinates in .* at row 0"),
        (
            lambda: HashGrid(2, 2, 9, 1, 10)(torch.tensor([[torch.nan, 0.0]])),
            r"x: .* got \[nan, 0.0\] at row 0",
        ),
        (lambda: DenseGrid(4, 1)(torch.zeros(3, 3)), r"x: expected coordinates \(N, 2\), got \(3, 3\)"),
        (lambda: DenseGrid(0, 1), "resolution: expected an integer of at least 1, got 0"),
        (lambda: DenseGrid(4, 1, 4), "dims: expected at most 3, got 4"),
        (lambda: HashGrid(2, 8, 4, 1, 10), "finest: expected at least coarsest=8, got 4"),
        (lambda: HashGrid(1, 4, 32, 1, 10), "finest: expected coarsest=4 with one level, got 32"),
        (lambda: HashGrid(2, 4, 8, 0, 10), "features: expected an integer of at least 1, got 0"),
        (lambda: HashGrid(2, 4, 8, 1, 0), "table_size: expected an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
