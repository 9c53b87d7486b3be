"""Shared networks with latents: each modulation by hand, the latents' descent, and training through it."""

import copy

import pytest
import torch
import torch.nn.functional as F

from layerlab.data import digits
from layerlab.inr.fit import coordinates
from layerlab.inr.modulation import ModulatedSiren, fit_latents, meta_train
from layerlab.inr.siren import Siren
from layerlab.models import seeded

X = coordinates(8, 8)
HOWS = ("shift", "scale", "gate")


def make(how="shift", seed=0, **arguments):
    arguments = {"latent": 5, "w0": 10.0, **arguments}
    return seeded(lambda: ModulatedSiren(2, [12, 9], 1, how=how, **arguments), seed)


@pytest.fixture(scope="module")
def pictures():
    data = digits()
    return data.train.X.flatten(1)[:200, :, None], data.test.X.flatten(1)[:30, :, None]


@pytest.mark.parametrize("how", HOWS)
def test_by_hand(how):
    net = make(how, rank=2, map_width=0)
    net.double()
    x, z = X[:7].double(), torch.randn(5, dtype=torch.float64)
    flat = net.map(z)
    h = x
    for i, layer in enumerate(net.layers):
        W, b = layer.weight, layer.bias
        if how == "gate":
            if i:
                out, inp = W.shape
                part, flat = flat[: 2 * (out + inp)], flat[2 * (out + inp) :]
                U, V = part[: 2 * out].view(out, 2), part[2 * out :].view(inp, 2)
                W = torch.sigmoid(U @ V.T) * W
            h = h @ W.T + b
        elif i == len(net.layers) - 1:
            h = h @ W.T + b
        else:
            part, flat = flat[: len(b)], flat[len(b) :]
            h = h @ W.T + b + part if how == "shift" else (h @ W.T) * (1 + part) + b
        if i < len(net.layers) - 1:
            h = torch.sin(10 * h)
    assert not len(flat)
    torch.testing.assert_close(net(x, z), h)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("width", [0, 6])
def test_each_signal_is_computed_as_if_alone(how, width):
    net = make(how, map_width=width)
    z = torch.randn(4, 5)
    made = net(X, z)
    assert made.shape == (4, 64, 1)
    for i in range(4):
        torch.testing.assert_close(made[i], net(X, z[i]), rtol=1e-4, atol=1e-6)
    assert (made[0] - made[1]).abs().max() > 1e-3


@pytest.mark.parametrize("how", ["shift", "scale"])
def test_at_zero_it_is_a_siren(how):
    net = make(how)
    plain = seeded(lambda: Siren(2, [12, 9], 1, w0=10.0), 0)
    torch.testing.assert_close(net(X, torch.zeros(5)), plain(X))


def test_gates_leave_weights_as_large_as_a_sirens():
    net = seeded(lambda: ModulatedSiren(2, [200, 200], 1, latent=5, how="gate", w0=10.0, rank=1), 0)
    plain = seeded(lambda: Siren(2, [200, 200], 1, w0=10.0), 0)
    gates = net.modulations(torch.zeros(1, 5))
    assert 0 < gates[0].min() < 0.1 < 0.9 < gates[0].max() < 1
    weight = gates[0][0] * net.layers[1].weight
    assert weight.std().item() == pytest.approx(plain.layers[1].weight.std().item(), rel=0.15)
    assert gates[0][0].mean().item() == pytest.approx(0.5, abs=0.05)
    first, last = gates[0], gates[1]
    assert (first.shape, last.shape) == ((1, 200, 200), (1, 1, 200))


