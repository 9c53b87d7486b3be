"""Weights that stay on their grid, and ranges over batches: torch's gradient, training, copies, bad input."""

import copy

import pytest
import torch
from torch import nn

from layerlab.models import seeded
from layerlab.quantization import affine as A
from layerlab.quantization import fake as F
from layerlab.quantization import observers as O
from layerlab.quantization.affine import Parameters, Scheme
from layerlab.train import evaluate, fit, fit_many


def weights_of(model):
    return {key: users[0][1].weight.detach().clone() for key, users in F.layers_of(model).items()}


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_value_and_gradient_are_those_of_torch(bits, symmetric):
    scheme, x = Scheme(bits, symmetric), randn(6, 4, 3, 3).requires_grad_()
    p = A.fit(x, scheme, by="percentile", percentile=80)
    weight = randn(6, 4, 3, 3).flip(0)
    found = F.FakeQuant(scheme, p)(x)
    (gradient,) = torch.autograd.grad((found * weight).sum(), x)
    expected = torch.fake_quantize_per_channel_affine(x, p.scale, p.zero, 0, scheme.low, scheme.high)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), x)
    assert torch.equal(found, expected)
    assert torch.equal(gradient, wanted)
    assert 0.03 < float((gradient == 0).float().mean()) < 0.5
    assert torch.equal(found, A.round_trip(x, scheme, by="percentile", percentile=80))


@pytest.mark.parametrize("by", ["range", "percentile", "mse"])
@pytest.mark.parametrize("scheme", [Scheme(3), Scheme(4, False, "tensor"), Scheme(2, group=2)], ids=str)
def test_applied_weights_are_round_trips(model, data, scheme, by):
    before, keys = weights_of(model), list(model.state_dict())
    if isinstance(scheme.group, int):  # not every first layer has an even number of inputs
        scheme = {k: scheme for k, w in before.items() if w[0].numel() % 2 == 0}
    assert F.apply(model, scheme, by=by, percentile=98) is model
    schemes = scheme if isinstance(scheme, dict) else dict.fromkeys(before, scheme)
    for key, weight in weights_of(model).items():
        expected = (
            A.round_trip(before[key], schemes[key], by=by, percentile=98) if key in schemes else before[key]
        )
        assert torch.equal(weight, expected)
    output = model.eval()(data[0])
    assert F.make_permanent(model) is model
    assert list(model.state_dict()) == keys
    assert torch.equal(model(data[0]), output)
    assert not any(hasattr(m, "parametrizations") for m in model.modules())


def test_training_stays_on_the_grid_and_moves_it(model, data):
    F.apply(model, Scheme(3))
    start, before = weights_of(model), evaluate(model, *data).loss
    fit(model, *data, epochs=15, seed=0, optimizer="sgd", lr=0.05)
    assert evaluate(model, *data).loss < before
    for key, weight in weights_of(model).items():
        assert not torch.equal(weight, start[key])
        assert all(len(row.unique()) <= 7 for row in weight.flatten(1))
    F.make_permanent(model)
    assert all(len(row.unique()) <= 7 for w in weights_of(model).values() for row in w.flatten(1))


def test_given_parameters_stay(data, makes):
    model = seeded(makes["mlp"], 0)
    key = "layers.0.weight"
    p = A.fit(weights_of(model)[key], Scheme(4), by="mse")
    F.apply(model, {key: Scheme(4)}, parameters={key: p})
    fit(model, *data, epochs=5, seed=0, lr=0.01)
    codes = weights_of(model)[key] / p.scale[:, None]
    torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)
    assert codes.abs().max() <= 7.001
    p.scale.zero_()  # the caller's tensor is not the model's
    assert weights_of(model)[key].any()


def test_many_models_train_as_one_by_one(model, data):
    models = [F.apply(copy.deepcopy(model), Scheme(8), by="percentile") for _ in range(2)]
    alone = copy.deepcopy(models)
    fit_many(models, *data, seeds=[0, 1], epochs=1, optimizer="sgd", lr=0.01)
    for seed, (one, other) in enumerate(zip(models, alone, strict=True)):
        fit(other, *data, seed=seed, epochs=1, optimizer="sgd", lr=0.01)
        found, expected = weights_of(one), weights_of(other)
        for key, weight in found.items():  # a rounding error may move a weight by a step
            step = expected[key].flatten(1).abs().amax(1).max() / 127
            assert (weight - expected[key]).abs().max() <= 1.01 * step


def test_applied_again_replaces(model):
    before = weights_of(model)
    F.apply(F.apply(model, Scheme(2)), Scheme(6))
    for key, weight in weights_of(model).items():
        assert torch.equal(weight, A.round_trip(before[key], Scheme(6)))
    assert all(len(m.parametrizations.weight) == 1 for m in model.modules() if hasattr(m, "parametrizations"))


