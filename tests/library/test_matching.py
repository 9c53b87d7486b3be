"""The assignment problem, and weight matching."""

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from layerlab.merging.interpolate import lerp
from layerlab.merging.matching import (
    assign,
    similarity,
    weight_matching,
)
from layerlab.models import MLP, ConvNet, TinyViT, seeded
from layerlab.symmetry import (
    Group,
    apply_permutation,
    identity_permutations,
    permutation_spec,
    random_permutations,
)

NETWORKS = {
    "mlp": (lambda: MLP(10, [12, 12, 12], 3), (10,)),
    "mlp batch": (lambda: MLP(10, [12, 9], 3, "batch"), (10,)),
    "mlp layer": (lambda: MLP(10, [12, 9], 3, "layer"), (10,)),
    "convnet batch": (lambda: ConvNet(1, 3, (6, 8), blocks=2), (1, 8, 8)),
    "convnet layer": (lambda: ConvNet(1, 3, (6, 8), norm="layer"), (1, 8, 8)),
    "convnet plain": (lambda: ConvNet(1, 3, (6, 8), norm=None, skip=False), (1, 8, 8)),
    "tinyvit": (lambda: TinyViT(8, 2, 1, 3, dim=16, depth=2, heads=4), (1, 8, 8)),
}


class Residual(nn.Module):
    """h + W relu(h): the group of h stands on both axes of W."""

    def __init__(self, width=6):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x):
        x = self.a(x)
        return self.c(x + self.b(F.relu(x)))


def inputs(shape, count=32, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def pair(name, seed=0):
    """A spec and the weights of two networks drawn independently, statistics included."""
    make, shape = NETWORKS[name]
    model = seeded(make, seed)
    spec = permutation_spec(model, inputs(shape, 1))
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        {k: torch.randn(v.shape, generator=generator) if v.is_floating_point() else v for k, v in s.items()}
        for s in (model.state_dict(), model.state_dict())
    )
    return spec, a, b


def inner(spec, a, b):
    """⟨a, b⟩ over the weights that the spec names, in float64."""
    keys = {key for group in spec.values() for key, _ in group.axes if "running" not in key}
    return sum((a[key].double() * b[key].double()).sum().item() for key in keys)


def assert_same(state, other):
    assert state.keys() == other.keys()
    assert all(torch.equal(state[key], other[key]) for key in state)


# The assignment problem


def test_assign_is_optimal_and_says_where_each_unit_comes_from():
    gain = torch.tensor([[1.0, 5.0, 0.0], [0.0, 6.0, 4.0], [3.0, 0.0, 0.0]])
    assert assign(gain).tolist() == [1, 2, 0]
    assert assign(gain.T).tolist() == [2, 0, 1]
    assert assign(torch.eye(4)[[2, 0, 3, 1]]).tolist() == [2, 0, 3, 1]
    assert assign(gain).dtype == torch.int64


@pytest.mark.parametrize(
    ("gain", "message"),
    [
        (torch.zeros(2, 3), r"similarity: expected a square matrix, got shape \(2, 3\)"),
        (torch.zeros(3), r"got shape \(3,\)"),
        (torch.tensor([[1.0, math.nan], [0.0, 1.0]]), "similarity: expected finite values"),
        (torch.tensor([[1.0, -math.inf], [0.0, 1.0]]), "similarity: expected finite values"),
    ],
)
def test_assign_refuses(gain, message):
    with pytest.raises(ValueError, match=message):
        assign(gain)