@pytest.mark.parametrize("how", HOWS)
def test_latents_descend_from_zero_at_their_own_rates(how, pictures):
    net, signals = make(how), pictures[1][:3]
    with torch.no_grad():
        net.rates.copy_(torch.linspace(0.1, 2.0, 5))
    before = copy.deepcopy(net.state_dict())
    found = fit_latents(net, signals, X, steps=2)
    for i, y in enumerate(signals):
        z = torch.zeros(5)
        for _ in range(2):
            z.requires_grad_()
            (slope,) = torch.autograd.grad(F.mse_loss(net(X, z), y), z)
            z = (z - net.rates * slope).detach()
        torch.testing.assert_close(found[i], z, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert not found.requires_grad


def test_what_the_mask_hides_is_not_looked_at(pictures):
    net, signals = make(), pictures[1][:3]
    mask = torch.rand(3, 64, generator=torch.Generator().manual_seed(0)) < 0.4
    found = fit_latents(net, signals, X, mask=mask)
    other = fit_latents(net, torch.where(mask[..., None], signals, 50.0), X, mask=mask)
    assert torch.equal(found, other)
    alone = fit_latents(net, signals[:1, mask[0]], X[mask[0]])
    torch.testing.assert_close(found[:1], alone, rtol=1e-4, atol=1e-6)


def test_training_takes_the_gradient_through_the_inner_steps(pictures):
    net, signals = make(), pictures[0][:4]
    other = copy.deepcopy(net)
    losses = meta_train(net, signals, X, steps=1, lr=1e-3, inner_steps=2, batch_size=4)
    z = torch.zeros(4, 5, requires_grad=True)
    for _ in range(2):
        error = (other(X, z) - signals).square().mean((1, 2)).sum()
        (slope,) = torch.autograd.grad(error, z, create_graph=True)
        z = z - other.rates * slope
    loss = F.mse_loss(other(X, z), signals)
    loss.backward()
    assert losses.tolist() == pytest.approx([loss.item()], rel=1e-5)
    for (name, new), old in zip(net.named_parameters(), other.parameters(), strict=True):
        expected = old - 1e-3 * old.grad / (old.grad.abs() + 1e-8)  # the first step of Adam
        torch.testing.assert_close(new, expected, rtol=0, atol=5e-5, msg=name)
    assert other.rates.grad.abs().max() > 0


@pytest.mark.parametrize("how", HOWS)
def test_three_steps_of_a_trained_network_beat_the_mean_picture(how, pictures):
    train, test = pictures
    net = seeded(lambda: ModulatedSiren(2, [24, 24], 1, latent=12, how=how, w0=10.0), 0)
    meta_train(net, train, X, steps=250, lr=3e-3, batch_size=32)
    z = fit_latents(net, test, X)
    with torch.no_grad():
        error = F.mse_loss(net(X, z), test)
        zero = F.mse_loss(net(X, torch.zeros_like(z)), test)
    mean = F.mse_loss(train.mean(0).expand_as(test), test)
    assert error < 0.5 * mean
    assert error < 0.5 * zero


def test_noise_in_training_makes_latents_that_bear_rounding(pictures):
    train, test = pictures

    def lost(noise):
        net = make(latent=8)
        meta_train(net, train, X, steps=150, lr=3e-3, batch_size=32, noise=noise)
        z = fit_latents(net, test, X)
        with torch.no_grad():
            rounded = (2.0 * z).round() / 2.0
            return F.mse_loss(net(X, rounded), test), F.mse_loss(net(X, z), test)

    (rounded, exact), (careful, _) = lost(0.0), lost(0.5)
    assert careful < rounded
    assert rounded > exact


def test_a_seed_decides_and_the_generator_stays(pictures):
    def run(seed):
        net = make()
        return meta_train(net, pictures[0][:20], X, steps=3, batch_size=4, noise=0.1, seed=seed)

    before = torch.get_rng_state()
    first = run(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(run(1), first)
    assert not torch.equal(run(2), first)


def test_an_error_leaves_the_network_as_it_was(pictures):
    net = make(rate=1e38)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(FloatingPointError, match="at step 0; a smaller lr or rate"):
        meta_train(net, pictures[0][:4], X, steps=3)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    with pytest.raises(FloatingPointError, match="a latent became NaN"):
        fit_latents(net, pictures[0][:4], X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"how": "add"}, "how: .*'add'"),
        ({"latent": 0}, "latent: .*got 0"),
        ({"rank": 0}, "rank: .*got 0"),
        ({"map_width": -3}, "map_width: .*got -"),
        ({"rate": 0.0}, "rate: .*got 0.0"),
        ({"w0": -1.0}, "w0: .*got -1.0"),
    ],
)
def test_bad_networks(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_other_bad_input():
    net, signals = make(), torch.zeros(3, 64, 1)
    with pytest.raises(ValueError, match=r"z: expected \(5,\) or \(S, 5\), got \(4,\)"):
        net(X, torch.zeros(4))
    broken = signals.clone()
    broken[2, 0] = torch.inf
    for call in (fit_latents, meta_train):
        with pytest.raises(ValueError, match=r"NaN or infinity in signals \[2\]"):
            call(net, broken, X)
        with pytest.raises(ValueError, match=r"signals: expected \(S, 64, channels\)"):
            call(net, signals[:, :5], X)
        with pytest.raises(ValueError, match="got 0"):
            call(net, signals, X, steps=0)
    with pytest.raises(ValueError, match="mask: expected bool"):
        fit_latents(net, signals, X, mask=torch.ones(64))
    for name, bad in (("lr", 0.0), ("noise", -1.0), ("inner_steps", 0), ("batch_size", 0)):
        with pytest.raises(ValueError, match=f"{name}: .*got {bad}"):
            meta_train(net, signals, X, **{name: bad})
