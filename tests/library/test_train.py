"""Training and evaluation: seeded, side by side as one by one, and nothing touched that is not theirs."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerlab import train
from layerlab.models import MLP, ConvNet, TinyViT, seeded
from layerlab.train import check_state, evaluate, evaluating, fit, fit_many

N = 44
X = torch.randn(N, 1, 4, 4, generator=torch.Generator().manual_seed(0))
y = (X[:, 0, 0].sum(1) > 0).long() + (X[:, 0, 1].sum(1) > 0).long()  # three classes
SHORT = {"epochs": 2, "batch_size": 16, "lr": 1e-2}


def mlp(seed: int = 0, norm=None) -> nn.Module:
    return seeded(lambda: MLP(16, [8, 8], 3, norm), seed)


def same(one: nn.Module, other: nn.Module, **tolerance) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    if tolerance:
        return all(torch.allclose(a, b, **tolerance) for a, b in pairs)
    return all(torch.equal(a, b) for a, b in pairs)


# fit


def test_fit_learns_and_leaves_the_model_in_evaluation_mode():
    model = mlp()
    before = evaluate(model, X, y)
    losses = fit(model, X, y, epochs=40, lr=1e-2, batch_size=16)
    after = evaluate(model, X, y)
    assert losses.shape == (40 * 3,)
    assert not losses.requires_grad
    assert after.loss < before.loss / 3
    assert after.accuracy > 0.95
    assert not any(module.training for module in model.modules())


def test_the_seed_is_the_order_of_the_batches():
    one, again, other = mlp(), mlp(), mlp()
    losses = fit(one, X, y, seed=1, **SHORT)
    assert torch.equal(losses, fit(again, X, y, seed=1, **SHORT))
    fit(other, X, y, seed=2, **SHORT)
    assert same(one, again)
    assert not same(one, other)


def test_dropout_follows_the_seed_and_the_generator_is_left_alone():
    def trained(seed, noise):
        model = nn.Sequential(nn.Flatten(), seeded(lambda: nn.Linear(16, 3), 0), nn.Dropout(0.5))
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        fit(model, X, y, seed=seed, **SHORT)
        assert torch.equal(before, torch.get_rng_state())
        return model

    assert same(trained(1, noise=5), trained(1, noise=6))
    assert not same(trained(1, noise=5), trained(2, noise=5))


def test_one_step_of_sgd_is_minus_lr_times_the_gradient():
    model, old = mlp(), mlp()
    loss = F.cross_entropy(old(X), y)
    gradients = torch.autograd.grad(loss, list(old.parameters()))
    (reported,) = fit(model, X, y, epochs=1, batch_size=N, lr=0.5, optimizer="sgd")
    torch.testing.assert_close(reported, loss.detach())
    for new, start, gradient in zip(model.parameters(), old.parameters(), gradients, strict=True):
        torch.testing.assert_close(new.detach(), (start - 0.5 * gradient).detach())


@pytest.mark.parametrize(("optimizer", "make"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_it_equals_a_loop_written_out(optimizer, make):
    model, other = mlp().double(), mlp().double()
    fit(model, X.double(), y, seed=3, optimizer=optimizer, weight_decay=0.1, **SHORT)
    extra = {"momentum": 0.9} if optimizer == "sgd" else {}
    opt = make(other.parameters(), lr=1e-2, weight_decay=0.1, **extra)
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        for batch in torch.randperm(N, generator=generator).split(16):
            opt.zero_grad()
            F.cross_entropy(other(X[batch].double()), y[batch]).backward()
            opt.step()
    assert same(model, other, rtol=1e-12, atol=1e-12)


def test_cosine_lowers_the_rate_from_lr_to_zero():
    plan = train._Plan(1, 0.3, 1, "sgd", 0.0, "cosine")
    weight = nn.Parameter(torch.zeros(()))
    opt, scheduler = plan.make([weight], steps=10)
    rates = []
    for _ in range(10):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    assert rates == pytest.approx([0.15 * (1 + math.cos(math.pi * t / 10)) for t in range(10)])
    assert opt.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    steady, scheduled = mlp(), mlp()
    fit(steady, X, y, **SHORT)
    fit(scheduled, X, y, schedule="cosine", **SHORT)
    assert not same(steady, scheduled)


def test_a_leftover_of_one_example_is_dropped_and_nothing_else():
    sizes = {  # examples, batch size -> sizes of an epoch's batches
        (33, 16): [16, 16],
        (34, 16): [16, 16, 2],
        (3, 1): [1, 1, 1],
        (1, 16): [1],
    }
    for (count, batch_size), expected in sizes.items():
        batches = train._Plan(2, 1.0, batch_size, "sgd", 0.0, None).batches(count, seed=0)
        assert [len(b) for b in batches] == expected * 2
        assert all(len(set(b.tolist())) == len(b) for b in batches)
    assert len(fit(mlp(norm="batch"), X[:33], y[:33], **SHORT)) == 4
    assert len(fit(mlp(), X[:3], y[:3], epochs=2, batch_size=1)) == 6


def test_no_progress_bar_on_short_work(capsys):
    fit(mlp(), X, y, **SHORT)
    fit_many([mlp()], X, y, seeds=[0], **SHORT)
    assert capsys.readouterr() == ("", "")


def test_a_progress_bar_on_long_work(capsys, monkeypatch):
    monkeypatch.setattr(train, "_PROGRESS_AFTER", 0)
    fit(mlp(), X, y, **SHORT)
    assert "fit" in capsys.readouterr().err


def test_the_bar_is_plain_text():
    assert train.tqdm.__module__ == "tqdm.std"  # tqdm.auto warns at import in a notebook without ipywidgets


BAD = [
    ({"X": X.clone().index_fill_(0, torch.tensor([3]), math.nan)}, "X: expected finite values"),
    ({"X": X[:0], "y": y[:0]}, "X: expected at least one example"),
    ({"X": X[:5]}, "X and y: expected as many labels as examples, got 5 examples, 44 labels"),
    ({"y": y.float()}, r"y: expected class numbers, shape \(N,\) and int64, got \(44,\) and torch.float32"),
    ({"y": y[:, None]}, r"y: .* got \(44, 1\)"),
    ({"epochs": 0}, "epochs: expected at least 1, got 0"),
    ({"lr": 0.0}, "lr: expected a positive number, got 0.0"),
    ({"lr": math.nan}, "lr: expected a positive number, got nan"),
    ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
    ({"optimizer": "lion"}, r"optimizer: expected one of \['adam', 'adamw', 'sgd'\], got 'lion'"),
    ({"schedule": "linear"}, "schedule: expected 'cosine' or None, got 'linear'"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_arguments_are_refused_before_anything_happens(change, message):
    model, old = mlp(), mlp()
    settings = {"X": X, "y": y, **SHORT} | change
    with pytest.raises(ValueError, match=message):
        fit(model, **settings)
    with pytest.raises(ValueError, match=message):
        fit_many([model], seeds=[0], **settings)
    assert same(model, old)
    assert model.training


# fit_many


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (lambda: MLP(16, [8, 8], 3), {}),
        (lambda: MLP(16, [8, 8], 3, "batch"), {"optimizer": "sgd", "weight_decay": 0.01}),
        (lambda: MLP(16, [8], 3, "layer"), {"optimizer": "adamw", "schedule": "cosine"}),
        (lambda: ConvNet(1, 3, (4, 6)), {}),
        (lambda: ConvNet(1, 3, (4,), norm="layer"), {"batch_size": 43}),
        (lambda: TinyViT(4, 2, 1, 3, dim=8, heads=2), {"optimizer": "sgd"}),
    ],
)
def test_side_by_side_equals_one_by_one(make, settings):
    settings, seeds = SHORT | settings, [5, 6, 5]
    together, alone = ([seeded(make, seed).double() for seed in range(3)] for _ in range(2))
    losses = fit_many(together, X.double(), y, seeds=seeds, **settings)
    expected = [fit(m, X.double(), y, seed=s, **settings) for m, s in zip(alone, seeds, strict=True)]
    torch.testing.assert_close(losses, torch.stack(expected, 1), rtol=1e-6, atol=1e-9)
    for one, other in zip(together, alone, strict=True):
        assert same(one, other, rtol=1e-6, atol=1e-8)
        assert not any(module.training for module in one.modules())
    assert not same(together[0], together[1])


@pytest.mark.parametrize("stack_below", [math.inf, 0], ids=["stacked", "one by one"])
def test_each_model_sees_its_own_subset(monkeypatch, stack_below):
    monkeypatch.setattr(train, "STACK_BELOW", stack_below)
    subsets = [torch.arange(20), torch.arange(20) + 24]
    together, alone = ([mlp(seed).double() for seed in range(2)] for _ in range(2))
    losses = fit_many(together, X.double(), y, seeds=[3, 4], subsets=subsets, schedule="cosine", **SHORT)
    for i, (model, part, seed) in enumerate(zip(alone, subsets, [3, 4], strict=True)):
        expected = fit(model, X[part].double(), y[part], seed=seed, schedule="cosine", **SHORT)
        torch.testing.assert_close(losses[:, i], expected)
    assert all(same(one, other, rtol=1e-6, atol=1e-9) for one, other in zip(together, alone, strict=True))


def test_buffers_that_are_not_saved_and_tied_weights_are_no_obstacle():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
            self.b.weight = self.a.weight
            self.register_buffer("scale", torch.full((1,), 2.0), persistent=False)

        def forward(self, x):
            return self.b(F.relu(self.a(x.flatten(1)))) * self.scale

    together, alone = [seeded(Tied, 0), seeded(Tied, 1)], [seeded(Tied, 0), seeded(Tied, 1)]
    fit_many(together, X, y, seeds=[0, 1], **SHORT)
    for seed, model in enumerate(alone):
        fit(model, X, y, seed=seed, **SHORT)
    assert all(same(one, other, rtol=1e-4, atol=1e-6) for one, other in zip(together, alone, strict=True))
    assert together[0].b.weight is together[0].a.weight


def test_only_small_models_are_stacked(monkeypatch):
    def forbidden(*_):
        raise AssertionError("stacked")

    monkeypatch.setattr(train, "stack_module_state", forbidden)
    wide = [seeded(lambda: MLP(16, [300, 300], 3), seed) for seed in range(2)]
    assert sum(weight.numel() for weight in wide[0].parameters()) > train.STACK_BELOW
    assert fit_many(wide, X, y, seeds=[0, 1], epochs=1).shape == (1, 2)
    with pytest.raises(AssertionError, match="stacked"):
        fit_many([mlp()], X, y, seeds=[0], epochs=1)


def test_fit_many_leaves_the_generator_alone():
    models, before = [mlp(0), mlp(1)], torch.get_rng_state()
    fit_many(models, X, y, seeds=[0, 1], **SHORT)
    assert torch.equal(before, torch.get_rng_state())


def test_models_seeds_and_subsets_must_fit_together():
    model, other = mlp(), seeded(lambda: MLP(16, [9, 8], 3), 0)
    half = torch.arange(22)
    cases = [
        ([], [], None, "models: expected at least one model"),
        ([model], [0, 1], None, "seeds: expected one per model, got 2 for 1 models"),
        ([model, model], [0, 1], None, "models: expected a module each"),
        (
            [model, other],
            [0, 1],
            None,
            r"models\[1\]\['layers.0.weight'\]: .* \(8, 16\), got \(9, 16\)",
        ),
        (
            [model, mlp(norm="layer")],
            [0, 1],
            None,
            r"models\[1\]: expected the model's keys.*'norms.0.bias'",
        ),
        ([model, mlp()], [0, 1], [half], r"subsets: expected 2, .* got lengths \[22\]"),
        ([model, mlp()], [0, 1], [half, half[1:]], r"got lengths \[22, 21\]"),
        ([model], [0], [half[:0]], r"not empty, got lengths \[0\]"),
    ]
    for models, seeds, subsets, message in cases:
        with pytest.raises(ValueError, match=message):
            fit_many(models, X, y, seeds=seeds, subsets=subsets, **SHORT)
    assert same(model, mlp())


def test_models_with_dropout_cannot_be_mapped():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Dropout(0.5))
    with pytest.raises(RuntimeError, match="random"):
        fit_many([model], X, y, seeds=[0], **SHORT)


# evaluate


def test_evaluate_by_hand():
    class Logits(nn.Module):
        def forward(self, x):
            return x

    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)]])
    loss, accuracy = evaluate(Logits(), logits, torch.tensor([0, 0, 0]))
    assert loss == pytest.approx((math.log(2) - math.log(0.75) - math.log(0.25)) / 3)
    assert accuracy == pytest.approx(2 / 3)


def test_evaluate_uses_the_state_and_keeps_the_model_as_it_is():
    model, other = mlp(norm="batch"), mlp(1, norm="batch")
    fit(other, X, y, **SHORT)
    before = copy.deepcopy(model.state_dict())
    model.train()
    model.norms[1].eval()  # a frozen layer stays frozen, the others stay in training mode
    modes = [module.training for module in model.modules()]
    assert evaluate(model, X, y, state=other.state_dict()) == evaluate(other, X, y)
    assert evaluate(model, X, y) == evaluate(mlp(norm="batch"), X, y)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_modes_come_back_after_an_error():
    model = mlp(norm="batch").train()
    with pytest.raises(RuntimeError, match="shapes"), evaluating(model):
        model(torch.zeros(2, 3))
    assert all(module.training for module in model.modules())


def test_evaluate_refuses_what_does_not_fit():
    model = mlp()
    state = model.state_dict()
    with pytest.raises(ValueError, match=r"state: expected the model's keys, got none for \['head.bias'\]"):
        evaluate(model, X, y, state={k: v for k, v in state.items() if k != "head.bias"})
    with pytest.raises(ValueError, match=r"and besides \['more'\]"):
        evaluate(model, X, y, state={**state, "more": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"b\['head.bias'\]: expected shape \(3,\), got \(4,\)"):
        check_state(model, {**state, "head.bias": torch.zeros(4)}, name="b")
    for change, message in BAD[:5]:
        with pytest.raises(ValueError, match=message):
            evaluate(model, **({"X": X, "y": y} | change))
