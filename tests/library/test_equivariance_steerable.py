"""Steerable filters: exact where pixels meet pixels, close elsewhere, worse without the anti-aliasing cut."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerlab.equivariance.check import assert_equivariant, equivariance_error
from layerlab.equivariance.group_conv import FieldRep, PictureRep
from layerlab.equivariance.groups import cyclic, dihedral, symmetric
from layerlab.equivariance.steerable import (
    SteerableGroupConv,
    SteerableLifting,
    circular_harmonics,
)
from layerlab.equivariance.steerable_so2 import (
    IrrepFieldRep,
    NormReLU,
    SO2Conv,
    channels,
    norms,
    so2_basis,
    turn_vectors,
)
from layerlab.equivariance.turning import (
    disk,
    interpolation_error,
    permute_fibre,
    rotate,
    smooth_pictures,
)
from layerlab.models import seeded

FREQUENCIES = [0, 0, 1, 2, 2]


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_harmonics_come_in_pairs_of_one_norm():
    h = circular_harmonics(5)
    assert h.basis.shape == (11, 5, 5)
    assert h.radius.tolist() == [0, 0.75, 0.75, 0.75, *[1.5] * 7]
    assert (h.frequency <= 2 * h.radius).all()
    pairs = h.basis[h.frequency > 0].view(-1, 2, 25)
    assert torch.allclose(pairs.square().sum((1, 2)), torch.tensor(2.0, dtype=torch.float64))
    assert torch.linalg.matrix_rank(h.basis.flatten(1)) == 11
    assert (h.basis[h.frequency > 0][:, 2, 2] == 0).all()
    assert len(circular_harmonics(5, cut=None, frequencies=2).basis) == 1 + 5 + 5  # none at the centre
    assert circular_harmonics(5, frequencies=[0, 2]).frequency.tolist() == [0, 0, 0, 2, 2]


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4)], ids=["C4", "D4"])
def test_steering_by_quarter_turns_and_flips_moves_the_pixels(group):
    h, rep = circular_harmonics(7), PictureRep(group)
    coefficients = randn(3, len(h.basis))
    filters = torch.einsum("nb,bij->nij", coefficients, h.basis)
    for g in range(group.order):
        steered = torch.einsum("nb,bij->nij", coefficients @ h.steer(group.planar[g]).T, h.basis)
        assert torch.allclose(steered, rep.act(g, filters), atol=1e-12)


def test_steering_multiplies():
    h, group = circular_harmonics(5), dihedral(8)
    for g, k in [(1, 3), (9, 2), (2, 11), (13, 14)]:
        product = h.steer(group.planar[g]) @ h.steer(group.planar[k])
        assert torch.allclose(product, h.steer(group.planar[group.product(g, k)]), atol=1e-12)


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4), cyclic(2)], ids=["C4", "D4", "C2"])
def test_layers_are_exact_where_pixels_meet_pixels(group):
    lift = seeded(lambda: SteerableLifting(2, 3, 5, group), 0).double()
    conv = seeded(lambda: SteerableGroupConv(3, 2, 5, group), 1).double()
    fields = FieldRep(group)
    assert_equivariant(lift, PictureRep(group), fields, randn(2, 2, 9, 9))
    assert_equivariant(conv, fields, fields, randn(2, 3, group.order, 9, 9))


@pytest.mark.parametrize("group", [cyclic(8), dihedral(8)], ids=["C8", "D8"])
def test_an_eighth_of_a_turn_costs_little_and_a_quarter_nothing(group):
    lift = seeded(lambda: SteerableLifting(1, 4, 5, group), 0).double()
    conv = seeded(lambda: SteerableGroupConv(4, 4, 5, group), 1).double()

    def net(x):
        return conv(F.relu(lift(x)))

    eighth, quarter = math.pi / 4, math.pi / 2
    assert interpolation_error(net, quarter, fibre=permute_fibre(group, 2)) < 1e-12
    assert interpolation_error(lift, eighth, fibre=permute_fibre(group, 1)) < 0.03
    assert interpolation_error(net, eighth, fibre=permute_fibre(group, 1), margin=9) < 0.06
    assert interpolation_error(net, eighth, margin=9) > 0.3  # maps not permuted
    assert interpolation_error(net, eighth, fibre=permute_fibre(group, 7), margin=9) > 0.3  # the other way


def test_aliased_harmonics_turn_at_another_rate():
    group, errors = cyclic(8), []
    for options in ({}, {"cut": None, "frequencies": 6}):
        h = circular_harmonics(5, **options)
        lift = seeded(lambda h=h: SteerableLifting(1, 4, 5, group, harmonics=h), 0).double()
        errors.append(interpolation_error(lift, math.pi / 4, fibre=permute_fibre(group, 1)))
    assert errors[1] > 5 * errors[0]


def test_a_layer_in_double_precision_forgets_its_single_precision():
    lift = SteerableLifting(1, 1, 5, cyclic(8)).float().double()
    exact = circular_harmonics(5)
    steered = exact.steer(cyclic(8).planar[3]).T @ exact.basis.flatten(1)
    assert torch.equal(lift.filters()[0, 3].flatten(), lift.weight.flatten() @ steered)
    assert SteerableLifting(1, 1, 5, cyclic(8))(torch.zeros(1, 1, 9, 9)).dtype == torch.float32
    assert set(lift.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("k_out", range(4))
@pytest.mark.parametrize("k_in", range(4))
def test_filters_of_so2_satisfy_their_constraint_under_quarter_turns(k_out, k_in):
    basis = so2_basis(k_out, k_in, 7)
    per_ring = 1 if k_out == k_in == 0 else 2 if 0 in (k_out, k_in) else 4
    assert len(so2_basis(k_out, k_in, 7, [2.5], cut=None)) == per_ring
    assert torch.linalg.matrix_rank(basis.flatten(1)) == len(basis)
    frequencies = lambda k: [k]  # noqa: E731
    quarter = math.pi / 2
    turned = basis.rot90(1, (3, 4))  # K(R⁻¹x) = ρ_out(R)⁻¹ K(x) ρ_in(R)
    left = turn_vectors(basis.movedim(2, 0), frequencies(k_out), -quarter).movedim(0, 2)
    both = turn_vectors(left.movedim(1, 0), frequencies(k_in), -quarter).movedim(0, 1)
    assert torch.allclose(turned, both, atol=1e-12)


def test_fields_of_so2_turn_with_the_picture_by_any_angle():
    first = seeded(lambda: SO2Conv([0], FREQUENCIES, 5), 0).double()
    second = seeded(lambda: SO2Conv(FREQUENCIES, FREQUENCIES, 5), 1).double()
    relu = NormReLU(FREQUENCIES).double()

    def net(x):
        return second(relu(first(x)))

    rep_in, rep_out = IrrepFieldRep(cyclic(4), [0]), IrrepFieldRep(cyclic(4), FREQUENCIES)
    x = randn(2, 1, 9, 9)
    assert_equivariant(net, rep_in, rep_out, x)
    assert_equivariant(lambda x: norms(net(x), FREQUENCIES), rep_in, IrrepFieldRep(cyclic(4), [0] * 5), x)
    assert equivariance_error(lambda x: second(F.relu(first(x))), rep_in, rep_out, x) > 0.02
    for angle in (0.3, 1.0, 2.5):
        fibre = lambda y, a=angle: turn_vectors(y, FREQUENCIES, a)  # noqa: E731
        assert interpolation_error(net, angle, fibre=fibre, margin=9) < 0.05
    only = seeded(lambda: SO2Conv([0], [1, 2], 5), 0).double()
    assert interpolation_error(only, 1.0, fibre=lambda y: turn_vectors(y, [1, 2], 1.0)) < 0.05
    assert interpolation_error(only, 1.0, fibre=lambda y: turn_vectors(y, [1, 2], -1.0)) > 0.5


def test_shapes_and_bias_of_so2():
    conv = SO2Conv([0, 1], FREQUENCIES, 5)
    assert conv(torch.randn(2, 3, 7, 7)).shape == (2, channels(FREQUENCIES), 7, 7)
    assert conv.filters().shape == (8, 3, 5, 5)
    assert conv.bias.shape == (2,)
    assert SO2Conv([0], [1], 5).bias is None
    constant = SO2Conv([0], FREQUENCIES, 5)
    nn.init.ones_(constant.bias)
    assert constant(torch.zeros(1, 1, 7, 7)).amax((0, 2, 3)).tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    conv(torch.randn(2, 3, 7, 7)).square().sum().backward()
    assert all((w.grad != 0).all() for w in conv.weights)
    zero = NormReLU([1])(torch.zeros(1, 2, 1, 1, requires_grad=True))
    assert not zero.isnan().any()


def test_smooth_pictures_and_rotations():
    x = smooth_pictures(2, 31, channels=3)
    assert x.shape == (2, 3, 31, 31)
    assert 0.7 < x.var() < 1.3
    for order, limit in ((1, 0.1), (5, 1e-3)):
        error = (rotate(x, 0.7, order) - smooth_pictures(2, 31, channels=3, angle=0.7))[
            ..., disk(31, 5)
        ]  # splines err at the rim
        assert error.norm() / x[..., disk(31, 5)].norm() < limit
    assert torch.allclose(rotate(x, math.pi / 2), x.rot90(1, (2, 3)), atol=1e-10)
    assert interpolation_error(lambda x: x, 0.7) < 1e-3
    assert disk(4).sum() == 12
    assert disk(5, 2).sum() == 1
    anisotropic = lambda x: F.conv2d(x, torch.tensor([[[[0.0, -1, 1]]]]).double(), padding=(0, 1))  # noqa: E731
    assert interpolation_error(anisotropic, 0.7) > 0.3


def test_bad_input():
    with pytest.raises(ValueError, match="kernel: expected an odd number, got 4"):
        circular_harmonics(4)
    for bad in ([3.0], [-1.0], []):
        with pytest.raises(ValueError, match=r"radii: expected numbers in 0\.\.2"):
            circular_harmonics(5, radii=bad)
    with pytest.raises(ValueError, match="sigma: expected a positive"):
        circular_harmonics(5, sigma=0)
    with pytest.raises(ValueError, match="frequencies: expected integers of at least 0"):
        circular_harmonics(5, [-1, 0])
    with pytest.raises(ValueError, match=r"none of \[9\] is left"):
        circular_harmonics(5, [9])
    with pytest.raises(ValueError, match="group: expected cyclic"):
        SteerableLifting(1, 1, 5, symmetric(3))
    with pytest.raises(ValueError, match="harmonics: expected filters of side 3, got 5"):
        SteerableLifting(1, 1, 3, cyclic(8), harmonics=circular_harmonics(5))
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 1, 8, H, W\)"):
        SteerableGroupConv(1, 1, 5, cyclic(8))(torch.zeros(1, 1, 4, 9, 9))
    with pytest.raises(ValueError, match="frequencies_out: expected ascending"):
        SO2Conv([0], [1, 0], 5)
    with pytest.raises(ValueError, match="frequencies_in: expected integers of at least 0"):
        SO2Conv([], [0], 5)
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 3, H, W\)"):
        SO2Conv([0, 1], [0], 5)(torch.zeros(1, 2, 5, 5))
    with pytest.raises(ValueError, match="group: expected rotations"):
        IrrepFieldRep(dihedral(4), [0])
    with pytest.raises(ValueError, match="wavelength: expected at least 2"):
        smooth_pictures(1, 9, wavelength=1)
    with pytest.raises(ValueError, match="layer: expected an output"):
        interpolation_error(lambda x: x[..., 1:], 0.1)
    with pytest.raises(ValueError, match="x: expected floating point"):
        rotate(torch.zeros(4, 4, dtype=torch.int64), 0.1)
