"""Second derivatives: equal to the matrix where it can be built, honest about their error where estimated."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerlab.activations import gram
from layerlab.models import MLP, ConvNet, TinyViT, seeded
from layerlab.quantization.hessian import (
    LARGEST,
    Trace,
    by_key,
    exact,
    hvp,
    loss_of,
    top_eigenvalue,
    trace,
)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flat(params):
    return torch.cat([p.flatten() for p in params.values()])


def oracle(loss, params):
    """The whole matrix by torch.func.hessian, over one flat vector."""
    sizes = [p.numel() for p in params.values()]

    def of_vector(x):
        parts = zip(params.items(), x.split(sizes), strict=True)
        return loss({key: part.view_as(p) for (key, p), part in parts})

    return torch.func.hessian(of_vector)(flat(params))


@pytest.fixture(scope="module")
def mlp():
    """A smooth network: the second derivatives of its loss are full."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for seed, p in enumerate(model.parameters()):
            p.copy_(draw(*p.shape, seed=seed))
    y = torch.randint(0, 3, (30,), generator=torch.Generator().manual_seed(1))
    loss, params = loss_of(model, draw(30, 4, seed=9), y)
    return loss, params, oracle(loss, params)


def quadratic(H):
    return lambda p: 0.5 * p["w"] @ H @ p["w"]


def test_the_exact_matrix(mlp):
    loss, params, H = mlp
    assert H.shape == (35, 35)
    assert H[:20, 20:].abs().max() > 1e-3  # the layers are coupled
    torch.testing.assert_close(exact(loss, params), H)


def test_products(mlp):
    loss, params, H = mlp
    v = {key: draw(*p.shape, seed=5) for key, p in params.items()}
    found = hvp(loss, params, dict(reversed(v.items())))  # the order of the keys does not matter
    assert {key: x.shape for key, x in found.items()} == {key: x.shape for key, x in params.items()}
    torch.testing.assert_close(flat({key: found[key] for key in params}), H @ flat(v))


def test_logistic_regression_has_a_known_hessian():
    X, w = draw(40, 6), draw(6, seed=1)
    y = (draw(40, seed=2) > 0).double()
    p = torch.sigmoid(X @ w)
    H = X.T @ (X * (p * (1 - p))[:, None]) / 40
    found = exact(lambda q: F.binary_cross_entropy_with_logits(X @ q["w"], y), {"w": w})
    torch.testing.assert_close(found, H)


def test_the_top_eigenvalue(mlp):
    loss, params, H = mlp
    values = torch.linalg.eigvalsh(H)
    top = values[values.abs().argmax()].item()
    for seed in range(3):
        value, v = top_eigenvalue(loss, params, seed=seed, iterations=500)
        assert value == pytest.approx(top, rel=1e-5)
        v = flat(v)
        assert v.norm() == pytest.approx(1)
        assert (H @ v - value * v).norm() <= 1.01e-3 * abs(value)


def test_a_negative_eigenvalue_keeps_its_sign():
    Q = torch.linalg.qr(draw(8, 8)).Q
    H = Q @ torch.diag(torch.tensor([-5.0, 3, 1, 1, 0.5, 0, -1, -2]).double()) @ Q.T
    value, v = top_eigenvalue(quadratic(H), {"w": draw(8, seed=3)}, seed=0, tolerance=1e-8, iterations=300)
    assert value == pytest.approx(-5)
    assert abs(v["w"] @ Q[:, 0]) == pytest.approx(1)


def test_power_iteration_stops_where_it_is_told():
    H = torch.diag(torch.tensor([1.0, 0.99, 0.5]).double())
    calls = []

    def loss(p):
        calls.append(1)
        return quadratic(H)(p)

    params = {"w": torch.zeros(3).double()}
    top_eigenvalue(loss, params, seed=0, iterations=7, tolerance=0)
    assert len(calls) == 8  # one to look at the value
    calls.clear()
    value, _ = top_eigenvalue(loss, params, seed=0, iterations=500, tolerance=0.1)
    assert len(calls) < 20
    assert 0.9 < value <= 1
    H = -H  # and where the eigenvalue is negative
    calls.clear()
    value, _ = top_eigenvalue(loss, params, seed=0, iterations=500, tolerance=0.1)
    assert len(calls) < 20
    assert -1 <= value < -0.9


