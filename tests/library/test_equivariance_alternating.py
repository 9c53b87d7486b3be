"""The further maps of the alternating group: counted, equivariant, and odd under odd permutations."""

import itertools

import pytest
import torch

from layerlab.equivariance.alternating import (
    AlternatingLinear,
    alternating_basis,
    alternating_dimension,
    apply_jellyfish,
    jellyfish_matrix,
    jellyfish_partitions,
    sign,
)
from layerlab.equivariance.check import assert_equivariant, equivariance_error, equivariant_basis
from layerlab.equivariance.diagrams import on_vectors
from layerlab.equivariance.groups import alternating, defining, symmetric
from layerlab.equivariance.partitions import diagram_matrix, dimension, orbit_matrix, set_partitions
from layerlab.models import seeded

SIZES = [(2, 1, 1), (2, 2, 2), (3, 1, 1), (3, 1, 2), (3, 2, 2), (4, 1, 2), (4, 2, 2), (4, 3, 0), (5, 2, 1)]


@pytest.mark.parametrize(("n", "k", "l"), [*SIZES, (1, 1, 1), (1, 0, 0), (2, 0, 0), (3, 0, 2)])
def test_dimension_basis_and_null_space_agree(n, k, l):  # noqa: E741
    permute = defining(alternating(n))
    maps = equivariant_basis(permute.tensor(k), permute.tensor(l)).flatten(1)
    basis = alternating_basis(n, k, l).flatten(1)
    assert len(maps) == len(basis) == alternating_dimension(n, k, l)
    assert torch.linalg.matrix_rank(basis) == len(maps)
    assert torch.linalg.matrix_rank(torch.cat([basis, maps])) == len(maps)


def test_counts_by_orbits_of_index_tuples():
    for n, m in itertools.product((2, 3, 4), (2, 3, 4)):
        left, orbits = set(itertools.product(range(n), repeat=m)), 0
        even = [g for g in itertools.permutations(range(n)) if sign(g) == 1]
        while left:
            first = next(iter(left))
            left -= {tuple(g[i] for i in first) for g in even}
            orbits += 1
        assert alternating_dimension(n, m, 0) == alternating_dimension(n, 1, m - 1) == orbits


def test_sign_is_the_determinant():
    for order in itertools.permutations(range(4)):
        assert sign(order) == round(torch.linalg.det(torch.eye(4)[list(order)]).item())


@pytest.mark.parametrize(("n", "k", "l"), [size for size in SIZES if size[0] > 2])
def test_jellyfish_is_odd_under_odd_permutations(n, k, l):  # noqa: E741
    swap = torch.eye(n, dtype=torch.float64)[[1, 0, *range(2, n)]]

    def power(count):
        found = torch.eye(1, dtype=torch.float64)
        for _ in range(count):
            found = torch.kron(found, swap)
        return found

    for partition in jellyfish_partitions(n, k + l):
        matrix = jellyfish_matrix(partition, n, k, l)
        assert torch.equal(power(l) @ matrix, -matrix @ power(k))
        assert torch.equal(matrix.abs(), orbit_matrix(partition, n, k, l))


def test_a_jellyfish_is_the_determinant_tensor_on_legs():
    # n = 3, every leg on a point of its own: the Levi-Civita symbol; a free leg sums over its index.
    epsilon = jellyfish_matrix(((0,), (1,), (2,)), 3, 3, 0).reshape(3, 3, 3)
    for order in itertools.permutations(range(3)):
        assert epsilon[order] == sign(order)
    two = jellyfish_matrix(((0,), (1,)), 3, 2, 0).reshape(3, 3)
    assert torch.equal(two, epsilon.sum(-1))
    assert epsilon.sum((-1, -2)).abs().max() == 0  # two free legs


def test_an_orbit_splits_into_two_where_a_jellyfish_tells_them_apart():
    permute, group = defining(alternating(4)), alternating(4)
    for partition in jellyfish_partitions(4, 3):
        whole, difference = orbit_matrix(partition, 4, 2, 1), jellyfish_matrix(partition, 4, 2, 1)
        even, odd = (whole + difference) / 2, (whole - difference) / 2
        assert set(even.unique().tolist()) == set(odd.unique().tolist()) == {0.0, 1.0}
        assert even.sum() == odd.sum() == 12
        f = lambda x, m=even: x @ m.T  # noqa: E731
        assert assert_equivariant(f, permute.tensor(2), permute, elements=group.order) <= 1e-12


