"""Latent grids: rounding in training and after it, what the entropy model learns, rate against error."""

import math

import pytest
import torch
from torch import nn

from layerlab.inr.fit import coordinates, fit, squared_error
from layerlab.inr.latents import EntropyModel, LatentGrid, rate_distortion
from layerlab.models import MLP, seeded

X = torch.rand(30, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1


def grid(seed=0, spread=3.0, **options):
    made = seeded(lambda: LatentGrid(2, 3, 6, 2, 1000, **options), seed)
    with torch.no_grad():
        made.slow.copy_(
            torch.randn(made.slow.shape, generator=torch.Generator().manual_seed(seed)) * spread / 30
        )
    return made


def empirical_bits(symbols):
    _, counts = symbols.unique(return_counts=True)
    share = counts / counts.sum()
    return -(counts * share.log2()).sum().item()


# EntropyModel


def drifted(channels=2, seed=0):
    """An entropy model whose every number is far from where it starts."""
    model = EntropyModel(channels)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model.double()


@pytest.mark.parametrize("seed", range(4))
def test_probabilities_of_all_integers_sum_to_one(seed):
    model = drifted(seed=seed)
    integers = torch.arange(-400.0, 401)[:, None].expand(-1, 2).double()
    assert (model.logits(integers).diff(dim=0) > 0).all()
    torch.testing.assert_close((2 ** -model.bits(integers)).sum(0), torch.ones(2).double(), rtol=0, atol=1e-5)


def test_bits_are_those_of_the_difference_of_the_distribution():
    model = drifted()
    values = torch.linspace(-3, 3, 20)[:, None].expand(-1, 2).double()
    c = lambda x: torch.sigmoid(model.logits(x))  # noqa: E731
    torch.testing.assert_close(model.bits(values), -torch.log2(c(values + 0.5) - c(values - 0.5)))


def test_far_values_cost_thirty_bits_and_near_ones_have_slopes_on_both_sides():
    model = EntropyModel(1)
    far = model.bits(torch.tensor([[-1e4], [1e4]]))
    assert far.flatten().tolist() == pytest.approx([-math.log2(1e-9)] * 2)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    x = torch.tensor([[-48.0], [48.0]], requires_grad=True)  # where sigmoid is 1 in float32 on one side
    bits = model.bits(x)
    assert bits[0].item() == pytest.approx(bits[1].item(), rel=1e-4)
    (slope,) = torch.autograd.grad(bits.sum(), x)
    assert slope[0] < 0 < slope[1]


@pytest.mark.parametrize("spread", [0.6, 3.0])
def test_it_learns_a_distribution(spread):
    generator = torch.Generator().manual_seed(0)
    symbols = (torch.randn(4000, 1, generator=generator) * spread + 1).round()
    model = seeded(lambda: EntropyModel(1), 0)
    opt = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(300):
        loss = model.bits(symbols).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert 1 - 1e-3 < model.bits(symbols).sum().item() / empirical_bits(symbols) < 1.03


# LatentGrid


def test_in_evaluation_features_are_a_linear_map_of_integers():
    made = grid(latent=3).eval()
    with torch.no_grad():
        made.shift.copy_(torch.tensor([0.5, -0.5]))
    integers = (30 * made.slow).round()
    torch.testing.assert_close(made(X), made.interpolate(X, integers @ made.scale + made.shift))
    assert torch.equal(made.symbols(), integers.long())
    assert made.symbols().shape == (made.rows, 3)
    torch.testing.assert_close(made.rate_bits(), made.entropy.bits(integers).sum())


def test_in_training_latents_are_mixtures_of_the_integers_around_them():
    made = grid().train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, other = made._rounded(), made._rounded()
    low = made.latents.floor()
    assert ((one >= low) & (one <= low + 1)).all()
    assert not torch.equal(one, other)
    assert (one - one.round()).abs().max() > 0.1  # not yet integers


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_halfway_between_integers_shares_are_those_of_a_logistic_draw(temperature):
    """The share is sigmoid(L / temperature) with L logistic: mixed where |L| < temperature log 9."""
    made = seeded(lambda: LatentGrid(1, 60, 60, 1, 10_000), 0)
    with torch.no_grad():
        made.slow.fill_(3.5 / 30)
    made.temperature.fill_(temperature)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        share = made._rounded() - 3
    mixed = ((share > 0.1) & (share < 0.9)).double().mean().item()
    assert mixed == pytest.approx(math.tanh(temperature * math.log(9) / 2), abs=0.03)
    assert share.mean().item() == pytest.approx(0.5, abs=0.03)


def test_the_rate_is_noisy_in_training_only():
    made = grid()
    with torch.random.fork_rng():
        assert made.train().rate_bits() != made.rate_bits()
        assert made.eval().rate_bits() == made.rate_bits()


def test_the_colder_the_more_often_it_is_the_nearest():
    made = grid(spread=20.0).train()
    nearest = []
    with torch.random.fork_rng():
        for temperature in (1.0, 0.3, 0.02):
            made.temperature.fill_(temperature)
            torch.manual_seed(0)
            rounded = made._rounded()
            nearest.append((rounded - made.latents.round()).abs().mean().item())
    assert (rounded - rounded.round()).abs().mean() < 0.01  # when cold, no mixture
    assert nearest[0] > 1.5 * nearest[1] > 2 * nearest[2]
    made.temperature.fill_(0)
    assert torch.equal(made._rounded(), made.latents.round())


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_slopes_reach_the_latents(temperature):
    made = grid().train()
    made.temperature.fill_(temperature)
    made(X).sum().backward()
    assert made.slow.grad.abs().max() > 0
    if not temperature:  # as if they were not rounded
        expected = torch.autograd.grad(
            made.interpolate(X, made.latents @ made.scale + made.shift).sum(), made.slow
        )
        torch.testing.assert_close(made.slow.grad, *expected)


def test_symbols_come_back():
    made, other = grid(spread=40.0).eval(), grid(seed=1).eval()
    other.load_state_dict({**made.state_dict(), "slow": other.slow})
    other.set_symbols(made.symbols())
    assert torch.equal(other.symbols(), made.symbols())
    assert torch.equal(other(X), made(X))
    large = torch.full_like(made.symbols(), 70_001)
    made.set_symbols(large)
    assert torch.equal(made.symbols(), large)


def test_the_pace_moves_latents_and_nothing_else_at_first():
    fast, slow = (seeded(lambda p=p: LatentGrid(2, 3, 6, 2, 1000, pace=p), 0).eval() for p in (50.0, 5.0))
    torch.testing.assert_close(fast.latents, slow.latents)
    assert fast.latents.abs().max() <= 1
    assert (fast.scale * 50 - slow.scale * 5).abs().max() < 1e-6


# rate_distortion

PICTURE = coordinates(24, 24)
TARGET = (3 * PICTURE).sin().prod(1, keepdim=True) + 0.3 * (20 * PICTURE[:, :1]).sin()


def model(seed=0):
    return seeded(lambda: nn.Sequential(LatentGrid(3, 4, 16, 2, 200), MLP(6, [8], 1)), seed)


def test_the_temperature_falls_and_ends_in_rounding():
    seen = []
    made = model()
    watch = lambda m: seen.append(m[0].temperature.item())  # noqa: E731
    fit(made, PICTURE, TARGET, steps=20, loss=rate_distortion(0, 20), watch=watch, at=[1, 10, 18, 19])
    assert seen == pytest.approx([1, 0.1**0.5, 0.1 ** (17 / 18), 0])
    assert made[0].temperature == 0


def test_the_loss_is_error_and_weighted_bits_per_coordinate():
    made = model().eval()
    loss = rate_distortion(0.1, 5, coordinates=50)(made, PICTURE, TARGET)
    expected = squared_error(made, PICTURE, TARGET) + 0.1 * made[0].rate_bits() / 50
    torch.testing.assert_close(loss, expected)
    other = rate_distortion(0.1, 5)(made, PICTURE, TARGET)
    torch.testing.assert_close(other - squared_error(made, PICTURE, TARGET), 0.1 * made[0].rate_bits() / 576)


def test_more_weight_on_the_rate_gives_fewer_bits_and_more_error():
    bits, errors = [], []
    for weight in (1e-4, 0.1):
        made = model()
        fit(made, PICTURE, TARGET, steps=150, lr=1e-2, loss=rate_distortion(weight, 150))
        bits.append(empirical_bits(made[0].symbols()))
        errors.append(squared_error(made, PICTURE, TARGET).item())
    assert bits[1] < bits[0] / 2
    assert errors[0] < errors[1] < TARGET.var().item()
    assert made[0].rate_bits().item() < 1.5 * bits[1] + 50


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EntropyModel(0), "channels: expected an integer of at least 1, got 0"),
        (lambda: grid(latent=0), "latent: expected an integer of at least 1, got 0"),
        (lambda: grid(pace=0.0), "pace: expected a positive number, got 0.0"),
        (lambda: grid()(X + 2), r"x: expected coordinates in \[-1, 1\]"),
        (
            lambda: grid().set_symbols(torch.zeros(3, 1).long()),
            r"symbols: expected integers .* got torch.int64 \(3, 1\)",
        ),
        (lambda: grid().set_symbols(grid().latents), "symbols: expected integers .* got torch.float32"),
        (lambda: rate_distortion(-1.0, 5), "weight: expected a number that is not negative, got -1.0"),
        (lambda: rate_distortion(math.nan, 5), "weight: .* got nan"),
        (lambda: rate_distortion(1.0, 0), "steps: expected an integer of at least 1, got 0"),
        (
            lambda: fit(MLP(2, [4], 1), PICTURE, TARGET, steps=2, loss=rate_distortion(1.0, 2)),
            "model: expected a LatentGrid in it, got none",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
