"""Fisher merging and RegMean, held against definitions, normal equations and joint minimisers."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from layerlab.activations import gram
from layerlab.merging.statistics import fisher, fisher_merge, regmean
from layerlab.merging.task_vectors import average
from layerlab.models import MLP, ConvNet, TinyViT, seeded
from layerlab.train import fit

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(12, 1, 4, 4, generator=GENERATOR)
y = torch.randint(3, (12,), generator=GENERATOR)
MODULES = {
    "mlp": lambda: MLP(16, [5], 3, "batch"),
    "convnet": lambda: ConvNet(1, 3, (4,)),
    "vit": lambda: TinyViT(4, 2, 1, 3, dim=8, depth=1, heads=2),
}


def randn(*shape):
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def trained(make, seed):
    model = seeded(make, seed)
    fit(model, X, y, epochs=2, batch_size=4, seed=seed)
    return model.double()


def unchanged(state, before):
    return state.keys() == before.keys() and all(torch.equal(state[key], before[key]) for key in before)


# Fisher information


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("labels", ["true", "model"])
@pytest.mark.parametrize("batch_size", [5, 12, 100])
def test_fisher_is_the_mean_of_squared_gradients_one_by_one(make, labels, batch_size):
    model = trained(make, 0)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, true in zip(X.double(), y, strict=True):
        log_p = F.log_softmax(model(x[None]), 1)[0]
        for c in [true] if labels == "true" else range(3):
            gradients = torch.autograd.grad(log_p[c], list(model.parameters()), retain_graph=True)
            weight = 1 if labels == "true" else log_p[c].exp().item()
            for name, gradient in zip(expected, gradients, strict=True):
                expected[name] += weight * gradient**2 / len(X)
    found = fisher(model, X.double(), y, labels=labels, batch_size=batch_size)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_fisher_of_other_weights_with_a_head_leaves_the_model_alone():
    model, other = trained(MODULES["mlp"], 0).train(), trained(MODULES["mlp"], 1)
    model.norms.eval()
    head = nn.Linear(3, 4).double()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    whole = nn.Sequential(other, head)
    found = fisher(model, X.double(), state=other.state_dict(), head=head)
    expected = fisher(whole, X.double())
    assert {f"0.{k}" for k in found} == {k for k in expected if k.startswith("0.")}
    for key, value in found.items():
        torch.testing.assert_close(value, expected[f"0.{key}"])
    assert unchanged(model.state_dict(), before)
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in head.parameters())


def test_nothing_is_dropped_out():
    model = nn.Sequential(nn.Linear(16, 5), nn.Dropout(0.5), nn.Linear(5, 3)).eval()
    x = X.flatten(1)
    expected = fisher(model, x), gram(model, x)
    model.train()
    for found, wanted in zip((fisher(model, x), gram(model, x)), expected, strict=True):
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value)


def test_shared_weights_are_listed_under_all_names():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False)).double()
    model[2].weight = model[0].weight
    x = randn(7, 3)
    found = fisher(model, x)
    assert found.keys() == {"0.weight", "2.weight"}
    assert torch.equal(found["0.weight"], found["2.weight"])
    matrices = gram(model, x)
    hidden = torch.tanh(x @ model[0].weight.T)
    torch.testing.assert_close(matrices["2.weight"], (x.T @ x + hidden.T @ hidden).detach())
    assert torch.equal(matrices["0.weight"], matrices["2.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "empirical"}, "labels: expected 'true' or 'model', got 'empirical'"),
        ({"labels": "true"}, r"y: expected class numbers, shape \(12,\) and int64, got none"),
        ({"labels": "true", "y": y[:3]}, r"got \(3,\) and torch.int64"),
        ({"labels": "true", "y": y.float()}, r"got \(12,\) and torch.float32"),
        ({"X": X[:0]}, "X: expected at least one example"),
        ({"X": X * math.nan}, "X: expected finite values"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"state": {}}, "state: expected the model's keys"),
    ],
)
def test_fisher_refuses(options, message):
    options = {"X": X} | options
    with pytest.raises(ValueError, match=message):
        fisher(MODULES["mlp"](), **options)
    if options.keys() <= {"X", "batch_size", "state"}:
        with pytest.raises(ValueError, match=message):
            gram(MODULES["mlp"](), **options)


# Fisher merging


def test_constant_information_gives_the_average():
    models = [trained(MODULES["convnet"], s).state_dict() for s in range(3)]
    same = [{k: torch.full_like(v, 0.7) for k, v in m.items() if v.is_floating_point()} for m in models]
    merged = fisher_merge(models, same)
    for key, value in average(models).items():
        torch.testing.assert_close(merged[key], value)
    weighted = fisher_merge(models, same, weights=[1, 0, 3])
    for key, value in average(models, [1, 0, 3]).items():
        torch.testing.assert_close(weighted[key], value)


def test_two_diagonal_quadratics_are_minimised_jointly():
    """½ (θ − μ_t)ᵀ diag(F_t) (θ − μ_t), summed: the gradient vanishes at the merge."""
    means, curvatures = randn(2, 9), randn(2, 9).abs()
    merged = fisher_merge([{"w": m} for m in means], [{"w": c} for c in curvatures], eps=0)["w"]
    torch.testing.assert_close((curvatures * (merged - means)).sum(0), torch.zeros(9).double())


def test_weights_that_matter_to_no_model_are_averaged():
    models = [{"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(1)}, {"w": torch.tensor([3.0, 6.0])}]
    models[1]["n"] = torch.tensor(5)
    fishers = [{"w": torch.tensor([0.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}]
    for eps in (0, 1e-9):
        merged = fisher_merge(models, fishers, eps=eps)
        torch.testing.assert_close(merged["w"], torch.tensor([2.0, 6.0]))
        assert merged["n"] == 1
    assert fisher_merge(models, [{}, {}])["w"].tolist() == [2, 4]
    large = fisher_merge(models, fishers, eps=1e6)["w"]
    torch.testing.assert_close(large, torch.tensor([2.0, 4.0]), rtol=1e-5, atol=0)


def test_normalised_information_does_not_depend_on_its_scale():
    models = [{"w": randn(5), "v": randn(2, 2)} for _ in range(3)]
    fishers = [{k: v.abs() for k, v in m.items()} for m in models]
    scaled = [{k: v * 10.0**t for k, v in f.items()} for t, f in enumerate(fishers)]
    plain = fisher_merge(models, fishers, eps=0, normalize=True)
    for key, value in fisher_merge(models, scaled, eps=0, normalize=True).items():
        torch.testing.assert_close(value, plain[key])
    assert not torch.allclose(fisher_merge(models, scaled, eps=0)["w"], plain["w"])


W = {"w": torch.ones(2, 3)}


@pytest.mark.parametrize(
    ("models", "fishers", "options", "message"),
    [
        ([], [], {}, "models: expected at least one state dict"),
        ([W, {"w": torch.ones(3, 2)}], [W, W], {}, r"'w': .* \(3, 2\) in models\[1\]"),
        ([W, W], [W], {}, "fishers: expected one per model, got 1 for 2 models"),
        ([W], [{"v": torch.ones(2, 3)}], {}, r"fishers\[0\]\['v'\]: expected a key of the models"),
        ([W], [{"w": torch.ones(3, 2)}], {}, r"fishers\[0\]\['w'\]: expected \(2, 3\), .* \(3, 2\)"),
        ([W, W], [W, {}], {}, r"fishers\[1\]: expected the keys of fishers\[0\], they differ in \['w'\]"),
        ([W, W], [W, {"w": -W["w"]}], {}, r"fishers\[1\]\['w'\]: expected finite values of at least 0"),
        ([W, W], [W, {"w": W["w"] * math.nan}], {}, r"fishers\[1\]\['w'\]: expected finite values"),
        ([W], [W], {"weights": [1, 2]}, r"weights: expected one per model, shape \(1,\)"),
        ([W], [W], {"weights": [-1]}, "weights: expected none below 0"),
        ([W], [W], {"eps": -1e-3}, "eps: expected a number of at least 0"),
    ],
)
def test_fisher_merge_refuses(models, fishers, options, message):
    with pytest.raises(ValueError, match=message):
        fisher_merge(models, fishers, **options)


# Gram matrices


def as_matrix(conv, in_shape):
    """A convolution without bias as a matrix, column by column from unit inputs."""
    eye = torch.eye(math.prod(in_shape), dtype=torch.float64).view(-1, *in_shape)
    return conv(eye).flatten(1).T.detach()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (2, 3), "padding": (1, 0), "stride": (2, 1)},
        {"kernel_size": 2, "dilation": 2, "padding": 2},
        {"kernel_size": (2, 3), "padding": "same"},
        {"kernel_size": 3, "padding": "valid"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    ],
)
def test_gram_of_a_convolution_gives_the_norm_of_its_outputs(options):
    """‖conv(x)‖² = Σ_units wᵀ G w, for the layer's own weights and for any others of that shape."""
    conv = nn.Conv2d(2, 3, bias=False, **options).double()
    x = randn(6, 2, 5, 4)
    G = gram(conv, x, batch_size=4)["weight"]
    for _ in range(3):
        w = conv.weight.detach().flatten(1)
        assert (w @ G @ w.T).trace().item() == pytest.approx(conv(x).square().sum().item())
        nn.init.normal_(conv.weight)


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_gram_covers_every_linear_map_and_leaves_the_model_alone(make):
    model, other = trained(make, 0).train(), trained(make, 1).eval()
    before = copy.deepcopy(model.state_dict())
    found = gram(model, X.double(), state=other.state_dict(), batch_size=5)
    layers = {k: m for k, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert found.keys() == {f"{k}.weight" for k in layers}
    assert unchanged(model.state_dict(), before)
    assert model.training
    inputs = {}
    for name, layer in other.named_modules():
        layer.register_forward_hook(lambda m, args, out, name=name: inputs.__setitem__(name, args[0]))
    other(X.double())
    assert not any(m._forward_pre_hooks for m in model.modules())
    for name, layer in layers.items():
        if isinstance(layer, nn.Linear):
            rows = inputs[name].flatten(0, -2)
            torch.testing.assert_close(found[f"{name}.weight"], (rows.T @ rows).detach())
        assert found[f"{name}.weight"].dtype == torch.float64


def test_grouped_convolutions_and_layers_that_are_not_called_have_none():
    model = nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.Flatten(), nn.Linear(8, 2))
    assert gram(model, torch.randn(3, 2, 2, 2)).keys() == {"2.weight"}

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.attention(x, x, x, need_weights=False)[0])

    models = [seeded(Attends, s) for s in (0, 1)]
    x = torch.randn(3, 5, 4)
    grams = [gram(m, x) for m in models]
    assert grams[0].keys() == {"head.weight"}
    merged, mean = (f([m.state_dict() for m in models], *a) for f, a in ((regmean, [grams]), (average, [])))
    different = {k for k in mean if not torch.allclose(merged[k], mean[k])}
    assert different == {"head.weight"}
    Attends().load_state_dict(merged)


