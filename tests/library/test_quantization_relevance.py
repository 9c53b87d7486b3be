"""Relevance adds up to what it was dealt from, and is what the rule says on layers worked out by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerlab.models import MLP, ConvNet, TinyViT, seeded
from layerlab.quantization.relevance import contributions, propagate

NETS = {
    "MLP": lambda: MLP(64, [12, 8], 5, norm="layer"),
    "MLP, BatchNorm": lambda: MLP(64, [12, 8], 5, norm="batch"),
    "ConvNet": lambda: ConvNet(1, 5, (3, 4), norm="layer"),
    "TinyViT": lambda: TinyViT(8, 4, 1, 5, 8, 2),
}
X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
y = torch.tensor([0, 1, 2, 3, 4, 0])


def without_biases(make):
    model = seeded(make, 0).double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "bias" in name or name == "position":
                p.zero_()
    return model


@pytest.mark.parametrize("gamma", [0.0, 0.25])
@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_relevance_is_conserved_without_biases(make, gamma):
    model = without_biases(make)
    found = propagate(model, X, y, gamma=gamma)
    logits = model(X).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(found.inputs.flatten(1).sum(1), logits)
    torch.testing.assert_close(found.outputs["head.weight"].flatten(1).sum(1), logits)
    first = next(iter(found.outputs.values()))
    torch.testing.assert_close(first.flatten(1).sum(1), logits)  # all paths lead through it


def test_plain_gradients_are_not_conserved_where_gates_bend():
    model = without_biases(NETS["TinyViT"])
    x = X.clone().requires_grad_()
    logits = model(x).gather(1, y[:, None])[:, 0]
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert ((x * gradient).flatten(1).sum(1) - logits).abs().max() > 1e-3


def test_biases_take_their_share():
    model = seeded(NETS["ConvNet"], 0).double().eval()
    found = propagate(model, X, y)
    gap = model(X).gather(1, y[:, None])[:, 0] - found.inputs.flatten(1).sum(1)
    assert gap.abs().max() > 1e-4


@pytest.mark.parametrize("rule", [{}, {"gamma": 0.5}, {"epsilon": 0.1}, {"gamma": 0.5, "epsilon": 0.1}])
def test_the_rules_by_hand(rule):
    model = without_biases(lambda: MLP(64, [7], 5))
    gamma, epsilon = rule.get("gamma", 0.0), rule.get("epsilon", 0.0)

    def back(a, w, R):  # (N, in), (out, in), (N, out) → (N, in)
        parts = a[:, None, :] * w
        z = parts.sum(2)
        parts = parts + gamma * parts.where(parts.sign() == z.sign()[..., None], torch.zeros(()).double())
        below = parts.sum(2) + epsilon * z.sign()
        return (parts * (R / below)[..., None]).sum(1)

    a = X.flatten(1)
    hidden = F.relu(model.layers[0](a))
    logits = model.head(hidden)
    R = torch.zeros_like(logits).scatter(1, y[:, None], logits.gather(1, y[:, None]))
    expected = back(a, model.layers[0].weight, back(hidden, model.head.weight, R))
    torch.testing.assert_close(propagate(model, X, y, **rule).inputs.flatten(1), expected)


def test_the_model_is_as_it_was():
    model = seeded(NETS["TinyViT"], 0).double().train()
    before, logits = copy.deepcopy(model.state_dict()), copy.deepcopy(model).eval()(X)
    propagate(model, X, y, gamma=0.3, epsilon=0.1)
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(model.eval()(X), logits)


def test_shared_and_unused_layers():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.once, self.never = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)

        def forward(self, x):
            return self.once(F.relu(self.once(x)))

    model, x = Twice(), torch.rand(4, 3)
    with torch.no_grad():
        model.once.weight.copy_(torch.eye(3))
    found = propagate(model, x, torch.tensor([0, 1, 2, 0])).outputs
    assert list(found) == ["once.weight"]
    torch.testing.assert_close(
        found["once.weight"].sum(1), 2 * x.gather(1, torch.tensor([[0], [1], [2], [0]]))[:, 0]
    )


def test_contributions_are_sums_of_sizes():
    model = seeded(NETS["TinyViT"], 0)
    found = contributions(model, X.float(), y)
    outputs = propagate(model, X.float(), y).outputs
    assert found.keys() == outputs.keys()
    for key, value in found.items():
        assert value == pytest.approx(outputs[key].abs().flatten(1).sum(1).mean().item())
    assert found["blocks.0.attention.q.weight"] == 0 < found["blocks.0.attention.v.weight"]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"X": X[:0], "y": y[:0]}, ValueError, "X.*at least one"),
        ({"X": X * torch.nan}, ValueError, "X.*finite"),
        ({"gamma": -1}, ValueError, "gamma.*-1"),
        ({"epsilon": float("nan")}, ValueError, "epsilon.*nan"),
        ({"y": y[:3]}, ValueError, "y.*6 classes"),
        ({"y": y.double()}, ValueError, "y.*int64"),
        ({"y": y + 1}, ValueError, r"y.*\(6, 5\).*5"),
        ({"y": y - 1}, ValueError, r"y.*\(6, 5\)"),
    ],
)
def test_bad_input(change, error, says):
    given = {"X": X, "y": y} | change
    with pytest.raises(error, match=says):
        propagate(without_biases(NETS["MLP"]), **given)
