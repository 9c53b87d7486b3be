"""Automorphisms against networkx, orbits and homomorphism matrices against the numerical null space."""

from itertools import permutations, product

import pytest
import torch

from layerlab.equivariance import small_graphs as graphs
from layerlab.equivariance.check import equivariant_basis
from layerlab.equivariance.graphs import (
    AutomorphismLinear,
    BilabelledGraph,
    automorphisms,
    bilabelled_graphs,
    homomorphism_matrix,
    homomorphism_rank,
    orbit_matrices,
    orbits,
    wl_colours,
    wl_equivalent,
)
from layerlab.equivariance.groups import defining, permutation_group

CASES = {
    "path": (graphs.path(5), 2),
    "cycle": (graphs.cycle(6), 12),
    "complete": (graphs.complete(4), 24),
    "star": (graphs.star(5), 24),
    "petersen": (graphs.petersen(), 120),
    "rook": (graphs.rook(), 1152),
    "shrikhande": (graphs.shrikhande(), 192),
    "triangles": (graphs.union(graphs.cycle(3), graphs.cycle(3)), 72),
    "asymmetric": (graphs.from_edges(6, [(0, 1), (1, 2), (2, 3), (3, 4), (1, 5), (2, 5)]), 1),
}


@pytest.mark.parametrize("name", CASES)
def test_automorphisms_keep_the_edges_and_are_as_many_as_networkx_finds(name):
    nx = pytest.importorskip("networkx")
    A, order = CASES[name]
    found = automorphisms(A)
    assert found.shape == (order, len(A))
    assert len(found.unique(dim=0)) == order
    assert all(torch.equal(A[p][:, p], A) for p in found)
    if order < 200:
        G = nx.from_numpy_array(A.numpy())
        expected = {
            tuple(m[i] for i in range(len(A))) for m in nx.isomorphism.GraphMatcher(G, G).isomorphisms_iter()
        }
        assert {*map(tuple, found.tolist())} == expected


@pytest.mark.parametrize("steps", [(1, 2, 4), (1, 3), (1, 2), (2, 3, 5)])
def test_automorphisms_of_directed_graphs_are_those_among_all_permutations(steps):
    A = sum(torch.roll(torch.eye(6), step, 1) for step in steps)
    mixed = torch.tensor([3, 0, 5, 1, 4, 2])
    A = A[mixed][:, mixed]
    every = torch.tensor(list(permutations(range(6))))
    expected = every[(A[every[:, :, None], every[:, None]] == A).all((1, 2))]
    assert torch.equal(automorphisms(A), expected)


def test_directed_and_weighted_edges_and_colors_restrict():
    ring = torch.roll(torch.eye(5), 1, 1)
    assert len(automorphisms(ring)) == 5
    assert len(automorphisms(graphs.cycle(4), colours=torch.tensor([0, 1, 0, 1]))) == 4
    A = graphs.cycle(4)
    A[0, 1] = A[1, 0] = 2
    assert len(wl_colours(A).unique()) == 2
    assert len(automorphisms(A)) == 2


@pytest.mark.parametrize("name", ["path", "cycle", "star", "triangles", "asymmetric"])
@pytest.mark.parametrize(("k", "l"), [(1, 1), (2, 0), (2, 1)])
def test_orbits_count_the_equivariant_maps(name, k, l):  # noqa: E741
    A, _ = CASES[name]
    if len(A) ** (k + l) > 150:
        A = A[:5, :5]  # the null space of all would take minutes
    found = automorphisms(A)
    rep = defining(permutation_group(found.tolist()))
    basis = equivariant_basis(rep.tensor(k), rep.tensor(l))
    matrices = orbit_matrices(found, k, l)
    assert len(matrices) == len(basis)
    flat = torch.cat([matrices, basis]).flatten(1)
    assert int(torch.linalg.matrix_rank(flat)) == len(basis)


def test_orbits_of_generators_are_orbits_of_the_group():
    found = automorphisms(graphs.petersen())
    assert torch.equal(orbits(found[[1, 5, 50, 119]], 2).unique(), orbits(found, 2).unique())
    flip, turn = torch.tensor([[0, 5, 4, 3, 2, 1]]), torch.tensor([[1, 2, 3, 4, 5, 0]])
    assert torch.equal(orbits(torch.cat([flip, turn]), 3), orbits(automorphisms(graphs.cycle(6)), 3))
    assert int(orbits(torch.arange(4)[None], 2).max()) == 15
    assert orbits(turn, 0).tolist() == 0


