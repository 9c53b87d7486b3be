"""Smoothing: the same function, exponents that balance, and folding that leaves bad models as they were."""

import copy

import pytest
import torch
from torch import nn

from layerlab.models import MLP, TinyViT, seeded
from layerlab.quantization import smoothing as S
from layerlab.quantization.affine import Scheme, round_trip

W4, A8 = Scheme(4), Scheme(8, symmetric=False, group="tensor")


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def loud(n, d, seed=0):
    x = randn(n, d, seed=seed)
    x[:, 1] *= 40
    return x


def test_scales_balance_both_sides():
    x, w = loud(50, 6), randn(3, 6, seed=1)
    a, top = x.abs().amax(0), w.abs().amax(0)
    for alpha in (0.0, 0.25, 0.5, 1.0):
        s = S.smoothing_scales(a, w, alpha)
        torch.testing.assert_close(s.log(), alpha * a.log() - (1 - alpha) * top.log())
    even = S.smoothing_scales(a, w, 0.5)
    torch.testing.assert_close((x / even).abs().amax(0), (w * even).abs().amax(0))
    torch.testing.assert_close((x / S.smoothing_scales(a, w, 1.0)).abs().amax(0), torch.ones(6).double())
    torch.testing.assert_close((w * S.smoothing_scales(a, w, 0.0)).abs().amax(0), torch.ones(6).double())


def test_dead_channels_keep_their_scale():
    s = S.smoothing_scales(torch.tensor([0.0, 4.0, 2.0]), torch.tensor([[3.0, 0.0, 2.0]]))
    assert s.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("most", "least"), [(6e4, 6e-8), (1e-12, 6e4)])
def test_a_scale_that_the_weights_type_cannot_hold_is_refused(most, least):
    a, w = torch.tensor([most, 1.0]), torch.tensor([[least, 1.0], [0.0, 0.5]])
    assert torch.isfinite(S.smoothing_scales(a, w)).all()
    half = w.half()
    assert (half != 0).any(0).all()  # the weight itself is there
    with pytest.raises(ValueError, match=r"maxima: expected scales that torch\.float16 can hold"):
        S.smoothing_scales(a, half)


def test_maxima_are_over_tokens_and_batches():
    net = seeded(lambda: TinyViT(8, 2, 1, 10, dim=16, depth=1), 0).eval()
    X = randn(9, 1, 8, 8, dtype=torch.float32)
    found = S.channel_maxima(net, X, batch_size=4)
    assert set(found) == {k for k in net.state_dict() if k.endswith("weight") and "norm" not in k} - {
        "embed.weight"
    }
    with torch.no_grad():
        tokens = net.norm(net.blocks(net.embed(X).flatten(2).transpose(1, 2) + net.position)).mean(1)
    torch.testing.assert_close(found["head.weight"], tokens.abs().amax(0))
    parts = [S.channel_maxima(net, x) for x in X.split(3)]
    assert all(torch.equal(torch.stack([part[k] for part in parts]).amax(0), found[k]) for k in found)


def test_error_is_that_of_a_loop():
    xs, w = [loud(20, 6, seed=s) for s in range(3)], randn(4, 6, seed=9)
    s = S.smoothing_scales(xs[0].abs().amax(0), w)
    wrong = total = 0.0
    w_hat = round_trip(w * s, W4)
    for x in xs:
        x_hat = round_trip(x / s, A8)
        wrong += ((x @ w.T - x_hat @ w_hat.T) ** 2).sum().item()
        total += ((x @ w.T) ** 2).sum().item()
    assert S.output_error(xs, w, s, W4, A8) == pytest.approx(wrong / total)
    assert S.output_error(xs, w, s, None, None) < 1e-28


def test_search_finds_the_least_of_the_grid():
    xs, w = [loud(40, 8, seed=s) for s in range(2)], randn(5, 8, seed=3)
    a = torch.stack([x.abs().amax(0) for x in xs]).amax(0)
    grid = {al: S.output_error(xs, w, S.smoothing_scales(a, w, al), W4, A8) for al in S.ALPHAS}
    alpha, s = S.search_alpha(xs, w, W4, A8)
    assert alpha == min(grid, key=grid.get)
    assert torch.equal(s, S.smoothing_scales(a, w, alpha))
    assert grid[alpha] < S.output_error(xs, w, None, W4, A8)
    one = xs[0][0]  # a single input without a batch
    assert torch.equal(S.search_alpha([one], w, W4, A8)[1], S.search_alpha([one[None]], w, W4, A8)[1])
    assert S.search_alpha(xs, w, W4, A8, maxima=a * 2, alphas=[1.0])[1].tolist() == (2 * a).tolist()


