"""Grids without a zero: levels, gradients of weight and step, confidence, and what counts as a flip."""

import pytest
import torch

from layerlab.quantization import oscillation as O


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_values_are_the_nearest_levels(bits):
    w, step = 3 * randn(200), torch.tensor(0.4, dtype=torch.float64)
    levels = (torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).double() + 0.5) * step
    nearest = levels[(w[:, None] - levels).abs().argmin(1)]
    found = O.round_to(w, step, bits)
    assert torch.allclose(found, nearest)
    assert torch.allclose((O.codes(w, step, bits) + 0.5) * step, found)
    assert len(O.codes(w, step, bits).unique()) == min(2**bits, len(O.codes(w, step, 8).unique()))


def test_one_bit_is_the_sign():
    w = torch.tensor([-2.0, -0.1, 0.0, 0.1, 5.0])
    assert O.round_to(w, torch.tensor(2.0), 1).tolist() == [-1, -1, 1, 1, 1]


def test_gradient_of_the_weight_is_straight_through_inside():
    w = torch.tensor([-2.5, -1.9, -0.3, 0.0, 1.9, 2.5], requires_grad=True)
    (O.round_to(w, torch.tensor(1.0), 2) * torch.arange(1.0, 7.0)).sum().backward()
    assert w.grad.tolist() == [0, 2, 3, 4, 5, 0]


@pytest.mark.parametrize("bits", [2, 3])
def test_gradient_of_the_step_is_that_of_lsq(bits):
    w, step = randn(5, 30), torch.full((5, 1), 0.3, dtype=torch.float64, requires_grad=True)
    upstream = randn(5, 30, seed=1)
    (O.round_to(w, step, bits) * upstream).sum().backward()
    level = O.codes(w, step, bits) + 0.5
    place = w / step.detach()
    inside = place.abs() <= 2 ** (bits - 1)
    expected = (upstream * torch.where(inside, level - place, level)).sum(1, keepdim=True)
    assert torch.allclose(step.grad, expected)


def test_a_learned_step_keeps_its_value_and_scales_its_gradient():
    step = torch.tensor([[0.5], [2.0]], requires_grad=True)
    found = O.learned(step, torch.zeros(2, 50), 3)
    assert torch.equal(found.detach(), step.detach())
    found.sum().backward()
    assert step.grad.flatten().tolist() == pytest.approx([(50 * 4) ** -0.5] * 2)


def test_a_statistical_step_follows_the_weights():
    w = randn(4, 3, 5).requires_grad_()
    found = O.statistical(w, 3)
    assert found.shape == (4, 1, 1)
    assert not found.requires_grad
    assert torch.allclose(found.flatten(), 2 * w.detach().abs().mean((1, 2)) / 4)
    assert torch.allclose(O.statistical(3 * w, 3), 3 * found)
    grid = 4 * found.flatten()  # as far as the outermost threshold would be
    assert torch.allclose(grid, 2 * w.detach().abs().mean((1, 2)))


def test_confident_weights_are_far_from_every_threshold():
    w, step, width = 2 * randn(500), torch.tensor(0.7, dtype=torch.float64), 0.2
    thresholds = torch.arange(-1, 2) * step  # of two bits
    far = (w[:, None] - thresholds).abs().amin(1) > width * step
    assert torch.equal(O.confident(w, step, 2, width), far)
    assert 0.1 < far.double().mean() < 0.95


def test_codes_of_confident_weights_survive_small_moves():
    w, step = randn(300), torch.tensor(0.5, dtype=torch.float64)
    sure = O.confident(w, step, 3, 0.1)
    for move in (-0.049, 0.049):
        assert torch.equal(O.codes(w + move, step, 3)[sure], O.codes(w, step, 3)[sure])
    moved = torch.stack([O.codes(w + move, step, 3) for move in (-0.051, 0.051)])
    assert (moved != O.codes(w, step, 3)).any(0)[~sure].all()


def test_flips_count_changes_since_the_last_call():
    flips, now = O.Flips(), torch.zeros(3)
    for change in ([0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]):
        now += torch.tensor(change)  # in place: what was counted has to be kept apart
        flips.update(now)
    assert flips.count.tolist() == [2, 1, 0]
    assert flips.share(1) == pytest.approx(2 / 3)
    assert flips.share(2) == pytest.approx(1 / 3)


def test_the_estimators_can_be_mapped():
    w, step = randn(3, 4, 5), torch.rand(3, 4, 1, dtype=torch.float64) + 0.1
    mapped = torch.func.vmap(lambda w, s: O.round_to(w, s, 2))(w, step)
    assert torch.equal(mapped, O.round_to(w, step, 2))


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (TypeError, "weight: expected a floating", lambda: O.codes(torch.ones(2).int(), torch.ones(1), 2)),
        (ValueError, r"bits: expected an integer in 1\.\.8, got 9", lambda: O.round_to(ONE, ONE, 9)),
        (TypeError, "bits: expected an integer", lambda: O.statistical(ONE, 2.0)),
        (ValueError, r"weight: expected shape \(out, in", lambda: O.statistical(torch.ones(3), 2)),
        (ValueError, "width: expected", lambda: O.confident(ONE, ONE, 2, 0.0)),
        (ValueError, "flips: expected codes", lambda: O.Flips().share(1)),
        (ValueError, "at_least: expected", lambda: O.Flips().share(0)),
    ],
)
def test_bad_input_is_named(error, match, call):
    with pytest.raises(error, match=match):
        call()


def test_codes_of_another_shape_are_refused():
    flips = O.Flips()
    flips.update(torch.zeros(2))
    with pytest.raises(ValueError, match=r"now: expected shape \(2,\), got \(3,\)"):
        flips.update(torch.zeros(3))
    assert flips.count.tolist() == [0, 0]


ONE = torch.ones(1, 1)
