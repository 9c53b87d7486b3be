"""Edge convolutions against full products, and activations on the sphere against ever finer grids."""

import math
from itertools import pairwise

import pytest
import torch

from layerlab.equivariance.check import assert_equivariant, equivariance_error
from layerlab.equivariance.groups import SpecialOrthogonal, defining
from layerlab.equivariance.irreps import Irreps, spherical_product
from layerlab.equivariance.s2 import from_grid, grid, s2_activation, to_grid
from layerlab.equivariance.so2 import EdgeConv, EdgeTensorProduct, edge_frames, to_axis, turn_blocks
from layerlab.equivariance.so3 import harmonics_to, random_rotation, wigner_blocks

VECTOR = defining(SpecialOrthogonal(3))
SIZES = [(2, 3, 2, 3), (1, 1, 0, 2), (2, 2, 3, 1), (3, 1, 4, 4)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def edges_and_features(channels, degree, count=12):
    edges = draw(count, 3)
    edges[:4] = torch.tensor([[0, 2, 0], [0, -3, 0], [1, 0, 0], [1, -1e-9, 1]])
    return edges, draw(count, channels, (degree + 1) ** 2, seed=1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_edges_are_turned_onto_the_axis():
    edges, _ = edges_and_features(1, 0)
    turns = to_axis(edges)
    up = torch.stack([0 * edges[:, 0], edges.norm(dim=-1), 0 * edges[:, 0]], -1)
    torch.testing.assert_close((turns @ edges[..., None])[..., 0], up, rtol=0, atol=1e-14)
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).double().expand_as(turns), rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(12).double())


@pytest.mark.parametrize("sizes", SIZES)
def test_the_edge_convolution_is_the_full_product(sizes):
    full = EdgeTensorProduct(*sizes).double()
    edges, x = edges_and_features(sizes[0], sizes[2])
    fast = EdgeConv.from_tensor_product(full)
    torch.testing.assert_close(fast(x, edges), full(x, edges), rtol=0, atol=1e-12)
    assert sum(w.numel() for w in fast.parameters()) == sum(w.numel() for w in full.parameters())


@pytest.mark.parametrize("max_order", [None, 0, 1])
def test_any_weights_are_equivariant(max_order):
    layer = EdgeConv(2, 3, 2, 3, max_order).double()
    edges, x = edges_and_features(2, 2)
    reps = (Irreps.spherical(2), VECTOR)
    assert assert_equivariant(layer, reps, Irreps.spherical(3), (x, edges)) < 1e-11
    assert len(layer.real) == (3 if max_order is None else max_order + 1)


def test_the_convolution_does_not_depend_on_the_frame():
    layer = EdgeConv(2, 2, 3, 3).double()
    edges, x = edges_and_features(2, 3)
    angle = draw(12, seed=2)
    spin = torch.zeros(12, 3, 3).double()
    spin[:, 0, 0] = spin[:, 2, 2] = angle.cos()
    spin[:, 0, 2], spin[:, 2, 0], spin[:, 1, 1] = angle.sin(), -angle.sin(), 1.0
    other = [s @ d for s, d in zip(wigner_blocks(3, spin), edge_frames(edges, 3), strict=True)]
    torch.testing.assert_close(layer(x, None, other), layer(x, edges), rtol=0, atol=1e-12)


def test_the_full_product_is_a_spherical_product_per_pair_of_channels():
    layer = EdgeTensorProduct(2, 1, 1, 2, degree_edge=2).double()
    edges, x = edges_and_features(2, 1)
    y = harmonics_to(2, edges)
    expected = sum(spherical_product(x[:, i], y, 2, layer.weight[:, 0, i]) for i in range(2))
    torch.testing.assert_close(layer(x, edges)[:, 0], expected)


def test_gradients_pass_the_seam_of_the_frames():
    """Frames jump where y changes sign and turn about where x and z are zero; the layer does neither."""
    x = draw(4, 1, 9)
    edges = torch.tensor(
        [[1.0, 0, 1], [0, 1, 0], [0, -1, 0], [1, -1e-5, 1]], dtype=torch.float64, requires_grad=True
    )
    full = EdgeTensorProduct(1, 1, 2, 2).double()
    matched = EdgeConv.from_tensor_product(full)
    (ours,) = torch.autograd.grad(matched(x, edges).square().sum(), edges)
    (theirs,) = torch.autograd.grad(full(x, edges).square().sum(), edges)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_blocks_turn_and_turn_back():
    edges, x = edges_and_features(2, 3)
    frames = edge_frames(edges, 3)
    torch.testing.assert_close(turn_blocks(turn_blocks(x, frames), frames, back=True), x)
    y = harmonics_to(3, edges)[:, None]
    upright = turn_blocks(y, frames)[:, 0]
    expected = torch.zeros_like(upright)
    for ell in range(4):
        expected[:, ell * ell + ell] = math.sqrt((2 * ell + 1) / (4 * math.pi))
    torch.testing.assert_close(upright, expected, rtol=0, atol=1e-13)