@pytest.mark.parametrize("case", ["norm", "linear", "branches"])
def test_folding_keeps_the_function(case):
    if case == "branches":
        net = seeded(lambda: TinyViT(8, 2, 1, 10, dim=16, depth=1), 0).double().eval()
        before, after, x = "blocks.0.norm1", [f"blocks.0.attention.{n}" for n in "qkv"], randn(3, 1, 8, 8)
    else:
        net = seeded(lambda: MLP(16, [16, 16], 4, norm="layer" if case == "norm" else None), 0).double()
        before, after, x = "norms.0" if case == "norm" else "layers.0", "layers.1", randn(5, 16)
    net.get_submodule(before).bias.data.copy_(randn(16, seed=7))
    y, old = net(x), copy.deepcopy(net.state_dict())
    s = randn(16, seed=4).exp()
    assert S.fold(net, before, after, s) is net
    torch.testing.assert_close(net(x), y, rtol=1e-10, atol=1e-10)
    name = after if isinstance(after, str) else after[0]
    torch.testing.assert_close(net.get_submodule(name).weight, old[f"{name}.weight"] * s)
    assert not torch.equal(net.get_submodule(before).bias, old[f"{before}.bias"])


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("nowhere", "layers.1", torch.ones(8)), ValueError),
        (("layers.0", "norms.0", torch.ones(8)), TypeError),
        (("norms.0", "layers.1", torch.ones(8)), TypeError),
        (("layers.0", "head", torch.ones(8)), ValueError),
        (("layers.0", ["layers.1", "layers.1"], torch.ones(8)), ValueError),
        (("layers.0", [], torch.ones(8)), ValueError),
        (("layers.0", "layers.1", torch.ones(7)), ValueError),
        (("layers.0", "layers.1", torch.tensor([1.0] * 7 + [0.0])), ValueError),
        (("layers.0", "layers.1", torch.full((8,), float("nan"))), ValueError),
    ],
)
def test_bad_folds_change_nothing(args, error):
    net = seeded(lambda: MLP(4, [8, 6], 3), 0)
    old = copy.deepcopy(net.state_dict())
    with pytest.raises(error):
        S.fold(net, *args)
    assert all(torch.equal(v, old[k]) for k, v in net.state_dict().items())


def test_a_norm_without_weights_is_refused():
    net = nn.Sequential(nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="layer norm"):
        S.fold(net, "0", "1", torch.ones(4))


@pytest.mark.parametrize(
    "call",
    [
        lambda: S.smoothing_scales(torch.ones(3), torch.ones(2, 4)),
        lambda: S.smoothing_scales(-torch.ones(4), torch.ones(2, 4)),
        lambda: S.smoothing_scales(torch.ones(4), torch.ones(2, 4), 1.5),
        lambda: S.smoothing_scales(torch.tensor([1.0, float("inf")]), torch.ones(2, 2)),
        lambda: S.output_error([], torch.ones(2, 4), None, W4, A8),
        lambda: S.output_error([torch.ones(3, 4)], torch.ones(2, 4), None, W4, Scheme(8)),
        lambda: S.output_error([torch.zeros(3, 4)], torch.ones(2, 4), None, W4, A8),
        lambda: S.output_error([torch.ones(3, 4)], torch.ones(2, 4), torch.zeros(4), W4, A8),
        lambda: S.search_alpha([torch.ones(3, 4)], torch.ones(2, 4), W4, A8, alphas=[]),
        lambda: S.search_alpha([], torch.ones(2, 4), W4, A8),
        lambda: S.channel_maxima(nn.Linear(2, 2), torch.full((1, 2), float("nan"))),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call()


def test_types():
    with pytest.raises(TypeError, match="alpha"):
        S.smoothing_scales(torch.ones(4), torch.ones(2, 4), "half")
    with pytest.raises(TypeError, match="weight"):
        S.smoothing_scales(torch.ones(4), torch.ones(2, 4).int())
