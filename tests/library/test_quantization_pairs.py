"""Losses of pairs on quadratic functions, where the terms are known, and the search along an order."""

import itertools
import math

import pytest
import torch

from layerlab.quantization.pairs import Losses, augmented, bisection, dependencies, measure

KEYS = ("a", "b", "c")
SHAPES = {"a": (2, 3), "b": (4,), "c": (1, 2)}


@pytest.fixture
def quadratic():
    """A quadratic loss without a minimum at the weights, its Hessian, weights, and rounded ones."""
    g = torch.Generator().manual_seed(0)
    n = sum(math.prod(s) for s in SHAPES.values())
    root = torch.randn(n, n, generator=g, dtype=torch.float64)
    H = root + root.T
    w = {k: torch.randn(s, generator=g, dtype=torch.float64) for k, s in SHAPES.items()}

    def flat(p):
        return torch.cat([p[k].flatten() for k in KEYS])

    at = flat(w)

    def loss(p):
        d = flat(p) - at
        return (d @ H @ d / 2).item() + 7

    return loss, H, w, {k: v.round() for k, v in w.items()}


def test_dependencies_are_the_blocks_between(quadratic):
    loss, H, w, rounded = quadratic
    found = measure(loss, w, rounded)
    ends = [0, 6, 10, 12]
    delta = [(rounded[k] - w[k]).flatten() for k in KEYS]
    block = [[H[ends[i] : ends[i + 1], ends[j] : ends[j + 1]] for j in range(3)] for i in range(3)]
    for i, k in enumerate(KEYS):
        assert found.single[k] == pytest.approx((delta[i] @ block[i][i] @ delta[i] / 2).item())
    extra = dependencies(found)
    assert set(extra) == {("a", "b"), ("a", "c"), ("b", "c")}
    for (i, j), value in zip(itertools.combinations(range(3), 2), extra.values(), strict=True):
        assert value == pytest.approx((delta[i] @ block[i][j] @ delta[j]).item())


def test_augmented_is_what_a_layer_saves_among_the_others(quadratic):
    loss, _, w, rounded = quadratic
    found = measure(loss, w, rounded)
    every = loss(rounded)
    for key, value in augmented(found.single, found).items():
        assert value == pytest.approx(every - loss(rounded | {key: w[key]}))
    own = dict.fromkeys(KEYS, 0.5)  # any other sensitivity is kept
    shifted = augmented(own, found)
    for key in KEYS:
        assert shifted[key] - 0.5 == pytest.approx(augmented(found.single, found)[key] - found.single[key])


def test_measure_counts_and_keeps(quadratic):
    loss, _, w, rounded = quadratic
    calls, before = [], {k: v.clone() for k, v in w.items()}
    measure(lambda p: calls.append(1) or loss(p), w, rounded)
    assert len(calls) == 1 + 3 + 3
    assert all(torch.equal(before[k], v) for k, v in w.items())
    single = measure(loss, {"a": w["a"]} | {k: w[k] for k in "bc"}, rounded).single
    assert list(single) == list(KEYS)


@pytest.mark.parametrize("allowed", range(9))
def test_bisection_finds_the_most_that_the_target_allows(allowed):
    keys = [str(i) for i in range(8)]
    found = bisection(keys, [4, 8], lambda c: -sum(b == 4 for b in c.values()), -allowed)
    assert [found.choice[k] for k in keys] == [4] * allowed + [8] * (8 - allowed)
    assert found.evaluations <= 1 + 4


def test_bisection_over_levels():
    cost = {8: 0, 4: 1, 2: 3}

    def score(choice):
        return -sum(cost[b] for b in choice.values())

    found = bisection("abcd", [2, 8, 4], score, -6)
    assert found.choice == {"a": 2, "b": 4, "c": 4, "d": 4}  # all can have 4, and one of them 2
    assert score(found.choice) >= -6
    assert bisection("dcba", [2, 8, 4], score, -6).choice["d"] == 2
    assert bisection("ab", [8], score, 0).choice == {"a": 8, "b": 8}
    assert bisection("ab", [8], score, 0).evaluations == 1


def test_a_layer_goes_down_one_level_after_the_other():
    def score(choice):
        return -sum(b == 4 for b in choice.values())  # 2 bits are free, and only the way there is not

    assert bisection("abc", [8, 4, 2], score, -1).choice == {"a": 2, "b": 8, "c": 8}


def test_bisection_returns_what_was_scored_when_scores_do_not_fall():
    tried = {}

    def score(choice):
        value = math.sin(sum(b * 7**i for i, b in enumerate(choice.values()))) ** 2
        tried[tuple(choice.items())] = value
        return value

    for target in (0.2, 0.5, 0.9):
        tried.clear()
        try:
            found = bisection("abcdef", [8, 4, 3], score, target)
        except ValueError:
            continue
        assert tried[tuple(found.choice.items())] >= target


W = {"a": torch.ones(2), "b": torch.ones(3)}
ONE = Losses({"a": 1.0, "b": 1.0}, {("a", "b"): 2.0})


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: measure(lambda p: 0.0, {}, {}), "weights.*none"),
        (lambda: measure(lambda p: 0.0, W, {"a": W["a"]}), "rounded.*'b'"),
        (lambda: measure(lambda p: 0.0, W, W | {"b": torch.ones(4)}), r"rounded\['b'\].*\(3,\).*\(4,\)"),
        (lambda: measure(lambda p: p["a"].sum().log().item() * math.inf, W, W), "loss.*finite.*inf"),
        (lambda: dependencies(Losses({"a": 1.0}, {("a", "z"): 1.0})), "joint.*'z'"),
        (lambda: augmented({"a": 1.0}, ONE), "sensitivity.*'b'"),
        (lambda: augmented({"a": math.nan, "b": 1.0}, ONE), r"sensitivity\['a'\].*nan"),
        (lambda: bisection([], [4], lambda c: 0, 0), "order.*once"),
        (lambda: bisection("aa", [4], lambda c: 0, 0), "order.*once"),
        (lambda: bisection("a", [], lambda c: 0, 0), "bits.*positive"),
        (lambda: bisection("a", [4, 0], lambda c: 0, 0), "bits.*positive"),
        (lambda: bisection("a", [4], lambda c: -1, 0), "target.*-1"),
        (lambda: bisection("a", [4], lambda c: math.nan, 0), "target.*nan"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call()
