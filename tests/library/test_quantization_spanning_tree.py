"""Trees of filters: least length against all trees, products against float, a gradient that shortens."""

import itertools

import pytest
import torch

from layerlab.quantization import binary as B
from layerlab.quantization import spanning_tree as T


def signs(*shape, seed=0):
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


def least_length(apart):
    """Of all spanning trees of few nodes, by trying every choice of edges."""
    n = len(apart)
    best = None
    for edges in itertools.combinations(itertools.combinations(range(n), 2), n - 1):
        part = list(range(n))
        for a, b in edges:
            part = [part[a] if p == part[b] else p for p in part]
        if len(set(part)) == 1:
            length = sum(int(apart[a, b]) for a, b in edges)
            best = length if best is None else min(best, length)
    return best


@pytest.mark.parametrize(("out", "n"), [(1, 5), (7, 64), (9, 65), (5, 130)])
def test_distances_count_what_differs(out, n):
    w = signs(out, n)
    expected = (w[:, None] != w).sum(-1)
    assert torch.equal(T.distances(B.pack_signs(w), n), expected)


@pytest.mark.parametrize("flips", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_no_tree_is_shorter(flips, seed):
    w = signs(5, 12, seed=seed)
    tree = T.spanning_tree(B.pack_signs(w), 12, flips=flips)
    apart = (w[:, None] != w).sum(-1)
    least = torch.minimum(apart, 12 - apart) if flips else apart
    assert T.operations(tree) == 12 + least_length(least)
    assert flips or not tree.flip.any()


@pytest.mark.parametrize("seed", range(3))
def test_parents_come_first_and_costs_are_true(seed):
    w = signs(20, 70, seed=seed)
    tree = T.spanning_tree(B.pack_signs(w), 70)
    assert sorted(tree.order.tolist()) == list(range(20))
    seen = set()
    for unit in tree.order.tolist():
        parent = int(tree.parent[unit])
        assert (parent in seen) if seen else parent == -1
        if seen:
            sign = -1 if tree.flip[unit] else 1
            assert tree.cost[unit] == (w[unit] != sign * w[parent]).sum() <= 35
        else:
            assert tree.cost[unit] == 70
            assert not tree.flip[unit]
        seen.add(unit)


def test_the_root_is_in_the_middle():
    # A chain of filters, each one place from the last: from its middle the ends are 3 steps away.
    w = torch.ones(7, 20)
    for unit in range(1, 7):
        w[unit:, unit] = -1
    tree = T.spanning_tree(B.pack_signs(w), 20)
    assert tree.order[0] == 3
    assert T.operations(tree) == 20 + 6


def test_equal_and_opposite_filters_cost_nothing():
    w = signs(3, 40)
    w = torch.cat([w, w, -w])
    tree = T.spanning_tree(B.pack_signs(w), 40)
    assert (tree.cost == 0).sum() == 6
    assert T.spanning_tree(B.pack_signs(w[:1]), 40).parent.tolist() == [-1]


@pytest.mark.parametrize(("out", "n"), [(1, 3), (16, 64), (30, 9), (12, 100)])
@pytest.mark.parametrize("flips", [True, False])
def test_the_product_is_the_direct_one(out, n, flips):
    w, x = signs(out, n), signs(25, n, seed=1)
    packed = B.pack_signs(x), B.pack_signs(w)
    tree = T.spanning_tree(packed[1], n, flips=flips)
    found = T.tree_matmul(*packed, n, tree)
    assert torch.equal(found, B.xnor_matmul(*packed, n))
    assert torch.equal(found.float(), x @ w.T)


def test_a_tree_of_other_filters_is_refused():
    w = signs(6, 30)
    packed = B.pack_signs(w)
    tree = T.spanning_tree(packed, 30)
    with pytest.raises(ValueError, match="expected unit"):
        T.tree_matmul(packed, B.pack_signs(signs(6, 30, seed=5)), 30, tree)
    with pytest.raises(ValueError, match="tree: expected one of 5 units, got 6"):
        T.tree_matmul(packed, packed[:5], 30, tree)


def test_length_is_the_share_of_the_costs():
    w = torch.randn(8, 4, 5, generator=torch.Generator().manual_seed(0))
    tree = T.spanning_tree(B.pack_signs(B.bipolar(w).flatten(1)), 20)
    found = T.tree_length(w, tree)
    assert found.item() == pytest.approx((T.operations(tree) - 20) / (7 * 20))


def test_descent_along_the_gradient_shortens_the_tree():
    w = (0.1 * torch.randn(16, 30, generator=torch.Generator().manual_seed(0))).requires_grad_()

    def draw():
        return T.spanning_tree(B.pack_signs(B.bipolar(w)), 30)

    before = T.operations(draw())
    for _ in range(40):
        T.tree_length(w, draw()).backward()
        with torch.no_grad():
            w -= w.grad * 8
            w.grad = None
    assert T.operations(draw()) - 30 < 0.5 * (before - 30)


def test_flipped_edges_push_apart():
    w = torch.tensor([[0.5, 0.5], [-0.5, 0.1]], requires_grad=True)
    tree = T.Tree(*(torch.tensor(v) for v in ([0, 1], [-1, 0], [False, True], [2, 1])))
    length = T.tree_length(w, tree)
    length.backward()
    assert length.item() == 0.5
    assert w.grad[1].tolist() == [0.25, 0.25]  # downhill, both away from the parent's sign


def test_one_unit_has_no_length():
    w = torch.randn(1, 4, requires_grad=True)
    length = T.tree_length(w, T.spanning_tree(B.pack_signs(B.bipolar(w)), 4))
    length.backward()
    assert length.item() == 0
    assert not w.grad.any()


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (TypeError, "packed_x: expected int64", lambda: T.distances(torch.ones(2, 1), 3)),
        (ValueError, "at least one unit", lambda: T.spanning_tree(torch.zeros(0, 1, dtype=torch.int64), 3)),
        (ValueError, "bits beyond n=3", lambda: T.spanning_tree(torch.tensor([[8]]), 3)),
        (TypeError, "weight: expected a floating", lambda: T.tree_length(torch.ones(2, 2).int(), TWO)),
        (ValueError, r"weight: expected \(2, in", lambda: T.tree_length(torch.ones(3, 2), TWO)),
        (ValueError, "weight: expected", lambda: T.tree_length(torch.ones(2), TWO)),
    ],
)
def test_bad_input_is_named(error, match, call):
    with pytest.raises(error, match=match):
        call()


TWO = T.spanning_tree(torch.tensor([[0b1], [0b0]]), 2)
