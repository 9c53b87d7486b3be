"""Activations against their formulas, and the networks made of them: weights, sizes, what they refuse."""

import math

import pytest
import torch
from torch import nn

from layerlab.inr.activations import (
    ACTIVATIONS,
    ComplexLinear,
    CoordinateNet,
    Gabor,
    Gauss,
    Polynomial,
    RealGabor,
    Spder,
    count,
    width_for,
)
from layerlab.inr.fit import coordinates, fit, render
from layerlab.inr.learnable import ChebyshevNet
from layerlab.inr.polynomial import PolynomialNet
from layerlab.inr.siren import Siren
from layerlab.inr.support import Atoms
from layerlab.models import MLP, seeded

X = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
Z = torch.complex(X[:, 0], X[:, 1])


def net(activation, width=8, depth=3, outputs=1, seed=0, **options):
    return seeded(lambda: CoordinateNet(2, outputs, width, depth, activation, **options), seed).double()


# activations


def test_spder_is_its_formula_of_the_scaled_argument():
    u = 7 * X
    torch.testing.assert_close(Spder(7.0)(X), u.sin() * u.abs().sqrt())
    torch.testing.assert_close(Spder(7.0)(-X), -Spder(7.0)(X))


def test_spder_has_slopes_at_zero():
    x = torch.zeros(3, dtype=torch.float32, requires_grad=True)
    (slope,) = torch.autograd.grad(Spder()(x).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert slope.abs().max() < 1e-4
    assert torch.isfinite(bend).all()
    assert torch.autograd.gradcheck(Spder(5.0), (X.clone().requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_spder_has_a_slope_at_zero_in_every_precision(dtype):
    x = torch.tensor([0.0, 0.01], dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(Spder()(x).sum(), x)
    assert slope[0].abs() < 0.3  # 0 but for the held root
    assert slope[1].item() == pytest.approx(30 * 0.7932, rel=0.02)


def test_real_activations_are_their_formulas():
    torch.testing.assert_close(Gauss(3.0)(X), torch.exp(-9 * X**2))
    expected = torch.cos(4 * X) * torch.exp(-9 * X**2)
    torch.testing.assert_close(RealGabor(4.0, 3.0)(X), expected)
    torch.testing.assert_close(Gabor(4.0, 3.0)(X).real, expected)


@pytest.mark.parametrize("z", [Z, X], ids=["complex", "real"])
def test_gabor_is_its_formula(z):
    expected = torch.exp(1j * 4 * z - (3 * z).abs().square())
    torch.testing.assert_close(Gabor(4.0, 3.0)(z), expected)
    assert torch.autograd.gradcheck(Gabor(4.0, 3.0), (z[:5].clone().requires_grad_(),))


def test_gabor_is_bounded_where_its_docstring_says():
    w0, s0 = 5.0, 2.0
    most = math.exp(w0**2 / (4 * s0**2))
    top = torch.tensor([-1j * w0 / (2 * s0**2)], dtype=torch.complex128)
    assert Gabor(w0, s0)(top).abs().item() == pytest.approx(most)
    assert Gabor(w0, s0)(3 * Z).abs().max() <= most


@pytest.mark.parametrize("x", [Z, X], ids=["complex", "real"])
def test_polynomial_is_its_sum_of_powers(x):
    torch.testing.assert_close(Polynomial([1, -2, 0, 3])(x), 1 - 2 * x + 3 * x**3)
    assert Polynomial([1, -2, 3, 0]).degree == 2
    assert Polynomial([4]).degree == 0


def test_complex_linear_is_that_of_torch():
    ours, theirs = seeded(lambda: ComplexLinear(3, 4), 0), nn.Linear(3, 4, dtype=torch.complex64)
    with torch.no_grad():
        theirs.weight.copy_(torch.view_as_complex(ours.weight))
        theirs.bias.copy_(torch.view_as_complex(ours.bias))
    z = torch.randn(5, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(z), theirs(z))
    torch.testing.assert_close(ours(z.real), theirs(z.real + 0j))
    wide = seeded(lambda: ComplexLinear(16, 400), 0).weight
    for part in wide.unbind(-1):
        assert 0.24 < part.abs().max() <= 0.25
        assert part.std().item() == pytest.approx(0.25 / math.sqrt(3), rel=0.05)


# networks


def test_with_sines_it_is_a_siren_with_a_sirens_weights():
    ours, siren = net("sine", w0=20.0), seeded(lambda: Siren(2, [8, 8, 8], 1, w0=20.0), 0).double()
    siren.load_state_dict(dict(zip(siren.state_dict(), ours.state_dict().values(), strict=True)))
    torch.testing.assert_close(ours(X), siren(X))


@pytest.mark.parametrize("activation", ["sine", "spder"])
def test_sines_and_spder_draw_their_weights_as_siren(activation):
    ours = seeded(lambda: CoordinateNet(2, 1, 200, 3, activation, w0=12.0), 0)
    bound = math.sqrt(6 / 200) / 12
    assert 0.49 < ours.first[0].weight.abs().max() <= 0.5
    for layer in [*ours.layers, ours.last]:
        assert 0.95 * bound < layer.weight.abs().max() <= bound


@pytest.mark.parametrize("activation", ["relu", "gauss", "real-gabor", "gabor"])
def test_others_draw_them_as_linear_layers(activation):
    ours = seeded(lambda: CoordinateNet(2, 1, 200, 3, activation), 0)
    for layer in [*ours.layers, ours.last]:
        assert 0.95 / math.sqrt(200) < layer.weight.abs().max() <= 1 / math.sqrt(200)


def test_a_gabor_net_is_complex_to_its_end_and_gives_the_real_part():
    ours = net("gabor", w0=6.0, s0=4.0, outputs=2)
    h = X @ ours.first[0].weight.T + ours.first[0].bias
    h = torch.exp(6j * h - (4 * h) ** 2)
    for layer in [*ours.layers, ours.last]:
        weight, bias = torch.view_as_complex(layer.weight), torch.view_as_complex(layer.bias)
        z = h @ weight.T + bias
        h = torch.exp(6j * z - (4 * z).abs().square())
    torch.testing.assert_close(ours(X), z.real)
    assert len(ours.layers) == 2


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_net_keeps_shapes_seeds_and_learns_with_all_weights(activation):
    ours = net(activation, outputs=3)
    assert ours(X).shape == (50, 3)
    assert torch.equal(ours(X), net(activation, outputs=3)(X))
    assert not torch.equal(ours(X), net(activation, outputs=3, seed=1)(X))
    ours(X).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in ours.parameters())
    assert not any(p.is_complex() for p in ours.parameters())
    x = coordinates(12, 12)
    y = (3 * x).sin().prod(1, keepdim=True)
    lr = 1e-2 if activation == "relu" else 3e-3
    losses = fit(net(activation, width=16).float(), x, y, steps=100, lr=lr).losses
    assert losses[-1] < losses[0] / 2
    assert render(net(activation), 4, 5).shape == (1, 4, 5)


def test_the_first_layer_can_be_another_one():
    atoms = Atoms(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]]))
    ours = seeded(lambda: CoordinateNet(2, 1, 4, 2, "polynomial", first=atoms, coefficients=[0, 0, 1]), 0)
    z = torch.view_as_complex(ours.layers[0].weight) @ atoms(X.float()).T
    z = z + torch.view_as_complex(ours.layers[0].bias)[:, None]
    z = torch.view_as_complex(ours.last.weight) @ z**2 + torch.view_as_complex(ours.last.bias)[:, None]
    torch.testing.assert_close(ours(X.float()), z.real.T, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match=r"first: expected real values for .relu., got"):
        CoordinateNet(2, 1, 4, 2, "relu", first=atoms)


