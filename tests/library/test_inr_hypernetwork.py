"""D'OH: the generated weights by hand, how they are spread, and that a seed and a code give them back."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from layerlab.inr.activations import ACTIVATIONS, CoordinateNet
from layerlab.inr.fit import coordinates, fit
from layerlab.inr.hypernetwork import RandomHypernet
from layerlab.inr.siren import Siren
from layerlab.models import MLP, seeded


def make(latent=50, seed=3, **arguments):
    return seeded(lambda: RandomHypernet(Siren(2, [16, 16], 1), latent, seed, **arguments), 0)


def test_weights_by_hand():
    net = make()
    bits = np.unpackbits(np.random.Philox(key=3).random_raw(1000).view(np.uint8), bitorder="little")
    signs = torch.from_numpy(bits[: (32 + 256 + 16) * 50].astype(np.float32) * 2 - 1).view(-1, 50)
    generated = signs @ net.code.detach() / math.sqrt(50)
    bounds = [1 / 2, math.sqrt(6 / 16) / 30, math.sqrt(6 / 16) / 30]
    for (name, weight), part, bound in zip(
        net.weights().items(), generated.split([32, 256, 16]), bounds, strict=True
    ):
        torch.testing.assert_close(weight, (part * bound / math.sqrt(3)).view(weight.shape), msg=name)


FREE = {"Siren": lambda: Siren(2, [40, 40, 40], 3, w0=20.0, hidden_w0=10.0)} | {
    name: lambda name=name: CoordinateNet(
        2, 3, 40, 3, name, **({"w0": 20.0} if name in ("sine", "spder") else {})
    )
    for name in ACTIVATIONS
}


@pytest.mark.parametrize("make_free", FREE.values(), ids=FREE)
def test_weights_are_spread_as_free_ones_are(make_free):
    net = seeded(lambda: RandomHypernet(make_free(), 200, 0), 0)
    draws = [seeded(make_free, seed) for seed in range(1, 5)]
    size = net.code.square().mean().sqrt().item()
    assert net.weights().keys() == {n for n, _ in draws[0].named_parameters() if n.endswith("weight")}
    for name, weight in net.weights().items():
        expected = torch.stack([free.get_parameter(name) for free in draws]).std().item() * size
        assert weight.std().item() == pytest.approx(expected, rel=0.2 if weight.numel() < 1000 else 0.06)


def test_a_first_layer_that_the_caller_made_is_spread_as_a_linear_layer():
    own = nn.Sequential(nn.Linear(2, 400), nn.Tanh())
    net = seeded(lambda: RandomHypernet(CoordinateNet(2, 1, 40, 2, "sine", first=own), 200, 0), 0)
    size = net.code.square().mean().sqrt().item()
    assert net.weights()["first.0.weight"].std().item() == pytest.approx(size / math.sqrt(3 * 2), rel=0.1)
    expected = size * math.sqrt(2 / 400) / 30
    assert net.weights()["layers.0.weight"].std().item() == pytest.approx(expected, rel=0.05)


def test_weights_are_not_correlated():
    net = seeded(lambda: RandomHypernet(FREE["Siren"](), 200, 0), 0)
    overlap = net.projection @ net.projection.T
    lengths = overlap.diagonal().sqrt()
    cosines = (overlap / lengths / lengths[:, None]).fill_diagonal_(0)
    assert cosines.std().item() == pytest.approx(1 / math.sqrt(200), rel=0.05)


def test_only_code_and_biases_are_kept_and_give_the_weights_back():
    net = make()
    state = net.state_dict()
    assert state.keys() == {"code", "layers_0_bias", "layers_1_bias", "layers_2_bias"}
    assert sum(value.numel() for value in state.values()) == 50 + 16 + 16 + 1
    other = seeded(lambda: RandomHypernet(Siren(2, [16, 16], 1), 50, 3), 99)
    other.load_state_dict(state)
    for name, weight in net.weights().items():
        assert torch.equal(weight, other.weights()[name])
    assert not torch.equal(make(seed=4).weights()["layers.0.weight"], net.weights()["layers.0.weight"])


def test_output_is_that_of_the_target_with_the_generated_weights():
    target = seeded(lambda: Siren(2, [16, 16], 1), 5)
    before = copy.deepcopy(target.state_dict())
    net = seeded(lambda: RandomHypernet(target, 50, 3), 0)
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())
    plain = Siren(2, [16, 16], 1)
    biases = {key: value for key, value in before.items() if key.endswith("bias")}
    plain.load_state_dict({**net.weights(), **biases})
    X = coordinates(6, 6)
    torch.testing.assert_close(net(X), plain(X))
    assert {p.device.type for p in net.target.parameters()} == {"meta"}


def test_free_weights_are_the_targets_and_train():
    target = seeded(lambda: Siren(2, [16, 16], 1), 5)
    net = seeded(lambda: RandomHypernet(target, 50, 3, free=["layers.0.weight"]), 0)
    assert torch.equal(net.layers_0_weight, target.layers[0].weight)
    assert "layers.0.weight" not in net.weights()
    net(torch.rand(4, 2)).sum().backward()
    assert net.layers_0_weight.grad.abs().sum() > 0


def test_it_learns_a_signal():
    X = coordinates(16, 16)
    y = torch.sin(3 * X[:, :1] + 2 * X[:, 1:])
    net = seeded(lambda: RandomHypernet(Siren(2, [16, 16], 1, w0=5.0), 100, 0), 0)
    code = net.code.detach().clone()
    history = fit(net, X, y, steps=150, lr=2e-2)
    assert history.losses[-1] < 0.02 * history.losses[0]
    assert (net.code - code).abs().max() > 0.1
    assert copy.deepcopy(net)(X[:3]).equal(net(X[:3]))


def test_other_networks_are_spread_as_linear_layers():
    net = seeded(lambda: RandomHypernet(MLP(2, [200, 200], 1), 300, 0), 0)
    spread = net.weights()["layers.1.weight"].std() / net.code.square().mean().sqrt()
    assert spread.item() == pytest.approx(1 / math.sqrt(3 * 200), rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent": 0}, "latent: .*got 0"),
        ({"seed": -1}, "seed: .*got -1"),
        ({"seed": 1 << 64}, "seed: .*got 18446744073709551616"),
        ({"target": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))}, "target: expected no buffers"),
        ({"target": nn.BatchNorm1d(2, track_running_stats=False)}, "two axes or more"),
        ({"target": nn.Linear(2, 2, dtype=torch.complex64)}, "real weights"),
        ({"free": ["layers.7.weight"]}, r"free: .*layers\.7\.weight"),
    ],
)
def test_bad_input(arguments, message):
    arguments = {"target": Siren(2, [4], 1), "latent": 4, "seed": 0, **arguments}
    with pytest.raises(ValueError, match=message):
        RandomHypernet(**arguments)
