"""Masks: exact counts with ties, what training must not undo, and what bad input must not change."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layerlab.activations import gram
from layerlab.models import seeded
from layerlab.pruning import _select
from layerlab.pruning import masks as M
from layerlab.pruning.scores import magnitude, random
from layerlab.train import evaluate, fit, fit_many


def by_hand(values, keep):
    """Python's stable sort: the ranks below `keep` by falling score."""
    ranks = sorted(range(len(values)), key=lambda i: -values[i])
    chosen = set(ranks[:keep])
    return [i in chosen for i in range(len(values))]


few = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.0, 2.0, float("inf"), float("-inf")])
entries = st.one_of(st.lists(few, min_size=2, max_size=40), st.lists(st.floats(-9, 9, width=32), min_size=2))
shares = st.floats(0, 0.999)


@settings(deadline=None)
@given(entries, shares)
def test_a_layer_is_its_definition_with_ties(values, share):
    keep = len(values) - round(share * len(values))
    scores = {"a": torch.tensor([values])}
    if keep:
        (mask,) = M.unstructured(scores, share).values()
        assert mask.flatten().tolist() == by_hand(values, keep)
        assert torch.equal(M.unstructured(scores, share, per="row")["a"], mask)
    else:
        with pytest.raises(ValueError, match="'a'"):
            M.unstructured(scores, share)


@settings(deadline=None)
@given(st.lists(entries, min_size=1, max_size=4), shares)
def test_one_threshold_is_its_definition_with_ties(layers, share):
    flat = [x for values in layers for x in values]
    scores = {str(i): torch.tensor([values]) for i, values in enumerate(layers)}
    masks = M.unstructured(scores, share, per="model", allow_empty=True)
    expected = by_hand(flat, len(flat) - round(share * len(flat)))
    assert [x for mask in masks.values() for x in mask.flatten().tolist()] == expected


@settings(deadline=None)
@given(st.lists(entries, min_size=1, max_size=4), shares, st.integers(1, 5))
def test_a_sample_that_misleads_costs_time_alone(layers, share, size):
    scores = {str(i): torch.tensor([values]) for i, values in enumerate(layers)}
    expected = M.unstructured(scores, share, per="model", allow_empty=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_select, "_SAMPLE", size)
        found = M.unstructured(scores, share, per="model", allow_empty=True)
    assert all(torch.equal(found[key], expected[key]) for key in scores)


@pytest.mark.parametrize("infinite", [0, 5])
def test_every_count_where_the_sample_sees_one_half(infinite, monkeypatch):
    monkeypatch.setattr(_select, "_SAMPLE", 20)  # every second entry
    for sign in (1.0, -1.0):
        x = torch.stack([torch.arange(20.0) + 20, torch.arange(20.0)], 1) * sign
        x.view(-1)[1 : 2 * infinite : 2] = torch.inf
        for keep in range(41):
            (mask,) = _select.keep_largest([x], keep)
            assert mask.flatten().tolist() == by_hand(x.flatten().tolist(), keep)