# RegMean


def test_two_linear_regressions_are_the_pooled_least_squares():
    """Models fitted on their own data; the merge equals one fit on all the data, exactly."""
    data = [(randn(n, 6), randn(n, 2)) for n in (20, 50, 9)]
    models = [{"weight": torch.linalg.lstsq(A, B).solution.T} for A, B in data]
    layer = nn.Linear(6, 2, bias=False).double()
    grams = [gram(layer, A, state=m) for m, (A, _) in zip(models, data, strict=True)]
    merged = regmean(models, grams, shrink=1.0)["weight"]
    pooled = torch.linalg.lstsq(torch.cat([A for A, _ in data]), torch.cat([B for _, B in data])).solution.T
    torch.testing.assert_close(merged, pooled)
    assert not torch.allclose(regmean(models, grams, shrink=0.9)["weight"], pooled)


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("shrink", [0.0, 0.9, 1.0])
def test_identical_inputs_give_the_average(make, shrink):
    models = [trained(make, s).state_dict() for s in range(3)]
    same = gram(make().double(), X.double(), state=models[0])
    for key, value in average(models).items():
        torch.testing.assert_close(regmean(models, [same] * 3, shrink=shrink)[key], value)


def test_a_convolution_is_merged_so_that_its_outputs_fit_best():
    """The unfolded closed form equals least squares on the outputs of the convolution itself."""
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False).double()
    models, inputs = (
        [{"weight": randn(3, 2, 3, 3)} for _ in range(2)],
        [randn(9, 2, 6, 6), 2 * randn(4, 2, 6, 6)],
    )
    grams = [gram(conv, x, state=m) for m, x in zip(models, inputs, strict=True)]
    weight = regmean(models, grams, shrink=1.0)["weight"].requires_grad_()
    wanted = [functional_call(conv, m, (x,)) for m, x in zip(models, inputs, strict=True)]
    loss = sum(
        (functional_call(conv, {"weight": weight}, (x,)) - out).square().sum()
        for x, out in zip(inputs, wanted, strict=True)
    )
    gradient = torch.autograd.grad(loss, weight)[0]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)
    assert loss > 1


