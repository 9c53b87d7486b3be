"""Multigraphs and their polynomials: counted and summed another way, independent, and equivariant."""

from itertools import permutations, product
from math import factorial

import pytest
import torch

from layerlab.equivariance.multigraphs import canonical, components
from layerlab.equivariance.polynomials import Multigraph, contraction_order, evaluate, multigraphs
from layerlab.equivariance.small_graphs import cycle, rook, shrikhande, union

K4 = Multigraph(4, ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)))


def symmetric(n, seed=0, batch=()):
    X = torch.randn(*batch, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (X + X.mT).tril(-1) + (X + X.mT).triu(1)


def by_definition(H, X):
    """The sum over all indices of all vertices, one product after the other."""
    n = len(X)
    y = torch.zeros([n] * len(H.outputs), dtype=X.dtype)
    for index in product(range(n), repeat=H.vertices):
        value = 1.0
        for r, s in H.edges:
            value = value * X[index[r], index[s]]
        y[tuple(index[r] for r in H.outputs)] += value
    return y


def burnside(degree, outputs, directed, loops):
    """Orbits of multisets of pairs on enough vertices, by counting those that each permutation fixes."""
    inner = 2 * degree
    total = 0
    for place in product(*(range(i + 1) for i in range(outputs))):
        if any(place[i] > max(place[:i], default=-1) + 1 for i in range(outputs)):
            continue
        fixed = max(place, default=-1) + 1
        n, count = fixed + inner, 0
        for moved in permutations(range(fixed, n)):
            p = (*range(fixed), *moved)
            pairs = {(r, s) for r in range(n) for s in range(n) if (directed or r <= s) and (loops or r != s)}
            ways = [1] + [0] * degree
            while pairs:
                start = e = pairs.pop()
                length = 1
                while True:
                    e = (p[e[0]], p[e[1]]) if directed else tuple(sorted((p[e[0]], p[e[1]])))
                    if e == start:
                        break
                    pairs.remove(e)
                    length += 1
                for d in range(length, degree + 1):
                    ways[d] += ways[d - length]
            count += ways[degree]
        total += count // factorial(inner)
    return total


@pytest.mark.parametrize("outputs", [0, 1, 2])
@pytest.mark.parametrize(("directed", "loops"), [(False, False), (False, True), (True, True), (True, False)])
def test_there_are_as_many_as_burnside_counts(outputs, directed, loops):
    for degree in range(3):
        found = multigraphs(degree, outputs, directed=directed, loops=loops)
        assert len(found) == burnside(degree, outputs, directed, loops)
    if not outputs:
        assert len(multigraphs(3, directed=directed, loops=loops)) == burnside(3, 0, directed, loops)


def test_known_counts():
    assert [len(multigraphs(d)) for d in range(7)] == [1, 1, 3, 8, 23, 66, 212]  # OEIS A050535
    assert [len(multigraphs(d, multiple=False)) for d in range(7)] == [1, 1, 2, 5, 11, 26, 68]  # A000664
    assert [len(multigraphs(d, directed=True, loops=True)) for d in range(5)] == [
        1,
        2,
        11,
        52,
        296,
    ]  # A052171


@pytest.mark.parametrize("directed", [False, True])
def test_canonical_is_one_for_a_class_and_different_between_classes(directed):
    generator = torch.Generator().manual_seed(0)
    everything = multigraphs(4, 1, directed=directed, loops=True)
    for H in everything[::7]:
        p = torch.randperm(H.vertices, generator=generator).tolist()
        moved = [(p[r], p[s]) for r, s in H.edges][::-1]
        if not directed:
            moved = [edge[::-1] for edge in moved]
        other = Multigraph(H.vertices, tuple(moved), tuple(p[r] for r in H.outputs))
        assert canonical(other, directed=directed) == H
        assert len(components(other)) == len(components(H))
    assert len({canonical(H, directed=directed) for H in everything}) == len(everything)


@pytest.mark.parametrize("outputs", [0, 1, 2])
def test_the_contraction_is_the_sum_over_all_indices(outputs):
    X = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = [
        H
        for d in range(4)
        for H in multigraphs(d, outputs, directed=True, loops=True)[:: 1 + 2 * d]
        if H.vertices < 6
    ]
    assert len(found) > 5
    for H in found:
        torch.testing.assert_close(evaluate(H, X), by_definition(H, X))


def test_contractions_that_take_thought():
    X = symmetric(4)
    wheel = Multigraph(5, (*((0, i) for i in range(1, 5)), (1, 2), (2, 3), (3, 4), (4, 1)), (0,))
    two = Multigraph(5, ((0, 1), (1, 2), (3, 4)), (2, 4, 2))  # two components, an output twice
    alone = Multigraph(3, ((0, 1),), (2,))
    for H in (K4, wheel, two, alone, Multigraph(2, (), ()), Multigraph(1, (), (0, 0))):
        torch.testing.assert_close(evaluate(H, X), by_definition(H, X))


def test_batches_and_a_tensor_per_edge():
    X, v = symmetric(4, batch=(3,)), torch.randn(3, 4, dtype=torch.float64)
    H = Multigraph(3, ((0, 1), (1, 2), (2, 2)), (0,))
    torch.testing.assert_close(evaluate(H, X)[1], evaluate(H, X[1]))
    expected = (X @ X.square() @ v[..., None])[..., 0]
    torch.testing.assert_close(evaluate(H, [X, X.square(), v]), expected)


def test_integers_stay_exact():
    A = rook().long()
    assert evaluate(K4, A).dtype == torch.int64
    assert int(evaluate(K4, A)) == 8 * 24


def test_every_polynomial_follows_a_relabeling():
    X, p = symmetric(6), torch.randperm(6, generator=torch.Generator().manual_seed(2))
    for H in [H for outputs in (0, 1, 2) for H in multigraphs(3, outputs)]:
        y, moved = evaluate(H, X), evaluate(H, X[p][:, p])
        for axis in range(len(H.outputs)):
            y = y.index_select(axis, p)
        torch.testing.assert_close(moved, y, rtol=1e-12, atol=1e-12)


def rank(basis, n, count):
    y = torch.stack([evaluate(H, symmetric(n, batch=(count,))).flatten() for H in basis])
    return int(torch.linalg.matrix_rank(torch.nn.functional.normalize(y), rtol=1e-9))


def test_polynomials_are_independent_for_large_n_and_not_for_small():
    for outputs, most in ((0, 4), (1, 3)):
        basis = [H for d in range(most + 1) for H in multigraphs(d, outputs)]
        assert rank(basis, 8, 3 * len(basis)) == len(basis)
    basis = [H for d in range(4) for H in multigraphs(d)]
    assert rank(basis, 3, 3 * len(basis)) < len(basis)


def test_a_triangle_tells_hexagon_and_triangles_apart():
    triangle = Multigraph(3, ((0, 1), (1, 2), (0, 2)))
    assert float(evaluate(triangle, cycle(6))) == 0
    assert float(evaluate(triangle, union(cycle(3), cycle(3)))) == 12
    for H in multigraphs(2):
        assert evaluate(H, cycle(6)) == evaluate(H, union(cycle(3), cycle(3)))


def test_rook_and_shrikhande_agree_up_to_degree_5_and_differ_by_their_cliques():
    differ = [
        H
        for d in range(7)
        for H in multigraphs(d, multiple=False)
        if evaluate(H, rook()) != evaluate(H, shrikhande())
    ]
    assert differ == [canonical(K4)]
    assert (float(evaluate(K4, rook())), float(evaluate(K4, shrikhande()))) == (192, 0)


def test_the_width_of_a_contraction():
    path = Multigraph(5, ((0, 1), (1, 2), (2, 3), (3, 4)))
    assert contraction_order(path)[1] == 2
    assert contraction_order(path._replace(outputs=(0, 4)))[1] == 3  # a product of matrices
    assert contraction_order(Multigraph(4, ((0, 1), (1, 2), (2, 3), (3, 0))))[1] == 3
    assert contraction_order(K4)[1] == 4
    grid = [(3 * i + j, 3 * i + j + 1) for i in range(3) for j in range(2)]
    grid += [(i, i + 3) for i in range(6)]
    assert (
        contraction_order(Multigraph(9, tuple(grid)))[1] == 4
    )  # though each vertex to sum over has two left
    for H in (path, K4):
        assert sorted(contraction_order(H)[0]) == list(range(H.vertices))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: multigraphs(-1), "degree: expected an integer 0 … 6, got -1"),
        (lambda: multigraphs(7), "degree: expected an integer 0 … 6, got 7"),
        (lambda: multigraphs(1, 5), "outputs: expected an integer 0 … 4, got 5"),
        (lambda: evaluate(Multigraph(2, ((0, 2),)), torch.eye(3)), r"H.edges: expected pairs.*\(0, 2\)"),
        (lambda: evaluate(Multigraph(2, ((0, 1),), (2,)), torch.eye(3)), "H.outputs: expected vertices"),
        (lambda: evaluate(K4, torch.ones(3, 4)), r"X: expected its last axes to be \(4, 4\)"),
        (lambda: evaluate(K4, [torch.eye(3)]), "X: expected one tensor per edge, 6 of them, got 1"),
        (lambda: evaluate(Multigraph(27, ()), torch.eye(3)), "H.vertices: expected 0 … 26, got 27"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
