"""Harmonics, Wigner matrices, Clebsch–Gordan coefficients: by integrals, by turning, by null spaces."""

import math
from itertools import product

import pytest
import torch
from torch.autograd.functional import hessian

from layerlab.equivariance.check import assert_equivariant, equivariant_basis
from layerlab.equivariance.groups import Orthogonal, SpecialOrthogonal, defining
from layerlab.equivariance.irreps import Irreps
from layerlab.equivariance.s2 import grid
from layerlab.equivariance.so3 import (
    MAX_DEGREE,
    clebsch_gordan,
    harmonics_to,
    racah,
    random_rotation,
    spherical_harmonics,
    wigner_blocks,
    wigner_d,
)

VECTOR = defining(SpecialOrthogonal(3))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def directions(count=10, seed=0):
    return torch.randn(count, 3, generator=generator(seed), dtype=torch.float64)


def test_harmonics_are_orthonormal_over_the_sphere():
    places, weights = grid(10)
    values = harmonics_to(9, places)
    found = torch.einsum("abi,abj,ab->ij", values, values, weights.expand(10, 20))
    torch.testing.assert_close(found, torch.eye(100, dtype=torch.float64), rtol=0, atol=1e-12)


def test_degree_one_is_the_vector_and_degree_two_as_in_tables():
    v = directions()
    x, y, z = (v / v.norm(dim=-1, keepdim=True)).T
    torch.testing.assert_close(
        spherical_harmonics(1, v), math.sqrt(3 / (4 * math.pi)) * torch.stack([x, y, z], -1)
    )
    table = [x * z, x * y, (3 * y * y - 1) / math.sqrt(12), y * z, (z * z - x * x) / 2]
    torch.testing.assert_close(
        spherical_harmonics(2, v), math.sqrt(15 / (4 * math.pi)) * torch.stack(table, -1)
    )


@pytest.mark.parametrize("degree", [3, MAX_DEGREE])
def test_lengths_of_harmonics_do_not_depend_on_the_direction(degree):
    square = spherical_harmonics(degree, directions()).square().sum(-1)
    torch.testing.assert_close(square, torch.full_like(square, (2 * degree + 1) / (4 * math.pi)))


def test_solid_harmonics_are_homogeneous_and_harmonic():
    v = directions(3)
    torch.testing.assert_close(
        spherical_harmonics(4, 2 * v, normalize=False), 16 * spherical_harmonics(4, v, normalize=False)
    )
    torch.testing.assert_close(spherical_harmonics(4, 2 * v), spherical_harmonics(4, v))
    for m in range(9):
        second = hessian(lambda r, m=m: spherical_harmonics(4, r, normalize=False)[m], v[0])
        assert abs(second.trace()) < 1e-12 < second.abs().max()


