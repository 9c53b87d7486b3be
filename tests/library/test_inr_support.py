"""Supports of spectra: sums by brute force, networks that stay inside, and what falls outside."""

from collections import Counter
from itertools import combinations_with_replacement

import pytest
import torch

from layerlab.inr.activations import CoordinateNet
from layerlab.inr.fit import coordinates
from layerlab.inr.support import Atoms, edge_centres, energy_inside, sum_set
from layerlab.models import seeded


def brute_force(frequencies, degree):
    rows = [tuple(row) for row in frequencies.tolist()]
    zero = (0.0,) * frequencies.shape[1]
    sums = set()
    for count in range(degree + 1):
        for chosen in combinations_with_replacement(rows, count):
            sums.add(tuple(round(sum(column), 5) for column in zip(zero, *chosen, strict=True)))
    return torch.tensor(sorted(sums))


# sum_set


@pytest.mark.parametrize("degree", [0, 1, 2, 4])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dims", [1, 2])
def test_sums_are_those_of_brute_force(dims, count, degree):
    generator = torch.Generator().manual_seed(count)
    whole = torch.randint(-4, 9, (count, dims), generator=generator).float()
    for frequencies in (whole, whole + torch.tensor([0.25, 0.5, 0.5])[:count, None]):
        found = sum_set(frequencies, degree)
        torch.testing.assert_close(found, brute_force(frequencies, degree), rtol=0, atol=1e-4)


def test_sums_of_integers_and_of_what_floats_hide():
    assert sum_set(torch.tensor([[1], [2]]), 2).flatten().tolist() == [0, 1, 2, 3, 4]
    tenths = torch.tensor([[0.1], [0.7], [0.8]], dtype=torch.float64)  # 0.1 + 0.7 is not 0.8
    assert [round(10 * f) for f in sum_set(tenths, 2).flatten().tolist()] == [0, 1, 2, 7, 8, 9, 14, 15, 16]


# energy_inside


def test_a_sine_is_half_at_its_frequency_and_half_at_its_negative():
    x = coordinates(16, 24)
    wave = torch.sin(torch.pi * (x @ torch.tensor([3.0, -5.0])) + 0.3).view(16, 24)
    up, down = torch.tensor([[3.0, -5.0]]), torch.tensor([[-3.0, 5.0]])
    assert energy_inside(wave, up) == pytest.approx(0.5)
    assert energy_inside(wave, torch.cat([up, down])) == pytest.approx(1)
    assert energy_inside(wave, up.flip(1)) == pytest.approx(0, abs=1e-9)
    assert energy_inside(torch.complex(wave, torch.zeros(16, 24)), up) == pytest.approx(0.5)


def test_what_sampling_cannot_tell_apart_is_one():
    wave = torch.exp(1j * torch.pi * 5 * coordinates(16)).flatten()
    for frequency in (5.0, 5.0 - 16, 5.0 + 32):
        assert energy_inside(wave, torch.tensor([[frequency]])) == pytest.approx(1)


def test_the_radius_takes_in_neighbours_around_the_end_too():
    wave = torch.exp(1j * torch.pi * 7 * coordinates(16)).flatten()
    other = torch.tensor([[-8.0]])  # that is 8, one away from 7
    assert energy_inside(wave, other, radius=0.9) == pytest.approx(0, abs=1e-9)
    assert energy_inside(wave, other, radius=1.0) == pytest.approx(1)
    plane = torch.ones(16, 16)
    assert energy_inside(plane, torch.tensor([[1.0, 1.0]]), radius=1.4) == pytest.approx(0, abs=1e-9)
    assert energy_inside(plane, torch.tensor([[1.0, 1.0]]), radius=1.42) == pytest.approx(1)


def test_a_bumps_spectrum_has_the_width_of_a_gaussian():
    """exp(-s² x²) has the spectrum exp(-(π f / 2s)²): energy of deviation s / π cycles over 2 in f."""
    values = Atoms(torch.tensor([[6.0]]), scale=8.0)(coordinates(128)).flatten()
    deviation = 8.0 * 2 / (2 * torch.pi)
    around = torch.tensor([[6.0]])
    shares = [energy_inside(values, around, radius=k * deviation) for k in (1, 2, 3)]
    assert shares == pytest.approx([0.683, 0.954, 0.997], abs=0.06)


# networks


def network(frequencies, depth, coefficients, seed=0):
    make = lambda: CoordinateNet(  # noqa: E731
        2, 1, 5, depth, "polynomial", first=Atoms(frequencies), coefficients=coefficients
    )
    return seeded(make, seed).double()


@pytest.mark.parametrize(
    ("depth", "coefficients"), [(1, [0, 1]), (2, [0, 0, 1]), (2, [1, 1, 0, 1]), (3, [0, 1, 1])]
)
def test_a_network_stays_in_its_sum_set_and_fills_it(depth, coefficients):
    """The complex values before the last real part; and their conjugates with it."""
    frequencies = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    model = network(frequencies, depth, coefficients)
    values = model(coordinates(48, 48).double()).detach().view(48, 48)
    degree = (len(coefficients) - 1) ** (depth - 1)
    support = sum_set(frequencies, degree)
    both = torch.cat([support, -support])
    assert 1 - energy_inside(values, both) < 1e-12
    smaller = sum_set(frequencies, degree - 1)
    assert 1 - energy_inside(values, torch.cat([smaller, -smaller])) > 1e-7


