"""The force field's symmetries and forces, and the two networks that learn it."""

import pytest
import torch

from layerlab.equivariance.check import assert_equivariant, equivariance_error
from layerlab.equivariance.force_field import (
    energy,
    energy_and_forces,
    moment_of_inertia,
    sample_clusters,
    turn_clusters,
)
from layerlab.equivariance.force_fit import fit_forces, force_error
from layerlab.equivariance.groups import Orthogonal, SpecialOrthogonal, defining, trivial
from layerlab.equivariance.irreps import matrix_to_features
from layerlab.equivariance.point_nets import PlainNetwork, PointNetwork, count_parameters, plain_like
from layerlab.equivariance.so3 import random_rotation
from layerlab.models import seeded

VECTOR = defining(SpecialOrthogonal(3))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def clusters():
    return sample_clusters(12, 5, seed=3)


def test_the_energy_keeps_the_symmetries_of_space(clusters):
    group = Orthogonal(3)
    positions = clusters.positions
    assert_equivariant(lambda x: energy(x)[..., None], defining(group), trivial(group), positions)
    torch.testing.assert_close(energy(positions + torch.randn(3).double()), clusters.energies)
    torch.testing.assert_close(energy(positions[:, torch.randperm(5)]), clusters.energies)


def test_forces_are_minus_the_slope_and_neither_push_nor_turn_the_whole(clusters):
    positions, _, forces = clusters
    step = 1e-5
    for atom, axis in ((0, 0), (3, 2)):
        moved = positions.clone()
        moved[:, atom, axis] += step
        other = positions.clone()
        other[:, atom, axis] -= step
        slope = (energy(moved) - energy(other)) / (2 * step)
        torch.testing.assert_close(forces[:, atom, axis], -slope, rtol=1e-6, atol=1e-6)
    assert forces.sum(1).abs().max() < 1e-10
    assert torch.linalg.cross(positions, forces).sum(1).abs().max() < 1e-10


def test_pairs_and_angles_are_what_the_docstring_says():
    line = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0]], dtype=torch.float64)
    pair = lambda r: (1 - torch.exp(torch.tensor(-3.0 * (r - 1)).double())) ** 2 - 1  # noqa: E731
    pairs = pair(1) + pair(2) + pair(3)
    torch.testing.assert_close(energy(line, bending=0), pairs)
    torch.testing.assert_close(energy(line), pairs)  # no atom has two others nearer than 2
    bent = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]], dtype=torch.float64)
    near, far = 0.5, (1 + torch.cos(torch.tensor(2.0).double().sqrt() * torch.pi / 2)) / 2
    angles = near**2 / 9 + 2 * near * far * (0.5**0.5 + 1 / 3) ** 2  # one right angle, two of 45 degrees
    torch.testing.assert_close(energy(bent, bending=2.0), 2 * pair(1) + pair(2**0.5) + 2 * angles)


def test_clusters_are_seeded_bound_and_have_their_own_shapes(clusters):
    again = sample_clusters(12, 5, seed=3)
    assert torch.equal(again.positions, clusters.positions)
    assert not torch.equal(sample_clusters(12, 5, seed=4).positions, clusters.positions)
    assert (clusters.energies < 0).all()
    assert clusters.positions.mean(1).abs().max() < 1e-12
    values, forces = energy_and_forces(clusters.positions)
    assert torch.equal(values, clusters.energies)
    assert torch.equal(forces, clusters.forces)
    still = sample_clusters(6, 4, shapes=2, noise=0, turn=False)
    torch.testing.assert_close(still.positions[::2], still.positions[:1].expand(3, 4, 3))
    assert (still.positions[1] - still.positions[0]).abs().max() > 0.1
    assert still.forces.abs().max() < 0.5  # near rest
    turned = sample_clusters(6, 4, shapes=1, noise=0)
    assert (turned.positions[1] - turned.positions[0]).abs().max() > 0.1
    torch.testing.assert_close(turned.energies, turned.energies[:1].expand(6))


def test_turned_clusters_are_clusters_of_the_same_field(clusters):
    turned = turn_clusters(clusters, random_rotation(generator(), 12))
    values, forces = energy_and_forces(turned.positions)
    torch.testing.assert_close(values, turned.energies)
    torch.testing.assert_close(forces, turned.forces)


def test_moments_of_inertia_turn_and_have_no_degree_one():
    points, masses = torch.randn(4, 6, 3, generator=generator()).double(), torch.rand(4, 6).double()
    found = moment_of_inertia(points, masses)
    axis = torch.tensor([0.0, 0.6, 0.8]).double()
    distance = torch.linalg.cross(points, axis.expand_as(points)).square().sum(-1)
    torch.testing.assert_close((found @ axis) @ axis, (masses * distance).sum(1))
    assert matrix_to_features(found)[:, 1:4].abs().max() < 1e-12
    turn = random_rotation(generator(1))
    torch.testing.assert_close(moment_of_inertia(points @ turn.T, masses), turn @ found @ turn.T)


@pytest.mark.parametrize("product", ["full", "gaunt", "edge"])
@pytest.mark.parametrize("conservative", [False, True])
def test_forces_of_the_point_network_turn_and_its_energy_stays(product, conservative, clusters):
    make = lambda: PointNetwork(4, 2, 2, product=product, conservative=conservative)  # noqa: E731
    model, x = seeded(make, 0).double().eval(), clusters.positions
    assert_equivariant(lambda x: model(x)[1], VECTOR, VECTOR, x)
    assert_equivariant(lambda x: model(x)[0][:, None], VECTOR, trivial(VECTOR.group), x)
    energies, forces = model(x)
    assert forces.abs().max() > 1e-3
    shuffle = torch.randperm(5)
    torch.testing.assert_close(model(x[:, shuffle] + 1)[1], forces[:, shuffle])
    torch.testing.assert_close(model(x[:, shuffle] + 1)[0], energies)


