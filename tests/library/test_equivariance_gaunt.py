"""Gaunt products: integrals by quadrature, three ways to one result, and what is lost."""

import math
from itertools import product

import pytest
import torch

from layerlab.equivariance.check import assert_equivariant
from layerlab.equivariance.gaunt import (
    from_fourier,
    gaunt,
    gaunt_product,
    gaunt_weight,
    lost_paths,
    multiply_adds,
    to_fourier,
)
from layerlab.equivariance.irreps import Irreps, paths, spherical_product
from layerlab.equivariance.s2 import from_grid, grid, to_grid
from layerlab.equivariance.so3 import clebsch_gordan, harmonics_to


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gaunt_coefficients_are_integrals_of_three_harmonics():
    places, weights = grid(7)
    values = harmonics_to(4, places)
    for l1, l2, l3 in product(range(5), repeat=3):
        a, b, c = (values[..., ell**2 : (ell + 1) ** 2] for ell in (l1, l2, l3))
        integral = torch.einsum("tpa,tpb,tpc,tp->abc", a, b, c, weights.expand(7, 14))
        torch.testing.assert_close(gaunt(l1, l2, l3), integral, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "degrees", [(0, 0, 0), (1, 1, 2), (3, 3, 3), (2, 4, 3), (4, 1, 0), (2, 2, 6), (6, 6, 12), (8, 8, 8)]
)
def test_all_ways_give_the_same_product(degrees):
    a, b, out = degrees
    x, y = draw(3, 2, (a + 1) ** 2), draw(2, (b + 1) ** 2, seed=1)
    direct = gaunt_product(x, y, out, "direct")
    assert direct.shape == (3, 2, (out + 1) ** 2)
    for how in ("fourier", "grid"):
        torch.testing.assert_close(gaunt_product(x, y, out, how), direct, rtol=0, atol=1e-12)


