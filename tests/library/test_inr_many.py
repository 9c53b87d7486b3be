"""Many networks at once: the same as one by one, on every path, and what happens when something is wrong."""

import math

import pytest
import torch
from torch import nn

from layerlab.inr import many as module
from layerlab.inr._sines import SineGradients, chain_of
from layerlab.inr.activations import ACTIVATIONS, CoordinateNet
from layerlab.inr.fit import coordinates, fit
from layerlab.inr.grids import HashGrid
from layerlab.inr.many import fit_many
from layerlab.inr.siren import Siren
from layerlab.models import MLP, seeded

X = coordinates(16, 12)
Y = torch.stack([torch.cat([(X * k).sin().sum(1, keepdim=True), X[:, :1] * k], 1) for k in (1, 2, 3)])
SETTINGS = {"steps": 25, "lr": 2e-3}
NETWORKS = {
    "siren": lambda: Siren(2, [9, 7], 2, w0=8.0, hidden_w0=5.0),
    "deep siren": lambda: Siren(2, [6, 6, 6], 2),
    **{name: lambda name=name: CoordinateNet(2, 2, 8, 3, name) for name in ACTIVATIONS},
    "hash": lambda: nn.Sequential(HashGrid(2, 2, 6, 2, 20), MLP(4, [8], 2)),
}


def copies(make, dtype=torch.float32):
    return [seeded(make, seed).to(dtype) for seed in range(3)]


def one_by_one(models, y=Y, seeds=(0, 0, 0), **settings):
    fits = [
        fit(m, X.to(y.dtype), s, seed=k, **settings).losses for m, s, k in zip(models, y, seeds, strict=True)
    ]
    return torch.stack(fits, 1)


def assert_same(models, others, **tolerance):
    for model, other in zip(models, others, strict=True):
        for ours, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("batch_size", [None, 50])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_it_is_fit_on_each(name, batch_size):
    settings = SETTINGS | {"batch_size": batch_size, "seeds": (3, 4, 4)}
    ours, theirs = copies(NETWORKS[name]), copies(NETWORKS[name])
    assert (chain_of(ours[0]) is not None) == (name in ("siren", "deep siren", "sine"))
    losses, expected = fit_many(ours, X, Y, **settings), one_by_one(theirs, **settings)
    assert losses.shape == (25, 3)
    torch.testing.assert_close(losses[:10], expected[:10], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-6)
    assert_same(ours, theirs, rtol=1e-2, atol=1e-3)
    assert not any(part.training for model in ours for part in model.modules())


@pytest.mark.parametrize("schedule", [None, "cosine"])
@pytest.mark.parametrize("batch_size", [None, 50])
def test_in_float64_it_is_the_same_to_rounding(batch_size, schedule):
    settings = {"steps": 100, "lr": 3e-4, "batch_size": batch_size, "schedule": schedule}
    ours, theirs = (copies(NETWORKS["spder"], torch.float64) for _ in range(2))
    losses = fit_many(ours, X.double(), Y.double(), **settings)
    torch.testing.assert_close(losses, one_by_one(theirs, Y.double(), **settings), rtol=1e-9, atol=1e-12)
    assert_same(ours, theirs, rtol=1e-7, atol=1e-9)


def test_gradients_by_hand_are_those_of_autograd():
    models = copies(NETWORKS["siren"])
    stacked, _ = torch.func.stack_module_state(models)
    losses = SineGradients(chain_of(models[0]), stacked).step(X, Y)
    for i, model in enumerate(models):
        loss = (model(X) - Y[i]).square().mean()
        loss.backward()
        assert losses[i].item() == pytest.approx(loss.item(), rel=1e-5)
        for name, weight in model.named_parameters():
            torch.testing.assert_close(stacked[name].grad[i], weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [1, 700, 10**6])
def test_neither_blocks_nor_threads_change_the_result(monkeypatch, block):
    models = copies(NETWORKS["siren"])
    stacked, _ = torch.func.stack_module_state(models)
    step = SineGradients(chain_of(models[0]), stacked).step
    expected = step(X[:60], Y[:, :60])
    slopes = {name: weight.grad.clone() for name, weight in stacked.items()}
    monkeypatch.setattr("layerlab.inr._sines._BLOCK", block)
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            torch.testing.assert_close(step(X[:60], Y[:, :60]), expected)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        for name, weight in stacked.items():
            torch.testing.assert_close(weight.grad, slopes[name], rtol=1e-4, atol=1e-5)


