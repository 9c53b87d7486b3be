"""SL²A's learned activations against NumPy's Chebyshev series, and its layers by hand."""

import math

import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

from layerlab.inr.fit import coordinates, fit
from layerlab.inr.learnable import ChebyshevLayer, ChebyshevNet, LowRank
from layerlab.models import seeded

X = torch.rand(30, 2, generator=torch.Generator().manual_seed(0)).double() * 2 - 1


def test_each_edge_has_a_chebyshev_series_of_its_own():
    layer = seeded(lambda: ChebyshevLayer(2, 3, degree=9), 0).double()
    series, x = layer.coefficients.detach().numpy(), np.tanh(X.numpy())
    for j in range(3):
        expected = sum(np.polynomial.chebyshev.chebval(x[:, i], series[i, j]) for i in range(2))
        torch.testing.assert_close(layer(X)[:, j].detach(), torch.from_numpy(expected))


def test_coefficients_are_drawn_within_the_bound_of_xavier():
    drawn = seeded(lambda: ChebyshevLayer(2, 30, degree=63), 0).coefficients
    bound = math.sqrt(6 / (32 * 64))
    assert 0.99 * bound < drawn.abs().max() <= bound


def test_slopes_are_finite_up_to_the_edges_and_rise_with_the_degree():
    edges = torch.tensor([[-1.0, 1.0], [0.0, 0.0], [1.0, -1.0]])
    layer = seeded(lambda: ChebyshevLayer(2, 3, degree=64), 0)
    slopes = vmap(jacrev(lambda x: layer(x[None])[0]))(edges)
    assert torch.isfinite(slopes).all()
    low = seeded(lambda: ChebyshevLayer(2, 3, degree=2), 0)
    assert slopes.norm() > vmap(jacrev(lambda x: low(x[None])[0]))(edges).norm()


def test_layers_by_hand():
    net = seeded(lambda: ChebyshevNet(2, 2, 6, 3, degree=5, rank=2), 0).double()
    psi = net.learned(X)
    psi = (psi - psi.mean(1, keepdim=True)) / (psi.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    h = psi
    for layer in net.layers:
        weight = layer.up.weight @ layer.down.weight
        assert torch.linalg.matrix_rank(weight) == 2
        h = torch.relu((h * psi) @ weight.T + layer.up.bias)
    torch.testing.assert_close(net(X), (h * psi) @ net.last.weight.T + net.last.bias)
    assert len(net.layers) == 2


def test_the_rank_is_half_the_width_unless_given():
    assert ChebyshevNet(2, 1, 9, 2).layers[0].down.out_features == 5
    assert ChebyshevNet(2, 1, 1, 2).layers[0].down.out_features == 1
    assert ChebyshevNet(2, 1, 9, 2, rank=3).layers[0].down.out_features == 3
    assert [name for name, _ in LowRank(4, 5, 2).named_parameters()] == [
        "down.weight",
        "up.weight",
        "up.bias",
    ]


def test_a_higher_degree_fits_more_detail():
    x = coordinates(128)
    y = torch.sin(40 * x)
    losses = {}
    for degree in (4, 64):
        model = seeded(lambda: ChebyshevNet(1, 1, 12, 2, degree=degree), 0)  # noqa: B023
        losses[degree] = fit(model, x, y, steps=200, lr=5e-3).losses[-1]
    assert losses[64] < losses[4] / 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ChebyshevLayer(2, 3, 0), "degree: expected an integer of at least 1, got 0"),
        (lambda: ChebyshevNet(2, 1, 4, 0), "depth: expected an integer of at least 1, got 0"),
        (lambda: ChebyshevNet(2, 1, 4, 2, rank=0), "rank: expected an integer of at least 1, got 0"),
        (lambda: ChebyshevNet(2, 1, 4, 2)(X[:, :1]), r"x: expected coordinates \(N, 2\), got \(30, 1\)"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
