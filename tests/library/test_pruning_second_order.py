"""Second-order pruning: exact where it can be, better than a mask alone, safe on singular inputs."""

import copy

import pytest
import torch
from torch import nn

from layerlab.activations import gram
from layerlab.models import MLP, ConvNet, TinyViT, seeded
from layerlab.pruning import masks as M
from layerlab.pruning.scores import magnitude, random, wanda
from layerlab.pruning.second_order import inverse_hessian, prune_model, reconstruct, sparsegpt


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(n, d, seed=0):
    """Inputs of a few causes and a little noise."""
    return draw(n, d // 3, seed=seed) @ draw(d // 3, d, seed=seed + 1) + 0.3 * draw(n, d, seed=seed + 2)


def error(new, weight, G):
    change = (new - weight).double().flatten(1)
    return torch.einsum("oi,ij,oj->", change, G, change).item()


@pytest.fixture
def layer():
    X = correlated(200, 24)
    return draw(10, 24, seed=7), X.T @ X


@pytest.mark.parametrize(("share", "block"), [(0.3, 128), (0.5, 128), (0.8, 8)])
def test_the_order_of_errors(layer, share, block):
    weight, G = layer
    found, mask = sparsegpt(weight, G, sparsity=share, damp=1e-8, block=block)
    best = reconstruct(weight, G, mask)
    assert int((~mask).sum()) == round(share * weight.numel())
    assert not found[~mask].any()
    assert not best[~mask].any()
    zeroed = torch.where(mask, weight, 0)
    assert error(best, weight, G) < error(found, weight, G) < error(zeroed, weight, G)
    (choice,) = M.unstructured(magnitude({"a": weight}), share).values()
    assert error(found, weight, G) < 0.6 * error(torch.where(choice, weight, 0), weight, G)


def test_sparsegpt_keeps_a_given_mask(layer):
    weight, G = layer
    (mask,) = M.unstructured(random({"a": weight}, 0), 0.5).values()
    found, same = sparsegpt(weight, G, mask)
    assert torch.equal(same, mask)
    assert torch.equal(found != 0, mask)
    with_all = torch.ones_like(mask)
    torch.testing.assert_close(sparsegpt(weight, G, with_all)[0], weight)


def test_columns_on_the_left_alone_make_it_exact(layer):
    weight, G = layer
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[:, :9] = False  # every weight that stays comes later, so nothing was frozen too early
    found, _ = sparsegpt(weight, G, mask, damp=0)
    torch.testing.assert_close(found, reconstruct(weight, G, mask))


@pytest.mark.parametrize("block", [1, 5, 24, 128])
@pytest.mark.parametrize("share", [0.0, 0.37, 0.9, 0.99])
def test_every_block_size_counts_exactly(layer, block, share):
    weight, G = layer
    found, mask = sparsegpt(weight, G, sparsity=share, block=block)
    assert int((~mask).sum()) == round(share * weight.numel())
    assert not found[~mask].any()
    if block == 1 and share:
        counts = (~mask).sum(0)
        assert counts.max() - counts.min() <= 1


def test_patterns(layer):
    weight, G = layer
    found, mask = sparsegpt(weight, G, n_of_m=(2, 4))
    assert (mask.view(10, 6, 4).sum(-1) == 2).all()
    assert not found[~mask].any()
    (choice,) = M.n_of_m(wanda({"a": weight}, {"a": G}), 2, 4).values()
    assert error(found, weight, G) < error(torch.where(choice, weight, 0), weight, G)


def test_reconstruct_is_the_least_squares_solution():
    X, weight = draw(60, 18), draw(4, 2, 3, 3, seed=1)
    (mask,) = M.unstructured(random({"a": weight}, 3), 0.5).values()
    found = reconstruct(weight, X.T @ X, mask)
    assert found.shape == weight.shape
    for row, old, kept in zip(found.flatten(1), weight.flatten(1), mask.flatten(1), strict=True):
        solution = torch.linalg.lstsq(X[:, kept], X @ old).solution
        torch.testing.assert_close(row[kept], solution)


def test_reconstruct_of_a_singular_gram_loses_nothing_that_is_not_there():
    X = draw(40, 3) @ draw(3, 12, seed=1)  # rank 3, so three kept inputs span all
    X[:, 5] = 0
    weight = draw(6, 12, seed=2)
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[:, [0, 4, 5, 7, 9]] = True
    G = X.T @ X
    found = reconstruct(weight, G, mask)
    assert error(found, weight, G) < 1e-10 * error(torch.where(mask, weight, 0), weight, G)
    assert found.abs().max() < 1e3
    assert torch.equal(found[:, 5], weight[:, 5])  # an input that is always zero has no reason to change


def test_dead_inputs_go_first_and_stay_finite():
    X = correlated(50, 12)
    X[:, [2, 7]] = 0
    weight, G = draw(5, 12, seed=3), X.T @ X
    found, mask = sparsegpt(100 * weight, G, sparsity=1 / 6)
    assert (~mask).nonzero()[:, 1].unique().tolist() == [2, 7]
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[mask], 100 * weight[mask])  # nothing to make up for
    found, mask = sparsegpt(weight, torch.zeros(12, 12), sparsity=0.5)  # nothing alive at all
    assert torch.isfinite(found).all()
    assert int(mask.sum()) == 30


