"""Rounding to a grid: by hand, the error that it may make, and training that sees the rounded weights."""

import copy
import math

import pytest
import torch
from torch import nn

from layerlab.inr.fit import coordinates, fit
from layerlab.inr.rounding import (
    dequantize,
    mixed_bits,
    on_grid,
    quantize_state,
    rounded_error,
    scales,
)
from layerlab.inr.siren import Siren
from layerlab.models import seeded


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-3, 0, 12)[:, None]  # rows of very different size
    return {
        "weight": torch.randn(12, 40, generator=generator) * sizes,
        "bias": torch.randn(12, generator=generator),
    }


def test_by_hand():
    made = quantize_state({"w": torch.tensor([[7.0, -3.4, 0.6, 0, 0, 0, 0, 1], [0.0] * 8])}, 4)["w"]
    assert made.codes.tolist() == [[7, -3, 1, 0, 0, 0, 0, 1], [0] * 8]
    assert made.exponents[0] == 0
    assert made.bits == 4
    assert dequantize({"w": made})["w"].tolist() == [[7.0, -3.0, 1.0, 0, 0, 0, 0, 1], [0.0] * 8]
    # a row 2^(1/8) times as large has the next scale
    assert quantize_state({"w": torch.tensor([7 * 2**0.125])}, 4)["w"].exponents.tolist() == [1]