# sizes


def test_complex_numbers_count_twice():
    assert count(nn.Linear(3, 4, dtype=torch.complex64)) == count(ComplexLinear(3, 4)) == 2 * (3 * 4 + 4)
    width = 7  # real first layer, two complex ones
    assert count(net("gabor", width, 2)) == 3 * width + 2 * (width * (width + 1)) + 2 * (width + 1)
    assert count(net("relu", width, 2)) == 3 * width + width * (width + 1) + width + 1


@pytest.mark.parametrize(
    "make",
    [
        *(lambda w, a=a: CoordinateNet(2, 1, w, 3, a) for a in sorted(ACTIVATIONS)),
        lambda w: ChebyshevNet(2, 1, w, 3, degree=8),
        lambda w: PolynomialNet(2, 1, w, 4),
        lambda w: MLP(2, [w], 1),
    ],
)
@pytest.mark.parametrize("numbers", [300, 2000, 2001])
def test_the_width_is_the_largest_that_fits(make, numbers):
    state = torch.get_rng_state()
    width = width_for(numbers, make)
    assert torch.equal(torch.get_rng_state(), state)
    assert count(make(width)) <= numbers < count(make(width + 1))


def test_the_smallest_width_is_one():
    smallest = count(MLP(2, [1], 1))
    assert width_for(smallest, lambda w: MLP(2, [w], 1)) == 1
    with pytest.raises(ValueError, match=f"parameters: expected at least .* got {smallest - 1}"):
        width_for(smallest - 1, lambda w: MLP(2, [w], 1))
    with pytest.raises(ValueError, match="make: expected a model that grows"):
        width_for(100, lambda w: MLP(2, [3], 1))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Spder(0.0), ValueError, "w0: expected a positive number, got 0.0"),
        (lambda: Gauss(-1.0), ValueError, "s0: expected a positive number, got -1.0"),
        (lambda: Gabor(1.0, math.inf), ValueError, "s0: .* got inf"),
        (lambda: RealGabor()(Z), TypeError, "z: expected real numbers"),
        (lambda: Polynomial([]), ValueError, r"coefficients: expected finite numbers, .* got \[\]"),
        (lambda: Polynomial([math.nan]), ValueError, "coefficients: .* got"),
        (lambda: ComplexLinear(0, 1), ValueError, "inputs: expected an integer of at least 1, got 0"),
        (lambda: CoordinateNet(2, 1, 8, 0), ValueError, "depth: expected an integer of at least 1, got 0"),
        (lambda: CoordinateNet(2, 1, 8, 2, "tanh"), ValueError, "activation: expected one of .* got 'tanh'"),
        (lambda: CoordinateNet(2, 1, 8, 2, "relu", w0=3), TypeError, r"options: .*'relu', got \['w0'\]"),
        (lambda: net("relu")(X[:, :1]), ValueError, r"x: expected coordinates \(N, 2\), got \(50, 1\)"),
        (lambda: net("relu")(X[0]), ValueError, r"x: expected coordinates \(N, 2\), got \(2,\)"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
