"""The linearity theorem where it is exact: a quadratic loss, of which all slopes are known."""

import pytest
import torch

from layerlab.quantization import linearity as L


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STATE = {"a": randn(4, 5), "b": randn(30, seed=1), "c": randn(3)}
CURVE = {"a": 2.0, "b": 0.5}


def quadratic(state):
    """Curvature times squares, a gradient at the point itself, and a third weight that has none."""
    total = 0.0
    for key, h in CURVE.items():
        d = state[key] - STATE[key]
        total += float(h * d.square().sum() + 100 * d.sum())
    return total + 7.0


def test_slopes_of_a_quadratic():
    found = L.slopes(quadratic, STATE, ["a", "b"], t=0.01, draws=400, seed=0)
    for key, h in CURVE.items():  # E of h |d|² is h t |w|²; pairs cancel the gradient
        assert found[key] == pytest.approx(h * STATE[key].square().sum().item(), rel=0.05)
    assert L.slopes(quadratic, STATE, ["c"], draws=2) == {"c": 0.0}


def test_slopes_are_a_matter_of_the_seed_and_leave_the_state():
    before = {k: v.clone() for k, v in STATE.items()}
    one, same, other = (L.slopes(quadratic, STATE, ["a"], draws=3, seed=s) for s in (0, 0, 1))
    assert one == same != other
    assert all(torch.equal(v, before[k]) for k, v in STATE.items())


def test_noise_has_the_error_that_is_asked_for():
    w, g = randn(200, 200), torch.Generator().manual_seed(0)
    assert L.relative_error(w, L.noisy(w, 0.03, g)) == pytest.approx(0.03, rel=0.05)
    assert torch.equal(L.noisy(w, 0, g), w)
    assert L.relative_error(w, w * 0.9) == pytest.approx(0.01)


def test_prediction_adds_up():
    assert L.predict({"a": 1.0, "b": -2.0, "c": 9.0}, {"a": 0.1, "b": 0.2}) == pytest.approx(-0.3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: L.relative_error(torch.ones(2), torch.ones(3)),
        lambda: L.relative_error(torch.zeros(2), torch.ones(2)),
        lambda: L.noisy(torch.ones(2), -0.1, torch.Generator()),
        lambda: L.noisy(torch.ones(2), float("nan"), torch.Generator()),
        lambda: L.slopes(quadratic, STATE, []),
        lambda: L.slopes(quadratic, STATE, ["nowhere"]),
        lambda: L.slopes(quadratic, STATE, ["a"], t=0.0),
        lambda: L.slopes(quadratic, STATE, ["a"], draws=0),
        lambda: L.predict({"a": 1.0}, {"b": 0.1}),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call()