def test_scales_are_powers_of_two_in_eighths():
    e = torch.arange(-256, 64)
    expected = torch.tensor([2.0 ** (k / 8) for k in range(-256, 64)], dtype=torch.float64)
    torch.testing.assert_close(scales(e, torch.float64), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("per", ["channel", "tensor"])
def test_no_value_is_cut_off_and_errors_are_at_most_half_a_step(state, bits, per):
    made = quantize_state(state, bits, per)
    back = dequantize(made, dtype=torch.float64)
    for key, value in state.items():
        step = scales(made[key].exponents, torch.float64)
        error = (back[key] - value.double()).reshape(len(step), -1).abs()
        assert (error <= step[:, None] * 0.5000001).all()
        assert made[key].codes.abs().max() <= 2 ** (bits - 1) - 1
        # the next smaller scale would cut off
        largest = value.double().reshape(len(step), -1).abs().amax(1)
        assert (largest > step * 2**-0.125 * (2 ** (bits - 1) - 1) * (1 - 1e-5)).all()
    assert len(made["weight"].exponents) == (12 if per == "channel" else 1)
    assert len(made["bias"].exponents) == 1


def test_a_scale_per_channel_and_the_scale_of_least_error_leave_less_error(state):
    def error(**how):
        made = dequantize(quantize_state(state, 4, **how))
        return (made["weight"] - state["weight"]).square().sum(1) / state["weight"].square().sum(1)

    assert (error(per="channel") <= error(per="tensor") + 1e-6).float().mean() > 0.8
    assert error(per="tensor").max() > 0.9 > 0.05 > error(per="channel").max()
    assert (error(by="error") <= error()).all()
    assert error(by="error").mean() < 0.95 * error().mean()


def test_bits_by_key(state):
    made = quantize_state(state, {"weight": 3, "bias": 9})
    assert made["weight"].codes.abs().max() == 3
    assert made["bias"].codes.abs().max() > 200


def test_short_rows_share_a_scale():
    for width, expected in ((7, 1), (8, 5)):
        assert len(quantize_state({"w": torch.ones(5, width)}, 4)["w"].exponents) == expected
    assert len(quantize_state({"w": torch.ones(5, 2, 4)}, 4)["w"].exponents) == 5


def test_mixed_bits():
    model = Siren(2, [8, 8], 3)
    found = mixed_bits(model, 4, rest=10)
    assert {name for name, bits in found.items() if bits == 4} == {"layers.1.weight", "layers.2.weight"}
    assert set(found.values()) == {4, 10}
    assert found.keys() == dict(model.named_parameters()).keys()


def test_complex_weights_are_rounded_in_both_parts():
    weight = torch.randn(5, 7, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    made = quantize_state({"w": weight, "b": weight[0]}, 8)
    assert made["w"].codes.shape == (5, 7, 2)
    assert (len(made["w"].exponents), len(made["b"].exponents)) == (5, 1)
    back = torch.view_as_complex(dequantize(made)["w"])
    assert (back - weight).abs().max() < 0.03


@pytest.mark.parametrize("how", [{}, {"per": "tensor"}, {"by": "error"}])
def test_training_sees_exactly_what_a_file_holds(how):
    model = seeded(lambda: Siren(2, [16, 16], 1), 0)
    bits = mixed_bits(model, 4, rest=8)
    seen = on_grid(model, bits, **how)
    held = dequantize(quantize_state(model.state_dict(), bits, **how))
    assert all(torch.equal(seen[key], held[key]) for key in held)
    assert not any(torch.equal(seen[key], weight) for key, weight in model.named_parameters())
    X, y = coordinates(8, 8), torch.rand(64, 1)
    loss = rounded_error(bits, **how)(model, X, y)
    loss.backward()
    plain = copy.deepcopy(model)
    plain.load_state_dict(held)
    plain.zero_grad()
    expected = (plain(X) - y).square().mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):  # straight through
        torch.testing.assert_close(p.grad, q.grad)


def test_complex_weights_train_on_the_grid():
    model = nn.Linear(3, 2, dtype=torch.complex64)
    made = on_grid(model, 4)
    assert made["weight"].dtype == torch.complex64
    made["weight"].abs().sum().backward()
    assert model.weight.grad.abs().min() > 0


def test_training_that_sees_the_grid_beats_rounding_afterwards():
    X = coordinates(24, 24)
    y = torch.sin(5 * X[:, :1]) * torch.cos(7 * X[:, 1:] + X[:, :1])
    model = seeded(lambda: Siren(2, [16, 16], 1, w0=10.0), 0)
    fit(model, X, y, steps=200, lr=5e-3, schedule="cosine")
    bits = mixed_bits(model, 3, rest=8)
    aware, error = copy.deepcopy(model), rounded_error(bits)
    fit(aware, X, y, steps=100, lr=2e-3, schedule="cosine", loss=error)
    with torch.no_grad():
        assert error(aware, X, y) < 0.6 * error(model, X, y)


@pytest.mark.parametrize(
    ("tensor", "arguments", "message"),
    [
        (torch.ones(2), {"bits": 1}, "bits.*from 2 to 16, got 1"),
        (torch.ones(2), {"bits": 17}, "bits.*got 17"),
        (torch.ones(2), {"bits": 4.0}, "bits.*got 4.0"),
        (torch.ones(2), {"bits": {"other": 4}}, "bits: expected a number for each key.*'w'"),
        (torch.ones(2), {"bits": 4, "per": "row"}, "per: .*'row'"),
        (torch.ones(2), {"bits": 4, "by": "mse"}, "by: .*'mse'"),
        (torch.tensor([1.0, math.nan]), {"bits": 4}, r"state\['w'\]: expected finite.*nan"),
        (torch.tensor([1.0, math.inf]), {"bits": 4}, r"state\['w'\]: expected finite"),
        (torch.ones(0, 2), {"bits": 4}, r"state\['w'\]: expected at least one number"),
        (torch.ones(2, dtype=torch.int64), {"bits": 4}, "floating point, got torch.int64"),
    ],
)
def test_bad_input(tensor, arguments, message):
    with pytest.raises(ValueError, match=message):
        quantize_state({"w": tensor}, **arguments)


def test_bad_input_of_the_rest():
    with pytest.raises(ValueError, match="state: expected at least one tensor"):
        quantize_state({}, 4)
    with pytest.raises(ValueError, match="got 40"):
        rounded_error(40)
    with pytest.raises(ValueError, match="got 0"):
        mixed_bits(nn.Linear(2, 2), 4, rest=0)