@pytest.mark.parametrize(
    "kind", ["normal", "zeros", "coarse", "sorted", "infinite", "tiny and huge", "periodic"]
)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9, 0.99999])
def test_many_entries_are_counted_exactly(kind, share):
    x = torch.randn(700, 900, generator=torch.Generator().manual_seed(0)).abs()
    x = {
        "normal": x,
        "zeros": torch.where(x < 1.6, 0, x),  # most of it was pruned before
        "coarse": (4 * x).round(),
        "sorted": x.flatten().sort().values.view_as(x),
        "infinite": torch.where(x > 1, torch.inf, -torch.inf),
        "periodic": torch.where(torch.arange(630_000).view_as(x) % 6 == 0, x + 9, x),  # as is the sample
        "tiny and huge": torch.cat([x[:1] * 1e30, x[1:] * 1e-30]),
    }[kind]
    scores = {"a": x[:300].contiguous(), "b": x[300:]}
    masks = M.unstructured(scores, share, per="model", allow_empty=True)
    order = x.flatten().sort(descending=True, stable=True).indices
    keep = x.numel() - round(share * x.numel())
    expected = torch.zeros(x.numel(), dtype=torch.bool)
    expected[order[:keep]] = True
    assert torch.equal(torch.cat([m.flatten() for m in masks.values()]), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_types_do_not_change_the_count(dtype):
    scores = {
        "a": torch.randn(30, 7, generator=torch.Generator().manual_seed(0)).to(dtype),
        "b": torch.rand(2, 5),
    }
    for per in ("layer", "row", "model"):
        masks = M.unstructured(scores, 0.6, per=per)
        if per == "row":
            assert all((m.sum(1) == m.shape[1] - round(0.6 * m.shape[1])).all() for m in masks.values())
        elif per == "layer":
            assert all(int((~m).sum()) == round(0.6 * m.numel()) for m in masks.values())
        else:
            assert sum(int((~m).sum()) for m in masks.values()) == round(0.6 * 220)


@pytest.mark.parametrize("per", ["layer", "row", "model"])
def test_the_order_in_memory_does_not_matter(per, makes):
    score = torch.randint(4, (6, 5, 3, 3), generator=torch.Generator().manual_seed(0)).float()
    (expected,) = M.unstructured({"a": score}, 0.55, per=per).values()
    (found,) = M.unstructured({"a": score.to(memory_format=torch.channels_last)}, 0.55, per=per).values()
    assert torch.equal(found, expected)
    last = M.n_of_m({"a": score.to(memory_format=torch.channels_last)}, 2, 5)["a"]
    assert torch.equal(last, M.n_of_m({"a": score}, 2, 5)["a"])
    model = seeded(makes["convnet"], 0)
    expected = M.unstructured(magnitude(M.prunable(model)), 0.5, per=per)
    M.apply(model.to(memory_format=torch.channels_last), expected)
    assert all(torch.equal(weight != 0, expected[key]) for key, weight in M.prunable(model).items())


def test_layers_may_differ_and_say_so():
    scores = {"a": torch.rand(10, 10), "b": torch.rand(10, 10)}
    masks = M.unstructured(scores, {"a": 0.3, "b": 0.9})
    assert M.layer_sparsity(masks) == pytest.approx({"a": 0.3, "b": 0.9})
    assert M.sparsity(masks) == pytest.approx(0.6)


def test_n_of_m_keeps_the_best_of_each_group():
    score = torch.rand(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = M.n_of_m({"a": score}, 1, 4)["a"]
    groups = score.reshape(-1, 4)
    assert torch.equal(mask.reshape(-1, 4).int().argmax(1), groups.argmax(1))
    assert (mask.reshape(-1, 4).sum(1) == 1).all()
    assert M.n_of_m({"a": torch.zeros(1, 4)}, 2, 4)["a"].tolist() == [[True, True, False, False]]


def test_channels_are_whole_rows():
    masks = M.channels({"a": torch.ones(4, 2, 3, 3), "b": torch.ones(2, 5)}, {"a": [0, 3]})
    assert masks["a"].flatten(1).all(1).tolist() == [True, False, False, True]
    assert masks["a"].flatten(1).any(1).tolist() == [True, False, False, True]
    assert masks["b"].all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("adam", {}), ("adamw", {"weight_decay": 0.1}), ("sgd", {"lr": 0.05, "weight_decay": 0.01})],
)
def test_training_keeps_the_mask(model, data, kind, options):
    fit(model, *data, epochs=1, seed=0)
    before, keys = copy.deepcopy(model.state_dict()), list(model.state_dict())
    masks = M.unstructured(magnitude(M.prunable(model)), 0.7)
    assert M.apply(model, masks) is model
    for key, weight in M.prunable(model).items():
        assert torch.equal(weight, torch.where(masks[key], before[key], 0))
    fit(model, *data, epochs=3, seed=0, optimizer=kind, **options)
    weights, outputs = M.prunable(model), model(data[0])
    assert list(weights) == list(masks)
    for key, weight in weights.items():
        assert not weight[~masks[key]].any()
        assert not torch.equal(weight, torch.where(masks[key], before[key], 0))
    assert M.make_permanent(model) is model
    assert list(model.state_dict()) == keys
    assert torch.equal(model(data[0]), outputs)
    assert all(not model.state_dict()[key][~mask].any() for key, mask in masks.items())


