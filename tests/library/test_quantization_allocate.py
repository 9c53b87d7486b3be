"""Bits under a budget: the exact optimum, against every choice tried one by one."""

import itertools
import math
import random

import pytest

from layerlab.quantization.allocate import (
    Point,
    brute_force,
    by_order,
    dynamic_program,
    pareto,
    total_bits,
)


def problem(seed, layers=5, bits=(2, 3, 4, 8)):
    """Costs that mostly fall with the bits, on layers of very different sizes."""
    rng = random.Random(seed)
    sizes = {f"layer{i}": rng.choice([7, 16, 100, 1000, 3211]) for i in range(layers)}
    costs = {key: {b: rng.uniform(-0.1, 1) * rng.random() * 4.0**-b for b in bits} for key in sizes}
    return costs, sizes


def everything(costs, sizes):
    """(bits, cost, choice) of each choice."""
    for bits in itertools.product(*costs.values()):
        choice = dict(zip(costs, bits, strict=True))
        yield (
            sum(sizes[key] * b for key, b in choice.items()),
            sum(costs[key][b] for key, b in choice.items()),
            choice,
        )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.33, 0.8, 1.0])
def test_the_optimum(seed, share):
    costs, sizes = problem(seed)
    low, high = 2 * sum(sizes.values()), 8 * sum(sizes.values())
    budget = low + share * (high - low)
    best = min(cost for bits, cost, _ in everything(costs, sizes) if bits <= budget)
    for solve in (dynamic_program, brute_force):
        found = solve(costs, sizes, budget)
        assert list(found) == list(costs)
        assert total_bits(found, sizes) <= budget
        assert sum(costs[key][b] for key, b in found.items()) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_the_front(seed):
    costs, sizes = problem(seed)
    front = pareto(costs, sizes)
    points = list(everything(costs, sizes))
    beaten_by_none = {
        bits for bits, cost, _ in points if not any(b <= bits and c < cost - 1e-15 for b, c, _ in points)
    }
    assert {point.bits for point in front} <= beaten_by_none
    for (bits, cost, choice), after in itertools.zip_longest(front, front[1:]):
        assert total_bits(choice, sizes) == bits
        assert sum(costs[key][b] for key, b in choice.items()) == pytest.approx(cost, rel=1e-12)
        assert cost == pytest.approx(min(c for b, c, _ in points if b <= bits), rel=1e-12)
        if after:
            assert bits < after.bits
            assert cost > after.cost
    assert front[-1].cost == pytest.approx(min(cost for _, cost, _ in points), rel=1e-12)
    assert front[0].bits == min(bits for bits, _, _ in points)


def test_a_layer_that_gains_most_per_bit_is_not_always_served():
    costs = {"small": {2: 1.0, 4: 0.0}, "large": {2: 3.0, 4: 0.0}}
    sizes = {"small": 10, "large": 31}  # a gain of 0.1 per weight against 0.097
    assert dynamic_program(costs, sizes, 2 * 41 + 62) == {"small": 2, "large": 4}
    assert dynamic_program(costs, sizes, 2 * 41 + 61) == {"small": 4, "large": 2}


def test_more_bits_are_not_bought_for_nothing():
    costs = {"a": {8: 0.5, 2: 0.5, 4: 0.7}, "b": {2: 0.0, 8: 0.0}}
    sizes = {"a": 3, "b": 5}
    for solve in (dynamic_program, brute_force):
        assert solve(costs, sizes, 1000) == {"a": 2, "b": 2}
    assert pareto(costs, sizes) == [Point(16, 0.5, {"a": 2, "b": 2})]


def test_bits_may_count_a_share_of_the_scales():
    choice = {"a": 4 + 16 / 49, "b": 2.25}
    sizes = {"a": 49, "b": 64}
    assert total_bits(choice, sizes) == 4 * 49 + 16 + 144
    costs = {key: {bits: 0.0} for key, bits in choice.items()}
    assert dynamic_program(costs, sizes, 356) == choice
    with pytest.raises(ValueError, match=r"budget_bits.*356.*355"):
        dynamic_program(costs, sizes, 355)


def test_many_layers_at_once():
    rng = random.Random(0)
    sizes = {str(i): 64 * rng.randint(1, 100) for i in range(60)}
    costs = {key: {b: size * rng.random() * 4.0**-b for b in (2, 3, 4, 8)} for key, size in sizes.items()}
    budget = 3.5 * sum(sizes.values())
    found = dynamic_program(costs, sizes, budget)
    cost = sum(costs[key][b] for key, b in found.items())
    assert total_bits(found, sizes) <= budget
    uniform = sum(c[3] for c in costs.values())
    # No multiplier of the bits may prove a better bound than what was found.
    bounds = [
        sum(min(c + m * sizes[key] * b for b, c in costs[key].items()) for key in costs) - m * budget
        for m in (10**-x for x in range(1, 8))
    ]
    assert max(bounds) <= cost < uniform


