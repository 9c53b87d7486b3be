"""Learned initial weights: inner steps and outer gradients by other ways, and what they are good for."""

import copy
from itertools import islice

import pytest
import torch
from torch import nn

from layerlab.data import digits
from layerlab.inr.fit import coordinates
from layerlab.inr.meta import _batches, adapt, maml, predict, reptile
from layerlab.inr.siren import Siren
from layerlab.models import seeded

X = coordinates(8, 8)


def make():
    return Siren(2, [16, 16], 1, w0=10.0)


@pytest.fixture(scope="module")
def pictures():
    """(training, held out): (S, 64, 1)."""
    data = digits()
    return data.train.X.flatten(1)[:200, :, None], data.test.X.flatten(1)[:20, :, None]


def descend(model, state, y, steps, lr, seen=None):
    """One signal, by torch's own optimizer."""
    model = copy.deepcopy(model)
    model.load_state_dict(state)
    opt = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        opt.zero_grad()
        errors = (model(X) - y).square()
        (errors if seen is None else errors[seen]).mean().backward()
        opt.step()
    return model


def db(model, states, signals, where=slice(None)):
    errors = (predict(model, states, X) - signals).square()[:, where].mean((1, 2))
    return (-10 * errors.log10()).mean().item()


def test_adapt_is_gradient_descent_on_each_signal(pictures):
    signals = pictures[1][:3]
    model = seeded(make, 0)
    state = seeded(make, 1).state_dict()
    before = copy.deepcopy(model.state_dict())
    states = adapt(model, state, signals, X, steps=4, lr=3e-2)
    made = predict(model, states, X)
    for i, y in enumerate(signals):
        alone = descend(model, state, y, 4, 3e-2)
        for key, weight in alone.state_dict().items():
            torch.testing.assert_close(states[key][i], weight, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(made[i], alone(X), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    start = adapt(model, state, signals, X, steps=0, lr=1.0)
    assert all(torch.equal(start[key], state[key].expand_as(start[key])) for key in state)


def test_what_the_mask_hides_is_not_looked_at(pictures):
    signals = pictures[1][:2]
    model, state = seeded(make, 0), seeded(make, 1).state_dict()
    mask = torch.rand(2, 64, generator=torch.Generator().manual_seed(0)) < 0.3
    states = adapt(model, state, signals, X, steps=3, lr=3e-2, mask=mask)
    hidden = torch.where(mask[..., None], signals, 100.0)
    other = adapt(model, state, hidden, X, steps=3, lr=3e-2, mask=mask)
    for i in range(2):
        alone = descend(model, state, signals[i], 3, 3e-2, mask[i]).state_dict()
        for key in state:
            assert torch.equal(states[key], other[key])
            torch.testing.assert_close(states[key][i], alone[key], rtol=1e-4, atol=1e-6)
    shared = adapt(model, state, signals, X, steps=3, lr=3e-2, mask=mask[0])
    torch.testing.assert_close(shared["layers.0.weight"][0], states["layers.0.weight"][0])


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_takes_the_gradient_through_the_inner_steps(pictures, first_order):
    signals = pictures[0][:3]
    lr, inner_lr = 1e-3, 5e-2
    arguments = {"steps": 1, "lr": lr, "inner_steps": 2, "inner_lr": inner_lr, "batch_size": 3}
    found = maml(make, signals, X, first_order=first_order, seed=4, **arguments)
    model = seeded(make, 4)
    start = list(model.parameters())
    total = 0
    for y in signals:
        weights = start
        for _ in range(2):
            error = (forward(weights) - y).square().mean()
            slopes = torch.autograd.grad(error, weights, create_graph=not first_order)
            weights = [w - inner_lr * s for w, s in zip(weights, slopes, strict=True)]
        total = total + (forward(weights) - y).square().mean() / 3
    slopes = torch.autograd.grad(total, start)
    for (name, weight), slope in zip(model.named_parameters(), slopes, strict=True):
        expected = weight - lr * slope / (slope.abs() + 1e-8)  # the first step of Adam
        torch.testing.assert_close(found[name], expected, rtol=0, atol=2e-5, msg=name)


def forward(weights):
    h = X
    for i in range(0, len(weights) - 2, 2):
        h = torch.sin(10 * nn.functional.linear(h, weights[i], weights[i + 1]))
    return nn.functional.linear(h, weights[-2], weights[-1])


def test_reptile_moves_towards_the_mean_of_what_was_fitted(pictures):
    signals = pictures[0][:2]
    state = seeded(make, 4).state_dict()
    fitted = [descend(make(), state, y, 3, 3e-2).state_dict() for y in signals]
    found = reptile(make, signals, X, steps=1, lr=0.25, inner_steps=3, inner_lr=3e-2, batch_size=2, seed=4)
    for key, weight in state.items():
        middle = (fitted[0][key] + fitted[1][key]) / 2
        torch.testing.assert_close(found[key], 0.75 * weight + 0.25 * middle, rtol=1e-4, atol=1e-6)
    # of two steps the second is half as long
    once = reptile(make, signals[:1], X, steps=1, inner_steps=3, inner_lr=3e-2, batch_size=1, seed=4)
    torch.testing.assert_close(once["layers.1.weight"], fitted[0]["layers.1.weight"], rtol=1e-4, atol=1e-6)
    twice = reptile(make, signals[:1], X, steps=2, inner_steps=3, inner_lr=3e-2, batch_size=1, seed=4)
    again = descend(make(), once, signals[0], 3, 3e-2).state_dict()
    middle = (once["layers.1.weight"] + again["layers.1.weight"]) / 2
    torch.testing.assert_close(twice["layers.1.weight"], middle, rtol=1e-4, atol=1e-6)


def test_learned_weights_fit_new_signals_in_five_steps(pictures):
    train, test = pictures
    model, lr = make(), 3e-2
    start = seeded(make, 0).state_dict()
    arguments = {"inner_steps": 5, "inner_lr": lr, "batch_size": 16, "steps": 80}
    states = {
        "random": start,
        "reptile": reptile(make, train, X, **arguments),
        "maml": maml(make, train, X, lr=3e-3, **arguments),
    }
    found = {name: db(model, adapt(model, s, test, X, steps=5, lr=lr), test) for name, s in states.items()}
    assert found["reptile"] > found["random"] + 3
    assert found["maml"] > found["reptile"] + 2


def test_learning_from_a_part_of_the_pixels_helps_where_only_a_part_is_seen(pictures):
    train, test = pictures
    model, lr = make(), 1e-2
    seen = torch.zeros(64, dtype=torch.bool)
    seen[torch.randperm(64, generator=torch.Generator().manual_seed(0))[:19]] = True
    arguments = {"inner_steps": 5, "inner_lr": lr, "lr": 3e-3, "batch_size": 16, "steps": 80}
    learned = maml(make, train, X, observed=0.3, **arguments)
    random = seeded(make, 0).state_dict()

    def unseen(state):
        return db(model, adapt(model, state, test, X, steps=5, lr=lr, mask=seen), test, ~seen)

    assert unseen(learned) > unseen(random) + 2


def test_batches_hold_each_signal_once_in_a_pass_and_see_a_part():
    signals = torch.arange(10.0).view(10, 1, 1).expand(10, 64, 1)
    batches = list(islice(_batches(signals, 4, 0.3, seed=0), 6))
    assert [len(batch) for batch, _ in batches] == [4, 4, 2, 4, 4, 2]
    for one in (batches[:3], batches[3:]):
        assert sorted(value for batch, _ in one for value in batch[:, 0, 0].tolist()) == list(range(10))
    seen = torch.cat([seen for _, seen in batches])
    assert seen.shape == (20, 64)
    assert seen.sum(1).tolist() == [19] * 20
    assert (seen.sum(0) > 0).all()
    assert (seen.sum(0) < 15).all()


@pytest.mark.parametrize("learn", [reptile, maml])
def test_a_seed_gives_the_same_weights_and_leaves_the_generator(learn, pictures):
    def run(seed):
        return learn(make, pictures[0][:10], X, steps=3, batch_size=4, observed=0.5, seed=seed)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = run(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, first[key]) for key, value in run(1).items())
    assert not torch.equal(run(2)["layers.0.weight"], first["layers.0.weight"])
    make().load_state_dict(first)


def test_buffers_stay(pictures):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 1)
            self.register_buffer("centre", torch.tensor([0.3, 0.1]))

        def forward(self, x):
            return self.net(x - self.centre)

    model = Shifted()
    states = adapt(model, model.state_dict(), pictures[1][:2], X, steps=2, lr=0.1)
    assert torch.equal(states["centre"], torch.tensor([[0.3, 0.1]] * 2))
    assert predict(model, states, X).shape == (2, 64, 1)