def test_similarity_by_hand():
    spec, a, b = pair("mlp")
    permutations = random_permutations(spec, 1)
    p0, p2 = permutations["layers.0"], permutations["layers.2"]
    here = similarity(spec, permutations, a, b, "layers.1")
    expected = torch.empty(12, 12)
    for i in range(12):
        for j in range(12):
            expected[i, j] = (
                a["layers.1.weight"][i] @ b["layers.1.weight"][j, p0]
                + a["layers.1.bias"][i] * b["layers.1.bias"][j]
                + a["layers.2.weight"][:, i] @ b["layers.2.weight"][p2, j]
            )
    torch.testing.assert_close(here.float(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_similarity_is_what_the_objective_gains(name):
    spec, a, b = pair(name)
    now = random_permutations(spec, 2)
    for group, permutation in random_permutations(spec, 3).items():
        gains = similarity(spec, now, a, b, group)
        rows = torch.arange(spec[group].size)
        expected = (gains[rows, permutation].sum() - gains[rows, now[group]].sum()).item()
        then = {**now, group: permutation}
        before, after = (inner(spec, a, apply_permutation(spec, p, b)) for p in (now, then))
        assert after - before == pytest.approx(expected, rel=1e-9, abs=1e-6)


# Weight matching


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(3))
def test_a_known_permutation_is_recovered(name, seed):
    make, shape = NETWORKS[name]
    model = seeded(make, seed)
    a, spec = model.state_dict(), permutation_spec(model, inputs(shape, 1))
    hidden = random_permutations(spec, seed + 10)
    b = apply_permutation(spec, hidden, a)
    found, history = weight_matching(spec, a, b, seed=seed)
    assert all(torch.equal(found[group], hidden[group].argsort()) for group in spec)
    assert_same(apply_permutation(spec, found, b), a)
    assert history[-1] == pytest.approx(inner(spec, a, a))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_history_is_the_inner_product_and_never_falls(name):
    for seed in range(3):
        spec, a, b = pair(name, seed)
        found, history = weight_matching(spec, a, b, seed=seed)
        assert history[0] == pytest.approx(inner(spec, a, b), rel=1e-9)
        assert history[-1] == pytest.approx(inner(spec, a, apply_permutation(spec, found, b)), rel=1e-9)
        assert all(later >= earlier for earlier, later in pairwise(history))
        assert history[-1] > history[0]
        for group in spec:  # it stopped where no group can be improved alone
            gains = similarity(spec, found, a, b, group)
            rows = torch.arange(len(gains))
            best, here = gains[rows, assign(gains)].sum(), gains[rows, found[group]].sum()
            assert here.item() == pytest.approx(best.item())


def test_a_group_on_both_axes_of_a_weight():
    model = Residual()
    spec = permutation_spec(model, torch.zeros(1, 5))
    assert {("b.weight", 0), ("b.weight", 1)} <= set(spec["a"].axes)
    moved = False
    for seed in range(20):
        a, b = (seeded(Residual, s).state_dict() for s in (seed, seed + 100))
        b["b.weight"] *= 5  # the quadratic part weighs
        found, history = weight_matching(spec, a, b, seed=seed)
        assert all(later >= earlier for earlier, later in pairwise(history))
        assert history[-1] == pytest.approx(inner(spec, a, apply_permutation(spec, found, b)))
        moved |= history[-1] > history[0]
    assert moved


def test_the_objective_is_the_distance():
    """⟨a, π(b)⟩ and ‖a − π(b)‖² differ by a constant."""
    spec, a, b = pair("mlp layer")
    norms = inner(spec, a, a) + inner(spec, b, b)
    for permutations in (identity_permutations(spec), weight_matching(spec, a, b).permutations):
        moved = apply_permutation(spec, permutations, b)
        difference = {key: a[key].double() - moved[key].double() for key in a}
        assert inner(spec, difference, difference) == pytest.approx(norms - 2 * inner(spec, a, moved))


def test_permuting_b_beforehand_changes_nothing():
    make, shape = NETWORKS["convnet batch"]
    a, spec = seeded(make, 0).state_dict(), permutation_spec(make(), inputs(shape, 1))
    noise = seeded(make, 1).state_dict()
    near = {k: v + 0.02 * noise[k] if v.is_floating_point() else v for k, v in a.items()}
    objective = inner(spec, a, near)
    for seed in range(5):
        b = apply_permutation(spec, random_permutations(spec, seed), near)
        found, history = weight_matching(spec, a, b, seed=seed)
        assert history[-1] == pytest.approx(objective)
        assert_same(apply_permutation(spec, found, b), near)


def test_both_layers_of_the_toy_are_swapped():
    """Ainsworth et al. (2023), appendix A.7.2: a pass forward keeps the identity, algorithm 1 swaps both."""
    eps = 0.01
    first = torch.tensor([[1.0], [1 + eps]])
    a = {
        "0.weight": first,
        "1.weight": torch.diag(torch.tensor([1, eps])),
        "2.weight": torch.tensor([[1.0, 0]]),
    }
    b = {
        "0.weight": first,
        "1.weight": torch.diag(torch.tensor([0.0, 1])),
        "2.weight": torch.tensor([[0, 1.0]]),
    }
    sizes = ((1, 2), (2, 2), (2, 1))
    net = nn.Sequential(*(nn.Linear(m, n, bias=False) for m, n in sizes))
    spec = permutation_spec(net, torch.zeros(1, 1))

    def slope(permutations):
        middle = lerp(a, apply_permutation(spec, permutations, b), 0.5)
        return functional_call(net, middle, torch.ones(1, 1)).item()

    forward = {"0": assign(a["0.weight"] @ b["0.weight"].T)}
    forward["1"] = assign(a["1.weight"] @ b["1.weight"][:, forward["0"]].T)
    assert [p.tolist() for p in forward.values()] == [[0, 1], [0, 1]]
    assert slope(forward) == pytest.approx(0.5, abs=2 * eps)
    for seed in range(8):
        found = weight_matching(spec, a, b, seed=seed).permutations
        assert [found[name].tolist() for name in "01"] == [[1, 0], [1, 0]]
        assert slope(found) == pytest.approx(1 + eps / 2)


def test_seed_start_and_sweeps():
    spec, a, b = pair("mlp")
    one, again = (weight_matching(spec, a, b, seed=4) for _ in range(2))
    assert one.history == again.history
    assert_same(one.permutations, again.permutations)
    ends = {
        tuple(weight_matching(spec, a, b, seed=seed).permutations["layers.0"].tolist()) for seed in range(8)
    }
    assert len(ends) > 1  # the order of the visits matters
    for sweeps in (1, 2):
        short = weight_matching(spec, a, b, seed=4, max_sweeps=sweeps)
        assert short.history == one.history[: sweeps + 1]
    warm = weight_matching(spec, a, b, start=one.permutations)
    assert warm.history == [one.history[-1]] * 2  # nothing left to improve
    assert_same(warm.permutations, one.permutations)
    partial = weight_matching(spec, a, b, start={"layers.1": one.permutations["layers.1"]})
    moved = apply_permutation(spec, {"layers.1": one.permutations["layers.1"]}, b)
    assert partial.history[0] == pytest.approx(inner(spec, a, moved))


def test_batchnorms_statistics_follow_but_do_not_steer():
    spec, a, b = pair("mlp batch")
    found = weight_matching(spec, a, b)
    other = {key: value + 100 if "running" in key else value for key, value in b.items()}
    assert weight_matching(spec, a, other).history == found.history
    order = found.permutations["layers.0"]
    moved = apply_permutation(spec, found.permutations, b)
    assert torch.equal(moved["norms.0.running_mean"], b["norms.0.running_mean"][order])


def test_inputs_are_not_modified():
    spec, a, b = pair("convnet batch")
    start = random_permutations(spec, 0)
    before = copy.deepcopy((a, b, start))
    weight_matching(spec, a, b, start=start)
    for value, old in zip((a, b, start), before, strict=True):
        assert_same(value, old)


def test_weight_matching_refuses():
    spec, a, b = pair("mlp")
    narrow = {**b, "layers.1.weight": torch.zeros(12, 11)}
    cases = [
        ({"b": narrow}, ValueError, r"'layers.1.weight': .* \(12, 12\) in a and \(12, 11\) in b"),
        (
            {"b": {**b, "head.bias": b["head.bias"] * math.nan}},
            ValueError,
            r"b\['head.bias'\]: expected finite",
        ),
        ({"b": {}}, ValueError, "b: expected a state dict with weights"),
        (
            {"spec": {"g": Group(5, (("head.bias", 0),))}},
            ValueError,
            r"spec\['g'\]: expected axis 0 of 'head.bias'",
        ),
        ({"max_sweeps": 0}, ValueError, "max_sweeps: expected at least 1, got 0"),
        ({"start": {"head": torch.arange(3)}}, ValueError, "start: expected groups among .* got 'head'"),
        (
            {"start": {"layers.0": torch.zeros(12).long()}},
            ValueError,
            r"start\['layers.0'\]: expected a permutation",
        ),
        (
            {"start": {"layers.0": list(range(12))}},
            TypeError,
            r"start\['layers.0'\]: expected a tensor of int64",
        ),
    ]
    for change, error, message in cases:
        with pytest.raises(error, match=message):
            weight_matching(**({"spec": spec, "a": a, "b": b} | change))
