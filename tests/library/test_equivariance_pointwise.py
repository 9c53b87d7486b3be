"""Which activations commute with which matrices: the theorem's cases, measured."""

import pytest
import torch
import torch.nn.functional as F

from layerlab.equivariance.groups import (
    Representation,
    SpecialOrthogonal,
    cyclic,
    defining,
    regular,
    rotation_irrep,
    symmetric,
    trivial,
)
from layerlab.equivariance.pointwise import (
    allowed,
    best_basis,
    commutator,
    kind_of_activation,
    kind_of_matrices,
)

SO2 = SpecialOrthogonal(2)
ACTIVATIONS = {
    "relu": (torch.relu, "positively homogeneous"),
    "leaky": (lambda x: F.leaky_relu(x, 0.1), "positively homogeneous"),
    "tanh": (torch.tanh, "odd"),
    "cube": (lambda x: x**3, "odd"),
    "gelu": (F.gelu, "any"),
    "exp": (torch.exp, "any"),
    "twice": (lambda x: 2 * x, "linear"),
    "shift": (lambda x: 2 * x + 1, "affine"),
}
REPS = {
    "permutation": regular(cyclic(4)),
    "permutation of four": defining(symmetric(4)),
    "signed": rotation_irrep(cyclic(4), 1),
    "sign": rotation_irrep(cyclic(4), 2),
    "turned": rotation_irrep(cyclic(8), 1),
    "rotation": rotation_irrep(SO2, 1),
    "space": defining(SpecialOrthogonal(3)),
    "trivial": trivial(SO2, 3),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rep", REPS)
def test_the_theorem_says_what_is_measured(activation, rep):
    f, kind = ACTIVATIONS[activation]
    assert kind_of_activation(f) == kind
    error, verdict = commutator(f, REPS[rep]), allowed(f, REPS[rep])
    assert verdict.activation == kind
    assert verdict.commutes == (error < 1e-12)
    assert verdict.commutes or error > 0.02


def test_kinds_of_matrices():
    assert kind_of_matrices(torch.eye(2)[None]) == "trivial"
    assert kind_of_matrices(torch.tensor([[[0.0, 1], [1, 0]], [[1, 0], [0, 1]]])) == "permutation"
    assert kind_of_matrices(torch.tensor([[[0.0, 1], [1, 0]], [[1, 0], [0, -1]]])) == "signed permutation"
    assert kind_of_matrices(torch.tensor([[[0.0, 2], [0.5, 0]]])) == "monomial"
    assert kind_of_matrices(torch.tensor([[[0.0, 2], [-0.5, 0]]])) == "other"
    assert kind_of_matrices(torch.tensor([[[1.0, 1], [0, 1]]])) == "other"


def test_a_basis_makes_permutations_out_of_irreps_and_can_unmake_them():
    group = cyclic(3)
    rep = trivial(group) + rotation_irrep(group, 1)
    assert commutator(torch.relu, rep) > 0.1
    angle = 2 * torch.pi * torch.arange(3, dtype=torch.float64) / 3
    # columns: what the regular representation's unit vectors are in the coordinates of the irreps
    basis = torch.stack([torch.ones_like(angle) / 2**0.5, angle.cos(), angle.sin()])
    assert commutator(torch.relu, rep, basis) < 1e-12
    assert allowed(torch.relu, rep, basis).matrices == "permutation"
    skew = torch.tensor([[1.0, 0.5, 0], [0, 1, 0], [0, 0.2, 1]], dtype=torch.float64)
    assert commutator(torch.relu, regular(group), skew) > 0.05
    assert not allowed(torch.relu, regular(group), skew).commutes


def test_relu_commutes_with_positive_factors_where_softplus_does_not():
    def stretch(g):
        return torch.tensor([[0.0, 2.0], [0.5, 0.0]], dtype=torch.float64) if g else torch.eye(2)

    rep = Representation(cyclic(2), 2, stretch)
    assert commutator(torch.relu, rep) < 1e-12
    assert allowed(torch.relu, rep).commutes
    assert commutator(F.softplus, rep) > 0.02
    assert not allowed(F.softplus, rep).commutes


def test_positive_factors_of_a_basis_and_affine_functions_as_the_theorem_says():
    swap, stretched = regular(cyclic(2)), torch.diag(torch.tensor([1.0, 2.0]))
    assert commutator(torch.relu, swap, stretched) < 1e-12
    assert allowed(torch.relu, swap, stretched).commutes
    for bent in (torch.tanh, lambda x: x * x.abs(), lambda x: x + 1):  # odd, odd, affine
        assert commutator(bent, swap, stretched) > 0.02
        assert not allowed(bent, swap, stretched).commutes
    turn = rotation_irrep(SO2, 1)
    assert commutator(lambda x: x + 1, turn) > 0.5
    assert not allowed(lambda x: x + 1, turn).commutes
    whole = torch.tensor([[3.0, 0.0], [1.0, 2.0]])  # its columns add up to what the swap leaves as it is
    assert commutator(lambda x: x + 1, swap, whole) < 1e-12
    assert allowed(lambda x: x + 1, swap, whole).commutes
    assert not allowed(torch.relu, swap, whole).commutes
    assert allowed(lambda x: 3 * x, turn).commutes


def test_the_error_of_opposite_and_of_equal_is_at_the_ends_of_its_scale():
    minus = rotation_irrep(cyclic(2), 1)
    assert commutator(torch.abs, minus) == pytest.approx(2**0.5)
    assert commutator(torch.tanh, minus) == 0


def test_the_search_finds_a_basis_where_there_is_one_and_none_for_rotations():
    group = cyclic(4)
    turned = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(3)).double())[0]
    rep = Representation(group, 2, lambda g: turned @ rotation_irrep(group, 1)(g) @ turned.T)
    found = best_basis(torch.tanh, rep, starts=3, steps=200)
    assert commutator(torch.tanh, rep, found.basis) < 0.005
    assert found.error == found.errors.min()
    for f in (torch.relu, torch.tanh):
        assert best_basis(f, rotation_irrep(SO2, 1), starts=2, steps=60).error > 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: commutator(torch.relu, REPS["space"], torch.eye(2)), r"basis: expected a shape \(3, 3\)"),
        (lambda: commutator(torch.relu, REPS["space"], torch.ones(3, 3)), "basis: expected an invertible"),
        (lambda: commutator(torch.relu, REPS["space"], samples=0), "samples: expected an integer"),
        (lambda: commutator(torch.relu, REPS["space"], elements=0), "elements: expected an integer"),
        (lambda: best_basis(torch.relu, REPS["space"], starts=0), "starts: expected an integer"),
        (lambda: kind_of_activation(torch.log), "activation: expected an elementwise function with finite"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