@pytest.mark.parametrize(("n", "k", "l"), SIZES)
def test_fast_product_is_the_dense_one(n, k, l):  # noqa: E741
    x = torch.randn((2, 3, *(n,) * k), dtype=torch.float64)
    for partition in jellyfish_partitions(n, k + l):
        y = apply_jellyfish(partition, x, k, l)
        assert y.shape == (2, 3, *(n,) * l)
        expected = x.reshape(6, -1) @ jellyfish_matrix(partition, n, k, l).T
        torch.testing.assert_close(y.reshape(6, -1), expected)


@pytest.mark.parametrize(("n", "k", "l"), [(3, 1, 1), (3, 2, 1), (3, 0, 2), (4, 1, 2)])
def test_the_layer_keeps_even_permutations_alone(n, k, l):  # noqa: E741
    layer = seeded(lambda: AlternatingLinear(n, k, l, 1, 1), 0).double()
    torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(0))
    f = on_vectors(lambda x: layer(x.unsqueeze(1)).squeeze(1), n, k, l)
    even, every = defining(alternating(n)), defining(symmetric(n))
    assert assert_equivariant(f, even.tensor(k), even.tensor(l), elements=12) <= 1e-12
    assert equivariance_error(f, every.tensor(k), every.tensor(l), elements=24) > 1e-3


def test_the_layer_has_a_weight_per_map():
    for n, k, l in [(2, 1, 1), (3, 2, 0), (3, 2, 2), (4, 2, 2), (6, 1, 1)]:  # noqa: E741
        layer = AlternatingLinear(n, k, l, 1, 1)
        maps = layer.symmetric.weight.numel() + layer.weight.numel()
        assert maps == alternating_dimension(n, k, l)
        assert layer.symmetric.bias.numel() + layer.bias.numel() == alternating_dimension(n, 0, l)


def test_the_layer_is_its_basis():
    layer = seeded(lambda: AlternatingLinear(3, 2, 1, 2, 3), 0).double()
    basis = alternating_basis(3, 2, 1)
    weights = torch.cat([layer.symmetric.weight, layer.weight])
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    expected = torch.einsum("boc,bij,ncj->noi", weights, basis, x.flatten(2))
    torch.testing.assert_close(layer(x), expected)


def test_bias_holds_the_further_constant_tensors():
    layer = AlternatingLinear(3, 1, 2, 1, 1).double()
    torch.nn.init.constant_(layer.bias, 2.0)
    y = layer(torch.zeros(1, 1, 3, dtype=torch.float64))[0, 0]
    expected = torch.tensor([[0.0, 2, -2], [-2, 0, 2], [2, -2, 0]], dtype=torch.float64)
    torch.testing.assert_close(y, expected)


def test_it_tells_which_way_round():
    around = torch.eye(3).roll(1, 1).reshape(1, 1, 3, 3)
    every, even = dimension(3, 2, 0), alternating_dimension(3, 2, 0)
    assert (every, even) == (2, 3)
    for partition in set_partitions(2):
        matrix = diagram_matrix(partition, 3, 2, 0, torch.float32)
        assert torch.equal(matrix @ around.flatten(), matrix @ around.mT.flatten())
    assert apply_jellyfish(((0,), (1,)), around, 2, 0) == 3
    assert apply_jellyfish(((0,), (1,)), around.mT, 2, 0) == -3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jellyfish_matrix(((0, 1),), 3, 1, 1), ValueError, "expected 2 or 3 blocks for n=3, got 1"),
        (lambda: jellyfish_matrix(((0,), (1,)), 9, 1, 1), ValueError, "n: expected 2 to 8, got 9"),
        (lambda: jellyfish_matrix(((0,), (1,)), 1, 1, 1), ValueError, "n: expected 2 to 8, got 1"),
        (lambda: jellyfish_matrix(((0,), (1,)), 2.0, 1, 1), TypeError, "n: expected an integer, got 2.0"),
        (lambda: jellyfish_matrix(((0,),), 2, 1, 1), ValueError, "partition: expected non-empty blocks"),
        (lambda: AlternatingLinear(9, 1, 1, 1, 1), ValueError, "n: expected 1 to 8, got 9"),
        (lambda: AlternatingLinear(3, -1, 1, 1, 1), ValueError, "k: expected at least 0, got -1"),
        (lambda: alternating_dimension(0, 1, 1), ValueError, "n: expected at least 1, got 0"),
        (lambda: sign([0, 0]), ValueError, "order: expected a permutation of 0 to 1"),
        (lambda: AlternatingLinear(3, 1, 1, 1, 1)(torch.ones(1, 1, 4)), ValueError, "length 3"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
