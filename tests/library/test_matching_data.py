"""Matching with data: by activations, and straight through the projection."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from layerlab.merging import matching
from layerlab.merging.interpolate import lerp
from layerlab.merging.matching import (
    activation_matching,
    correlation,
    straight_through_matching,
    weight_matching,
)
from layerlab.models import MLP, ConvNet, TinyViT, seeded
from layerlab.symmetry import (
    Group,
    apply_permutation,
    permutation_spec,
    random_permutations,
    unit_activations,
)
from layerlab.train import evaluate, fit

NETWORKS = {
    "mlp": (lambda: MLP(10, [12, 12, 12], 3), (10,)),
    "mlp batch": (lambda: MLP(10, [12, 9], 3, "batch"), (10,)),
    "mlp layer": (lambda: MLP(10, [12, 9], 3, "layer"), (10,)),
    "convnet batch": (lambda: ConvNet(1, 3, (6, 8), blocks=2), (1, 8, 8)),
    "convnet layer": (lambda: ConvNet(1, 3, (6, 8), norm="layer", skip=False), (1, 8, 8)),
    "tinyvit": (lambda: TinyViT(8, 2, 1, 3, dim=16, depth=2, heads=4), (1, 8, 8)),
}


def inputs(shape, count=32, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def assert_same(state, other):
    assert state.keys() == other.keys()
    assert all(torch.equal(state[key], other[key]) for key in state)


# Correlation


def test_correlation_is_numpys():
    x, y = inputs((4,), 50).numpy(), inputs((6,), 50, seed=1).numpy()
    x[:, 1] = 3 * x[:, 0] + 2
    expected = np.corrcoef(x, y, rowvar=False)[:4, 4:]
    np.testing.assert_allclose(correlation(torch.tensor(x), torch.tensor(y)).numpy(), expected, atol=1e-6)
    own = correlation(torch.tensor(x), torch.tensor(x))
    assert own[0, 1].item() == pytest.approx(1)
    assert own.diagonal().tolist() == pytest.approx([1] * 4)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e-30, 1 / 3, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_unit_that_never_changes_correlates_with_nothing(value, dtype):
    x = inputs((3,), 50).to(dtype)
    x[:, 1] = value
    found = correlation(x, x)
    assert found[1].tolist() == found[:, 1].tolist() == [0, 0, 0]
    assert found[0, 0].item() == pytest.approx(1)


def test_correlation_refuses():
    with pytest.raises(ValueError, match="expected one number of samples, at least 2, got 3 and 4"):
        correlation(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="got 1 and 1"):
        correlation(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"two matrices, got shapes \(3,\) and \(3, 2\)"):
        correlation(torch.zeros(3), torch.zeros(3, 2))


# Activation matching


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_recover_a_known_permutation(name):
    make, shape = NETWORKS[name]
    model, X = seeded(make, 0), inputs(shape, 200)
    a, spec = copy.deepcopy(model.state_dict()), permutation_spec(model, X[:1])
    b = apply_permutation(spec, random_permutations(spec, 3), a)
    before = copy.deepcopy(b)
    found, (start, end) = activation_matching(model, a, b, X, spec=spec if name == "mlp" else None)
    za = unit_activations(model, spec, X, state=a)
    zb = unit_activations(model, spec, X, state=apply_permutation(spec, found, b))
    for group in spec:
        torch.testing.assert_close(za[group], zb[group], rtol=1e-3, atol=1e-4)  # dead units are all alike
    alive = sum((z.amax(0) > z.amin(0)).sum().item() for z in za.values())
    assert alive > 0.9 * sum(group.size for group in spec.values())
    assert end == pytest.approx(alive, rel=1e-3)
    assert start < end
    assert_same(b, before)
    assert_same(a, model.state_dict())


def test_dead_units_are_paired_last():
    model = seeded(lambda: MLP(10, [8], 3), 0)
    a, X = model.state_dict(), inputs((10,))
    a = {k: v.clone() for k, v in a.items()}
    a["layers.0.bias"][:2] = -100.0  # two dead units
    spec = permutation_spec(model, X[:1])
    hidden = random_permutations(spec, 1)
    found, (_, end) = activation_matching(model, a, apply_permutation(spec, hidden, a), X)
    assert found["layers.0"][2:].tolist() == hidden["layers.0"].argsort()[2:].tolist()
    assert end == pytest.approx(6)


def test_loud_units_do_not_decide():
    """Correlation pairs units that answer alike, whatever the size of the answer."""
    model = seeded(lambda: MLP(10, [6], 3), 0)
    spec, a, X = permutation_spec(model, torch.zeros(1, 10)), model.state_dict(), inputs((10,))
    b = {k: v.clone() for k, v in a.items()}
    b["layers.0.weight"][0] *= 1000
    b["layers.0.bias"][0] *= 1000
    assert activation_matching(model, a, b, X, spec=spec).permutations["layers.0"].tolist() == list(range(6))


def test_activation_matching_refuses():
    model, X = seeded(lambda: MLP(10, [6], 3), 0), inputs((10,))
    a, wide = model.state_dict(), MLP(10, [7], 3).state_dict()
    with pytest.raises(ValueError, match=r"'layers.0.weight': .* \(6, 10\) in a and \(7, 10\) in b"):
        activation_matching(model, a, wide, X)
    with pytest.raises(ValueError, match=r"a\['layers.0.weight'\]: expected shape \(6, 10\), got \(7, 10\)"):
        activation_matching(model, wide, wide, X)
    with pytest.raises(ValueError, match="X: expected at least 2 examples to correlate, got 1"):
        activation_matching(model, a, a, X[:1])
    with pytest.raises(ValueError, match="X: expected finite values"):
        activation_matching(model, a, a, X * math.nan)
    with pytest.raises(ValueError, match=r"spec\['g'\]: expected 'x' among"):
        activation_matching(model, a, a, X, spec={"g": Group(2, (("x", 0),))})
    with pytest.raises(ValueError, match=r"spec\['layers.0'\]: expected at least one node in reads"):
        activation_matching(model, a, a, X, spec={"layers.0": Group(6, (("layers.0.weight", 0),))})


# Straight-through matching


def task(name, seed=0):
    """A model, two trained networks, and the data that they were trained on."""
    make, shape = NETWORKS[name]
    X = inputs(shape, 60, seed)
    y = X.flatten(1)[:, :3].argmax(1)
    nets = [seeded(make, seed + i) for i in (0, 50)]
    for i, net in enumerate(nets):
        fit(net, X, y, epochs=5, lr=1e-2, seed=seed + i)
    return seeded(make, 99), *(net.state_dict() for net in nets), X, y


def midpoint_loss(model, a, b, X, y, spec, permutations):
    return evaluate(model, X, y, state=lerp(a, apply_permutation(spec, permutations, b), 0.5)).loss


def test_never_worse_than_weight_matching_and_sometimes_better():
    better = 0
    for seed in range(5):
        model, a, b, X, y = task("mlp", seed)
        spec = permutation_spec(model, X[:1])
        matched = weight_matching(spec, a, b, seed=seed).permutations
        found, history = straight_through_matching(model, a, b, X, y, spec=spec, steps=10, lr=0.05, seed=seed)
        assert len(history) == 10
        weights, through = (midpoint_loss(model, a, b, X, y, spec, p) for p in (matched, found))
        assert through <= weights
        better += through < weights - 1e-3
    assert better >= 2


def test_the_best_permutation_is_kept_not_the_last():
    for seed in range(3):
        model, a, b, X, y = task("mlp", seed)
        spec = permutation_spec(model, X[:1])
        losses = []
        for steps in (1, 3, 6, 12):
            settings = {"spec": spec, "steps": steps, "lr": 1.0, "batch_size": 8, "seed": seed}
            found = straight_through_matching(model, a, b, X, y, **settings).permutations
            losses.append(midpoint_loss(model, a, b, X, y, spec, found))
        assert losses == sorted(losses, reverse=True)


def test_the_first_step_is_weight_matching():
    model, a, b, X, y = task("mlp layer")
    spec = permutation_spec(model, X[:1])
    found, history = straight_through_matching(model, a, b, X, y, steps=1, batch_size=1000, seed=3)
    assert_same(found, weight_matching(spec, a, b, seed=3).permutations)
    batch = torch.randint(60, (60,), generator=torch.Generator().manual_seed(3))
    assert history == pytest.approx([midpoint_loss(model, a, b, X[batch], y[batch], spec, found)], rel=1e-5)


@pytest.mark.parametrize("name", ["mlp batch", "convnet layer"])
def test_the_gradient_is_that_of_the_explicit_midpoint(name):
    """Half the gradient at the midpoint: by autograd through ½ (a + π(b)), and by finite differences."""
    model, a, b, X, y = task(name)
    model, X = model.double(), X.double()
    a, b = ({k: v.double() if v.is_floating_point() else v for k, v in s.items()} for s in (a, b))
    loss, gradients = matching._through_midpoint(model, lerp(a, b, 0.5), X, y)
    assert gradients.keys() == dict(model.named_parameters()).keys()

    model.eval()
    leaves = {k: b[k].clone().requires_grad_() for k in gradients}
    explicit = F.cross_entropy(
        functional_call(model, lerp(a, b, 0.5) | {k: (a[k] + leaves[k]) / 2 for k in leaves}, X), y
    )
    assert loss == pytest.approx(explicit.item())
    for key, gradient in zip(leaves, torch.autograd.grad(explicit, list(leaves.values())), strict=True):
        torch.testing.assert_close(gradients[key], gradient)

    generator = torch.Generator().manual_seed(0)
    step = {k: 1e-7 * torch.randn(g.shape, generator=generator).double() for k, g in gradients.items()}

    def at(sign):
        moved = b | {k: b[k] + sign * s for k, s in step.items()}
        return evaluate(model, X, y, state=lerp(a, moved, 0.5)).loss

    slope = sum((gradients[k] * step[k]).sum().item() for k in step)
    assert (at(1) - at(-1)) / 2 == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("name", ["mlp batch", "convnet batch", "tinyvit"])
def test_nothing_is_modified_and_the_seed_decides(name):
    model, a, b, X, y = task(name)
    model.train()
    if name == "convnet batch":
        model.features[1].eval()
    before, modes = copy.deepcopy((a, b, model.state_dict())), [m.training for m in model.modules()]
    generator = torch.get_rng_state()
    one, again, other = (
        straight_through_matching(model, a, b, X, y, steps=3, batch_size=8, seed=seed) for seed in (0, 0, 1)
    )
    for value, old in zip((a, b, model.state_dict()), before, strict=True):
        assert_same(value, old)
    assert [m.training for m in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(generator, torch.get_rng_state())
    assert one.history == again.history
    assert_same(one.permutations, again.permutations)
    assert other.history != one.history


def test_straight_through_matching_refuses():
    model, X = seeded(lambda: MLP(10, [6], 3), 0), inputs((10,))
    y = torch.zeros(32).long()
    a, wide = model.state_dict(), MLP(10, [7], 3).state_dict()
    cases = [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"lr": -1.0}, "lr: expected a positive number, got -1.0"),
        ({"a": {}}, "a: expected a state dict with weights"),
        ({"b": wide}, r"\(6, 10\) in a and \(7, 10\) in b"),
        ({"a": wide, "b": wide}, r"a\['layers.0.weight'\]: expected shape \(6, 10\), got \(7, 10\)"),
        ({"y": y[:5]}, "X and y: expected as many labels as examples"),
        ({"X": X * math.nan}, "X: expected finite values"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            straight_through_matching(**({"model": model, "a": a, "b": a, "X": X, "y": y} | change))
