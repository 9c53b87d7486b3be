"""Set partitions, their matrices in two bases, the transform between them, and three ways to count."""

import itertools

import pytest
import torch

from layerlab.equivariance.check import equivariant_basis
from layerlab.equivariance.groups import defining, symmetric
from layerlab.equivariance.mckay import count_walks, mckay_quiver, young_shapes
from layerlab.equivariance.partitions import (
    bell,
    check_partition,
    diagram_matrix,
    dimension,
    from_labels,
    moebius,
    orbit_matrix,
    set_partitions,
    stirling,
    zeta,
)


def test_all_partitions_once_and_canonical():
    for m in range(6):
        every = {from_labels(labels) for labels in itertools.product(range(m), repeat=m)}
        found = set_partitions(m)
        assert set(found) == every
        assert len(found) == len(every) == bell(m)
        assert all(check_partition(partition, m, 0) == partition for partition in found)


def test_at_most_so_many_blocks():
    for m, blocks in itertools.product(range(6), range(4)):
        assert set_partitions(m, blocks) == [p for p in set_partitions(m) if len(p) <= blocks]
        assert bell(m, blocks) == len(set_partitions(m, blocks))


def test_exact_counts():
    assert [bell(m) for m in range(8)] == [1, 1, 2, 5, 15, 52, 203, 877]
    assert bell(40) == 157450588391204931289324344702531067  # more than 64 bits
    for m, b in itertools.product(range(1, 9), range(1, 9)):
        assert stirling(m, b) == b * stirling(m - 1, b) + stirling(m - 1, b - 1)


@pytest.mark.parametrize(("k", "l"), [(0, 1), (1, 1), (2, 0), (1, 2), (2, 2)])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_dimension_basis_and_null_space_agree(n, k, l):  # noqa: E741
    permute = defining(symmetric(n))
    maps = equivariant_basis(permute.tensor(k), permute.tensor(l)).flatten(1)
    assert len(maps) == dimension(n, k, l)
    for make in (diagram_matrix, orbit_matrix):
        basis = torch.stack([make(p, n, k, l) for p in set_partitions(k + l, n)]).flatten(1)
        assert len(basis) == len(maps)
        assert torch.linalg.matrix_rank(basis) == len(maps)
        assert torch.linalg.matrix_rank(torch.cat([basis, maps])) == len(maps)


@pytest.mark.parametrize(("n", "count"), [(2, 8), (3, 14), (4, 15), (9, 15)])
def test_bell_numbers_count_too_many_for_small_n(n, count):
    assert dimension(n, 2, 2) == dimension(n, 1, 3) == count
    if n < 5:
        every = torch.stack([diagram_matrix(p, n, 2, 2) for p in set_partitions(4)]).flatten(1)
        assert torch.linalg.matrix_rank(every) == count


def test_rows_and_columns_are_read_as_reshape_reads_them():
    m = orbit_matrix(((0, 2), (1,), (3,)), 3, 3, 1)  # output i, inputs j, i, m
    for i, j, a, b in itertools.product(range(3), repeat=4):
        expected = float(a == i and len({i, j, b}) == 3)
        assert m.reshape(3, 3, 3, 3)[i, j, a, b] == expected


def test_orbit_matrices_tile_the_whole():
    for n in (2, 3):
        total = sum(orbit_matrix(p, n, 2, 2) for p in set_partitions(4))
        assert torch.equal(total, torch.ones(n**2, n**2, dtype=torch.float64))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("m", [0, 1, 3, 4])
def test_moebius_leads_from_diagrams_to_orbits(n, m):
    k, partitions = m // 2, set_partitions(m)
    diagrams = torch.stack([diagram_matrix(p, n, k, m - k) for p in partitions])
    orbits = torch.stack([orbit_matrix(p, n, k, m - k) for p in partitions])
    assert torch.equal(torch.tensordot(zeta(m).double(), orbits, 1), diagrams)
    assert torch.equal(torch.tensordot(moebius(m).double(), diagrams, 1), orbits)


def test_moebius_is_the_exact_inverse():
    for m in range(7):
        assert torch.equal(zeta(m) @ moebius(m), torch.eye(bell(m), dtype=torch.int64))
    assert moebius(6).abs().max() == 120


def test_walks_in_the_mckay_quiver_count_the_maps():
    for n, m in itertools.product(range(1, 7), range(7)):
        assert count_walks(n, m) == dimension(n, m, 0)
    assert count_walks(3, 60) == dimension(3, 30, 30)  # beyond 64 bits


def test_arrows_of_the_quiver_keep_dimensions():
    # Hook lengths: 1, 4, 5, 6, 5, 4, 1 for S_5. Times R^5, dimensions multiply by 5.
    shapes, arrows = mckay_quiver(5)
    assert shapes == young_shapes(5)
    assert shapes[0] == (5,)
    dimensions = torch.tensor([1, 4, 5, 6, 5, 4, 1])
    assert torch.equal(arrows @ dimensions, 5 * dimensions)


@pytest.mark.parametrize("bad", [((0,),), ((0, 1), (1,)), ((0, 2),), ((0, 1), ()), ((-1, 0),)])
def test_no_partition(bad):
    with pytest.raises(ValueError, match="partition: expected non-empty blocks"):
        diagram_matrix(bad, 2, 1, 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: set_partitions(-1), ValueError, "m: expected at least 0, got -1"),
        (lambda: set_partitions(11), ValueError, "m: expected at most 10, got 11"),
        (lambda: set_partitions(2.0), TypeError, "m: expected an integer, got 2.0"),
        (lambda: set_partitions(3, -1), ValueError, "blocks: expected at least 0"),
        (lambda: moebius(9), ValueError, "m: expected at most 8, got 9"),
        (lambda: dimension(0, 1, 1), ValueError, "n: expected at least 1, got 0"),
        (lambda: diagram_matrix(((0, 1),), 0, 1, 1), ValueError, "n: expected at least 1, got 0"),
        (lambda: diagram_matrix(((0, 1),), 2, 3, -1), ValueError, "l: expected at least 0"),
        (lambda: diagram_matrix(((0, 1),), 20_000, 1, 1), ValueError, "too large"),
        (lambda: mckay_quiver(0), ValueError, "n: expected at least 1, got 0"),
        (lambda: count_walks(3, -1), ValueError, "length: expected at least 0"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
