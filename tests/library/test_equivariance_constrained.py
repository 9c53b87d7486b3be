"""Constrained augmentation: what the chains draw, what the duals do, and the transformations themselves."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerlab.equivariance.constrained import (
    Transformation,
    fit_constrained,
    metropolis_hastings,
    quarter_turns,
    rotations,
    translations,
)
from layerlab.models import MLP, ConvNet, seeded


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_chains_visit_in_proportion_to_the_loss():
    weights = torch.tensor([1.0, 2.0, 3.0, 6.0])
    chain = metropolis_hastings(
        lambda p: weights[p],
        lambda count, g: torch.randint(4, (count,), generator=g),
        40_000,
        steps=20,
        generator=generator(),
    )
    found = chain.parameters.bincount() / 40_000
    torch.testing.assert_close(found, weights / weights.sum(), rtol=0, atol=0.01)
    assert torch.equal(chain.losses, weights[chain.parameters])
    # from stationarity, a proposal is taken with probability Σ πᵢ uⱼ min(1, wⱼ / wᵢ) ≈ 0.7
    ratio = (weights / weights[:, None]).clamp_max(1)
    assert chain.acceptance == pytest.approx(float((weights / 12) @ ratio.mean(1)), abs=0.02)


def test_without_steps_a_chain_is_a_draw_and_zero_losses_move_freely():
    t = translations(2)
    chain = metropolis_hastings(lambda p: p[:, 0].abs(), t.draw, 5, steps=0, generator=generator())
    torch.testing.assert_close(chain.parameters, t.draw(5, generator()))
    free = metropolis_hastings(lambda p: 0 * p[:, 0], t.draw, 5, steps=3, generator=generator())
    assert free.acceptance == 1


def test_a_quarter_turn_by_interpolation_is_the_exact_one():
    X = torch.randn(3, 2, 8, 8, generator=generator())
    turns = torch.tensor([1, 2, 3])
    exact = quarter_turns().apply(X, turns)
    torch.testing.assert_close(exact[0], X[0].rot90(1, (-2, -1)))
    torch.testing.assert_close(rotations().apply(X, turns * torch.pi / 2), exact, rtol=0, atol=1e-5)


def test_pictures_that_are_not_square_turn_without_being_stretched():
    rows, columns = torch.meshgrid(torch.arange(16) - 7.5, torch.arange(32) - 15.5, indexing="ij")
    bar = ((rows.abs() < 2) & (columns.abs() < 6)).float()[None, None]
    disk = (-(rows.square() + columns.square()) / 12).exp()[None, None]
    quarter = torch.tensor([torch.pi / 2])
    turned = rotations().apply(bar, quarter)
    torch.testing.assert_close(turned[..., 8:24], bar[..., 8:24].rot90(1, (-2, -1)), rtol=0, atol=1e-4)
    for angle in (0.3, 0.8, torch.pi / 2):
        torch.testing.assert_close(rotations().apply(disk, torch.tensor([angle])), disk, rtol=0, atol=0.05)
    corner = torch.zeros(1, 1, 16, 32)
    corner[..., 2, 16] = 1.0  # above the center: a quarter turn to the left takes it to the left
    assert rotations().apply(corner, quarter)[0, 0].argmax().item() == 7 * 32 + 10
    with pytest.raises(ValueError, match=r"X: expected square pictures .*\(1, 1, 16, 32\)"):
        quarter_turns().apply(disk, torch.tensor([1]))


def test_a_shift_by_whole_pixels_moves_right_and_down():
    X = torch.randn(1, 1, 6, 8, generator=generator())
    moved = translations().apply(X, torch.tensor([[2.0, 1.0]]))
    torch.testing.assert_close(moved[..., 1:, 2:], X[..., :-1, :-2], rtol=0, atol=1e-5)
    assert moved[..., :1, :].abs().max() < 1e-5
    assert moved[..., :2].abs().max() < 1e-5


@pytest.mark.parametrize(("t", "most"), [(rotations(30), 30 * torch.pi / 180), (translations(1.5), 1.5)])
def test_draws_fill_their_range(t, most):
    p = t.draw(2000, generator())
    assert p.abs().max() <= most
    assert p.min() < -0.95 * most
    assert p.max() > 0.95 * most


def toy(count=200):
    """Two classes told apart by the first number; the second carries nothing."""
    X = torch.randn(count, 2, generator=generator(1))
    return X, (X[:, 0] > 0).long()


def flips(column):
    def apply(X, p):
        X = X.clone()
        X[:, column] *= p
        return X

    return Transformation(lambda n, g: 1 - 2.0 * torch.randint(2, (n,), generator=g), apply)


def test_the_dual_of_the_false_symmetry_grows_and_of_the_true_one_does_not():
    X, y = toy()
    args = {"epsilon": 0.3, "epochs": 30, "lr": 0.01, "dual_lr": 0.05}
    false, true = (
        fit_constrained(seeded(lambda: MLP(2, [16], 2), 0), X, y, {"flip": flips(column)}, **args)
        for column in (0, 1)
    )
    assert false.duals[-1] > 3 * true.duals.max()
    assert true.duals[-1] < 0.5 * true.duals.max()  # on the way back
    assert true.constraint[-20:].mean() < 0.3 < 0.6 < false.constraint[-20:].mean()


def test_every_transformation_has_a_column_of_its_own_and_the_model_ends_in_evaluation_mode():
    X, y = toy(64)
    model = seeded(lambda: MLP(2, [8], 2), 0)
    history = fit_constrained(model, X, y, {"false": flips(0), "true": flips(1)}, epochs=20, lr=0.02)
    assert history.names == ("false", "true")
    assert history.duals.shape == history.constraint.shape == (len(history.loss), 2)
    assert history.constraint[-5:, 0].mean() > history.constraint[-5:, 1].mean()
    assert not model.training


def test_duals_are_the_sums_of_the_violations_cut_at_zero():
    X, y = toy(64)
    history = fit_constrained(
        seeded(lambda: MLP(2, [8], 2), 0),
        X,
        y,
        {"true": flips(1)},
        epsilon=0.5,
        epochs=8,
        lr=0.05,
        dual_lr=0.3,
    )
    dual = torch.zeros(1)
    for value, after in zip(history.constraint, history.duals, strict=True):
        dual = (dual + 0.3 * (value - 0.5)).clamp_min(0)
        torch.testing.assert_close(after, dual)
    assert history.duals.max() > 0
    easy = fit_constrained(MLP(2, [8], 2), X, y, {"true": flips(1)}, epsilon=9.0, epochs=1)
    assert (easy.duals == 0).all()


def test_proposals_leave_the_running_statistics_alone():
    X, y = torch.randn(24, 1, 8, 8, generator=generator()), torch.arange(24) % 2
    model = seeded(lambda: ConvNet(1, 2, (4,)), 0)
    history = fit_constrained(model, X, y, {"r": rotations()}, epochs=2, batch_size=8, mcmc_steps=3)
    counts = [value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")]
    assert counts
    assert all(int(count) == len(history.loss) for count in counts)


def test_fixed_duals_are_a_penalty_and_none_is_plain_training():
    X, y = toy(64)
    start = seeded(lambda: MLP(2, [8], 2), 0)
    plain, penalty = copy.deepcopy(start), copy.deepcopy(start)
    args = {"epochs": 1, "batch_size": 64, "dual_lr": 0, "lr": 0.1, "mcmc_steps": 0}
    one = fit_constrained(plain, X, y, {"false": flips(0)}, **args)
    two = fit_constrained(penalty, X, y, {"false": flips(0)}, duals=[3.0], **args)
    assert one.duals.tolist() == [[0.0]]
    assert two.duals.tolist() == [[3.0]]
    opt = torch.optim.Adam(start.parameters(), lr=0.1)
    F.cross_entropy(start(X), y).backward()
    opt.step()
    for a, b in zip(start.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(plain.head.weight, penalty.head.weight)


def test_the_chains_make_the_constraint_harder():
    X, y = toy()
    args = {"epochs": 20, "lr": 0.01, "dual_lr": 0, "batch_size": 200}
    easy, hard = (
        fit_constrained(seeded(lambda: MLP(2, [16], 2), 0), X, y, {"t": flips(0)}, mcmc_steps=steps, **args)
        for steps in (0, 4)
    )
    assert hard.constraint[-5:].mean() > easy.constraint[-5:].mean() + 0.1


def test_the_same_seed_gives_the_same_run_and_chance_is_left_alone():
    X, y = torch.randn(24, 1, 8, 8, generator=generator()), torch.arange(24) % 2
    make = lambda: nn.Sequential(ConvNet(1, 2, (4,)), nn.Dropout())  # noqa: E731
    torch.manual_seed(5)
    before = torch.get_rng_state()
    runs = [
        fit_constrained(seeded(make, 0), X, y, {"r": rotations()}, epochs=2, batch_size=8, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(runs[0].loss, runs[1].loss)
    assert not torch.equal(runs[0].loss, runs[2].loss)


GOOD = {"t": flips(0)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, X, y: fit_constrained(m, X, y[:3], GOOD), "X and y: expected N examples"),
        (lambda m, X, y: fit_constrained(m, X * torch.nan, y, GOOD), "X: expected finite values"),
        (lambda m, X, y: fit_constrained(m, X, y, {}), "transformations: expected at least one"),
        (
            lambda m, X, y: fit_constrained(m, X, y, GOOD, epsilon=0),
            "epsilon: expected a positive number, got 0",
        ),
        (lambda m, X, y: fit_constrained(m, X, y, GOOD, dual_lr=-1), "dual_lr: expected a positive number"),
        (
            lambda m, X, y: fit_constrained(m, X, y, GOOD, epochs=0),
            "epochs: expected an integer of at least 1",
        ),
        (lambda m, X, y: fit_constrained(m, X, y, GOOD, mcmc_steps=-1), "mcmc_steps: expected"),
        (lambda m, X, y: fit_constrained(m, X, y, GOOD, duals=[1, 2]), "duals: expected 1 numbers"),
        (lambda m, X, y: rotations(181), r"degrees: expected a number in \(0, 180\], got 181"),
        (lambda m, X, y: translations(0), "pixels: expected a positive number, got 0"),
        (lambda m, X, y: rotations().apply(X, X[:, 0]), r"X: expected pictures \(N, C, H, W\)"),
        (
            lambda m, X, y: metropolis_hastings(
                lambda p: p - 9, lambda n, g: torch.rand(n, generator=g), 3, generator=generator()
            ),
            "loss: expected 3 finite values",
        ),
    ],
)
def test_bad_input_is_named_and_nothing_is_trained(call, message):
    X, y = toy(8)
    model = seeded(lambda: MLP(2, [4], 2), 0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        call(model, X, y)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
