"""Allocation: totals to one weight per layer, the dynamic program against all combinations, bad input."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

from layerlab.models import MLP, ConvNet, TinyViT, seeded
from layerlab.pruning import allocate as A
from layerlab.pruning.masks import masked, prunable, sparsity, unstructured
from layerlab.pruning.scores import lamp, magnitude
from layerlab.train import evaluate

MAKES = {
    "mlp": lambda: MLP(64, [24, 16], 3),
    "convnet": lambda: ConvNet(1, 3, (4, 6)),
    "vit": lambda: TinyViT(8, 4, 1, 3, dim=8, depth=1, heads=2),
}


@pytest.fixture(params=MAKES.values(), ids=MAKES)
def weights(request):
    return prunable(seeded(request.param, 0))


RULES = {
    "uniform": A.uniform,
    "erk": A.erk,
    "global": lambda w, s: A.from_scores(magnitude(w), s),
    "lamp": lambda w, s: A.from_scores(lamp(w), s),
    "importance": lambda w, s: A.from_importance({k: i + 0.5 for i, k in enumerate(w)}, w, s),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.8, 0.93])
def test_totals_are_met_to_one_weight_per_layer(weights, rule, share):
    shares = rule(weights, share)
    assert list(shares) == list(weights)
    assert all(0 <= value <= 1 for value in shares.values())
    sizes = {key: w.numel() for key, w in weights.items()}
    goal = share * sum(sizes.values())
    assert sum(shares[key] * n for key, n in sizes.items()) == pytest.approx(goal, abs=0.5 + 1e-6)
    removed = sum(round(shares[key] * n) for key, n in sizes.items())
    assert abs(removed - goal) <= len(weights)


def test_uniform_is_uniform(weights):
    assert set(A.uniform(weights, 0.7).values()) == {0.7}


def test_erk_is_in_proportion_and_fills_up():
    weights = {"a": torch.zeros(100, 50, 3, 3), "b": torch.zeros(200, 300), "c": torch.zeros(4, 5)}
    shares = A.erk(weights, 0.8)
    assert shares["c"] == 0  # its density would pass 1
    density = {key: 1 - share for key, share in shares.items()}
    ratio = (156 / 45_000) / (500 / 60_000)
    assert density["a"] / density["b"] == pytest.approx(ratio)
    assert A.erk(weights, 0.0) == {"a": 0, "b": 0, "c": 0}
    two = A.erk({"a": torch.zeros(10, 10), "b": torch.zeros(100, 100)}, 0.3)
    assert two["a"] == 0
    assert two["b"] * 10_000 == pytest.approx(0.3 * 10_100)


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_shares_of_scores_repeat_the_threshold(weights, share):
    for scores in (magnitude(weights), lamp(weights)):
        once = unstructured(scores, share, per="model", allow_empty=True)
        shares = A.from_scores(scores, share)
        assert all(0 <= value < 1 for value in shares.values())
        again = unstructured(scores, shares)
        assert all(torch.equal(once[key], again[key]) for key in weights)
        assert sparsity(again) == pytest.approx(share, abs=1 / sum(w.numel() for w in weights.values()))


def test_an_emptied_layer_is_seen_and_refused():
    scores = {"a": torch.ones(4, 4), "b": 9 * torch.ones(4, 4)}
    assert A.from_scores(scores, 0.5) == {"a": 1.0, "b": 0.0}
    with pytest.raises(ValueError, match=r"sparsity\['a'\].*1\.0"):
        unstructured(scores, A.from_scores(scores, 0.5))


def test_importance_orders_the_layers():
    weights = {key: torch.zeros(10, 10) for key in "abcd"}
    importance = {"a": 1.0, "b": 8.0, "c": 2.0, "d": 0.0}
    shares = A.from_importance(importance, weights, 0.6, max_sparsity=0.9)
    assert shares["b"] < shares["c"] < shares["a"] < shares["d"]
    assert shares["d"] == pytest.approx(0.9)
    assert sum(shares.values()) == pytest.approx(2.4)
    rescaled = A.from_importance({k: 1e6 * v for k, v in importance.items()}, weights, 0.6, max_sparsity=0.9)
    assert rescaled == pytest.approx(shares)
    assert A.from_importance(importance, weights, 0.6, max_sparsity=0.6) == pytest.approx(
        dict.fromkeys("abcd", 0.6)
    )
    full = A.from_importance({"a": 1.0, "b": 1e9, "c": 2.0, "d": 0.0}, weights, 0.2, max_sparsity=1.0)
    assert full["b"] == 0
    assert sum(full.values()) == pytest.approx(0.8)
    nothing_known = A.from_importance(dict.fromkeys("abcd", 0.0), weights, 0.6)
    assert nothing_known == pytest.approx(dict.fromkeys("abcd", 0.6))


@settings(deadline=None, max_examples=200)
@example([(0.0, 1), (2.3e-308, 7)], 0.5, 1.0)
@example([(1e308, 9), (1e308, 7)], 0.5, 1.0)
@given(
    st.lists(st.tuples(st.floats(0, allow_infinity=False), st.integers(1, 2000)), min_size=1, max_size=6),
    st.floats(0, 0.99),
    st.floats(0, 1),
)
def test_importance_meets_every_budget(layers, share, between):
    weights = {str(i): torch.zeros(1, n) for i, (_, n) in enumerate(layers)}
    importance = {str(i): value for i, (value, _) in enumerate(layers)}
    top = min(1.0, share + between * (1 - share))
    shares = A.from_importance(importance, weights, share, max_sparsity=top)
    total = sum(w.numel() for w in weights.values())
    assert sum(shares[k] * w.numel() for k, w in weights.items()) == pytest.approx(share * total, abs=1e-6)
    assert all(0 <= value <= top + 1e-9 for value in shares.values())
    order = sorted(importance, key=importance.get)
    if len({w.numel() for w in weights.values()}) == 1:
        assert all(shares[a] >= shares[b] - 1e-9 for a, b in itertools.pairwise(order))


@pytest.fixture(scope="module")
def measured():
    model = seeded(lambda: ConvNet(1, 3, (4, 6)), 0)
    X = torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([0.0, 0.5, 0.9])
    return model, X, levels, A.distortion_curves(model, X, magnitude(prunable(model)), levels, batch_size=7)


def test_distortion_is_the_change_of_the_output(measured):
    model, X, levels, curves = measured
    before = copy.deepcopy(model.state_dict())
    weights = prunable(model)
    assert list(curves) == list(weights)
    model.eval()
    for key, curve in curves.items():
        assert curve.shape == levels.shape
        assert curve[0] == 0
        mask = unstructured({key: weights[key].abs()}, 0.9)
        changed = torch.func.functional_call(model, masked(model.state_dict(), mask), (X,))
        expected = (changed.double() - model(X).double()).square().mean()
        torch.testing.assert_close(curve[2], expected, atol=1e-9, rtol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_distortion_with_chosen_layers_and_bad_levels(measured):
    model, X, _, curves = measured
    scores = {"head.weight": prunable(model)["head.weight"].abs()}
    alone = A.distortion_curves(model, X, scores, [0.5])
    torch.testing.assert_close(alone["head.weight"][0], curves["head.weight"][1], atol=1e-9, rtol=1e-4)
    with pytest.raises(ValueError, match=r"1\.0"):
        A.distortion_curves(model, X, scores, [0.5, 1.0])
    with pytest.raises(ValueError, match="levels"):
        A.distortion_curves(model, X, scores, [])
    with pytest.raises(ValueError, match=r"other\.weight"):
        A.distortion_curves(model, X, {"other.weight": torch.ones(2, 2)}, [0.5])
    with pytest.raises(ValueError, match=r"head\.weight.*\(3, 6\)"):
        A.distortion_curves(model, X, {"head.weight": torch.ones(2, 2)}, [0.5])
    with pytest.raises(ValueError, match="X: "):
        A.distortion_curves(model, X[:0], scores, [0.5])


def cost(curves, levels, shares):
    return sum(float(curves[key][list(levels).index(share)]) for key, share in shares.items())


def removed(sizes, shares):
    return sum(round(shares[key] * n) for key, n in sizes.items())


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_the_dynamic_program_is_as_good_as_all_combinations(data):
    levels = data.draw(st.lists(st.floats(0, 1), min_size=1, max_size=4, unique=True))
    sizes = data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=4))
    numbers = st.lists(st.floats(0, 10), min_size=len(levels), max_size=len(levels))
    curves = {str(i): torch.tensor(data.draw(numbers), dtype=torch.float64) for i in range(len(sizes))}
    sizes = {str(i): n for i, n in enumerate(sizes)}
    share = data.draw(st.floats(0, 0.99))
    assume(sum(round(max(levels) * n) for n in sizes.values()) >= round(share * sum(sizes.values())))
    found = A.dynamic_program(curves, sizes, levels, share)
    best = A.brute_force(curves, sizes, levels, share)
    assert list(found) == list(best) == list(curves)
    for shares in (found, best):
        assert removed(sizes, shares) >= round(share * sum(sizes.values()))
    assert cost(curves, levels, found) == pytest.approx(cost(curves, levels, best), abs=1e-9)
    coarse = A.dynamic_program(curves, sizes, levels, share, bins=5)
    assert removed(sizes, coarse) >= round(share * sum(sizes.values()))
    assert cost(curves, levels, coarse) >= cost(curves, levels, best) - 1e-9


def test_the_dynamic_program_beats_what_looks_best_layer_by_layer():
    levels = [0.0, 0.5, 0.9]
    curves = {
        "a": torch.tensor([0.0, 1.0, 9.0]),
        "b": torch.tensor([0.0, 0.1, 0.2]),
        "c": torch.tensor([0, 5, 6.0]),
    }
    sizes = {"a": 100, "b": 100, "c": 200}
    assert A.dynamic_program(curves, sizes, levels, 0.35) == {"a": 0.5, "b": 0.9, "c": 0.0}
    assert A.dynamic_program(curves, sizes, levels, 0.0) == {"a": 0.0, "b": 0.0, "c": 0.0}
    assert A.dynamic_program(curves, sizes, levels, 0.9) == {"a": 0.9, "b": 0.9, "c": 0.9}


def test_large_layers_cost_no_more_than_the_bins():
    generator = torch.Generator().manual_seed(0)
    levels = [0.1 * i for i in range(10)] + [0.95, 0.99]
    sizes = {str(i): 10 ** (3 + i % 5) for i in range(12)}  # up to 10 million
    curves = {key: torch.rand(12, generator=generator).sort().values for key in sizes}
    found = A.dynamic_program(curves, sizes, levels, 0.9)
    assert removed(sizes, found) >= round(0.9 * sum(sizes.values()))
    finer = A.dynamic_program(curves, sizes, levels, 0.9, bins=200_000)
    assert cost(curves, levels, found) <= 1.05 * cost(curves, levels, finer)
    top = A.dynamic_program(curves, sizes, levels, 0.99)  # no room for rounding
    assert set(top.values()) == {0.99}


@pytest.mark.parametrize("solve", [A.dynamic_program, A.brute_force])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sparsity": 1.0}, r"sparsity.*1\.0"),
        ({"sparsity": 0.95}, r"sparsity.*at most 0\.9.*0\.95"),
        ({"levels": [0.0, 1.5]}, r"levels.*1\.5"),
        ({"levels": []}, "levels"),
        ({"levels": [0.0, 0.5, 0.9]}, r"curves\['a'\].*3"),
        ({"sizes": {"a": 100}}, "'b'"),
        ({"sizes": {"a": 100, "b": 0}}, r"sizes\['b'\].*0"),
        ({"curves": {}}, "curves"),
        ({"curves": {"a": torch.zeros(2), "b": torch.tensor([0.0, float("nan")])}}, r"curves\['b'\].*nan"),
    ],
)
def test_bad_problems_name_what_was_wrong(solve, change, match):
    problem = {
        "curves": {"a": torch.zeros(2), "b": torch.zeros(2)},
        "sizes": {"a": 100, "b": 100},
        "levels": [0.0, 0.9],
        "sparsity": 0.5,
    }
    with pytest.raises(ValueError, match=match):
        solve(**{**problem, **change})


def test_limits_of_the_solvers():
    curves, sizes = {str(i): torch.zeros(10) for i in range(7)}, {str(i): 10 for i in range(7)}
    levels = [0.1 * i for i in range(10)]
    with pytest.raises(ValueError, match=r"10 \*\* 7"):
        A.brute_force(curves, sizes, levels, 0.5)
    with pytest.raises(ValueError, match=r"bins.*0"):
        A.dynamic_program(curves, sizes, levels, 0.5, bins=0)


def test_zeroth_order_finds_the_norm_of_the_gradient():
    model = seeded(lambda: MLP(20, [10], 3), 0).double()
    generator = torch.Generator().manual_seed(0)
    X, y = torch.randn(30, 20, generator=generator).double(), torch.randint(3, (30,), generator=generator)
    weights, state = prunable(model), model.state_dict()
    calls = []

    def loss(changed):
        moved = [key for key in weights if changed[key] is not weights[key]]
        assert len(moved) == 1
        calls.append(moved[0])
        return evaluate(model, X, y, state={**state, **changed}).loss

    found = A.zeroth_order(loss, weights, probes=400, seed=1)
    assert len(calls) == 2 * 400 * len(weights)
    nn.functional.cross_entropy(model(X), y).backward()
    for key, parameter in (("layers.0.weight", model.layers[0].weight), ("head.weight", model.head.weight)):
        assert found[key] == pytest.approx(parameter.grad.norm().item(), rel=0.15)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_zeroth_order_follows_its_seed_and_is_exact_in_one_dimension():
    weights = {"a": torch.tensor([[2.0]], dtype=torch.float64)}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = A.zeroth_order(lambda w: 3 * w["a"].sum(), weights, probes=5, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert one == A.zeroth_order(lambda w: 3 * w["a"].sum(), weights, probes=5, seed=3)
    assert one != A.zeroth_order(lambda w: 3 * w["a"].sum(), weights, probes=5, seed=4)
    z = torch.randn(5, 1, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert one["a"] == pytest.approx(3 * z.square().mean().sqrt().item())


GOOD = {"a": torch.ones(4, 4), "b": torch.ones(4, 4)}
BAD = {
    "uniform": (lambda: A.uniform(GOOD, 1.0), r"sparsity.*1\.0"),
    "erk": (lambda: A.erk(GOOD, -0.5), r"sparsity.*-0\.5"),
    "none": (lambda: A.erk({}, 0.5), "weights.*at least one"),
    "scores": (lambda: A.from_scores(GOOD, 1.0), r"sparsity.*1\.0"),
    "nan scores": (lambda: A.from_scores({"a": GOOD["a"] * math.nan}, 0.5), r"scores\['a'\]"),
    "missing": (lambda: A.from_importance({"a": 1.0}, GOOD, 0.5), "importance.*'b'"),
    "negative": (lambda: A.from_importance({"a": 1.0, "b": -1.0}, GOOD, 0.5), r"importance\['b'\].*-1"),
    "nan": (lambda: A.from_importance({"a": math.nan, "b": 1.0}, GOOD, 0.5), r"importance\['a'\].*nan"),
    "max": (
        lambda: A.from_importance({"a": 1.0, "b": 1.0}, GOOD, 0.5, max_sparsity=0.4),
        r"max_sparsity.*0\.5.*0\.4",
    ),
    "probes": (lambda: A.zeroth_order(lambda w: 0.0, GOOD, probes=0), "probes.*0"),
    "eps": (lambda: A.zeroth_order(lambda w: 0.0, GOOD, eps=0.0), "eps.*0"),
    "loss": (lambda: A.zeroth_order(lambda w: math.nan, GOOD), "loss.*'a'"),
}


@pytest.mark.parametrize(("call", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