def test_bumps_add_their_frequencies_too():
    """Products of l waves under one bump: centre the sum of frequencies, deviation √l as wide."""
    frequencies = torch.tensor([[6.0], [11.0]])
    atoms = Atoms(frequencies, scale=6.0)
    x = coordinates(256).double()
    values = atoms.double()(x)
    product = (values[:, 0] ** 2 * values[:, 1]).detach()
    deviation = 3**0.5 * 6.0 / torch.pi
    assert energy_inside(product, torch.tensor([[23.0]]), radius=3 * deviation) > 0.99
    assert energy_inside(product, frequencies, radius=1.5 * deviation) < 0.1


def test_atoms_are_their_formula_and_can_be_trained():
    generator = torch.Generator().manual_seed(0)
    f, c = torch.randn(4, 2, generator=generator), torch.rand(4, 2, generator=generator)
    s = torch.tensor([0.0, 1.0, 2.0, 3.0])
    atoms = Atoms(f, c, s)
    x = coordinates(3, 3)
    for j in range(4):
        away = x - c[j]
        expected = torch.exp(1j * torch.pi * (away @ f[j]) - (s[j] ** 2) * away.square().sum(1))
        torch.testing.assert_close(atoms(x)[:, j], expected)
    assert not list(atoms.parameters())
    assert set(dict(Atoms(f, learn=True).named_parameters())) == {"frequencies", "centres", "scale"}
    assert set(atoms.state_dict()) == {"frequencies", "centres", "scale"}


# edge_centres


def test_centres_lie_on_the_edge_and_nowhere_else():
    picture = torch.zeros(3, 20, 10)
    picture[:, :, 5:] = 1  # between columns 4 and 5
    places = edge_centres(picture, 2000, seed=1)
    assert places.shape == (2000, 2)
    assert places[:, 1].abs().max() <= 0.2
    assert -1 <= places[:, 0].min() < -0.95
    assert 0.95 < places[:, 0].max() <= 1
    assert places[:, 0].mean().abs() < 0.05
    turned = edge_centres(picture.mT, 2000, seed=1)
    assert turned[:, 0].abs().max() <= 0.2
    assert torch.equal(places, edge_centres(picture, 2000, seed=1))
    assert not torch.equal(places, edge_centres(picture, 2000, seed=2))


def test_a_steeper_edge_has_as_many_more_centres():
    picture = torch.zeros(1, 8, 40)
    picture[:, :, 10:] = 1
    picture[:, :, 30:] = 4  # steps of 1 and 3
    drawn = Counter((edge_centres(picture, 4000)[:, 1] > 0).tolist())
    assert drawn[True] / 4000 == pytest.approx(0.75, abs=0.03)


WAVE = coordinates(8).sin().flatten()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sum_set(torch.zeros(3), 2), r"frequencies: expected finite \(m, d\), got \(3,\)"),
        (lambda: sum_set(torch.tensor([[torch.nan]]), 2), "frequencies: expected finite"),
        (lambda: sum_set(torch.ones(1, 1), -1), "degree: expected an integer .* got -1"),
        (lambda: sum_set(torch.ones(1, 1), 1.5), "degree: expected an integer .* got 1.5"),
        (lambda: sum_set(torch.rand(200, 2), 3), "degree: expected at most 200000 sums, got more"),
        (lambda: energy_inside(WAVE, torch.ones(1, 2)), r"values: expected 2 axes, .* got \(8,\)"),
        (lambda: energy_inside(0 * WAVE, torch.ones(1, 1)), "values: expected a finite signal"),
        (lambda: energy_inside(WAVE / 0, torch.ones(1, 1)), "values: expected a finite signal"),
        (lambda: energy_inside(WAVE, torch.ones(2)), r"support: expected finite \(m, d\), got \(2,\)"),
        (lambda: energy_inside(WAVE, torch.ones(1, 1), -1.0), "radius: expected a number .* got -1.0"),
        (lambda: Atoms(torch.ones(3, 2), torch.ones(2, 2)), r"centres: .*\(3, 2\), got \(2, 2\)"),
        (lambda: Atoms(torch.ones(3, 2), scale=torch.ones(2)), r"scale: .*\(3,\), got \(2,\)"),
        (lambda: edge_centres(torch.zeros(8, 8), 4), r"picture: expected \(channels, H, W\) .* got \(8, 8\)"),
        (lambda: edge_centres(torch.zeros(1, 8, 8), 4), "picture: expected an edge"),
        (lambda: edge_centres(torch.rand(1, 1, 8), 4), r"picture: .* got \(1, 1, 8\)"),
        (lambda: edge_centres(torch.rand(1, 8, 8) / 0, 4), "picture: expected finite values"),
        (lambda: edge_centres(torch.rand(1, 8, 8), 0), "count: expected an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