def test_the_product_is_that_of_the_functions():
    x, y = draw(5, 9), draw(5, 16, seed=1)
    found = gaunt_product(x, y, 5)
    torch.testing.assert_close(to_grid(found, 8), to_grid(x, 8) * to_grid(y, 8))
    one = torch.tensor([math.sqrt(4 * math.pi), 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(gaunt_product(x, one), x, rtol=0, atol=1e-13)


def test_the_product_is_equivariant():
    inputs = Irreps.spherical(3), Irreps.spherical(4)
    assert assert_equivariant(lambda x, y: gaunt_product(x, y, 5), inputs, Irreps.spherical(5)) < 1e-12


def test_the_product_is_a_full_product_with_gaunt_weights():
    x, y = draw(4, 16), draw(4, 9, seed=1)
    weights = torch.tensor([gaunt_weight(*path) for path in paths(3, 2, 4)], dtype=torch.float64)
    torch.testing.assert_close(gaunt_product(x, y, 4), spherical_product(x, y, 4, weights))


def test_odd_paths_are_lost_and_with_them_the_cross_product():
    x, y = draw(6, 4), draw(6, 4, seed=1)
    x[:, 0] = y[:, 0] = 0  # vectors
    assert gaunt_product(x, y, 2)[:, 1:4].abs().max() < 1e-14
    full = spherical_product(x, y, 2)[:, 1:4]
    torch.testing.assert_close(full, torch.linalg.cross(x[:, 1:], y[:, 1:]) / math.sqrt(2))
    lost = lost_paths(4, 4, 4)
    kept = sum(
        2 * max(a, b, c) <= a + b + c and (a + b + c) % 2 == 0 for a, b, c in product(range(5), repeat=3)
    )
    assert len(lost) == len(paths(4, 4, 4)) - kept == 23
    assert all(gaunt(*path).abs().max() == 0 and gaunt_weight(*path) == 0 for path in lost)
    assert all(gaunt_weight(*path) > 0 for path in paths(4, 4, 4) if path not in lost)
    torch.testing.assert_close(
        gaunt_product(x, y), gaunt_product(y, x)
    )  # commutes, as an antisymmetric one cannot


def test_the_fourier_series_gives_the_values_of_the_function():
    x, degree = draw(9), 2
    spectrum = to_fourier(x)
    assert spectrum.shape == (5, 3)
    theta, phi = torch.tensor([0.3, 1.4, 4.0]).double(), torch.tensor([0.2, 5.0, 1.0]).double()
    u, v = torch.arange(-degree, degree + 1)[:, None], torch.arange(degree + 1)
    twice = torch.where(v > 0, 2.0, 1.0)
    waves = torch.exp(1j * (u * theta[:, None, None] + v * phi[:, None, None]))
    found = (twice * spectrum * waves).sum((1, 2)).real
    places = torch.stack([theta.sin() * phi.sin(), theta.cos(), theta.sin() * phi.cos()], -1)
    torch.testing.assert_close(found, harmonics_to(degree, places) @ x)
    torch.testing.assert_close(from_fourier(spectrum, degree), x)
    torch.testing.assert_close(from_fourier(spectrum, 4)[:9], x)
    assert from_fourier(spectrum, 4)[9:].abs().max() < 1e-14
    torch.testing.assert_close(from_fourier(spectrum, 1), x[:4])


def test_precision_and_gradients_follow_the_input():
    x, y = draw(2, 9).requires_grad_(), draw(2, 9, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: gaunt_product(a, b, 3), (x, y))
    assert gaunt_product(x.float(), y.float()).dtype == torch.float32


@pytest.mark.parametrize("how", ["fourier", "grid", "direct"])
def test_an_empty_batch_has_an_empty_product_and_dtypes_are_not_mixed(how):
    x, y = draw(0, 4).requires_grad_(), draw(3, 1, 9)
    z = gaunt_product(x, y, 2, how)
    assert z.shape == (3, 0, 9)
    assert z.dtype == torch.float64
    z.sum().backward()
    assert x.grad.shape == (0, 4)
    for a, b in ((torch.float32, torch.float64), (torch.float16, torch.float16), (torch.int64, torch.int64)):
        with pytest.raises(TypeError, match=f"x and y: expected both float32 or .*got {a} and {b}"):
            gaunt_product(torch.ones(2, 4).to(a), torch.ones(2, 4).to(b), how=how)


def test_multiplications_are_counted():
    assert multiply_adds(0, "full") == multiply_adds(0, "gaunt") == 1
    entries = sum(int((clebsch_gordan(*path).abs() > 1e-12).sum()) for path in paths(2, 2, 2))
    assert multiply_adds(2, "full") == entries > multiply_adds(2, "gaunt")
    assert multiply_adds(3, "dense") == 4**6

    def slope(how):
        return math.log2(multiply_adds(10, how) / multiply_adds(5, how)) / math.log2(11 / 6)

    assert slope("fourier") < 3.5 < 4.5 < slope("full") < 5.5 < slope("dense")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gaunt(1, 1, -2), "l3: expected 0 to 32, got -2"),
        (lambda: gaunt_product(torch.ones(4), torch.ones(5)), r"y: expected a last axis of \(L \+ 1\)²"),
        (lambda: gaunt_product(torch.ones(4), torch.ones(4), 40), "degree_out: expected 0 to 32, got 40"),
        (lambda: gaunt_product(torch.ones(4), torch.ones(4), how="fft"), 'how: expected "fourier"'),
        (lambda: multiply_adds(2, "all"), "how: "),
        (lambda: from_fourier(torch.ones(5, 3), 2), "spectrum: expected complex"),
        (lambda: from_fourier(torch.ones(4, 3).cfloat(), 2), "spectrum: expected complex"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_grid_way_needs_no_finer_grid():
    """One circle fewer, and the quadrature of the highest degrees fails."""
    x, y = draw(3, 25), draw(3, 25, seed=1)
    exact = gaunt_product(x, y, 4, "direct")
    torch.testing.assert_close(from_grid(to_grid(x, 7) * to_grid(y, 7), 4), exact)
    assert (from_grid(to_grid(x, 6) * to_grid(y, 6), 4) - exact).abs().max() > 1e-3
