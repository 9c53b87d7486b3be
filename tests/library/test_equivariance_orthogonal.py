"""Layers and networks of vectors and tensors: equal to their matrices, equivariant, and able to learn."""

import pytest
import torch

from layerlab.equivariance.brauer_counts import rank
from layerlab.equivariance.brauer_linear import BrauerLinear
from layerlab.equivariance.check import assert_equivariant, equivariance_error
from layerlab.equivariance.diagrams import on_vectors
from layerlab.equivariance.groups import Orthogonal, SpecialOrthogonal, Symplectic, cyclic, defining
from layerlab.equivariance.orthogonal_net import (
    FieldBlock,
    FieldLinear,
    OrthogonalNet,
    angular_momenta,
    moments_of_inertia,
    products,
)
from layerlab.models import seeded

GROUPS = [Orthogonal(3), SpecialOrthogonal(2), SpecialOrthogonal(3), Symplectic(2), Symplectic(4)]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(*arguments, **options):
    made = seeded(lambda: BrauerLinear(*arguments, **options), 0).double()
    if made.bias is not None:
        made.bias.data = normal(*made.bias.shape)
    return made


@pytest.mark.parametrize("group", GROUPS, ids=str)
@pytest.mark.parametrize("independent", [False, True])
def test_layer_is_its_matrix_and_equivariant(group, independent):
    rep, n = defining(group), group.n
    for k, l in ((1, 1), (2, 2), (2, 1), (0, 2), (3, 1), (2, 0), (1, 3)):  # noqa: E741
        made = layer(k, l, 2, 3, group, independent=independent, dense=False)
        x = normal(4, 2, n**k)
        f = on_vectors(made, n, k, l)
        small = layer(k, l, 2, 3, group, independent=independent, dense=True)
        torch.testing.assert_close(on_vectors(small, n, k, l)(x), f(x), atol=1e-12, rtol=0)
        torch.testing.assert_close(small.matrix(), made.matrix(), atol=1e-12, rtol=0)
        assert small.state_dict().keys() == made.state_dict().keys()
        assert assert_equivariant(f, rep.tensor(k), rep.tensor(l), x) <= 1e-10
        if independent:
            assert len(made.diagrams) == rank(group, k, l)
        made.bias = None
        torch.testing.assert_close(f(x).flatten(1), x.flatten(1) @ made.matrix().T, atol=1e-12, rtol=0)


def test_layer_without_maps_is_zero():
    made = layer(2, 1, 2, 3, Orthogonal(3))
    assert made.weight.shape == (0, 3, 2)
    assert torch.equal(made(normal(4, 2, 3, 3)), torch.zeros(4, 3, 3, dtype=torch.float64))


def test_small_matrices_are_the_default():
    assert BrauerLinear(2, 2, 1, 1, Orthogonal(3))._stack is not None
    assert BrauerLinear(2, 2, 1, 1, Orthogonal(9))._stack is None


def test_a_rotation_is_not_a_reflection():
    made = layer(2, 1, 2, 3, SpecialOrthogonal(3))
    rep = defining(Orthogonal(3))
    assert equivariance_error(on_vectors(made, 3, 2, 1), rep.tensor(2), rep, normal(4, 2, 9)) > 0.1


def test_constants_and_leading_axes():
    made = layer(0, 2, 2, 3, Orthogonal(3), bias=True)
    made.weight.data.zero_()
    y = made(normal(5, 4, 2))
    assert y.shape == (5, 4, 3, 3, 3)
    torch.testing.assert_close(y, (made.bias[0][:, None, None] * torch.eye(3)).expand_as(y))
    for dense in (False, True):
        wide = layer(1, 2, 2, 3, SpecialOrthogonal(3), dense=dense)
        x = normal(5, 4, 2, 3)
        torch.testing.assert_close(wide(x).flatten(0, 1), wide(x.flatten(0, 1)))
        assert wide(x[:0]).shape == (0, 4, 3, 3, 3)


