"""Poly-INR: exactly a polynomial of at most its degree without rectifiers, and none with them."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from layerlab.inr.fit import coordinates, fit
from layerlab.inr.polynomial import PolynomialNet
from layerlab.models import seeded

LEVELS = [1, 2, 3, 5]


def net(levels, *, rectify=False, inputs=2, width=6, outputs=2, seed=0):
    return seeded(lambda: PolynomialNet(inputs, outputs, width, levels, rectify=rectify), seed).double()


def differences(model, order):
    """The `order`-th finite differences of the model along a line, over the size of its values' weights."""
    with torch.no_grad():
        steps = torch.linspace(-1, 1, order + 8, dtype=torch.float64)[:, None]
        values = model(steps * torch.tensor([0.9, -0.7]) + torch.tensor([0.1, 0.2]))
    return torch.diff(values, n=order, dim=0).abs().max() / values.abs().max() / 2**order


@pytest.mark.parametrize("levels", LEVELS)
def test_without_rectifiers_differences_beyond_the_degree_vanish(levels):
    assert differences(net(levels), levels + 1) < 1e-14
    assert differences(net(levels), levels) > 1e-9
    assert differences(net(levels, rectify=True), levels + 1) > 1e-6


@pytest.mark.parametrize("levels", LEVELS)
def test_monomials_up_to_the_degree_span_it(levels):
    x = torch.rand(200, 2, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    with torch.no_grad():
        values = net(levels)(x)

    def missed(degree):
        powers = [p for p in product(range(degree + 1), repeat=2) if sum(p) <= degree]
        basis = torch.stack([x[:, 0] ** a * x[:, 1] ** b for a, b in powers], 1)
        fitted = basis @ torch.linalg.lstsq(basis, values).solution
        return ((fitted - values).norm() / values.norm()).item()

    assert missed(levels) < 1e-12
    assert missed(levels - 1) > 1e-7


def test_levels_by_hand():
    x = torch.rand(5, 2, generator=torch.Generator().manual_seed(1)).double()
    model = net(3, rectify=True)
    h = torch.ones(5, 6).double()
    h = F.leaky_relu(model.mix[0](h * model.affine[0](x)), 0.2)
    h = F.leaky_relu(model.mix[1](h * model.affine[1](x)), 0.2)
    h = F.leaky_relu(model.mix[2](h * model.affine[2](x)), 0.2)
    torch.testing.assert_close(model(x), model.last(h))


def test_it_learns_a_polynomial_of_its_degree():
    x = coordinates(64)
    y = 1 - 3 * x**2 + x**3
    model = seeded(lambda: PolynomialNet(1, 1, 12, 3, rectify=False), 0)
    assert fit(model, x, y, steps=400, lr=1e-2).losses[-1] < 1e-4
    low = seeded(lambda: PolynomialNet(1, 1, 12, 1, rectify=False), 0)
    assert fit(low, x, y, steps=400, lr=1e-2).losses[-1] > 0.1


@pytest.mark.parametrize("name", ["inputs", "outputs", "width", "levels"])
def test_bad_arguments_are_named(name):
    sizes = {"inputs": 2, "outputs": 1, "width": 4, "levels": 2} | {name: 0}
    with pytest.raises(ValueError, match=f"{name}: expected an integer of at least 1, got 0"):
        PolynomialNet(**sizes)
    with pytest.raises(ValueError, match=r"x: expected coordinates \(N, 2\), got \(4, 3\)"):
        net(2)(torch.zeros(4, 3))
