"""Group convolutions: exact under turns and flips, equal to a loop, and comparable with plain networks."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerlab.equivariance.check import assert_equivariant, equivariance_error
from layerlab.equivariance.group_conv import (
    FieldRep,
    GroupBatchNorm,
    GroupConv2d,
    LiftingConv2d,
    PictureRep,
    PlaneGroup,
    group_pool,
    spatial_pool,
)
from layerlab.equivariance.group_nets import (
    GroupConvNet,
    PlainConvNet,
    count_parameters,
    match_widths,
    multiply_adds,
)
from layerlab.equivariance.groups import cyclic, dihedral, symmetric, trivial
from layerlab.equivariance.turning import smooth_pictures
from layerlab.models import seeded

GROUPS = {"C2": cyclic(2), "C4": cyclic(4), "D1": dihedral(1), "D2": dihedral(2), "D4": dihedral(4)}
groups = pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_turns_are_those_of_torch(size):
    x, plane = randn(2, size, size), PlaneGroup(dihedral(4))
    for r in range(4):
        assert torch.equal(plane.turn(r, x), x.rot90(r, (1, 2)))
        assert torch.equal(plane.turn(4 + r, x), x.flip(1).rot90(r, (1, 2)))


@groups
@pytest.mark.parametrize("rep", [PictureRep, FieldRep])
def test_actions_multiply(group, rep):
    rep, x = rep(group), randn(2, group.order, 4, 4)
    for g in range(group.order):
        for h in range(group.order):
            assert torch.equal(rep.act(g, rep.act(h, x)), rep.act(group.product(g, h), x))
    assert len({tuple(rep.act(g, x).flatten().tolist()) for g in range(group.order)}) == group.order


@groups
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_both_convolutions_commute_with_the_group(group, kernel):
    pictures, fields = PictureRep(group), FieldRep(group)
    lift = seeded(lambda: LiftingConv2d(2, 3, kernel, group), 0).double()
    conv = seeded(lambda: GroupConv2d(3, 2, kernel, group), 1).double()
    x = randn(2, 2, 6, 6)
    assert_equivariant(lift, pictures, fields, x)
    assert_equivariant(conv, fields, fields, randn(2, 3, group.order, 6, 6))
    assert_equivariant(lambda x: conv(F.relu(lift(x))), pictures, fields, x)
    assert_equivariant(lambda x: group_pool(conv(lift(x)), "mean"), pictures, pictures, x)


@groups
def test_group_convolution_is_the_sum_over_the_group(group):
    conv = seeded(lambda: GroupConv2d(2, 3, 3, group), 0).double()
    x = randn(2, 2, group.order, 5, 5)
    plane, y = PlaneGroup(group), conv(x)
    for g in range(group.order):
        expected = conv.bias.view(1, -1, 1, 1).clone()
        for h in range(group.order):
            from_h = group.product(int(group.inverse[g]), h)
            turned = plane.turn(g, conv.weight[:, :, from_h])
            expected = expected + F.conv2d(x[:, :, h], turned, padding=1)
        assert torch.allclose(y[:, :, g], expected, atol=1e-12)


def test_one_weight_learns_and_saves():
    conv = seeded(lambda: GroupConv2d(2, 3, 3, dihedral(4)), 0)
    assert set(conv.state_dict()) == {"weight", "bias"}
    assert conv.weight.shape == (3, 2, 8, 3, 3)
    conv(torch.randn(1, 2, 8, 5, 5)).square().sum().backward()
    assert (conv.weight.grad != 0).all()


def test_a_plain_convolution_does_not_commute():
    conv = seeded(lambda: nn.Conv2d(1, 4, 3, padding=1), 0).double()
    rep = PictureRep(cyclic(4))
    assert equivariance_error(conv, rep, rep, randn(2, 1, 6, 6)) > 0.1


def test_stride_only_where_samples_lie_symmetrically():
    group = cyclic(4)
    lift = LiftingConv2d(1, 2, 3, group, stride=2).double()
    assert_equivariant(lift, PictureRep(group), FieldRep(group), randn(1, 1, 7, 7))
    with pytest.raises(ValueError, match="divisible by stride 2, so that samples lie symmetrically, got 8"):
        lift(randn(1, 1, 8, 8))
    raw = lambda x: F.conv2d(x, randn(1, 1, 3, 3).fill_(1.0), stride=2, padding=1)  # noqa: E731
    rep = PictureRep(group)
    assert equivariance_error(raw, rep, rep, randn(1, 1, 8, 8)) > 0.1  # what the error prevents


def test_batch_norm_shares_its_statistics_over_the_group():
    group, rep = dihedral(4), FieldRep(dihedral(4))
    norm, x = GroupBatchNorm(3).double(), 3 * randn(4, 3, 8, 4, 4) + 2
    assert_equivariant(norm, rep, rep, x)  # in training mode
    assert norm.running_mean.shape == (3,)
    apart = nn.BatchNorm2d(24, affine=False).double().eval()
    apart.running_mean = randn(24)
    separate = lambda v: apart(v.flatten(1, 2)).unflatten(1, (3, group.order))  # noqa: E731
    assert equivariance_error(separate, rep, rep, x) > 0.1


def test_pooling():
    x = randn(2, 3, 4, 6, 6)
    assert torch.equal(group_pool(x), x.amax(2))
    assert torch.equal(group_pool(x, "sum"), x.sum(2))
    assert torch.equal(spatial_pool(x), x.unflatten(3, (3, 2)).unflatten(5, (3, 2)).amax((4, 6)))
    assert spatial_pool(x, 3, "mean").shape == (2, 3, 4, 2, 2)
    rep = FieldRep(cyclic(4))
    assert_equivariant(spatial_pool, rep, rep, x)
    with pytest.raises(ValueError, match="multiples of 4"):
        spatial_pool(x, 4)
    for size in (0, -2, 2.0):
        with pytest.raises(ValueError, match=f"size: expected an integer of at least 1, got {size}"):
            spatial_pool(x, size)
    for call in (lambda: group_pool(x, "min"), lambda: spatial_pool(x, 2, "sum")):
        with pytest.raises(ValueError, match="how: expected"):
            call()
    with pytest.raises(ValueError, match=r"x: expected shape \(N, C, \|G\|, H, W\)"):
        group_pool(x[0])


def test_bad_input():
    for group in (cyclic(8), cyclic(3), symmetric(3)):
        with pytest.raises(ValueError, match=r"n = 1, 2 or 4"):
            LiftingConv2d(1, 1, 3, group)
    with pytest.raises(ValueError, match="kernel: expected"):
        LiftingConv2d(1, 1, 0, cyclic(4))
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 2, H, W\)"):
        LiftingConv2d(2, 1, 3, cyclic(4))(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 2, 4, H, W\), got \(1, 2, 8, 5, 5\)"):
        GroupConv2d(2, 1, 3, cyclic(4))(torch.zeros(1, 2, 8, 5, 5))
    with pytest.raises(ValueError, match="expected a square"):
        PictureRep(cyclic(4)).act(1, torch.zeros(1, 4, 5))
    with pytest.raises(ValueError, match=r"\(…, 4, H, H\)"):
        FieldRep(cyclic(4)).act(1, torch.zeros(8, 5, 5))


@pytest.mark.parametrize("pool", ["max", "mean", "sum"])
def test_the_classifier_does_not_see_turns(pool):
    group = dihedral(4)
    net = seeded(lambda: GroupConvNet(1, 3, (2, 3), group, size=8, pool=pool), 0).double()
    x = randn(4, 1, 8, 8)
    logits = net(x)
    assert logits.std(0).min() > 1e-3
    assert_equivariant(
        net, PictureRep(group), trivial(group, 3), x
    )  # in training mode, the batch turned as one
    plain = seeded(lambda: PlainConvNet(1, 3, (2, 3), size=8), 0).double()
    assert equivariance_error(plain, PictureRep(group), trivial(group, 3), x) > 0.1
    moved = x.roll(2, 3)  # where things lie still counts
    assert not torch.allclose(net(moved), logits, atol=1e-3)


def test_a_steerable_classifier_sees_less_of_an_eighth_of_a_turn():
    axis = torch.arange(14) - 6.5
    window = torch.exp(-((torch.hypot(axis[:, None], axis) / 4.5) ** 2))  # nothing at the rim
    x, turned = (smooth_pictures(16, 14, angle=a) * window for a in (0.0, math.pi / 4))
    changes = []
    for group in (cyclic(8), cyclic(4)):
        make = lambda g=group: GroupConvNet(1, 3, (3, 4), g, size=14, kernel=5, steerable=True)  # noqa: E731
        net = seeded(make, 0).double()
        net(x)
        net.eval()
        assert_equivariant(net, PictureRep(cyclic(4)), trivial(cyclic(4), 3), x)
        logits = net(x)
        changes.append((net(turned) - logits).norm() / (logits - logits.mean(0)).norm())
    assert changes[0] < 0.2
    assert changes[1] > 2 * changes[0]
    with pytest.raises(ValueError, match="kernel: expected an odd number, got 4"):
        GroupConvNet(1, 3, (2, 2), cyclic(8), size=8, kernel=5, steerable=True)


def test_plain_is_the_group_of_one_element():
    net = seeded(lambda: GroupConvNet(1, 3, (2, 3), cyclic(1), size=8), 0)
    plain = PlainConvNet(1, 3, (2, 3), size=8)
    plain.load_state_dict({k: v.view_as(plain.state_dict()[k]) for k, v in net.state_dict().items()})
    x = torch.randn(4, 1, 8, 8)
    assert torch.allclose(net.eval()(x), plain.eval()(x), atol=1e-6)
    assert multiply_adds(net, x) == multiply_adds(plain, x)


def test_equal_terms():
    x = torch.zeros(1, 1, 8, 8)
    net = GroupConvNet(1, 10, (4, 6), cyclic(4), size=8, head=16)
    by_hand = 64 * 9 * 16 + 16 * 9 * 16 * 24 + 24 * 16 * 64 + 160  # lifting, group conv, last, head
    assert multiply_adds(net, x) == by_hand
    assert multiply_adds(net, x.expand(3, -1, -1, -1)) == 3 * by_hand
    assert net.training
    assert net.norms[0].num_batches_tracked == 0
    assert count_parameters(net) == 4 * 9 + 4 * 6 * 4 * 9 + 2 * 10 + 6 * 4 * 16 * 16 + 16 + 170
    make = lambda widths, head: PlainConvNet(1, 10, widths, size=8, head=head)  # noqa: E731
    measures = {count_parameters: count_parameters(net), lambda n: multiply_adds(n, x): by_hand}
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    for measure, target in measures.items():
        widths, head = match_widths(make, (4, 6), 16, measure, target)
        assert measure(make(widths, head)) == pytest.approx(target, rel=0.02)
    torch.manual_seed(0)
    match_widths(make, (4, 6), 16, count_parameters, 5000)
    assert torch.equal(torch.rand(()), expected)
    tiny, head = match_widths(make, (4, 6), 16, count_parameters, 1)
    assert (tiny, head) == ([1, 1], 2)
    with pytest.raises(ValueError, match="target: expected at least 1"):
        match_widths(make, (4, 6), 16, count_parameters, 0)
    with pytest.raises(ValueError, match="size: expected a multiple of 4 for 3 widths, got 6"):
        PlainConvNet(1, 10, (1, 2, 3), size=6)
    with pytest.raises(ValueError, match="widths: expected at least one"):
        GroupConvNet(1, 10, (), cyclic(4), size=6)