def test_homomorphism_matrices_count_homomorphisms():
    A = CASES["asymmetric"][0]
    for H in bilabelled_graphs(1, 1, 3)[::3]:
        counts = torch.zeros(6, 6, dtype=torch.float64)
        for index in product(range(6), repeat=H.vertices):
            if all(A[index[r], index[s]] for r, s in H.edges):
                counts[index[H.outputs[0]], index[H.inputs[0]]] += 1
        torch.testing.assert_close(homomorphism_matrix(H, A), counts)


def test_input_and_output_labels_have_their_sides():
    H = BilabelledGraph(3, ((0, 1),), (0, 1), (2,))
    assert homomorphism_matrix(H, graphs.path(3)).shape == (3, 9)
    torch.testing.assert_close(homomorphism_matrix(H, graphs.path(3))[1], graphs.path(3).flatten())


@pytest.mark.parametrize("name", ["cycle", "complete", "star", "petersen", "triangles", "path"])
def test_homomorphisms_span_the_equivariant_maps_and_no_more(name):
    A, _ = CASES[name]
    count = int(orbits(automorphisms(A), 2).max()) + 1
    ranks = [homomorphism_rank(A, 1, 1, degree) for degree in range(5)]
    assert ranks == sorted(ranks)
    assert ranks[0] == 2
    assert ranks[-1] == count


def test_shrikhande_needs_patterns_of_five_edges():
    assert int(orbits(automorphisms(graphs.shrikhande()), 2).max()) + 1 == 4
    assert [homomorphism_rank(graphs.shrikhande(), 1, 1, degree) for degree in (2, 4, 5)] == [3, 3, 4]


def test_homomorphism_matrices_commute_with_the_automorphisms():
    A, _ = CASES["triangles"]
    p = automorphisms(A)[-1]
    for H in bilabelled_graphs(1, 1, 3):
        M = homomorphism_matrix(H, A)
        torch.testing.assert_close(M[p][:, p], M)


def test_refinement_colors_what_differs_and_compares_graphs():
    assert wl_colours(graphs.star(4)).tolist() == [1, 0, 0, 0]
    assert wl_colours(graphs.path(6), rounds=0).tolist() == [0] * 6
    assert wl_colours(graphs.path(6), rounds=1).tolist() == [0, 1, 1, 1, 1, 0]
    assert wl_colours(graphs.petersen()).unique().tolist() == [0]
    assert wl_equivalent(graphs.rook(), graphs.shrikhande())
    assert wl_equivalent(graphs.cycle(6), graphs.union(graphs.cycle(3), graphs.cycle(3)))
    assert not wl_equivalent(graphs.path(4), graphs.star(4))
    assert not wl_equivalent(graphs.cycle(6), graphs.cycle(5))


@pytest.mark.parametrize(("k", "l"), [(1, 1), (2, 1), (1, 2), (1, 0), (0, 1)])
def test_the_layer_commutes_with_every_automorphism(k, l):  # noqa: E741
    found = automorphisms(graphs.cycle(5))
    layer = AutomorphismLinear(found, k, l, 2, 3).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(4, 2, *[5] * k, dtype=torch.float64)

    def move(x, p):
        for axis in range(2, x.ndim):
            x = x.index_select(axis, p)
        return x

    y = layer(x)
    assert y.shape == (4, 3, *[5] * l)
    for p in found:
        torch.testing.assert_close(layer(move(x, p)), move(y, p))
    if k and l:
        wrong = torch.tensor([1, 0, 2, 3, 4])
        assert not torch.allclose(layer(move(x, wrong)), move(y, wrong))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: automorphisms(torch.ones(2, 3)), "graph: expected an adjacency matrix"),
        (lambda: automorphisms(graphs.complete(5), limit=100), "graph: expected at most 100 automorphisms"),
        (lambda: wl_colours(graphs.path(3), torch.zeros(2)), r"colours: expected a shape \(3,\), got \(2,\)"),
        (lambda: wl_colours(torch.full((2, 2), torch.nan)), "graph: expected finite entries"),
        (lambda: orbits(torch.tensor([[0, 0]]), 1), "permutations: expected each row to hold 0 … 1"),
        (lambda: orbits(torch.tensor([[0.0, 1.0]]), 1), "permutations: expected integers"),
        (lambda: orbits(torch.tensor([[0, 1]]), -1), "k: expected 0 or more"),
        (lambda: homomorphism_matrix(BilabelledGraph(1, (), (0,), (1,)), torch.eye(2)), "outputs: expected"),
        (lambda: AutomorphismLinear(torch.tensor([[1, 0]]), 1, 1, 1, 1)(torch.zeros(1, 1, 3)), "x: expected"),
        (lambda: graphs.from_edges(2, [(0, 2)]), "edges: expected two different vertices 0 … 1"),
        (lambda: graphs.cycle(2), "n: expected at least 3, got 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