def nan_in(signals, i):
    signals = signals.clone()
    signals[i, 7] = torch.nan
    return signals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signals": torch.zeros(3, 63, 1)}, r"signals: expected \(S, 64, channels\), got \(3, 63, 1\)"),
        ({"signals": torch.zeros(3, 64, 2)}, "signals: expected the model's number of channels, 1, got 2"),
        ({"signals": torch.zeros(8, 8)}, "signals: expected"),
        ({"signals": nan_in(torch.zeros(5, 64, 1), 3)}, r"NaN or infinity in signals \[3\]"),
        ({"X": torch.zeros(64)}, "X: expected finite coordinates"),
        ({"X": torch.full((64, 2), torch.nan)}, "X: expected finite coordinates"),
    ],
)
def test_bad_signals(change, message):
    given = {"signals": torch.zeros(3, 64, 1), "X": X, **change}
    model = make()
    with pytest.raises(ValueError, match=message):
        adapt(model, model.state_dict(), **given, steps=1, lr=0.1)
    for learn in (reptile, maml):
        with pytest.raises(ValueError, match=message):
            learn(make, **given, steps=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": -1}, "steps: .*got -1"),
        ({"lr": 0.0}, "lr: .*got 0.0"),
        ({"mask": torch.ones(64)}, "mask: expected bool"),
        ({"mask": torch.ones(63, dtype=torch.bool)}, r"mask: .*\(64,\) or \(3, 64\)"),
        ({"mask": torch.zeros(64, dtype=torch.bool)}, "mask: expected an observed value in every signal"),
        ({"state": {}}, "state: expected the model's keys"),
    ],
)
def test_bad_adapt(arguments, message):
    model = make()
    given = {"state": model.state_dict(), "signals": torch.zeros(3, 64, 1), "X": X, "steps": 1, "lr": 0.1}
    with pytest.raises(ValueError, match=message):
        adapt(model, **{**given, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps: .*got 0"),
        ({"inner_steps": 0}, "inner_steps: .*got 0"),
        ({"inner_lr": -1.0}, "inner_lr: .*got -1.0"),
        ({"batch_size": 0.5}, "batch_size: .*got 0.5"),
        ({"observed": 0.0}, "observed: .*got 0.0"),
        ({"lr": -1.0}, "lr: .*got -1.0"),
    ],
)
@pytest.mark.parametrize("learn", [reptile, maml])
def test_bad_learning(learn, arguments, message):
    with pytest.raises(ValueError, match=message):
        learn(make, torch.zeros(3, 64, 1), X, **arguments)


def test_steps_that_are_too_long_are_an_error():
    model, signals = make(), torch.rand(2, 64, 1)
    with pytest.raises(FloatingPointError, match=r"a smaller lr than 1e\+30"):
        adapt(model, model.state_dict(), signals, X, steps=5, lr=1e30)
    for learn in (reptile, maml):
        with pytest.raises(FloatingPointError, match=r"at step 0; a smaller inner_lr than 1e\+30"):
            learn(make, signals, X, steps=2, inner_lr=1e30)
    with pytest.raises(ValueError, match="at most 1, got 2"):
        reptile(make, signals, X, lr=2.0)