def test_fewer_examples_than_inputs(layer):
    weight, _ = layer
    X = draw(5, 24)
    found, mask = sparsegpt(weight, X.T @ X, sparsity=0.5)
    assert torch.isfinite(found).all()
    assert error(found, weight, X.T @ X) < error(torch.where(mask, weight, 0), weight, X.T @ X)
    with pytest.raises(ValueError, match=r"damp=0.*singular"):
        sparsegpt(weight, X.T @ X, sparsity=0.5, damp=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_other_types_keep_type_and_shape(dtype):
    X = correlated(100, 18)
    weight = draw(4, 2, 3, 3).to(dtype)
    before = weight.clone()
    found, mask = sparsegpt(weight, (X.T @ X).float(), sparsity=0.5)
    assert found.dtype == dtype
    assert found.shape == mask.shape == weight.shape
    assert torch.equal(weight, before)
    assert reconstruct(weight, X.T @ X, mask).dtype == dtype


def test_inverse_hessian_is_damped_by_the_mean(layer):
    _, G = layer
    H = G + 0.01 * G.diagonal().mean() * torch.eye(24)
    torch.testing.assert_close(inverse_hessian(G) @ H, torch.eye(24, dtype=torch.float64))
    assert torch.equal(G, layer[1])


def pictures(n=60):
    return draw(n, 1, 8, 8).float()


MAKES = {
    "mlp": lambda: MLP(64, [12, 12], 3, norm="batch"),
    "convnet": lambda: ConvNet(1, 3, (4, 6)),
    "vit": lambda: TinyViT(8, 4, 1, 3, dim=8, depth=1, heads=2),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("sequential", [True, False])
def test_a_model_is_pruned_layer_by_layer(make, sequential):
    model, X = seeded(make, 0).train(), pictures()
    before = copy.deepcopy(model.state_dict())
    state, masks = prune_model(model, X, 0.6, sequential=sequential)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    weights = M.prunable(model)
    assert list(masks) == list(weights)
    assert list(state) == list(before)
    for key in before:
        if key in masks:
            assert int((~masks[key]).sum()) == round(0.6 * masks[key].numel())
            assert not state[key][~masks[key]].any()
        else:
            assert torch.equal(state[key], before[key])
    # Each layer was pruned with what it reads once those before it are pruned, or with what it read before.
    grams = gram(model, X, state=state if sequential else before)
    for key, weight in weights.items():
        expected, mask = sparsegpt(weight, grams[key], sparsity=0.6)
        assert torch.equal(mask, masks[key])
        torch.testing.assert_close(state[key], expected, atol=1e-5, rtol=1e-4)


def test_sequential_pruning_helps_deep_layers():
    model, X = seeded(lambda: MLP(64, [48, 48, 48], 3), 0), pictures(200)
    outputs = model(X)
    errors = []
    for sequential in (True, False):
        state, _ = prune_model(model, X, 0.7, sequential=sequential)
        errors.append((torch.func.functional_call(model, state, (X,)) - outputs).square().mean().item())
    assert errors[0] != errors[1]


def test_other_rules_and_chosen_layers():
    model, X = seeded(MAKES["mlp"], 0), pictures()
    seen = []

    def rule(weight, G, share):
        seen.append((weight.shape, share))
        (mask,) = M.unstructured(wanda({"w": weight}, {"w": G}), share, per="row").values()
        return torch.where(mask, weight, 0), mask

    state, masks = prune_model(model, X, {"layers.1.weight": 0.5, "head.weight": 0.25}, prune=rule)
    assert list(masks) == ["layers.1.weight", "head.weight"]
    assert seen == [((12, 12), 0.5), ((3, 12), 0.25)]
    assert torch.equal(state["layers.0.weight"], model.layers[0].weight)


def test_masks_of_the_model_are_made_permanent():
    model, X = seeded(MAKES["mlp"], 0), pictures()
    keys = list(model.state_dict())
    M.apply(model, M.unstructured(magnitude(M.prunable(model)), 0.5))
    outputs = model.eval()(X)
    state, _ = prune_model(model, X, 0.0)
    assert list(state) == keys
    assert "parametrizations" in " ".join(model.state_dict())
    fresh = seeded(MAKES["mlp"], 1).eval()
    torch.testing.assert_close(torch.func.functional_call(fresh, state, (X,)), outputs)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(64, 3), nn.Linear(64, 3)

    def forward(self, x):
        return self.used(x.flatten(1))


def test_a_layer_that_is_not_called_is_named():
    model, X = seeded(Unused, 0), pictures()
    for sequential in (True, False):
        with pytest.raises(ValueError, match=r"unused\.weight"):
            prune_model(model, X, 0.5, sequential=sequential)
    _, masks = prune_model(model, X, {"used.weight": 0.5})
    assert list(masks) == ["used.weight"]


def test_a_grouped_convolution_is_named():
    model = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(72, 3))
    for sequential in (True, False):
        with pytest.raises(ValueError, match=r"groups.*0\.weight"):
            prune_model(model, draw(4, 2, 8, 8).float(), 0.5, sequential=sequential)


def bad(value):
    out = draw(10, 24)
    out[0, 0] = value
    return out


W, G = draw(10, 24), torch.eye(24)
BAD = {
    "no choice": ((W, G), {}, "exactly one"),
    "two choices": ((W, G), {"sparsity": 0.5, "n_of_m": (2, 4)}, "exactly one"),
    "sparsity": ((W, G), {"sparsity": 1.0}, r"sparsity.*1\.0"),
    "all gone": ((W, G), {"sparsity": 0.9999}, r"sparsity.*0\.9999"),
    "pattern": ((W, G), {"n_of_m": (2, 5)}, r"24.*\(2, 5\)"),
    "pattern order": ((W, G), {"n_of_m": (5, 4)}, r"\(5, 4\)"),
    "gram shape": ((W, torch.eye(10)), {"sparsity": 0.5}, r"gram.*\(24, 24\).*\(10, 10\)"),
    "gram nan": ((W, G * float("nan")), {"sparsity": 0.5}, "gram.*NaN"),
    "weight nan": ((bad(float("nan")), G), {"sparsity": 0.5}, "weight.*NaN"),
    "weight vector": ((W[0], G), {"sparsity": 0.5}, r"weight.*\(24,\)"),
    "mask type": ((W, G, torch.ones(10, 24)), {}, "mask.*bool.*float32"),
    "mask shape": ((W, G, torch.ones(24, 10) > 0), {}, r"mask.*\(10, 24\).*\(24, 10\)"),
    "mask empty": ((W, G, torch.zeros(10, 24) > 0), {}, "mask.*at least one"),
    "damp": ((W, G), {"sparsity": 0.5, "damp": -0.1}, r"damp.*-0\.1"),
    "block": ((W, G), {"sparsity": 0.5, "block": 0}, "block.*0"),
}


@pytest.mark.parametrize(("arguments", "options", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_named_and_left_alone(arguments, options, match):
    before = [a.clone() for a in arguments]
    with pytest.raises(ValueError, match=match):
        sparsegpt(*arguments, **options)
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(arguments, before, strict=True))
    if len(arguments) == 3:
        with pytest.raises(ValueError, match=match):
            reconstruct(*arguments)


@pytest.mark.parametrize(
    ("X", "share", "match"),
    [
        (pictures(0), 0.5, "X: .*got none"),
        (pictures() * float("nan"), 0.5, "X: .*NaN"),
        (pictures(), 1.0, r"sparsity.*1\.0"),
        (pictures(), {"layers.9.weight": 0.5}, r"layers\.9\.weight"),
        (pictures(), {"head.weight": 2.0}, r"head\.weight.*2\.0"),
    ],
)
def test_bad_arguments_leave_the_model_alone(X, share, match):
    model = seeded(MAKES["mlp"], 0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=match):
        prune_model(model, X, share)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
