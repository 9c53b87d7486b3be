"""Sets: what sums of powers keep, counted exactly, and networks that do not see the order."""

from math import comb

import pytest
import torch

from layerlab.equivariance.sets import (
    DeepSets,
    SetLinear,
    canonical,
    collisions,
    lattice_multisets,
    mixed_directions,
    power_sums,
)
from layerlab.models import seeded


def test_power_sums_are_sums_of_powers_power_by_power():
    X, w = torch.randint(-3, 4, (5, 3, 2)), torch.tensor([[1, 0], [2, -1], [1, 1]])
    y = power_sums(X, 8, w)
    for i in range(8):
        assert y[:, i].tolist() == [
            sum(int(w[i % 3] @ x) ** (1 + i // 3) for x in multiset) for multiset in X
        ]
    torch.testing.assert_close(power_sums(X.double(), 8, w), y.double())


def test_integer_sums_that_might_overflow_are_refused():
    X = torch.full((2, 1), 2**20)
    assert power_sums(X, 3).tolist() == [2**21, 2**41, 2**61]
    with pytest.raises(ValueError, match=r"width: expected sums below 2\*\*62, got up to 2·1048576\*\*4"):
        power_sums(X, 4)


@pytest.mark.parametrize(("size", "dimension", "side"), [(3, 2, 3), (2, 3, 2), (4, 1, 3)])
def test_all_multisets_of_a_lattice_are_counted_and_different(size, dimension, side):
    found = lattice_multisets(size, dimension, side)
    assert found.shape == (comb(side**dimension + size - 1, size), size, dimension)
    assert len(found.unique(dim=0)) == len(found)
    torch.testing.assert_close(canonical(found), found)


def test_canonical_forgets_the_order_and_nothing_else():
    X = torch.randint(3, (50, 4, 2))
    order = torch.rand(50, 4).argsort(1)
    shuffled = X.gather(1, order[..., None].expand_as(X))
    torch.testing.assert_close(canonical(shuffled), canonical(X))
    for before, after in zip(X.tolist(), canonical(X).tolist(), strict=True):
        assert after == sorted(before)


def test_collisions_are_the_pairs_that_a_comparison_of_all_pairs_finds():
    sets = lattice_multisets(3, 2, 3)
    for width, directions in [(2, None), (4, None), (6, None), (5, mixed_directions(2, 1))]:
        y = power_sums(sets, width, directions)
        same = (y[:, None] == y).all(-1).triu(1)
        assert {*map(tuple, collisions(sets, width, directions).tolist())} == {
            *map(tuple, same.nonzero().tolist())
        }


def test_coordinates_alone_collide_at_any_width_and_mixed_directions_do_not():
    sets = lattice_multisets(3, 2, 3)
    assert len(collisions(sets, 6)) == len(collisions(sets, 20)) > 0
    # directions x, y, x + y, and x + 3y, which is injective on the lattice: three powers of it tell all
    enough = torch.tensor([[1, 0], [0, 1], [1, 1], [1, 3]])
    assert len(collisions(sets, 12, enough)) == 0


def test_the_same_multiset_in_two_orders_is_no_collision():
    sets = torch.tensor([[[0, 1], [2, 0]], [[2, 0], [0, 1]], [[0, 0], [2, 1]]])
    assert collisions(sets, 4).tolist() == [[0, 2]]


def test_mixed_directions_are_primitive_and_different():
    w = mixed_directions(3, 20, bound=2, seed=1)
    torch.testing.assert_close(w[:3], torch.eye(3, dtype=torch.int64))
    unit = torch.nn.functional.normalize(w.double())
    assert ((unit @ unit.T).abs() - torch.eye(23)).max() < 1 - 1e-9
    assert ((w[3:] != 0).sum(1) > 1).all()
    with pytest.raises(ValueError, match="mixed: expected at most 2 with bound=1, got 3"):
        mixed_directions(2, 3, bound=1)


@pytest.mark.parametrize("embedding", ["mlp", "power", "exponential"])
def test_deep_sets_do_not_see_the_order(embedding):
    net = seeded(lambda: DeepSets(3, 8, 2, embedding=embedding), 0).double()
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    assert net(x).shape == (4, 2)
    torch.testing.assert_close(net(x[:, torch.randperm(6)]), net(x), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(net(x), net(x + 0.1))
    torch.testing.assert_close(net(x[0]), net(x)[0], rtol=1e-12, atol=1e-12)


def test_the_power_embedding_is_the_mean_of_powers():
    net = DeepSets(3, 8, 1, embedding="power", powers=2).double()
    x = torch.randn(5, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(net.embed(x), power_sums(x, 8, net.phi.weight) / 6)


def test_set_linear_commutes_with_reordering_and_mixes_the_elements():
    layer = SetLinear(3, 2).double()
    x, order = torch.randn(4, 6, 3, dtype=torch.float64), torch.randperm(6)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])
    moved = x.clone()
    moved[:, 0] += 1
    assert not torch.allclose(layer(moved)[:, 1:], layer(x)[:, 1:])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power_sums(torch.zeros(3), 2), "X: expected a shape"),
        (lambda: power_sums(torch.zeros(3, 2), 0), "width: expected an integer of at least 1, got 0"),
        (lambda: power_sums(torch.zeros(3, 2), 2, torch.zeros(4, 3)), "directions: expected a shape"),
        (lambda: power_sums(torch.ones(3, 2).long(), 2, torch.ones(4, 2)), "directions: expected integers"),
        (lambda: lattice_multisets(9, 3, 9), "count: expected a number"),
        (lambda: DeepSets(2, 7, 1, embedding="power"), "powers: expected a divisor of width=7, got 4"),
        (lambda: DeepSets(2, 8, 1, embedding="sine"), "embedding: expected"),
        (lambda: DeepSets(2, 8, 1)(torch.zeros(3, 0, 2)), "x: expected a shape"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_collisions_want_integers():
    with pytest.raises(
        TypeError, match=r"multisets: expected integers, which sum exactly, got torch.float32"
    ):
        collisions(torch.zeros(2, 2, 2), 2)