def test_grids_integrate_and_give_back():
    x = draw(3, 36)
    for resolution in (6, 9):
        torch.testing.assert_close(from_grid(to_grid(x, resolution), 5), x)
    places, weights = grid(6)
    torch.testing.assert_close(to_grid(x, 6), torch.einsum("tpi,ni->ntp", harmonics_to(5, places), x))
    assert (weights.expand(6, 12).sum() / (4 * math.pi)).item() == pytest.approx(1)
    torch.testing.assert_close(from_grid(to_grid(x, 6), 2), x[:, :9])


@pytest.mark.parametrize("separable", [False, True])
def test_activations_become_equivariant_on_finer_grids(separable):
    x, features = draw(20, 9), Irreps.spherical(2)
    errors = [
        equivariance_error(lambda x, r=r: s2_activation(x, r, separable=separable), features, features, x)
        for r in (3, 6, 12, 24)
    ]
    assert errors[0] > 1e-2
    assert all(fine < coarse / 20 for coarse, fine in pairwise(errors))
    assert errors[-1] < 1e-10


def test_a_kink_makes_the_grid_converge_slowly():
    x, features = draw(20, 9), Irreps.spherical(2)

    def error(r):
        return equivariance_error(lambda x: s2_activation(x, r, torch.relu), features, features, x)

    assert 1e-4 < error(24) < error(8) < error(4)


def test_a_linear_activation_changes_nothing_and_scalars_can_stay_apart():
    x = draw(5, 9)
    torch.testing.assert_close(s2_activation(x, 4, lambda v: 2 * v), 2 * x)
    apart = s2_activation(x, 6, torch.tanh, separable=True)
    torch.testing.assert_close(apart[:, 0], torch.tanh(x[:, 0]))
    torch.testing.assert_close(apart[:, 1:], s2_activation(x, 6, torch.tanh)[:, 1:])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: to_axis(torch.zeros(2, 3)), "edges: expected vectors of positive"),
        (lambda: to_axis(torch.tensor([[math.inf, 0, 0]])), "edges: expected .*got zero, infinity"),
        (lambda: to_axis(torch.ones(2, 2)), r"edges: expected \(…, 3\)"),
        (lambda: EdgeConv(0, 1, 1, 1), "channels_in: expected a whole number of at least 1, got 0"),
        (lambda: EdgeConv(1, 1, 1, -1), "degree_out: expected 0 to 32, got -1"),
        (lambda: EdgeConv(1, 1, 1, 1, max_order=-2), "max_order: expected 0 to 32, got -2"),
        (lambda: EdgeConv(2, 1, 1, 1)(torch.ones(3, 2, 9), torch.ones(3, 3)), r"x: expected \(edges, 2, 4\)"),
        (lambda: turn_blocks(torch.ones(1, 1, 9), [torch.ones(1, 1, 1)]), "blocks: expected degrees 0 to 2"),
        (lambda: grid(0), "resolution: expected a whole number of at least 1, got 0"),
        (lambda: s2_activation(torch.ones(9), 2), "degree: expected below the resolution 2, got 2"),
        (lambda: from_grid(torch.ones(3, 4), 1), "values: expected"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_random_rotations_move_messages_as_they_move_edges():
    """The whole of a point cloud: messages of all pairs, turned with the cloud."""
    layer, turn = EdgeConv(1, 2, 0, 2).double(), random_rotation(torch.Generator().manual_seed(3))
    points, ones = draw(5, 3), torch.ones(20, 1, 1).double()
    i, j = torch.nonzero(~torch.eye(5, dtype=torch.bool), as_tuple=True)

    def message(points):
        return layer(ones, points[j] - points[i]).view(5, 4, 2, 9).sum(1)

    torch.testing.assert_close(message(points @ turn.T), Irreps.spherical(2).act(turn, message(points)))