def test_directions_that_no_input_takes_are_averaged():
    models = [{"weight": randn(2, 3)} for _ in range(2)]
    x = randn(10, 3) * torch.tensor([1.0, 0.0, 1.0]).double()  # the second input is always zero
    layer = nn.Linear(3, 2, bias=False).double()
    merged = regmean(models, [gram(layer, x), gram(layer, 3 * x)])
    torch.testing.assert_close(merged["weight"][:, 1], average(models)["weight"][:, 1])
    wanted = 0.1 * models[0]["weight"] + 0.9 * models[1]["weight"]
    torch.testing.assert_close(merged["weight"][:, [0, 2]], wanted[:, [0, 2]])


def test_a_layer_read_by_one_task_alone_is_that_tasks():
    """Gram matrices weigh by tokens: a task without any has no say."""
    models = [MODULES["vit"]().double().state_dict() for _ in range(2)]
    one = gram(MODULES["vit"]().double(), X.double(), state=models[0])
    merged = regmean(models, [one, {k: torch.zeros_like(v) for k, v in one.items()}])
    for key in one:
        torch.testing.assert_close(
            functional_gap(merged[key], models[0][key], one[key]), torch.tensor(0.0).double()
        )


def functional_gap(a, b, G):
    change = (a - b).flatten(1)
    return (change @ (0.9 * G + 0.1 * G.diagonal().diag()) @ change.T).trace().detach()


@pytest.mark.parametrize(
    ("models", "grams", "options", "message"),
    [
        ([], [], {}, "models: expected at least one state dict"),
        ([W, W], [{}], {}, "grams: expected one set per model, got 1 for 2 models"),
        ([W], [{"w": torch.eye(2)}], {}, r"grams\[0\]\['w'\]: expected \(3, 3\), .* \(2, 2\)"),
        ([W], [{"v": torch.eye(3)}], {}, r"grams\[0\]\['v'\]: expected a key of the models"),
        ([W, W], [{"w": torch.eye(3)}, {}], {}, r"grams\[1\]: expected the keys of grams\[0\]"),
        ([W], [{"w": torch.eye(3) * math.inf}], {}, r"grams\[0\]\['w'\]: expected finite values"),
        ([W], [{}], {"shrink": 1.1}, r"shrink: expected a number in \[0, 1\], got 1.1"),
    ],
)
def test_regmean_refuses(models, grams, options, message):
    with pytest.raises(ValueError, match=message):
        regmean(models, grams, **options)
