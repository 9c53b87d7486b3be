"""FP8 training against torch's own casts and matrix products written out."""

import copy
import math

import pytest
import torch
from torch import nn

from layerlab.models import MLP, seeded
from layerlab.quantization import fp8 as P
from layerlab.quantization import grids

TYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", TYPES)
def test_ends_of_the_formats(kind):
    values = grids.fp8(kind)
    assert P.largest(kind) == values[-1]
    assert P.smallest(kind) == values[values > 0][0]


@pytest.mark.parametrize("kind", TYPES)
def test_cast_is_torchs_inside_and_cut_outside(kind):
    top = P.largest(kind)
    x = randn(2000) * torch.logspace(-8, 3, 2000)
    x = x.clamp(-top, top)
    assert torch.equal(P.cast(x, kind), x.to(TYPES[kind]).float())
    assert P.cast(torch.tensor([1e9, -1e9]), kind).tolist() == [top, -top]
    assert torch.equal(P.cast(x / 1024, kind, 1024.0), P.cast(x, kind) / 1024)
    assert P.cast(x.double(), kind).dtype == torch.float64


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("most", [3e-30, 1e-6, 0.9, 1.0, 448.0, 449.0, 1e8, 2.0**-10])
def test_dynamic_scales_are_the_largest_power_that_fits(kind, most):
    x = torch.tensor([most, -most / 3, 0.0])
    scale = P.dynamic_scale(x, kind)
    assert math.log2(scale).is_integer()
    assert float(x.max()) * scale <= P.largest(kind) < 2 * float(x.max()) * scale
    assert P.dynamic_scale(x, kind, margin=2) == scale / 4
    assert torch.equal(P.cast(x, kind, "dynamic"), P.cast(x, kind, scale))


def test_scale_of_nothing():
    assert P.dynamic_scale(torch.zeros(3), "e4m3") == P.dynamic_scale(torch.zeros(0), "e4m3") == 1.0


def test_flushed_counts_what_was_there():
    x = torch.tensor([0.0, 0.0, 2.0**-17, 2.0**-16, 1.0, -(2.0**-40)])
    assert P.flushed(x, "e5m2") == 0.5
    assert P.flushed(x, "e5m2", 4.0) == 0.25
    assert P.flushed(torch.zeros(4), "e5m2") == 0.0


@pytest.mark.parametrize("scaling", ["dynamic", 1.0])
def test_products_and_gradients_written_out(scaling):
    layer = P.FP8Linear(6, 4, scaling=scaling)
    layer.note = []
    x = (randn(5, 3, 6) * 3).requires_grad_()
    up = randn(5, 3, 4, seed=1) * 1e-5
    layer(x).backward(up)
    xq, wq = P.cast(x.detach(), "e4m3", scaling), P.cast(layer.weight.detach(), "e4m3", scaling)
    gq = P.cast(up, "e5m2", scaling)
    torch.testing.assert_close(layer(x), xq @ wq.T + layer.bias)
    torch.testing.assert_close(x.grad, gq @ wq, rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.weight.grad, torch.einsum("nto,nti->oi", gq, xq), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(layer.bias.grad, up.sum((0, 1)))
    assert layer.note == [P.flushed(up, "e5m2", scaling)]


def test_one_input_without_a_batch():
    x, up = randn(6), randn(4, seed=1)
    found = []
    for given, back in ((x.clone(), up), (x[None].clone(), up[None])):
        layer = seeded(lambda: P.FP8Linear(6, 4), 0)
        given.requires_grad_()
        y = layer(given)
        y.backward(back)
        grads = layer.weight.grad, layer.bias.grad
        found.append((y.detach().flatten(), given.grad.flatten(), *grads))
    for one, batch in zip(*found, strict=True):
        torch.testing.assert_close(one, batch)


def test_conversion_keeps_parameters_keys_and_sharing():
    net = seeded(lambda: MLP(4, [5], 3), 0)
    state, parameters = copy.deepcopy(net.state_dict()), list(net.parameters())
    assert P.convert(net, 2.0) is net
    assert all(isinstance(m, P.FP8Linear) and m.scaling == 2.0 for m in (net.layers[0], net.head))
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert list(net.state_dict()) == list(state)
    shared = nn.Linear(3, 3, bias=False)
    twice = P.convert(nn.Sequential(shared, nn.ReLU(), shared))
    assert twice[0] is twice[2]
    assert twice[0].bias is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: P.largest("e3m4"),
        lambda: P.cast(torch.ones(2), "e3m4"),
        lambda: P.cast(torch.ones(2), "e4m3", 0.0),
        lambda: P.cast(torch.ones(2), "e4m3", float("inf")),
        lambda: P.cast(torch.ones(2), "e4m3", "static"),
        lambda: P.cast(torch.tensor([float("nan")]), "e4m3", "dynamic"),
        lambda: P.dynamic_scale(torch.tensor([float("inf")]), "e5m2"),
        lambda: P.FP8Linear(2, 2, scaling=-1.0),
        lambda: P.convert(nn.Sequential(nn.ReLU())),
        lambda: P.convert(nn.Sequential(nn.Linear(2, 2)), True),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call()


def test_types():
    with pytest.raises(TypeError, match="x"):
        P.cast(torch.ones(2).int(), "e4m3")
    with pytest.raises(TypeError, match="margin"):
        P.dynamic_scale(torch.ones(2), "e4m3", margin=0.5)