def test_a_shared_weight_is_one_weight(data, makes):
    model = seeded(makes["tied"], 0).eval()
    keys = list(model.state_dict())
    F.apply(model, {"b.weight": Scheme(3), "head.weight": Scheme(4)})
    assert torch.equal(model.a.weight, model.b.weight)
    assert len(model.a.weight[0].unique()) <= 7
    fit(model, *data, epochs=2, optimizer="sgd", lr=0.05)
    output = model(data[0])
    with pytest.raises(ValueError, match=r"'b\.weight' and 'a\.weight' are one weight"):
        F.apply(model, {"a.weight": Scheme(3), "b.weight": Scheme(4)})
    F.make_permanent(model)
    assert model.a.weight is model.b.weight
    assert list(model.state_dict()) == keys
    assert torch.equal(model(data[0]), output)


def test_copies_and_other_parametrizations_live_their_own_lives(data):
    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Linear(3, 3))
    nn.utils.parametrize.register_parametrization(model[1], "bias", Half())
    bias = model[1].bias.detach().clone()
    F.apply(model, Scheme(4))
    other, output = copy.deepcopy(model), model(data[0])
    F.make_permanent(model)
    assert torch.equal(model(data[0]), output)
    assert torch.equal(model[1].bias, bias)
    assert torch.equal(other(data[0]), output)
    assert nn.utils.parametrize.is_parametrized(other[1], "weight")
    F.make_permanent(other)
    assert list(model.state_dict()) == list(other.state_dict())
    assert torch.equal(other(data[0]), output)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_types_keep_their_type(dtype, makes):
    model = F.apply(seeded(makes["convnet"], 0).to(dtype), Scheme(4))
    assert all(w.dtype == dtype for w in weights_of(model).values())
    F.make_permanent(model)
    assert all(w.dtype == dtype for w in weights_of(model).values())


P3 = Parameters(torch.ones(3), torch.zeros(3, dtype=torch.int32))
BAD = {
    "none": ({}, {}, ValueError, "at least one"),
    "unknown key": ({"layers.9.weight": Scheme(4)}, {}, ValueError, r"layers\.9\.weight"),
    "a bias": ({"head.bias": Scheme(4)}, {}, ValueError, r"head\.bias"),
    "no scheme": ({"head.weight": 4}, {}, TypeError, r"head\.weight.*4"),
    "no scheme at all": (4, {}, TypeError, "4"),
    "group": (
        {"layers.0.weight": Scheme(4), "head.weight": Scheme(4, group=5)},
        {},
        ValueError,
        "head.*12.*5",
    ),
    "by": (Scheme(4), {"by": "best"}, ValueError, "by: .*best"),
    "percentile": (Scheme(4), {"percentile": -1}, ValueError, "percentile: .*-1"),
    "parameters": (
        Scheme(4),
        {"parameters": {"layers.1.weight": P3}},
        ValueError,
        r"layers\.1.*scale: .*12.*3",
    ),
    "parameters' key": (
        {"head.weight": Scheme(4)},
        {"parameters": {"x": P3}},
        ValueError,
        "parameters: .*'x'",
    ),
}


@pytest.mark.parametrize(("schemes", "how", "error", "match"), BAD.values(), ids=BAD)
def test_bad_input_changes_nothing(schemes, how, error, match, makes):
    model = seeded(makes["mlp"], 0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=match):
        F.apply(model, schemes, **how)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_models_that_cannot_be_quantized_are_unchanged(makes):
    model = seeded(makes["mlp"], 0)
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"head\.weight.*NaN"):
        F.apply(model, Scheme(4))
    assert "parametrizations" not in " ".join(model.state_dict())
    model = nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=r"1\.weight.*no other parametrization"):
        F.apply(model, Scheme(4))
    assert list(model.state_dict()) == before
    with pytest.raises(ValueError, match="LayerNorm"):
        F.apply(nn.LayerNorm(3), Scheme(4))
    with pytest.raises(ValueError, match=r"scale: .*\(2,\).*\(3,\)"):
        F.FakeQuant(Scheme(4), P3)(torch.zeros(2, 2))
    with pytest.raises(TypeError, match="scheme: "):
        F.FakeQuant(4)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("by", ["range", "percentile", "mse"])
