"""Diagrams multiply as their matrices do, and their fast product is the dense one."""

import itertools

import pytest
import torch

from layerlab.equivariance.check import assert_equivariant
from layerlab.equivariance.diagrams import (
    Diagram,
    apply_diagram,
    compose,
    cost,
    diagonals,
    factor,
    on_vectors,
    permutation_diagram,
    plan,
)
from layerlab.equivariance.groups import defining, symmetric
from layerlab.equivariance.partitions import diagram_matrix, set_partitions

SHAPES = [(k, l) for k in range(4) for l in range(4) if k + l <= 4] + [(3, 3)]  # noqa: E741


def diagrams(k, l, every=1):  # noqa: E741
    return [Diagram(p, k, l) for p in set_partitions(k + l)[::every]]


@pytest.mark.parametrize(("k", "l"), SHAPES)
def test_fast_product_is_the_dense_one(k, l):  # noqa: E741
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 3):
        x = torch.randn((2, 2, *(n,) * k), generator=generator, dtype=torch.float64)
        for partition in set_partitions(k + l):
            y = apply_diagram(partition, x, k, l, n)
            assert y.shape == (2, 2, *(n,) * l)
            expected = x.reshape(4, -1) @ diagram_matrix(partition, n, k, l).T
            torch.testing.assert_close(y.reshape(4, -1), expected, atol=1e-12, rtol=0)


def test_fast_product_is_equivariant():
    permute = defining(symmetric(4))
    for partition in set_partitions(4):
        f = on_vectors(lambda x, p=partition: apply_diagram(p, x, 2, 2), 4, 2, 2)
        assert assert_equivariant(f, permute.tensor(2), permute.tensor(2)) <= 1e-12


def test_fast_product_has_gradients_and_keeps_dtype():
    for partition in set_partitions(4)[::3]:
        x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, p=partition: apply_diagram(p, x, 2, 2), x)
    x = torch.arange(4).reshape(2, 2)
    assert torch.equal(apply_diagram(((0,), (1, 2)), x, 2, 1), torch.tensor([3, 3]))
    batched = torch.func.vmap(lambda x: apply_diagram(((0, 1), (2,)), x, 1, 2))(torch.ones(5, 2))
    assert torch.equal(batched, 2 * torch.eye(2).expand(5, 2, 2))


def test_the_input_is_left_alone_and_the_output_is_its_own():
    x = torch.ones(2, 2)
    y = apply_diagram(((0, 2), (1, 3)), x, 2, 2)
    y += 1
    assert torch.equal(x, torch.ones(2, 2))


@pytest.mark.parametrize(("k", "m", "l"), [(1, 1, 1), (2, 2, 2), (0, 2, 1), (1, 3, 1), (2, 0, 2), (0, 2, 0)])
def test_composition_is_matrix_multiplication(k, m, l):  # noqa: E741
    seen = set()
    for d1, d2 in itertools.product(diagrams(m, l), diagrams(k, m)):
        diagram, loops = compose(d1, d2)
        seen.add(loops)
        assert (diagram.k, diagram.l) == (k, l)
        for n in (2, 3):
            assert torch.equal(d1.matrix(n) @ d2.matrix(n), n**loops * diagram.matrix(n))
    assert max(seen) == m


def test_composition_is_associative_with_loops():
    a, b, c = diagrams(2, 1), diagrams(2, 2, 2), diagrams(1, 2)
    for d1, d2, d3 in itertools.product(a, b, c):
        left, i = compose(d1, d2)
        left, j = compose(left, d3)
        right, m = compose(d2, d3)
        right, r = compose(d1, right)
        assert (left, i + j) == (right, m + r)


def test_side_by_side_is_the_kronecker_product():
    for d1, d2 in itertools.product(diagrams(2, 1), diagrams(1, 2)):
        assert torch.equal(d1.beside(d2).matrix(2), torch.kron(d1.matrix(2), d2.matrix(2)))


def test_upside_down_is_the_transpose():
    for diagram in diagrams(1, 3) + diagrams(0, 2) + diagrams(2, 2):
        assert torch.equal(diagram.transpose().matrix(3), diagram.matrix(3).T)
        assert diagram.transpose().transpose() == diagram


def test_permutation_diagram_is_permute():
    x = torch.randn(2, 2, 2)
    for order in itertools.permutations(range(3)):
        assert torch.equal(permutation_diagram(order).apply(x), x.permute(order))


@pytest.mark.parametrize(("k", "l"), SHAPES)
def test_factors_give_the_diagram_back(k, l):  # noqa: E741
    for diagram in diagrams(k, l):
        after, blocks, before = factor(diagram)
        middle = Diagram((), 0, 0)
        for block in blocks:
            assert len(block.partition) == 1
            middle = middle.beside(block)
        lower, no_loops = compose(middle, before)
        assert compose(after, lower) == (diagram, 0)
        assert no_loops == 0
        for moves in (after, before):
            assert all(len(block) == 2 and block[0] < moves.l <= block[1] for block in moves.partition)


def test_diagonals_are_views():
    x = torch.zeros(2, 3, 3, 3)
    view = diagonals(x, (1, 0, 1))
    view += torch.arange(9.0).reshape(3, 3)
    for i, j, m in itertools.product(range(3), repeat=3):
        assert x[1, i, j, m] == (3 * j + i if i == m else 0)


def test_cost_counts_operations():
    assert cost(((0,), (1,)), 7, 1, 1) == {"additions": 6, "copies": 7, "dense": 49}
    assert cost(((0, 3), (1, 4), (2, 5)), 6, 3, 3) == {"additions": 0, "copies": 216, "dense": 46656}
    assert plan(((0, 3), (1, 4), (2, 5)), 3, 3)[2:] == (3, 0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: apply_diagram(((0, 1),), torch.ones(2, 3), 2, 0), r"x: expected shape .* got \(2, 3\)"),
        (lambda: apply_diagram(((0, 1),), torch.ones(2), 2, 0), r"x: expected shape .* got \(2,\)"),
        (lambda: apply_diagram(((0, 1),), torch.ones(2, 2), 2, 0, n=3), "2 last axes of length 3"),
        (lambda: apply_diagram(((0,),), torch.ones(2), 0, 1), "n: expected the number of things"),
        (lambda: apply_diagram(((0,),), torch.ones(2), 1, 1), "partition: expected non-empty blocks"),
        (lambda: compose(Diagram((), 0, 0), Diagram(((0,),), 0, 1)), "0 inputs of d1 and 1 outputs of d2"),
        (lambda: permutation_diagram([0, 2]), "order: expected a permutation of 0 to 1"),
        (lambda: Diagram(((0,),), 1, 1), "partition: expected non-empty blocks"),
        (lambda: on_vectors(torch.clone, 3, 2, 2)(torch.ones(4)), "last axis of n\\^k = 3\\^2 = 9"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
