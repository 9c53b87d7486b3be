"""Scores: each against its definition, LAMP's invariants, and bad input."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layerlab.activations import gram
from layerlab.models import MLP, ConvNet, seeded
from layerlab.pruning import masks as M
from layerlab.pruning import scores as S
from layerlab.pruning.second_order import reconstruct


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture
def weights():
    return {"a": draw(5, 12), "b": draw(3, 2, 3, 3, seed=1)}


@pytest.fixture
def grams():
    X, Y = draw(40, 12, seed=2).double(), draw(50, 18, seed=3).double()
    return {"a": X.T @ X, "b": Y.T @ Y}


few = st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 3.0])
values = st.one_of(st.lists(few, min_size=1, max_size=30), st.lists(st.floats(-9, 9, width=32), min_size=1))


@settings(deadline=None)
@given(values)
def test_lamp_is_its_definition(numbers):
    score = S.lamp({"a": torch.tensor([numbers])})["a"].flatten().tolist()
    order = sorted(range(len(numbers)), key=lambda i: -abs(numbers[i]))  # of equal ones the first is larger
    largest = abs(numbers[order[0]])
    total = 0.0
    for i in order:
        square = (abs(numbers[i]) / largest) ** 2 if largest else 0.0
        total += square
        assert score[i] == pytest.approx(square / total if total else 0.0, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float64, s) for s in (1e-300, 1e-150, 1.0, 1e150)]
    + [(torch.float32, s) for s in (1e-30, 1.0, 1e30)]
    + [(torch.bfloat16, s) for s in (1e-30, 1.0, 1e30)]
    + [(torch.float16, s) for s in (1e-3, 1.0, 1e3)],
)
def test_lamps_largest_weight_scores_one_at_every_scale(scale, dtype):
    weight = (draw(20, 30, dtype=torch.float64) * scale).to(dtype)
    score = S.lamp({"a": weight})["a"]
    assert score.dtype == torch.float64
    assert score.max() == 1
    assert int((score == 1).sum()) == 1
    assert score.flatten()[weight.flatten().double().abs().sort(descending=True, stable=True).indices[0]] == 1
    assert torch.isfinite(score).all()
    assert (score >= 0).all()


def test_lamp_ranks_a_layer_by_magnitude_and_never_empties_one(weights):
    weights = {**weights, "small": 1e-6 * draw(4, 4, seed=5)}
    lamp, size = S.lamp(weights), S.magnitude(weights)
    for share in (0.2, 0.5, 0.9):
        assert all(
            torch.equal(one, other)
            for one, other in zip(
                M.unstructured(lamp, share).values(), M.unstructured(size, share).values(), strict=True
            )
        )
    total = sum(w.numel() for w in weights.values())
    masks = M.unstructured(lamp, 1 - 3 / total, per="model")  # one weight each
    assert [int(mask.sum()) for mask in masks.values()] == [1, 1, 1]
    with pytest.raises(ValueError, match="'small'"):
        M.unstructured(size, 0.9, per="model")


def test_lamp_of_zeros_is_zero():
    score = S.lamp({"a": torch.zeros(2, 3), "b": torch.tensor([[0.0, 2.0, 0.0]])})
    assert score["a"].tolist() == [[0.0] * 3] * 2
    assert score["b"].tolist() == [[0.0, 1.0, 0.0]]


def test_wanda_is_magnitude_times_the_norm_of_the_input():
    model = seeded(lambda: ConvNet(1, 3, (4, 6)), 0).eval()
    X = draw(20, 1, 8, 8)
    score = S.wanda(M.prunable(model), gram(model, X))
    patches = torch.nn.functional.unfold(X.double(), 3, padding=1)  # (N, 9, 64)
    norms = patches.square().sum((0, 2)).sqrt().view(1, 1, 3, 3)
    expected = model.features[0].weight.detach().double().abs() * norms
    torch.testing.assert_close(score["features.0.weight"], expected)
    assert {k: v.shape for k, v in score.items()} == {k: v.shape for k, v in M.prunable(model).items()}


def test_wanda_and_obs_agree_on_uncorrelated_inputs(weights):
    grams = {"a": torch.diag(torch.arange(1.0, 13)), "b": torch.diag(torch.arange(1.0, 19))}
    wanda, obs = S.wanda(weights, grams), S.obs(weights, grams, damp=0)
    assert all(torch.allclose(wanda[key].square(), obs[key]) for key in weights)


def test_obs_is_what_removing_one_weight_costs(weights, grams):
    score = S.obs(weights, grams, damp=0)
    for key, weight in weights.items():
        weight = weight.double()
        for i in (0, 5, 11):
            mask = torch.ones_like(weight, dtype=torch.bool)
            mask.view(len(weight), -1)[1, i] = False
            change = (reconstruct(weight, grams[key], mask) - weight).flatten(1)
            cost = torch.einsum("oi,ij,oj->", change, grams[key], change)
            torch.testing.assert_close(cost, score[key].flatten(1)[1, i])


def test_a_dead_input_is_worth_nothing_to_obs():
    G = torch.tensor([[4.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 2.0]])
    score = S.obs({"a": torch.ones(2, 3)}, {"a": G})["a"]
    assert (score[:, 1] == 0).all()
    assert (score[:, [0, 2]] > 0).all()
    assert not S.obs({"a": torch.ones(2, 3)}, {"a": torch.zeros(3, 3)})["a"].any()


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_autograds(masked):
    model = seeded(lambda: MLP(64, [12], 3, norm="batch"), 0)
    X, y = draw(30, 1, 8, 8), torch.randint(3, (30,), generator=torch.Generator().manual_seed(0))
    if masked:
        M.apply(model, M.unstructured(S.magnitude(M.prunable(model)), 0.5))
    model.train()
    before = copy.deepcopy(model.state_dict())
    found = S.gradients(model, X, y, batch_size=7)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.eval()
    nn.functional.cross_entropy(model(X), y).backward()
    grads = [p.grad for name, p in model.named_parameters() if "weight" in name and "norms" not in name]
    assert list(found) == list(M.prunable(model))
    for one, other in zip(found.values(), grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_gradients_of_a_shared_weight_sum_over_its_uses():
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)), 0)
    model[2].weight = model[0].weight
    X, y = draw(10, 3), torch.randint(3, (10,), generator=torch.Generator().manual_seed(0))
    found = S.gradients(model, X, y)
    nn.functional.cross_entropy(model(X), y).backward()
    assert list(found) == ["0.weight"]
    torch.testing.assert_close(found["0.weight"], model[0].weight.grad)


def test_gradient_score_predicts_the_loss_to_first_order():
    model = seeded(lambda: MLP(64, [12], 3), 0).double()
    X, y = (
        draw(30, 64, dtype=torch.float64),
        torch.randint(3, (30,), generator=torch.Generator().manual_seed(0)),
    )
    weights = M.prunable(model)
    score = S.gradient(weights, S.gradients(model, X, y))["head.weight"]
    state, eps = model.state_dict(), 1e-5
    i = score.flatten().argmax()
    moved = weights["head.weight"].clone()
    moved.view(-1)[i] *= 1 - eps
    loss = [
        nn.functional.cross_entropy(torch.func.functional_call(model, {**state, "head.weight": w}, (X,)), y)
        for w in (weights["head.weight"], moved)
    ]
    assert abs(loss[1] - loss[0]).item() / eps == pytest.approx(score.flatten()[i].item(), rel=1e-3)


def test_random_scores_follow_the_seed_alone(weights):
    torch.manual_seed(1)
    one = S.random(weights, 0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    other = S.random(weights, 0)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[key], other[key]) and one[key].shape == weights[key].shape for key in weights)
    assert not torch.equal(one["a"], S.random(weights, 1)["a"])


FUNCTIONS = {
    "magnitude": S.magnitude,
    "lamp": S.lamp,
    "wanda": lambda w: S.wanda(w, {"a": torch.eye(2)}),
    "obs": lambda w: S.obs(w, {"a": torch.eye(2)}),
    "gradient": lambda w: S.gradient(w, {"a": torch.ones(2, 2)}),
    "random": lambda w: S.random(w, 0),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize(
    ("bad", "error", "match"),
    [
        ({}, ValueError, "weights: .*at least one"),
        ({"a": torch.tensor([[1.0, float("nan")], [0, 0]])}, ValueError, r"weights\['a'\].*NaN"),
        ({"a": torch.tensor([[1.0, float("inf")], [0, 0]])}, ValueError, r"weights\['a'\].*infinity"),
        ({"a": torch.ones(2, 2, dtype=torch.int64)}, TypeError, r"weights\['a'\].*int64"),
        ({"a": torch.ones(0, 2)}, ValueError, r"weights\['a'\].*\(0, 2\)"),
        ({"a": torch.ones(2)}, ValueError, r"weights\['a'\].*\(2,\)"),
    ],
    ids=["none", "nan", "inf", "integers", "empty", "vector"],
)
def test_bad_weights_are_named(function, bad, error, match):
    with pytest.raises(error, match=match):
        function(bad)


@pytest.mark.parametrize("function", [S.wanda, S.obs])
def test_bad_grams_are_named(function, weights, grams):
    with pytest.raises(ValueError, match=r"grams.*'b'"):
        function(weights, {"a": grams["a"]})
    with pytest.raises(ValueError, match=r"grams\['b'\].*\(18, 18\).*\(12, 12\)"):
        function(weights, {"a": grams["a"], "b": grams["a"]})
    with pytest.raises(ValueError, match=r"grams\['a'\].*NaN"):
        function(weights, {**grams, "a": grams["a"] * float("nan")})


def test_other_bad_arguments_are_named(weights, grams):
    with pytest.raises(ValueError, match=r"damp.*-1"):
        S.obs(weights, grams, damp=-1)
    with pytest.raises(ValueError, match="singular"):
        S.obs({"a": torch.ones(1, 2)}, {"a": torch.ones(2, 2)}, damp=0)
    with pytest.raises(ValueError, match=r"gradients\['b'\]"):
        S.gradient(weights, {"a": weights["a"]})
    with pytest.raises(ValueError, match=r"gradients\['a'\].*NaN"):
        S.gradient(weights, {**weights, "a": weights["a"] * float("nan")})
    model = seeded(lambda: MLP(4, [], 2), 0)
    with pytest.raises(ValueError, match="3 and 2"):
        S.gradients(model, torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"X: .*NaN"):
        S.gradients(model, torch.full((3, 4), float("nan")), torch.zeros(3, dtype=torch.int64))