def test_an_optimizer_made_before_the_mask_does_not_revive_weights(data, makes):
    model = seeded(makes["mlp"], 0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()

    step()
    masks = M.unstructured(magnitude(M.prunable(model)), 0.5)
    M.apply(model, masks)
    kept = {key: weight.clone() for key, weight in M.prunable(model).items()}
    for _ in range(3):
        step()
    for key, weight in M.prunable(model).items():
        assert not weight[~masks[key]].any()
        assert not torch.equal(weight, kept[key])  # the parameters are still those that it moves


def test_many_masked_models_train_as_one_by_one(model, data):
    models = [copy.deepcopy(model) for _ in range(3)]
    for i, each in enumerate(models):
        M.apply(each, M.unstructured(random(M.prunable(each), i), 0.6))
    alone = copy.deepcopy(models)
    options = {"epochs": 2, "optimizer": "sgd", "lr": 0.05, "weight_decay": 0.01}
    fit_many(models, *data, seeds=[0, 1, 2], **options)
    for i, (one, other) in enumerate(zip(models, alone, strict=True)):
        fit(other, *data, seed=i, **options)
        for key, weight in M.prunable(one).items():
            torch.testing.assert_close(weight, M.prunable(other)[key], atol=2e-5, rtol=1e-4)
            assert int((weight == 0).sum()) == round(0.6 * weight.numel())


def test_masked_and_dense_models_are_not_stacked(data, makes):
    models = [seeded(makes["mlp"], 0) for _ in range(2)]
    M.apply(models[1], M.unstructured(magnitude(M.prunable(models[1])), 0.6))
    with pytest.raises(ValueError, match=r"models\[1\]"):
        fit_many(models, *data, seeds=[0, 1], epochs=1)


def test_masks_applied_again_keep_what_both_keep(model):
    weights = M.prunable(model)
    one, two = (M.unstructured(random(weights, seed), 0.5) for seed in (0, 1))
    M.apply(M.apply(model, one), two)
    for key, weight in M.prunable(model).items():
        assert torch.equal(weight != 0, one[key] & two[key])
    assert all(len(m.parametrizations.weight) == 1 for m in model.modules() if hasattr(m, "parametrizations"))
    mine = next(iter(two.values()))
    mine.zero_()  # the caller's tensor is not the model's
    assert next(iter(M.prunable(model).values())).any()


def test_copies_live_their_own_lives(model, data):
    M.apply(model, M.unstructured(magnitude(M.prunable(model)), 0.5))
    other = copy.deepcopy(model)
    M.make_permanent(other)
    assert "parametrizations" not in " ".join(other.state_dict())
    assert "parametrizations" in " ".join(model.state_dict())
    torch.testing.assert_close(model.eval()(data[0]), other.eval()(data[0]), rtol=0, atol=0)
    M.make_permanent(model)
    assert list(model.state_dict()) == list(other.state_dict())


def test_another_parametrization_survives(data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    nn.utils.parametrize.register_parametrization(model[1], "bias", Half())
    bias = model[1].bias.detach().clone()
    M.apply(model, M.unstructured(magnitude(M.prunable(model)), 0.5))
    outputs = model(data[0])
    M.make_permanent(model)
    assert torch.equal(model[1].bias, bias)
    assert torch.equal(model(data[0]), outputs)
    assert nn.utils.parametrize.is_parametrized(model[1], "bias")
    assert not nn.utils.parametrize.is_parametrized(model[1], "weight")


def test_a_shared_weight_is_one_weight(data, makes):
    model = seeded(makes["tied"], 0).eval()
    keys = list(model.state_dict())
    assert list(M.prunable(model)) == ["a.weight", "head.weight"]
    masks = M.unstructured(magnitude(M.prunable(model)), 0.8, per="model")
    expected = model.state_dict()
    expected = M.masked(expected, masks)
    assert expected["b.weight"] is expected["a.weight"]
    loss = evaluate(model, *data, state=expected).loss
    M.apply(model, masks)
    assert evaluate(model, *data).loss == loss
    assert list(M.prunable(model)) == list(masks)
    M.apply(model, {"b.weight": torch.eye(64, dtype=torch.bool) | masks["a.weight"]})  # by its other name
    assert torch.equal(model.a.weight, model.b.weight)
    fit(model, *data, epochs=2, optimizer="sgd", lr=0.05)
    assert not M.prunable(model)["a.weight"][~masks["a.weight"]].any()
    M.make_permanent(model)
    assert model.a.weight is model.b.weight
    assert list(model.state_dict()) == keys
    assert not model.a.weight[~masks["a.weight"]].any()


def test_masked_weights_may_hold_anything_below(data, makes):
    model = seeded(makes["mlp"], 0)
    masks = M.unstructured(magnitude(M.prunable(model)), 0.5)
    M.apply(model, masks)
    with torch.no_grad():
        model.head.parametrizations.weight.original[~masks["head.weight"]] = torch.inf
    assert torch.isfinite(model(data[0])).all()


def test_masked_state_evaluates_as_the_masked_model(model, data):
    masks = M.unstructured(magnitude(M.prunable(model)), 0.5)
    before = copy.deepcopy(model.state_dict())
    state = M.masked(model.state_dict(), masks)
    found = evaluate(model, *data, state=state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    M.apply(model, masks)
    assert found == evaluate(model, *data)


def test_gram_knows_masked_layers_by_their_names(model, data):
    masks = M.unstructured(magnitude(M.prunable(model)), 0.5)
    expected = gram(model, data[0], state=M.masked(model.state_dict(), masks))
    found = gram(M.apply(model, masks), data[0])
    assert list(found) == list(expected) == list(masks)
    assert all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_types_keep_their_type(dtype, makes):
    model = seeded(makes["convnet"], 0).to(dtype)
    M.apply(model, M.unstructured(magnitude(M.prunable(model)), 0.5))
    assert all(weight.dtype == dtype for weight in M.prunable(model).values())
    M.make_permanent(model)
    assert all(weight.dtype == dtype for weight in M.prunable(model).values())


def one(value, key="layers.0.weight"):
    return lambda model: {key: value(M.prunable(model)["layers.0.weight"])}


BAD_MASKS = {
    "none": (lambda model: {}, "at least one"),
    "unknown key": (one(lambda w: w > 0, "layers.9.weight"), r"layers\.9\.weight"),
    "a bias": (one(lambda w: w[:, 0] > 0, "layers.0.bias"), r"layers\.0\.bias"),
    "shape": (one(lambda w: w.T > 0), r"layers\.0\.weight.*\(12, 64\).*\(64, 12\)"),
    "type": (one(lambda w: (w > 0).float()), r"layers\.0\.weight.*bool.*float32"),
    "emptied": (one(lambda w: w > 1e9), r"layers\.0\.weight.*stays"),
    "second bad": (
        lambda model: {
            key: weight > (1e9 if "head" in key else 0) for key, weight in M.prunable(model).items()
        },
        "head",
    ),
}


@pytest.mark.parametrize(("make", "match"), BAD_MASKS.values(), ids=BAD_MASKS)
def test_a_bad_mask_changes_nothing(make, match, makes):
    model = seeded(makes["mlp"], 0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=match):
        M.apply(model, make(model))
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_two_masks_that_empty_a_layer_together_change_nothing(makes):
    model = seeded(makes["mlp"], 0)
    mask = M.prunable(model)["head.weight"] > 0
    M.apply(model, {"head.weight": mask})
    before = M.prunable(model)
    with pytest.raises(ValueError, match=r"head\.weight"):
        M.apply(model, {"layers.0.weight": before["layers.0.weight"] > 0, "head.weight": ~mask})
    assert all(torch.equal(value, before[key]) for key, value in M.prunable(model).items())
    M.apply(model, {"head.weight": ~mask}, allow_empty=True)
    assert not M.prunable(model)["head.weight"].any()


def test_a_weight_with_another_parametrization_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=r"1\.weight.*no other parametrization"):
        M.apply(model, {k: torch.eye(4, dtype=torch.bool) for k in ("0.weight", "1.weight")})
    assert list(model.state_dict()) == before


SCORES = {"a": torch.arange(8.0).view(2, 4), "b": torch.arange(100.0, 108).view(2, 4)}
BAD_CHOICES = {
    "one": (SCORES, 1.0, {}, ValueError, r"sparsity: .*\[0, 1\).*1\.0"),
    "negative": (SCORES, -0.1, {}, ValueError, r"-0\.1"),
    "nan": (SCORES, float("nan"), {}, ValueError, "nan"),
    "text": (SCORES, "half", {}, TypeError, "half"),
    "one layer's": (SCORES, {"a": 0.5, "b": 1.5}, {}, ValueError, r"sparsity\['b'\]"),
    "missing key": (SCORES, {"a": 0.5}, {}, ValueError, "'b'"),
    "unknown key": (SCORES, {"a": 0.5, "b": 0.5, "c": 0.5}, {}, ValueError, "'c'"),
    "dict for the model": (SCORES, {"a": 0.5, "b": 0.5}, {"per": "model"}, ValueError, "per='model'"),
    "per": (SCORES, 0.5, {"per": "column"}, ValueError, "column"),
    "nan score": ({"a": torch.tensor([[1.0, float("nan")]])}, 0.5, {}, ValueError, r"scores\['a'\].*NaN"),
    "integers": ({"a": torch.ones(2, 2, dtype=torch.int64)}, 0.5, {}, TypeError, "int64"),
    "no scores": ({}, 0.5, {}, ValueError, "at least one"),
    "empty score": ({"a": torch.zeros(0, 4)}, 0.5, {}, ValueError, r"\(0, 4\)"),
    "layer emptied": (SCORES, 0.95, {}, ValueError, r"'a'.*all 8"),
    "row emptied": (SCORES, 0.9, {"per": "row"}, ValueError, r"'a'.*row.*all 4"),
    "emptied by the other": (SCORES, 0.5, {"per": "model"}, ValueError, "'a'.*allow_empty"),
}


@pytest.mark.parametrize(
    ("scores", "share", "options", "error", "match"), BAD_CHOICES.values(), ids=BAD_CHOICES
)
def test_bad_choices_name_what_was_wrong(scores, share, options, error, match):
    with pytest.raises(error, match=match):
        M.unstructured(scores, share, **options)


@pytest.mark.parametrize(("n", "m", "match"), [(2, 3, "'a'"), (0, 4, "n=0"), (5, 4, "n=5")])
def test_bad_patterns_name_what_was_wrong(n, m, match):
    with pytest.raises(ValueError, match=match):
        M.n_of_m(SCORES, n, m)


@pytest.mark.parametrize(
    ("keep", "match"),
    [
        ({"c": [0]}, "'c'"),
        ({"a": []}, "'a'"),
        ({"a": [2]}, "2"),
        ({"a": [-1]}, "-1"),
        ({"a": [True, False]}, "True"),
    ],
)
def test_bad_channels_name_what_was_wrong(keep, match):
    with pytest.raises(ValueError, match=match):
        M.channels(SCORES, keep)


def test_a_state_and_masks_that_do_not_fit():
    with pytest.raises(ValueError, match="'c'"):
        M.masked(SCORES, {"c": SCORES["a"] > 0})
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        M.masked(SCORES, {"a": SCORES["a"].T > 0})
    with pytest.raises(ValueError, match="bool"):
        M.masked(SCORES, {"a": SCORES["a"]})
    with pytest.raises(ValueError, match="at least one"):
        M.sparsity({})


def test_a_model_without_prunable_weights_is_refused():
    with pytest.raises(ValueError, match="BatchNorm1d"):
        M.prunable(nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="Sequential"):
        M.apply(nn.Sequential(nn.LayerNorm(3)), {"0.weight": torch.ones(3, dtype=torch.bool)})
