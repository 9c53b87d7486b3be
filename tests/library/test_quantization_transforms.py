"""Learned transforms: the same function at the start and after learning, and losses known otherwise."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from layerlab.quantization import grids
from layerlab.quantization import transforms as T
from layerlab.quantization.affine import Scheme, round_trip


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def layer(d=8, out=5, seed=0):
    lin = nn.Linear(d, out).double()
    with torch.no_grad():
        lin.weight.copy_(randn(out, d, seed=seed))
        lin.bias.copy_(randn(out, seed=seed + 1))
    return lin


def rotation(d=8, seed=3):
    return torch.linalg.qr(randn(d, d, seed=seed)).Q


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_without_rounding_it_is_the_layer(learn, turned):
    lin, x = layer(), randn(2, 7, 8, seed=5)
    scale = randn(8, seed=6).exp()
    made = T.TransformedLinear(
        lin, None, None, scale=scale, rotation=rotation() if turned else None, learn=learn
    )
    torch.testing.assert_close(made(x), lin(x), rtol=1e-9, atol=1e-9)
    expected = x * scale @ rotation() if turned else x * scale
    torch.testing.assert_close(made.inputs(x), expected, rtol=1e-9, atol=1e-9)
    assert any(p.requires_grad for p in made.parameters()) is learn


def test_rounding_is_of_the_turned_tensors():
    lin, x, R = layer(), randn(6, 8, seed=5), rotation()
    s, W, A = randn(8, seed=6).exp(), Scheme(4), Scheme(4, symmetric=False)
    made = T.TransformedLinear(lin, W, A, scale=s, rotation=R)
    expected = F.linear(round_trip(x * s @ R, A), round_trip(lin.weight.detach() / s @ R, W), lin.bias)
    torch.testing.assert_close(made(x), expected)
    rows = torch.cat([T.TransformedLinear(lin, W, A, scale=s, rotation=R)(row[None]) for row in x])
    torch.testing.assert_close(made(x), rows)  # each row under a range of its own
    torch.testing.assert_close(made(x.view(2, 3, 8)), made(x).view(2, 3, 5))
    torch.testing.assert_close(made(x[0]), made(x)[0])  # one input without a batch
    whole = T.TransformedLinear(lin, W, Scheme(4, False, "tensor"), scale=s, rotation=R)
    assert not torch.allclose(whole(x), rows)


def test_learning_moves_only_transforms_and_keeps_the_function():
    lin = layer(16, 6)
    x = randn(400, 16, seed=8)
    x[:, 3] *= 20
    model = nn.Sequential(T.TransformedLinear(lin, Scheme(3), Scheme(3, False), learn=True))
    target = lin(x).detach()
    before = F.mse_loss(model(x), target).item()
    losses = T.learn(model, x, target, loss=F.mse_loss, steps=60, lr=0.05, seed=1)
    after = F.mse_loss(model(x), target).item()
    assert losses.shape == (60,)
    assert after < 0.5 * before
    made = model[0]
    torch.testing.assert_close(made.weight, lin.weight.detach())
    turn = made.turn.weight
    torch.testing.assert_close(turn @ turn.T, torch.eye(16).double(), rtol=0, atol=1e-8)
    made.round_weight = made.round_input = nn.Identity()
    torch.testing.assert_close(made(x), target, rtol=1e-8, atol=1e-8)


def test_learning_is_a_matter_of_its_seed():
    lin, x = layer(), randn(300, 8, seed=2)

    def run(seed):
        model = T.TransformedLinear(lin, Scheme(3), Scheme(3, False), learn=True)
        return T.learn(model, x, lin(x).detach(), loss=F.mse_loss, steps=3, seed=seed)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_divergence_of_all_classes_is_scipys():
    a, b = randn(4, 5), randn(4, 5, seed=1)
    p, q = b.softmax(1), a.softmax(1)
    expected = sum(stats.entropy(p[i], q[i]) for i in range(4)) / 4
    assert T.top_kl(a, b, 5).item() == pytest.approx(expected)
    assert T.top_kl(a, b, 99).item() == pytest.approx(expected)


def test_divergence_sees_the_classes_of_the_target():
    target = torch.tensor([[5.0, 4.0, 0.0, -1.0]])
    same_above = torch.tensor([[7.0, 6.0, 9.0, 9.0]])
    assert T.top_kl(same_above, target, 2).item() == pytest.approx(0, abs=1e-7)
    assert T.top_kl(same_above, target, 3).item() > 1


def test_utilization_of_known_shapes():
    d, n = 4, 20000
    cube = torch.rand(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    assert T.utilization(cube) == pytest.approx(math.log2(1 / 3**0.5), abs=0.01)
    assert T.utilization(7 * cube) == pytest.approx(T.utilization(cube))
    stretched = cube * torch.tensor([16.0, 1, 1, 1])
    assert T.utilization(stretched) == pytest.approx(T.utilization(cube) - 3, abs=1e-3)
    flat = torch.cat([cube, torch.zeros(n, 2)], 1)
    assert T.utilization(flat) == pytest.approx(T.utilization(cube))
    turned = grids.rotate(stretched, 0)
    assert T.utilization(stretched) < T.utilization(turned) < T.utilization(cube)


@pytest.mark.parametrize(
    "call",
    [
        lambda: T.utilization(torch.ones(3, 4)),
        lambda: T.utilization(torch.ones(9, 4)),
        lambda: T.utilization(torch.zeros(9, 4)),
        lambda: T.top_kl(torch.ones(2, 3), torch.ones(2, 4)),
        lambda: T.top_kl(torch.ones(2, 3), torch.ones(2, 3), 0),
        lambda: T.TransformedLinear(layer(), None, None, scale=torch.ones(7)),
        lambda: T.TransformedLinear(layer(), None, None, scale=torch.zeros(8)),
        lambda: T.TransformedLinear(layer(), None, None, rotation=torch.ones(8, 8)),
        lambda: T.TransformedLinear(layer(), None, None, rotation=torch.eye(7)),
        lambda: T.TransformedLinear(layer(), None, Scheme(4, group=4)),
        lambda: T.learn(layer(), torch.ones(3, 8), torch.ones(3, 5)),
        lambda: T.learn(
            T.TransformedLinear(layer(), None, None, learn=True), randn(3, 8), randn(4, 5), loss=F.mse_loss
        ),
        lambda: T.learn(T.TransformedLinear(layer(), None, None, learn=True), randn(3, 8), randn(3, 5), lr=0),
        lambda: T.learn(T.TransformedLinear(layer(), None, None, learn=True), randn(3, 8) / 0, randn(3, 5)),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call()