def test_outputs_are_as_large_as_inputs():
    for group, k, l in (  # noqa: E741
        (Orthogonal(4), 2, 2),
        (Orthogonal(3), 3, 1),
        (SpecialOrthogonal(3), 2, 1),
        (SpecialOrthogonal(3), 1, 2),
        (Symplectic(4), 2, 2),
        (Orthogonal(9), 2, 2),
    ):
        made = layer(k, l, 32, 32, group, bias=False)
        assert 0.6 < made(normal(20, 32, *(group.n,) * k)).square().mean() < 1.6


@pytest.mark.parametrize("dense", [False, True])
def test_gradients_reach_every_weight(dense):
    made = layer(2, 2, 2, 3, SpecialOrthogonal(2), dense=dense)
    made(normal(4, 2, 2, 2)).square().sum().backward()
    assert bool((made.weight.grad.abs() > 1e-6).all())
    assert bool((made.bias.grad.abs() > 1e-6).all())


@pytest.mark.parametrize("dense", [False, True])
def test_layer_follows_the_dtype_of_its_input(dense):
    made = layer(2, 2, 2, 3, Symplectic(2), dense=dense)
    assert made(torch.zeros(4, 2, 2, 2)).dtype == torch.float32


def test_layer_refuses():
    made = BrauerLinear(2, 1, 2, 3, SpecialOrthogonal(3))
    for shape in ((4, 2, 3, 4), (4, 3, 3, 3), (3, 3), (4, 2, 2, 2, 2)):
        with pytest.raises(ValueError, match="x: expected"):
            made(torch.zeros(shape))
    with pytest.raises(ValueError, match="x: expected"):
        BrauerLinear(2, 1, 2, 3, SpecialOrthogonal(3))(torch.zeros(4, 2, 4, 4))
    with pytest.raises(TypeError, match="int64"):
        made(torch.zeros(4, 2, 3, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="group"):
        BrauerLinear(1, 1, 2, 3, cyclic(3))
    with pytest.raises(ValueError, match="channels_in"):
        BrauerLinear(1, 1, 0, 3, Orthogonal(3))
    with pytest.raises(ValueError, match="l: expected"):
        BrauerLinear(1, -1, 2, 3, Orthogonal(3))


def test_products_hold_each_pair():
    numbers, vectors, tensors = normal(2, 4), normal(2, 4, 3, seed=1), normal(2, 4, 3, 3, seed=2)
    zero, one, two = products([numbers, vectors, tensors])
    following = [1, 2, 3, 0]
    torch.testing.assert_close(zero, numbers * numbers[:, following])
    torch.testing.assert_close(one, numbers[..., None] * vectors[:, following])
    scaled, outer = two.chunk(2, 1)
    torch.testing.assert_close(scaled, numbers[..., None, None] * tensors[:, following])
    torch.testing.assert_close(outer, torch.einsum("bci,bcj->bcij", vectors, vectors[:, following]))


def test_fields_that_no_map_reaches():
    with pytest.raises(ValueError, match="order 1"):
        FieldLinear([2], [0, 3], Orthogonal(3))
    with pytest.raises(ValueError, match="order 1"):
        FieldLinear([2, 0, 4], [0, 3], Orthogonal(3))
    FieldLinear([2, 0, 4], [0, 3], SpecialOrthogonal(3))  # by the determinant


@pytest.mark.parametrize("group", GROUPS, ids=str)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_network_is_equivariant(group, order):
    net = seeded(lambda: OrthogonalNet(group, order, scalars=2, vectors=2, width=4), 0)
    x = normal(3, 5, 2 + 2 * group.n)
    f = lambda x: net(x).reshape(len(x), -1)  # noqa: E731
    assert assert_equivariant(f, net.rep_in, net.rep_out, x) <= 1e-10
    assert assert_equivariant(f, net.rep_in, net.rep_out, x.float()) <= 1e-4
    assert net(x).abs().max() > 1e-3
    torch.testing.assert_close(net(x), net(x[:, [3, 0, 4, 2, 1]]))  # the order of points is nothing


def test_network_without_numbers_and_its_errors():
    net = OrthogonalNet(Orthogonal(2), 1, scalars=0, vectors=3, width=4)
    assert net(torch.zeros(3, 5, 6)).shape == (3, 2)
    with pytest.raises(ValueError, match="x: expected"):
        net(torch.zeros(3, 5, 7))
    for options in ({"order": 3}, {"vectors": 0}, {"width": 0}, {"scalars": -1}, {"depth": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            OrthogonalNet(Orthogonal(3), **options)


def test_moments_of_inertia():
    X, y = moments_of_inertia(4, points=3, seed=1)
    for masses, tensor in zip(X, y, strict=True):
        # ωᵀ I ω = Σ m |ω × r|²: twice the energy of rotation
        for axis in torch.eye(3):
            energy = (
                masses[:, 0] * torch.linalg.cross(axis.expand(3, 3), masses[:, 1:]).square().sum(1)
            ).sum()
            torch.testing.assert_close(axis @ tensor @ axis, energy)
        assert torch.equal(tensor, tensor.T)
    more = moments_of_inertia(9, points=3, seed=1)
    assert torch.equal(more[0][:4], X)
    assert not torch.equal(moments_of_inertia(4, points=3, seed=2)[0], X)
    assert 0.5 <= X[..., 0].min() <= X[..., 0].max() <= 1.5
    with pytest.raises(ValueError, match="points"):
        moments_of_inertia(4, points=0)


def test_angular_momenta_turn_but_do_not_flip():
    X, y = angular_momenta(4, points=1, seed=1)
    torch.testing.assert_close((X[:, 0, 1:4] * y).sum(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close((X[:, 0, 4:] * y).sum(1), torch.zeros(4), atol=1e-5, rtol=0)
    assert y.norm(dim=1).min() > 0.1


def trained(net, X, y, steps):
    opt = torch.optim.Adam(net.parameters(), lr=2e-2)
    for _ in range(steps):
        opt.zero_grad()
        (net(X) - y).square().mean().backward()
        opt.step()
    return net


def test_a_few_steps_learn_the_moment_of_inertia_in_all_directions():
    X, y = moments_of_inertia(32, seed=0)
    mean, scale = y.diagonal(dim1=1, dim2=2).mean() * torch.eye(3), 2.0
    net = trained(seeded(lambda: OrthogonalNet(Orthogonal(3), width=4), 0), X, (y - mean) / scale, 80)
    q = Orthogonal(3).random(torch.Generator().manual_seed(0)).float()
    X, y = moments_of_inertia(200, seed=9)
    turned = torch.cat([X[..., :1], X[..., 1:] @ q.T], -1)
    with torch.no_grad():
        error = (mean + scale * net(turned) - q @ y @ q.T).square().mean() / (y - mean).square().mean()
    assert error < 0.3  # of the variance


def test_a_network_of_rotations_learns_angular_momenta_and_one_of_reflections_cannot():
    X, y = angular_momenta(64, seed=0)
    X_test, y_test = angular_momenta(200, seed=9)
    errors = []
    for group in (SpecialOrthogonal(3), Orthogonal(3)):
        net = trained(seeded(lambda g=group: OrthogonalNet(g, 1, vectors=2, width=4), 0), X, y, 80)
        with torch.no_grad():
            errors.append((net(X_test) - y_test).square().mean() / y_test.square().mean())
    assert errors[0] < 0.3 < 0.9 < errors[1]


def test_block_adds_gated_maps_of_fields_and_their_products():
    block = seeded(lambda: FieldBlock(2, Orthogonal(3)), 0)
    fields = [normal(4, 2), normal(4, 2, 3, seed=1), normal(4, 2, 3, 3, seed=2)]
    both = [torch.cat([f, p], 1) for f, p in zip(fields, products(fields), strict=True)]
    numbers, vectors, tensors = block.mix(both)
    new = [
        torch.nn.functional.silu(numbers[:, :2]),
        torch.einsum("bc,bci->bci", numbers[:, 2:4].sigmoid(), vectors),
        torch.einsum("bc,bcij->bcij", numbers[:, 4:].sigmoid(), tensors),
    ]
    for found, field, change in zip(block(fields), fields, new, strict=True):
        torch.testing.assert_close(found, field + change)
