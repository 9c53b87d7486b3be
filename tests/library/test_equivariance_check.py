"""The check finds what does not commute, and the null space has the dimensions that theory gives."""

import pytest
import torch

from layerlab.equivariance.check import assert_equivariant, equivariance_error, equivariant_basis
from layerlab.equivariance.groups import (
    Orthogonal,
    Representation,
    SpecialOrthogonal,
    Symplectic,
    alternating,
    cyclic,
    defining,
    dihedral,
    regular,
    rotation_irrep,
    symmetric,
    trivial,
)

rotate = defining(SpecialOrthogonal(3))
permute = defining(symmetric(4))


def test_equivariant_maps_pass_and_the_error_is_returned():
    error = assert_equivariant(lambda x: x * x.norm(dim=-1, keepdim=True), rotate, rotate)
    assert 0 < error < 1e-14
    cross = assert_equivariant(torch.linalg.cross, (rotate, rotate), rotate)
    assert 0 < cross < 1e-14
    x = torch.randn(5, 3)
    assert 1e-9 < assert_equivariant(lambda v: v * v.norm(dim=-1, keepdim=True), rotate, rotate, x) < 1e-5


def test_what_does_not_commute_fails_and_names_the_element():
    with pytest.raises(
        AssertionError, match=r"differ by \S+ of the largest output, tolerance 1e-10, for g = \[\["
    ):
        assert_equivariant(torch.relu, rotate, rotate)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    with pytest.raises(AssertionError, match=r"for g = \d{4}$"):
        assert_equivariant(lambda x: x * weights, permute, permute)
    reflected = defining(Orthogonal(3))
    with pytest.raises(AssertionError):  # the cross product of mirror images is the mirror image reversed
        assert_equivariant(torch.linalg.cross, (reflected, reflected), reflected)


def test_all_elements_of_a_small_group_are_tried():
    group = cyclic(8)
    tried = []

    def f(x):
        tried.append(x.clone())
        return x

    assert_equivariant(f, regular(group), regular(group))
    assert len({tuple(x[0].tolist()) for x in tried}) == 8


def test_a_small_error_beside_the_output_is_found_at_any_scale():
    for scale in (1e-12, 1.0, 1e12):
        found = equivariance_error(lambda x, s=scale: s * torch.relu(x), rotate, rotate)
        assert found > 0.1
    step = torch.tensor([1 + 1e-7, 1, 1, 1], dtype=torch.float64)
    with pytest.raises(AssertionError):
        assert_equivariant(lambda x: x * step, permute, permute)
    assert_equivariant(lambda x: x * step, permute, permute, tolerance=1e-5)


def test_nan_and_zero():
    with pytest.raises(AssertionError, match="differ by inf"):
        assert_equivariant(lambda x: x * float("nan"), rotate, rotate)
    assert assert_equivariant(lambda x: x * 0, rotate, rotate) == 0


def test_bad_arguments_of_the_check():
    with pytest.raises(ValueError, match="representations of different groups"):
        assert_equivariant(torch.relu, rotate, permute)
    with pytest.raises(ValueError, match="elements: expected"):
        assert_equivariant(torch.relu, rotate, rotate, elements=0)
    with pytest.raises(ValueError, match="last axis of 3"):
        assert_equivariant(torch.relu, rotate, rotate, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="x: expected 2 tensors"):
        assert_equivariant(torch.linalg.cross, (rotate, rotate), rotate, torch.zeros(3))
    with pytest.raises(ValueError, match="does not tell its dimension"):
        assert_equivariant(torch.relu, type("Rep", (), {"group": rotate.group})(), rotate)
    with pytest.raises(ValueError, match=r"x: expected at least one example, got an empty tensor \(0, 3\)"):
        equivariance_error(torch.relu, rotate, rotate, torch.zeros(0, 3))
    with pytest.raises(TypeError, match=r"x: expected real or complex numbers, .*int64"):
        assert_equivariant(lambda x: x**2, rotate, rotate, torch.tensor([[3, 4, 5]]))


@pytest.mark.parametrize(
    ("rep_in", "rep_out", "dimension"),
    [
        (permute.tensor(2), permute.tensor(2), 15),  # Bell number
        (defining(symmetric(3)).tensor(2), defining(symmetric(3)).tensor(2), 14),  # at most 3 blocks
        (defining(alternating(3)), defining(alternating(3)), 3),
        (regular(dihedral(3)), regular(dihedral(3)), 6),  # the regular representation: |G|
        (regular(cyclic(6)), trivial(cyclic(6)), 1),
        (rotation_irrep(cyclic(8), 1), rotation_irrep(cyclic(8), 2), 0),
        (rotation_irrep(cyclic(8), 1), rotation_irrep(cyclic(8), 1), 2),  # complex type
        (rotation_irrep(dihedral(8), 1), rotation_irrep(dihedral(8), 1), 1),  # real type
        (defining(Orthogonal(3)).tensor(2), defining(Orthogonal(3)).tensor(2), 3),  # Brauer: 3!!
        (defining(Orthogonal(1)).tensor(2), defining(Orthogonal(1)).tensor(2), 1),
        (rotate.tensor(2), rotate, 1),  # the cross product
        (defining(Orthogonal(3)).tensor(2), defining(Orthogonal(3)), 0),
        (defining(SpecialOrthogonal(2)), defining(SpecialOrthogonal(2)), 2),
        (defining(Symplectic(4)).tensor(2), defining(Symplectic(4)).tensor(2), 3),
        (defining(Symplectic(2)).tensor(2), defining(Symplectic(2)).tensor(2), 2),
        (defining(cyclic(1)), defining(cyclic(1)), 4),  # no constraint
    ],
)
def test_dimension_of_the_null_space(rep_in, rep_out, dimension):
    basis = equivariant_basis(rep_in, rep_out)
    assert basis.shape == (dimension, rep_out.dimension, rep_in.dimension)
    gram = basis.flatten(1) @ basis.flatten(1).T
    assert torch.allclose(gram, torch.eye(dimension, dtype=torch.float64), atol=1e-10)
    for w in basis:
        assert_equivariant(lambda x, w=w: x @ w.T, rep_in, rep_out, elements=4, tolerance=1e-8)


def test_no_clear_gap_is_an_error():
    group = cyclic(2)
    angle = torch.tensor(1e-7, dtype=torch.float64)  # turns so little that one cannot tell whether it turns
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    rep = Representation(group, 2, lambda g: turn if g else torch.eye(2))
    with pytest.raises(ArithmeticError, match="no clear gap"):
        equivariant_basis(rep, trivial(group))


def test_a_basis_that_random_elements_refute_is_an_error():
    group = Orthogonal(2)
    first = group.random(torch.Generator().manual_seed(0))
    # no representation: only one random element acts, which generators cannot see
    rep = Representation(group, 2, lambda g: -torch.eye(2) if torch.equal(g, first) else torch.eye(2))
    with pytest.raises(ArithmeticError, match="not equivariant under"):
        equivariant_basis(rep, trivial(group))


def test_bases_of_different_groups():
    with pytest.raises(ValueError, match="different groups"):
        equivariant_basis(permute, rotate)