def test_no_curvature_at_all():
    params = {"a": torch.ones(3)}
    value, vector = top_eigenvalue(lambda p: p["a"].sum() + 0 * p["a"].square().sum(), params, seed=0)
    assert value == 0
    assert vector["a"].norm() == pytest.approx(1)
    assert trace(lambda p: p["a"].square().sum() * 0, params, probes=3, seed=0) == Trace(0.0, 0.0)


def test_the_trace_and_its_standard_error(mlp):
    loss, params, H = mlp
    mean, error = trace(loss, params, probes=400, seed=0)
    truth = H.trace().item()
    expected = math.sqrt(2 * (H.square().sum() - H.diagonal().square().sum()).item() / 400)
    assert error == pytest.approx(expected, rel=0.2)
    assert abs(mean - truth) < 4 * expected


def test_the_interval_holds_as_often_as_it_says():
    H = draw(12, 12)
    H = H + H.T
    params, truth = {"w": torch.zeros(12).double()}, H.trace().item()
    found = [trace(quadratic(H), params, probes=30, seed=seed) for seed in range(100)]
    inside = sum(abs(mean - truth) < 2 * error for mean, error in found)
    assert 88 <= inside <= 99  # about 95
    spread = torch.tensor([mean for mean, _ in found]).std().item()
    assert spread == pytest.approx(sum(error for _, error in found) / 100, rel=0.25)


def test_signs_know_a_diagonal_exactly():
    d = draw(10)
    found = trace(quadratic(torch.diag(d)), {"w": draw(10, seed=1)}, probes=3, seed=4)
    assert found.mean == pytest.approx(d.sum().item())
    assert found.standard_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_how_many_at_once_changes_nothing(mlp, chunk):
    loss, params, H = mlp
    torch.testing.assert_close(exact(loss, params, chunk=chunk), H)
    assert trace(loss, params, probes=10, seed=0, chunk=chunk) == pytest.approx(
        trace(loss, params, probes=10, seed=0)
    )


def test_a_parameter_without_axes():
    params = {"w": draw(3), "scale": torch.tensor(2.0).double(), "b": draw(2, 2, seed=1)}
    A = draw(8, 8, seed=2)

    def loss(p):
        return (A @ flat(p)).tanh().sum() + flat(p).square().sum()

    H = oracle(loss, params)
    torch.testing.assert_close(exact(loss, params, chunk=3), H)
    torch.testing.assert_close(by_key(exact, loss, params)["scale"], H[3:4, 3:4])
    probes = trace(loss, params, probes=300, seed=0, chunk=7)
    assert abs(probes.mean - H.trace()) < 4 * probes.standard_error
    alone = by_key(trace, loss, params, probes=3, seed=0)["scale"]
    assert alone == pytest.approx((H[3, 3].item(), 0.0))


def test_one_layer_at_a_time_is_a_block_of_the_diagonal(mlp):
    loss, params, H = mlp
    blocks = by_key(exact, loss, params)
    assert list(blocks) == ["0.weight", "2.weight"]
    torch.testing.assert_close(blocks["0.weight"], H[:20, :20])
    torch.testing.assert_close(blocks["2.weight"], H[20:, 20:])
    traces = by_key(trace, loss, params, probes=200, seed=0)
    for key, block in blocks.items():
        assert abs(traces[key].mean - block.trace()) < 4 * traces[key].standard_error
    values = by_key(top_eigenvalue, loss, params, iterations=500, seed=0)
    values = {key: value for key, (value, _) in values.items()}
    for key, block in blocks.items():
        assert values[key] == pytest.approx(torch.linalg.eigvalsh(block).max().item(), rel=1e-4)


def test_the_same_seed_gives_the_same_and_the_global_one_is_left(mlp):
    loss, params, _ = mlp
    state = torch.get_rng_state()
    first, second = (trace(loss, params, probes=4, seed=7) for _ in range(2))
    a, b = (top_eigenvalue(loss, params, seed=7, iterations=5) for _ in range(2))
    assert first == second != trace(loss, params, probes=4, seed=8)
    assert a[0] == b[0]
    assert torch.equal(torch.get_rng_state(), state)