def test_gradients_are_finite_at_the_poles_and_of_solid_ones_at_the_origin():
    poles = torch.tensor([[0.0, 1, 0], [0.0, -2, 0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: harmonics_to(4, v), poles)
    origin = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: harmonics_to(3, v, normalize=False), origin)


@pytest.mark.parametrize("degree", [0, 1, 2, 5, 10])
def test_harmonics_turn_with_wigner_matrices(degree):
    features = Irreps([(1, degree)])
    assert assert_equivariant(lambda v: spherical_harmonics(degree, v), VECTOR, features) < 1e-12


@pytest.mark.parametrize("degree", [1, 3, 8, MAX_DEGREE])
def test_wigner_matrices_are_a_representation_by_orthogonal_matrices(degree):
    a, b = random_rotation(generator(degree), 2)
    d = wigner_d(degree, torch.stack([a, b, a @ b]))
    torch.testing.assert_close(d[0] @ d[1], d[2], rtol=0, atol=1e-11)
    torch.testing.assert_close(
        d @ d.mT, torch.eye(2 * degree + 1, dtype=d.dtype).expand_as(d), rtol=0, atol=1e-11
    )


def test_degree_one_is_the_rotation_and_all_blocks_agree():
    turns = random_rotation(generator(), 4)
    torch.testing.assert_close(wigner_d(1, turns), turns)
    for degree, block in enumerate(wigner_blocks(6, turns)):
        torch.testing.assert_close(block, wigner_d(degree, turns), rtol=0, atol=1e-12)
    assert wigner_d(2, turns.float()).dtype == torch.float32


def test_features_of_one_degree_commute_with_multiples_of_one_only():
    assert [len(equivariant_basis(Irreps([(1, ell)]), Irreps([(1, ell)]))) for ell in range(4)] == [1] * 4
    assert len(equivariant_basis(Irreps([(1, 2)]), Irreps([(1, 1)]))) == 0


@pytest.mark.parametrize(("l1", "l2"), [(0, 2), (1, 1), (2, 1), (2, 3), (4, 4)])
def test_coefficients_are_an_orthogonal_change_of_basis(l1, l2):
    parts = [clebsch_gordan(l1, l2, l3).flatten(0, 1) for l3 in range(abs(l1 - l2), l1 + l2 + 1)]
    basis = torch.cat(parts, 1)
    torch.testing.assert_close(
        basis @ basis.T, torch.eye(len(basis), dtype=torch.float64), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize(("l1", "l2", "l3"), [(1, 1, 0), (1, 1, 2), (2, 1, 2), (2, 2, 3), (3, 4, 2)])
def test_coefficients_are_the_one_map_that_the_null_space_has(l1, l2, l3):
    x, y, z = (Irreps([(1, ell)]) for ell in (l1, l2, l3))
    (found,) = equivariant_basis(x @ y, z)
    ours = clebsch_gordan(l1, l2, l3).flatten(0, 1).T
    assert abs((found * ours).sum()) == pytest.approx(math.sqrt(2 * l3 + 1))  # parallel


def test_the_product_of_two_vectors_of_degree_one_is_their_cross_product():
    x, y = directions(5, 1), directions(5, 2)
    found = torch.einsum("na,nb,abc->nc", x, y, clebsch_gordan(1, 1, 1))
    torch.testing.assert_close(found, torch.linalg.cross(x, y) / math.sqrt(2))


def test_signs_are_those_of_the_integral_where_that_is_not_zero():
    places, weights = grid(8)
    values = harmonics_to(4, places)
    for l1, l2, l3 in product(range(5), repeat=3):
        if (l1 + l2 + l3) % 2 == 0 and abs(l1 - l2) <= l3 <= l1 + l2:
            a, b, c = (values[..., ell**2 : (ell + 1) ** 2] for ell in (l1, l2, l3))
            integral = torch.einsum("tpa,tpb,tpc,tp->abc", a, b, c, weights.expand(8, 16))
            table = clebsch_gordan(l1, l2, l3)
            torch.testing.assert_close(table * (integral * table).sum() / (2 * l3 + 1), integral)
            assert (integral * table).sum() > 0


@pytest.mark.parametrize("degree", [8, 20, MAX_DEGREE])
def test_large_degrees_stay_exact(degree):
    table = clebsch_gordan(degree, degree, degree)
    found = torch.einsum("abc,abd->cd", table, table)
    torch.testing.assert_close(found, torch.eye(2 * degree + 1, dtype=torch.float64), rtol=0, atol=1e-12)


def test_racah_gives_the_tables_of_textbooks():
    assert racah(1, 1, 1, -1, 2) == pytest.approx(math.sqrt(1 / 6))
    assert racah(1, 0, 1, 0, 1) == 0
    assert racah(1, 1, 1, 0, 1) == pytest.approx(math.sqrt(1 / 2))
    assert racah(1, 0, 1, 0, 0) == pytest.approx(-math.sqrt(1 / 3))
    assert racah(2, 1, 1, -1, 2) == pytest.approx(math.sqrt(1 / 2))


def test_random_rotations_are_rotations_without_preference():
    turns = random_rotation(generator(), 20_000)
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3, dtype=turns.dtype).expand_as(turns))
    assert (torch.linalg.det(turns) > 0).all()
    assert turns.mean(0).abs().max() < 0.02
    assert wigner_d(2, turns).mean(0).abs().max() < 0.02
    assert random_rotation(generator()).shape == (3, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: spherical_harmonics(-1, directions()), "degree: expected 0 to 32, got -1"),
        (lambda: spherical_harmonics(33, directions()), "got 33"),
        (lambda: spherical_harmonics(1, torch.ones(4, 2)), r"expected a last axis of 3 .*\(4, 2\)"),
        (lambda: spherical_harmonics(1, torch.zeros(3)), "positive, finite length"),
        (lambda: spherical_harmonics(1, torch.tensor([math.nan, 1, 1])), "positive, finite length"),
        (lambda: spherical_harmonics(1, torch.tensor([math.inf, 0, 0])), "got zero, infinity or NaN"),
        (lambda: wigner_d(40, torch.eye(3)), "got 40"),
        (lambda: wigner_d(1, torch.eye(2)), r"expected \(…, 3, 3\), got \(2, 2\)"),
        (lambda: wigner_d(1, Orthogonal(3).components()[0]), "determinant 1"),
        (lambda: wigner_d(1, 2 * torch.eye(3)), "orthogonal"),
        (lambda: clebsch_gordan(1, 1, 3), "l3: expected 0 to 2 for l1 = 1 and l2 = 1, got 3"),
        (lambda: clebsch_gordan(1, -1, 0), "l2: expected 0 to 32, got -1"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match=r"degree: .*1\.0"):
        spherical_harmonics(1.0, directions())
    with pytest.raises(TypeError, match="directions"):
        spherical_harmonics(1, torch.ones(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="rotation"):
        wigner_d(1, torch.eye(3, dtype=torch.int64))