def test_a_chain_is_not_seen_where_there_is_more():
    assert chain_of(NETWORKS["siren"]().double()) is None
    assert chain_of(nn.Sequential(NETWORKS["siren"]())) is None

    class Other(Siren):
        def forward(self, x):
            return 2 * super().forward(x)

    assert chain_of(Other(2, [4], 1)) is None
    held = NETWORKS["siren"]()
    held.layers[0].weight.requires_grad_(False)
    assert chain_of(held) is None
    assert chain_of(CoordinateNet(2, 1, 4, 2, "sine", first=nn.Linear(2, 4))) is None


def test_steps_of_many_coordinates_are_not_mapped(monkeypatch):
    monkeypatch.setattr(module, "MAP_BELOW", 100)
    monkeypatch.setattr(module, "_mapped", None)
    ours, theirs = copies(NETWORKS["relu"]), copies(NETWORKS["relu"])
    settings = SETTINGS | {"batch_size": 150, "seeds": (3, 4, 5)}
    assert torch.equal(fit_many(ours, X, Y, **settings), one_by_one(theirs, **settings))
    assert_same(ours, theirs, rtol=0, atol=0)


def test_mapped_parts_add_up(monkeypatch):
    expected = fit_many(copies(NETWORKS["gauss"]), X, Y, **SETTINGS)
    monkeypatch.setattr(module, "_ROWS", 3 * 50)
    torch.testing.assert_close(fit_many(copies(NETWORKS["gauss"]), X, Y, **SETTINGS), expected)


def test_the_global_generator_goes_on_where_it_was():
    state = torch.get_rng_state()
    fit_many(copies(NETWORKS["siren"]), X, Y, steps=3, batch_size=20)
    assert torch.equal(torch.get_rng_state(), state)


# what is refused


def spoiled(*signals):
    y = Y.clone()
    for i in signals:
        y[i, 7, 0] = math.nan
    return y


def duplicate():
    (first, second, _) = copies(NETWORKS["siren"])
    return [first, second, first]


def mixed(other):
    return [*copies(NETWORKS["siren"])[:2], other()]


@pytest.mark.parametrize(
    ("models", "y", "settings", "message"),
    [
        (None, spoiled(1), {}, r"Y: expected finite values, got NaN or infinity in signals \[1\]"),
        (None, spoiled(0, 2), {}, r"in signals \[0, 2\]"),
        (None, Y[:2], {}, r"Y: expected \(3, N, channels\), .* got \(2, 192, 2\)"),
        (None, Y[0], {}, r"Y: expected \(3, N, channels\), .* got \(192, 2\)"),
        (None, Y[:, :, :1], {}, r"Y: expected \(models, N, \*\(2,\)\), got \(3, 192, 1\)"),
        (None, Y[:, :9], {}, r"y: expected \(192, channels\)"),
        (None, Y, {"steps": 0}, "steps: expected an integer of at least 1, got 0"),
        (None, Y, {"lr": -1.0}, "lr: expected a positive number, got -1.0"),
        (None, Y, {"seeds": [1, 2]}, "seeds: expected one for each of 3 models, got 2"),
        ([], Y[:0], {}, "models: expected at least one model, got none"),
        (duplicate, Y, {}, "models: expected a module each, got one of them twice"),
        (lambda: mixed(lambda: Siren(2, [9, 8], 2)), Y, {}, r"models\[2\]\['layers"),
        (
            lambda: mixed(lambda: Siren(2, [9, 7], 2, w0=9.0)),
            Y,
            {},
            r"models\[2\]: expected the structure of",
        ),
    ],
)
def test_bad_arguments_are_named_and_change_nothing(models, y, settings, message):
    models = copies(NETWORKS["siren"]) if models is None else models() if callable(models) else models
    states = [{k: v.clone() for k, v in m.state_dict().items()} for m in models]
    with pytest.raises(ValueError, match=message):
        fit_many(models, X, y, **settings)
    for model, state in zip(models, states, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert model.training


@pytest.mark.parametrize(("name", "below"), [("siren", 512), ("polynomial", 512), ("polynomial", 10)])
def test_divergence_names_the_models_and_undoes_all(monkeypatch, name, below):
    monkeypatch.setattr(module, "MAP_BELOW", below)
    models, others = copies(NETWORKS[name]), copies(NETWORKS[name])
    y = Y.clone()
    y[1] *= 1e30  # its square is beyond float32
    which = r"models\[1\]: the loss became inf" if below == 10 else r"at step 0 for models \[1\]"
    with pytest.raises(FloatingPointError, match=which):
        fit_many(models, X, y, steps=3)
    assert_same(models, others, rtol=0, atol=0)
    assert all(model.training for model in models)