def test_batches_tell_what_all_values_at_once_tell(symmetric, by):
    x = torch.cat([randn(3000) * 0.01, randn(2000).relu(), randn(500) * 37 - 3])
    scheme = Scheme(6, symmetric, "tensor")
    observer = O.Observer(scheme)
    for batch in x.split(700):  # of rising size, so that bins are merged
        observer.update(batch)
    assert observer.counts.sum() == len(x)
    assert float(observer.sums.sum()) == pytest.approx(float(x.double().sum()))
    found = observer.parameters(by=by, percentile=99)
    expected = A.fit(x, scheme, by=by, percentile=99)
    if by == "range":
        assert torch.equal(found.scale, expected.scale)
        assert torch.equal(found.zero, expected.zero)
    elif by == "percentile":
        assert found.scale == pytest.approx(float(expected.scale), rel=0.01)
    else:
        loss = [(A.decode(A.encode(x, scheme, p), scheme, p) - x).square().sum() for p in (found, expected)]
        assert loss[0] <= loss[1] * 1.01


def test_the_error_of_a_histogram_counts_its_values():
    x, scheme = torch.cat([randn(100_000), torch.tensor([100.0])]), Scheme(4, group="tensor")
    observer = O.Observer(scheme)
    observer.update(x)
    found = observer.parameters(by="mse").scale
    assert found < 100 / 7 / 5  # one value alone is cut off
    assert found == pytest.approx(float(A.fit(x, scheme, by="mse").scale), rel=0.05)


def test_an_observer_of_zeros_and_of_bad_values():
    observer = O.Observer(Scheme(8, False, "tensor"))
    with pytest.raises(ValueError, match="update"):
        observer.parameters()
    observer.update(torch.zeros(5))
    for by in ("range", "percentile", "mse"):
        assert observer.parameters(by=by).scale == 1
    for bad in (torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf]), torch.zeros(0)):
        with pytest.raises(ValueError, match="x: "):
            observer.update(bad)
    with pytest.raises(TypeError, match="int64"):
        observer.update(torch.tensor([7]))
    assert observer.high == 0
    observer.update(torch.tensor([2.0]))
    for by in ("range", "percentile", "mse"):
        assert observer.parameters(by=by, percentile=100).scale == pytest.approx(2 / 255)
    with pytest.raises(ValueError, match=r"group='tensor'.*'channel'"):
        O.Observer(Scheme(8))
    with pytest.raises(TypeError, match="scheme: "):
        O.Observer(8)


def test_inputs_of_layers_by_hand(data, makes):
    model = seeded(makes["mlp"], 0).train()
    before = copy.deepcopy(model.state_dict())
    seen = {}
    handles = [
        users[0][1].register_forward_pre_hook(lambda m, args, key=key: seen.update({key: args[0]}))
        for key, users in F.layers_of(model).items()
    ]
    with torch.no_grad():
        model.eval()(data[0])
    for handle in handles:
        handle.remove()
    model.train()
    scheme = Scheme(8, False, "tensor")
    found = O.observe(model, data[0], scheme, batch_size=7)
    assert model.training
    assert list(found) == list(seen) == ["layers.0.weight", "layers.1.weight", "head.weight"]
    for key, x in seen.items():
        expected = A.fit(x, scheme)
        torch.testing.assert_close(found[key].scale, expected.scale)
        assert torch.equal(found[key].zero, expected.zero)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())
    half = {k: v / 2 if k == "layers.0.weight" else v for k, v in before.items()}
    other = O.observe(model, data[0], scheme, state=half)
    assert torch.equal(
        other["layers.0.weight"].scale, O.observe(model, data[0], scheme)["layers.0.weight"].scale
    )
    assert other["layers.1.weight"].scale != found["layers.1.weight"].scale
    F.apply(model, Scheme(8))
    assert list(O.observe(model, data[0], scheme)) == list(found)


def test_observing_other_models(model, data, makes):
    found = O.observe(model, data[0], Scheme(4, group="tensor"), by="mse")
    assert found.keys() <= weights_of(model).keys()
    assert len(found) >= len(weights_of(model)) - 1
    tied = O.observe(seeded(makes["tied"], 0), data[0], Scheme(4, group="tensor"))
    assert list(tied) == ["a.weight", "head.weight"]


def test_bad_calibration_data_is_an_error(data, makes):
    model, scheme, X = seeded(makes["mlp"], 0).train(), Scheme(8, group="tensor"), data[0].clone()
    with pytest.raises(ValueError, match=r"X: .*at least one"):
        O.observe(model, X[:0], scheme)
    with pytest.raises(ValueError, match="group"):
        O.observe(model, X, Scheme(8))
    with pytest.raises(ValueError, match="by: "):
        O.observe(model, X, scheme, by="max")
    X[3, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"X: .*NaN"):
        O.observe(model, X, scheme)
    with torch.no_grad():
        model.layers[0].bias[0] = torch.inf
    with pytest.raises(ValueError, match=r"input of 'layers\.1\.weight'.*NaN or infinity"):
        O.observe(model, data[0], scheme)
    assert model.training
    assert not any(m._forward_pre_hooks for m in model.modules())