def test_the_plain_network_keeps_numbering_and_place_but_no_rotation(clusters):
    model, x = seeded(lambda: PlainNetwork(12), 0).double(), clusters.positions
    assert equivariance_error(lambda x: model(x)[1], VECTOR, VECTOR, x) > 0.1
    shuffle = torch.randperm(5)
    torch.testing.assert_close(model(x[:, shuffle] + 1)[1], model(x)[1][:, shuffle])


def test_conservative_forces_are_a_gradient(clusters):
    for model in (PointNetwork(4, conservative=True), PlainNetwork(8, conservative=True)):
        model = model.double().eval()
        x = clusters.positions[:1]
        other = x + 1e-5 * torch.randn(x.shape, generator=generator(), dtype=x.dtype)
        work = (model((x + other) / 2)[1] * (other - x)).sum()
        gain = (model(other)[0] - model(x)[0]).sum()
        assert (-work).item() == pytest.approx(gain.item(), rel=1e-5)


def test_odd_products_make_the_full_network_see_handedness(clusters):
    """A mirrored cluster: Gaunt products cannot tell it apart, full ones can."""
    x = clusters.positions
    mirrored = x * torch.tensor([-1.0, 1, 1]).double()
    for product, same in (("full", False), ("gaunt", True)):
        model = seeded(lambda p=product: PointNetwork(4, 2, 3, product=p), 0).double()
        gap = (model(x)[0] - model(mirrored)[0]).abs().max() / model(x)[0].abs().max()
        assert (gap < 1e-12) == same


def test_the_plain_network_has_as_many_parameters():
    for channels in (4, 8):
        model = PointNetwork(channels)
        assert count_parameters(plain_like(model)) == pytest.approx(count_parameters(model), rel=0.06)
    plain = plain_like(PointNetwork(4, cutoff=2.5, conservative=True))
    assert (plain.cutoff, plain.conservative, len(plain.messages)) == (2.5, True, 2)


@pytest.mark.parametrize("make", [lambda: PointNetwork(4), lambda: PlainNetwork(24)], ids=["point", "plain"])
def test_both_networks_learn_and_repeat(make, clusters):
    errors = []
    for _ in range(2):
        model = seeded(make, 0)
        before = force_error(model, clusters)
        losses = fit_forces(model, clusters, steps=80, lr=1e-2, batch_size=12, augment=False, seed=1)
        assert losses.shape == (80,)
        assert not model.training
        assert losses[-10:].mean() < 0.7 * losses[:10].mean()
        errors.append(force_error(model, clusters))
        assert errors[-1] < 0.8 * min(before, 1)
    assert errors[0] == errors[1]
    torch.testing.assert_close(model.energy_mean, clusters.energies.mean().float())


@pytest.mark.parametrize("conservative", [False, True])
def test_units_of_the_data_scale_energies_and_forces_alike(conservative, clusters):
    for model in (PointNetwork(4, conservative=conservative), PlainNetwork(8, conservative=conservative)):
        energies, forces = model.double().eval()(clusters.positions)
        model.energy_mean.fill_(-5.0)
        model.scale.fill_(3.0)
        torch.testing.assert_close(model(clusters.positions)[0], 3 * energies - 5)
        torch.testing.assert_close(model(clusters.positions)[1], 3 * forces)


def test_augmentation_turns_forces_with_positions(clusters):
    """A network with the rotation built in learns the same with it, up to rounding."""
    found = []
    for augment in (False, True):
        model = seeded(lambda: PointNetwork(4), 0).double()
        torch.manual_seed(0)
        batch = {"steps": 3, "batch_size": 12, "seed": 5}
        whole = type(clusters)(*(value[:1] for value in clusters))  # one cluster: batches do not differ
        fit_forces(model, whole, augment=augment, **batch)
        found.append(model(clusters.positions)[1])
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: energy(torch.ones(1, 3)), r"positions: expected \(…, n, 3\) with n at least 2"),
        (lambda: sample_clusters(0), "count: expected a whole number of at least 1, got 0"),
        (lambda: sample_clusters(3, 1), "points: expected a whole number of at least 2, got 1"),
        (lambda: sample_clusters(3, noise=-1), "noise: expected at least 0, got -1"),
        (lambda: sample_clusters(3, shapes=4), "shapes: expected 1 to 3, got 4"),
        (lambda: moment_of_inertia(torch.ones(2, 3), torch.ones(3)), "masses: expected one for each of 2"),
        (lambda: PointNetwork(degree=0), "degree: expected at least 1"),
        (lambda: PointNetwork(0), "channels: expected a whole number of at least 1, got 0"),
        (lambda: PointNetwork(product="cg"), 'product: expected "full", "gaunt" or "edge"'),
        (lambda: PlainNetwork(8, cutoff=0), "cutoff: expected a positive distance, got 0"),
        (lambda: PlainNetwork(8)(torch.ones(5, 3)), r"positions: expected \(B, n, 3\)"),
        (lambda: fit_forces(PlainNetwork(8), sample_clusters(2, 2), steps=0), "steps, batch_size, lr"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