def test_a_measured_cost_takes_the_place_of_the_sum():
    costs, sizes = {"a": {2: 0, 4: 0}, "b": {2: 0, 4: 0}}, {"a": 10, "b": 10}
    seen = []

    def measure(choice):
        seen.append(choice)
        return abs(choice["a"] - choice["b"]) + 0.1 * (choice["a"] == 2)  # layers that need each other

    assert brute_force(costs, sizes, 80, measure=measure) == {"a": 4, "b": 4}
    assert len(seen) == 4
    seen.clear()
    assert brute_force(costs, sizes, 60, measure=measure) == {"a": 2, "b": 2}
    assert len(seen) == 3  # what does not fit is not measured
    with pytest.raises(ValueError, match=r"measure.*NaN"):
        brute_force(costs, sizes, 80, measure=lambda choice: math.nan)


@pytest.mark.parametrize("seed", range(6))
def test_an_order(seed):
    rng = random.Random(seed)
    _, sizes = problem(seed)
    order = rng.sample(list(sizes), len(sizes))
    budget = rng.uniform(2, 8) * sum(sizes.values())
    found = by_order(order, sizes, [4, 2, 8], budget)
    given = [found[key] for key in order]
    assert given == sorted(given, reverse=True)
    used = [
        sum(sizes[key] * b for key, b in zip(order, bits, strict=True))
        for bits in itertools.product([2, 4, 8], repeat=5)
        if list(bits) == sorted(bits, reverse=True)
    ]
    assert total_bits(found, sizes) == max(bits for bits in used if bits <= budget)


def test_an_order_prefers_the_first():
    sizes = dict.fromkeys("abc", 10)
    assert by_order("abc", sizes, [2, 4, 6], 120) == {"a": 6, "b": 4, "c": 2}  # and not 4, 4, 4
    assert by_order("cba", sizes, [2, 4, 6], 120) == {"c": 6, "b": 4, "a": 2}
    assert by_order("abc", sizes, [4], 120) == {"a": 4, "b": 4, "c": 4}


C, S = {"a": {2: 1.0, 4: 0.5}}, {"a": 10}


@pytest.mark.parametrize(
    ("costs", "sizes", "budget", "match"),
    [
        ({}, {}, 10, "costs.*none"),
        ({"a": {}}, S, 10, r"costs\['a'\].*none"),
        (C, {"b": 10}, 40, r"sizes.*\['a'\].*\['b'\]"),
        (C, {"a": 0}, 40, r"sizes\['a'\].*0"),
        (C, {"a": 2.5}, 40, r"sizes\['a'\].*2\.5"),
        ({"a": {0: 1.0}}, S, 40, r"costs\['a'\].*positive.*0"),
        ({"a": {"4": 1.0}}, S, 40, r"costs\['a'\].*'4'"),
        ({"a": {2: math.nan}}, S, 40, r"costs\['a'\]\[2\].*nan"),
        ({"a": {2: math.inf}}, S, 40, r"costs\['a'\]\[2\].*inf"),
        (C, S, 19, "budget_bits.*20.*19"),
        (C, S, math.nan, "budget_bits.*nan"),
    ],
)
def test_bad_input_is_named(costs, sizes, budget, match):
    for solve in (dynamic_program, brute_force):
        with pytest.raises(ValueError, match=match):
            solve(costs, sizes, budget)
    if "budget" not in match:
        with pytest.raises(ValueError, match=match):
            pareto(costs, sizes)


def test_too_many_to_try():
    costs = {str(i): {2: 1.0, 4: 0.5} for i in range(21)}
    sizes = dict.fromkeys(costs, 1)
    with pytest.raises(ValueError, match=r"2000000.*2097152"):
        brute_force(costs, sizes, 84)
    assert dynamic_program(costs, sizes, 84) == dict.fromkeys(costs, 4)
    with pytest.raises(ValueError, match=r"order.*ways"):
        by_order(list(costs), sizes, list(range(1, 20)), 1000)


@pytest.mark.parametrize("order", [["a"], ["a", "a", "b"], ["a", "c"]])
def test_an_order_names_each_layer_once(order):
    with pytest.raises(ValueError, match=r"order.*\['a', 'b'\]"):
        by_order(order, {"a": 1, "b": 1}, [2], 10)
    with pytest.raises(ValueError, match=r"budget_bits.*4.*3"):
        by_order(["a", "b"], {"a": 1, "b": 1}, [2], 3)
    with pytest.raises(ValueError, match=r"none"):
        by_order(["a", "b"], {"a": 1, "b": 1}, [], 3)