MAKES = {
    "mlp": lambda: MLP(64, [6], 3, norm="batch"),
    "convnet": lambda: ConvNet(1, 3, (4, 6)),
    "vit": lambda: TinyViT(8, 4, 1, 3, dim=8, depth=1, heads=2),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_the_models_of_the_book(make):
    model, X = seeded(make, 0).double().train(), draw(20, 1, 8, 8)
    y = torch.arange(20) % 3
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss, params = loss_of(model, X, y)
    assert loss(params).item() == pytest.approx(F.cross_entropy(model.eval()(X), y).item())
    assert set(params) == set(gram(model, X))
    key = list(params)[-2]
    loss, params = loss_of(model.train(), X, y, [key])
    v = {key: draw(*params[key].shape, seed=3)}
    gradient, h = torch.func.grad(loss), 1e-5
    ahead, behind = ({key: params[key] + s * h * v[key]} for s in (1, -1))
    difference = (gradient(ahead)[key] - gradient(behind)[key]) / (2 * h)
    torch.testing.assert_close(hvp(loss, params, v)[key], difference, atol=1e-7, rtol=1e-5)
    assert model.training
    assert all(torch.equal(value, before[k]) for k, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_loss_remembers_the_weights_of_its_moment():
    model = nn.Linear(2, 3)
    X, y = torch.ones(4, 2), torch.tensor([0, 1, 2, 0])
    loss, params = loss_of(model, X, y)
    value = loss(params)
    model.bias.data.add_(torch.tensor([1.0, 0.0, -1.0]))
    params["weight"].add_(0)
    assert loss(params) == value


P = {"a": torch.ones(2, 2), "b": torch.ones(3)}
X_NAN = torch.tensor([[1.0, 2.0], [3.0, math.nan], [0.0, 1.0], [1.0, 1.0]])


def square(p):
    return sum(x.square().sum() for x in p.values())


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: hvp(square, {}, {}), ValueError, "params.*none"),
        (lambda: hvp(square, {"a": torch.ones(2).long()}, {}), TypeError, r"params\['a'\].*int64"),
        (lambda: exact(square, {"a": torch.tensor([math.nan])}), ValueError, r"params\['a'\].*NaN"),
        (lambda: hvp(square, P, {"a": P["a"]}), ValueError, r"v: .*\['a', 'b'\].*\['a'\]"),
        (lambda: hvp(square, P, {**P, "b": torch.ones(2)}), ValueError, r"v\['b'\].*\(3,\).*\(2,\)"),
        (lambda: hvp(square, P, {**P, "b": P["b"] / 0}), ValueError, r"v\['b'\].*infinity"),
        (lambda: exact(lambda p: p["a"], P), ValueError, r"loss.*scalar.*\(2, 2\)"),
        (lambda: exact(lambda p: 3.0, P), ValueError, r"loss.*scalar.*float"),
        (lambda: trace(lambda p: p["b"].log().sum() / 0, P, seed=0), ValueError, "loss.*finite.*nan"),
        (lambda: trace(square, P, probes=1, seed=0), ValueError, "probes.*2.*1"),
        (lambda: trace(square, P, probes=2.5, seed=0), TypeError, r"probes.*2\.5"),
        (lambda: trace(square, P, chunk=0, seed=0), ValueError, "chunk.*0"),
        (lambda: exact(square, P, chunk=1.5), TypeError, r"chunk.*1\.5"),
        (lambda: top_eigenvalue(square, P, iterations=9.0, seed=0), TypeError, r"iterations.*9\.0"),
        (lambda: top_eigenvalue(square, P, iterations=0, seed=0), ValueError, "iterations.*0"),
        (lambda: top_eigenvalue(square, P, tolerance=-1, seed=0), ValueError, "tolerance.*-1"),
        (lambda: exact(square, {"a": torch.ones(LARGEST + 1)}), ValueError, f"{LARGEST + 1}.*trace"),
        (lambda: by_key(trace, square, {}, seed=0), ValueError, "params.*none"),
        (lambda: loss_of(nn.Linear(2, 3), torch.ones(4, 2), torch.ones(3)), ValueError, "y: .*4.*3"),
        (lambda: loss_of(nn.Linear(2, 3), torch.ones(0, 2), torch.ones(0)), ValueError, "X: .*none"),
        (lambda: loss_of(nn.Linear(2, 3), X_NAN, torch.ones(4)), ValueError, "X: .*NaN"),
        (lambda: loss_of(nn.Linear(2, 3), torch.ones(4, 2), torch.ones(4), ["w"]), ValueError, "keys.*'w'"),
        (lambda: loss_of(nn.Linear(2, 3), torch.ones(4, 2), torch.ones(4), []), ValueError, "keys.*none"),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
