"""Lists of irreps, their products, and matrices as features."""

import pytest
import torch

from layerlab.equivariance.check import assert_equivariant, equivariant_basis
from layerlab.equivariance.groups import SpecialOrthogonal, defining
from layerlab.equivariance.irreps import (
    Irreps,
    degree_of,
    features_to_matrix,
    matrix_to_features,
    paths,
    scale_degrees,
    spherical_product,
    tensor_product,
)
from layerlab.equivariance.so3 import clebsch_gordan, random_rotation, wigner_d

VECTOR = defining(SpecialOrthogonal(3))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_list_acts_block_by_block():
    features = Irreps("2x0 + 1x2 + 2x1")
    turn, x = random_rotation(torch.Generator().manual_seed(1)), draw(3, 13)
    scalars, second, vectors = features.split(x)
    assert (scalars.shape, second.shape, vectors.shape) == ((3, 2, 1), (3, 1, 5), (3, 2, 3))
    found = features.split(features.act(turn, x))
    torch.testing.assert_close(found[0], scalars)
    torch.testing.assert_close(found[1], second @ wigner_d(2, turn).T)
    torch.testing.assert_close(found[2], vectors @ turn.T)


def test_lists_are_written_and_compared():
    assert Irreps("8x0 + 4x1 + 2").terms == [(8, 0), (4, 1), (1, 2)] == Irreps([(8, 0), (4, 1), (1, 2)]).terms
    assert Irreps("1") == Irreps([(1, 1)]) != Irreps("2x1")
    assert len({Irreps("1x0"), Irreps([(1, 0)])}) == 1
    assert repr(Irreps("2x0+1")) == "Irreps('2x0 + 1x1')"
    assert Irreps.spherical(3).dimension == 16


def test_maps_between_lists_are_as_many_as_schur_says():
    a, b = Irreps("2x0 + 1x1"), Irreps("1x0 + 3x1 + 1x2")
    assert len(equivariant_basis(a, b)) == 2 * 1 + 1 * 3


def test_the_tensor_product_is_equivariant_and_orthogonal():
    a, b = Irreps("2x0 + 1x1 + 1x2"), Irreps("1x2 + 2x1")
    out = a.product(b)
    assert out.dimension == a.dimension * b.dimension
    assert [ell for _, ell in out.terms] == sorted(ell for _, ell in out.terms)
    assert_equivariant(lambda x, y: tensor_product(x, y, a, b), (a, b), out)
    x, y = draw(4, a.dimension), draw(4, b.dimension, seed=1)
    length = tensor_product(x, y, a, b).norm(dim=-1)
    torch.testing.assert_close(length, x.norm(dim=-1) * y.norm(dim=-1))


def test_the_tensor_product_takes_each_pair_of_copies():
    a, b = Irreps("2x1"), Irreps("2x1")
    x, y = draw(5, 6), draw(5, 6, seed=1)
    dots, crosses = a.product(b, 1).split(tensor_product(x, y, a, b, 1))
    first, second = x.view(5, 2, 1, 3), y.view(5, 1, 2, 3)
    torch.testing.assert_close(dots, (first * second).sum(-1).view(5, 4, 1) / 3**0.5)
    torch.testing.assert_close(
        crosses, torch.linalg.cross(*torch.broadcast_tensors(first, second)).view(5, 4, 3) / 2**0.5
    )


def test_the_spherical_product_sums_its_paths_with_their_weights():
    x, y = draw(6, 9), draw(6, 4, seed=1)
    routes = paths(2, 1, 3)
    weights = draw(6, len(routes), seed=2)
    expected = torch.zeros(6, 16, dtype=torch.float64)
    for p, (l1, l2, l3) in enumerate(routes):
        z = torch.einsum(
            "na,nb,abc->nc",
            x[:, l1**2 : (l1 + 1) ** 2],
            y[:, l2**2 : (l2 + 1) ** 2],
            clebsch_gordan(l1, l2, l3),
        )
        expected[:, l3**2 : (l3 + 1) ** 2] += weights[:, p, None] * z
    torch.testing.assert_close(spherical_product(x, y, 3, weights), expected)
    torch.testing.assert_close(
        spherical_product(x, y, 3), spherical_product(x, y, 3, torch.ones(len(routes)))
    )
    inputs = Irreps.spherical(2), Irreps.spherical(1)
    assert_equivariant(lambda a, b: spherical_product(a, b, 4), inputs, Irreps.spherical(4))


def test_paths_are_those_of_the_triangle():
    assert paths(1, 1, 1) == [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1)]
    assert max(l3 for _, _, l3 in paths(3, 3, 8)) == 6


def test_degrees_are_scaled_each_by_its_weight():
    x = draw(2, 3, 9)
    found = scale_degrees(x, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(found, x * torch.tensor([1.0, *[2.0] * 3, *[3.0] * 5], dtype=torch.float64))


def test_a_matrix_is_its_trace_its_antisymmetric_part_and_the_rest():
    matrix = draw(4, 3, 3)
    x = matrix_to_features(matrix)
    torch.testing.assert_close(features_to_matrix(x), matrix)
    torch.testing.assert_close(x[:, 0], matrix.diagonal(dim1=1, dim2=2).sum(1) / 3**0.5)
    assert matrix_to_features(matrix + matrix.mT)[:, 1:4].abs().max() < 1e-14
    assert_equivariant(
        lambda m: matrix_to_features(m.unflatten(-1, (3, 3))), VECTOR @ VECTOR, Irreps.spherical(2)
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Irreps([]), "terms: expected at least one"),
        (lambda: Irreps("3x"), "terms: expected such as"),
        (lambda: Irreps([(0, 1)]), "multiplicities of at least 1, got 0"),
        (lambda: Irreps([(1, 99)]), "terms: expected 0 to 32, got 99"),
        (lambda: Irreps("1x1").split(torch.ones(4)), r"last axis of 3 .*\(4,\)"),
        (lambda: Irreps("1x1").act(torch.eye(3), torch.ones(4)), "last axis of 3"),
        (lambda: tensor_product(torch.ones(3), torch.ones(2), Irreps("1"), Irreps("1")), "last axis of 3"),
        (lambda: degree_of(torch.ones(5)), r"\(L \+ 1\)² = 1, 4, 9, …, got \(5,\)"),
        (
            lambda: spherical_product(torch.ones(4), torch.ones(4), 1, torch.ones(4)),
            r"weights: expected \(…, 5\)",
        ),
        (lambda: scale_degrees(torch.ones(4), torch.ones(3)), r"weights: expected \(…, 2\)"),
        (lambda: paths(1, -1, 1), "degree_y: expected 0 to 32, got -1"),
        (lambda: matrix_to_features(torch.ones(9)), "matrix"),
        (lambda: features_to_matrix(torch.ones(8)), "last axis of 9"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
