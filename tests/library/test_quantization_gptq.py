"""GPTQ and COMQ: as their definitions step by step, between rounding to nearest and the optimum."""

import itertools

import pytest
import torch

from layerlab.activations import gram as grams_of
from layerlab.models import ConvNet, seeded
from layerlab.quantization.affine import Parameters, Scheme, decode, encode, fit, round_trip
from layerlab.quantization.comq import comq
from layerlab.quantization.gptq import exhaustive, gptq, inverse_factor, obq, output_error


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(n, d, seed=0):
    """Inputs of a few causes and a little noise."""
    return draw(n, d // 3, seed=seed) @ draw(d // 3, d, seed=seed + 1) + 0.3 * draw(n, d, seed=seed + 2)


def grid(weight, scheme, **how):
    """The scheme's grid, fitted to a weight once, as a function."""
    parameters = fit(weight, scheme, **how)
    return lambda w: decode(encode(w, scheme, parameters), scheme, parameters, w.dtype)


@pytest.fixture
def layer():
    X = correlated(200, 24)
    return draw(10, 24, seed=7), X.T @ X


SCHEMES = {
    "tensor": Scheme(3, group="tensor"),
    "channel": Scheme(3),
    "group": Scheme(3, group=8),
    "asymmetric": Scheme(3, symmetric=False),
    "asymmetric group": Scheme(2, symmetric=False, group=4),
    "asymmetric tensor": Scheme(4, symmetric=False, group="tensor"),
}
schemes = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


def naive_obq(weight, H, quantize):
    """By the definition: the next weight is the one whose rounding, made up for, costs least.

    The cost and the update come from solving the constrained least-squares problem, not from the formula.
    """
    out = weight.clone()
    d = len(H)
    for i in range(len(out)):
        left = list(range(d))
        while left:
            q = quantize(out)[i]
            A, tried = H[left][:, left], []
            for k, p in enumerate(left):
                rest = [m for m in range(len(left)) if m != k]
                change = torch.zeros(len(left), dtype=torch.float64)
                change[k] = q[p] - out[i, p]
                if rest:
                    change[rest] = -torch.linalg.solve(A[rest][:, rest], A[rest, k] * change[k])
                tried.append(((change @ A @ change).item(), k, change))
            _, k, change = min(tried, key=lambda t: t[0])
            out[i, left] += change
            out[i, left[k]] = q[left[k]]
            del left[k]
    return out


@pytest.mark.parametrize(
    "scheme", [Scheme(2), Scheme(3, group="tensor"), Scheme(3, symmetric=False, group=4)]
)
def test_obq_is_its_definition(scheme):
    X = correlated(40, 8)
    weight, G = draw(3, 8, seed=4), X.T @ X
    quantize = grid(weight, scheme)
    torch.testing.assert_close(obq(weight, G, quantize, damp=0), naive_obq(weight, G, quantize))
    damped = G + 0.1 * G.diagonal().mean() * torch.eye(8).double()
    found = obq(weight, G, quantize, damp=0.1)
    torch.testing.assert_close(found, naive_obq(weight, damped, quantize))


def test_obq_by_hand():
    """Two inputs that are nearly the same: one weight is rounded up to make up for the other."""
    G = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    assert obq(torch.tensor([[0.4, 0.4]]), G, torch.round, damp=0).tolist() == [[0, 1]]
    # 0.45 is farther from the grid than 0.9: the latter goes first, 0.45 becomes 0.36 and is rounded down.
    assert obq(torch.tensor([[0.45, 0.9]]), G, torch.round, damp=0).tolist() == [[0, 1]]
    # From left to right the first error, 0.45, makes 1.305 of the second.
    assert obq(torch.tensor([[0.45, 0.9]]), G, torch.round, damp=0, greedy=False).tolist() == [[0, 1]]
    assert obq(torch.tensor([[0.45, 1.1]]), G, torch.round, damp=0, greedy=False).tolist() == [[0, 2]]
    assert obq(torch.tensor([[0.45, 1.1]]), G, torch.round, damp=0).tolist() == [[1, 1]]


@pytest.mark.parametrize("scheme", [s for s in SCHEMES.values() if isinstance(s.group, str)])
@pytest.mark.parametrize("damp", [0.0, 0.01, 1.0])
def test_gptq_is_obq_from_left_to_right(layer, scheme, damp):
    weight, G = layer
    found = gptq(weight, G, scheme, damp=damp)
    torch.testing.assert_close(
        found.w_hat, obq(weight, G, grid(weight, scheme), damp=damp, greedy=False), rtol=1e-6, atol=1e-6
    )


@schemes
def test_activation_order_is_obq_of_sorted_inputs(layer, scheme):
    weight, G = layer
    order = G.diagonal().argsort(descending=True)
    back = order.argsort()
    parameters = fit(weight, scheme)

    def quantize(w):  # groups keep their inputs and have their scales from the start
        return decode(encode(w[:, back], scheme, parameters), scheme, parameters, w.dtype)[:, order]

    expected = obq(weight[:, order], G[order][:, order], quantize, greedy=False)[:, back]
    found = gptq(weight, G, scheme, act_order=True)
    torch.testing.assert_close(found.w_hat, expected, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters, parameters, strict=True))


@pytest.mark.parametrize("scheme", [Scheme(3, group=8), Scheme(2, symmetric=False, group=4)])
def test_groups_are_fitted_when_they_are_reached(layer, scheme):
    weight, G = layer
    H = G + 0.01 * G.diagonal().mean() * torch.eye(24)
    W, scales, zeros = weight.clone(), [], []
    for j in range(24):
        if j % scheme.group == 0:
            part = fit(W[:, j : j + scheme.group], scheme)
            scales.append(part.scale)
            zeros.append(part.zero)
        q = decode(encode(W[:, j, None].expand(-1, scheme.group), scheme, part), scheme, part, torch.float64)[
            :, 0
        ]
        inverse = torch.linalg.inv(H[j:, j:])
        W[:, j:] -= ((W[:, j] - q) / inverse[0, 0])[:, None] * inverse[0]
        W[:, j] = q
    found = gptq(weight, G, scheme)
    torch.testing.assert_close(found.parameters.scale, torch.cat(scales, 1))
    assert torch.equal(found.parameters.zero, torch.cat(zeros, 1))
    torch.testing.assert_close(found.w_hat, W, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found.parameters.scale[:, 1:], fit(weight, scheme).scale[:, 1:])


@schemes
@pytest.mark.parametrize("act_order", [False, True])
def test_blocks_of_any_size_give_the_same(layer, scheme, act_order):
    weight, G = layer
    expected = gptq(weight, G, scheme, block=24, act_order=act_order)
    for block in (1, 3, 5, 8, 12, 23, 1000):
        found = gptq(weight, G, scheme, block=block, act_order=act_order)
        assert torch.equal(found.codes, expected.codes)
        torch.testing.assert_close(found.parameters.scale, expected.parameters.scale)


@schemes
def test_white_inputs_leave_nothing_to_make_up_for(scheme):
    weight = draw(10, 24, seed=7)
    scheme_codes = encode(weight, scheme, fit(weight, scheme))
    for G in (torch.eye(24) * 50, torch.diag(draw(24, seed=1).abs())):
        for act_order in (False, True):
            assert torch.equal(gptq(weight, G, scheme, act_order=act_order).codes, scheme_codes)
        assert torch.equal(comq(weight, G, scheme, scales=False).codes, scheme_codes)
        nearest = grid(weight, scheme)
        assert torch.equal(obq(weight, G, nearest), nearest(weight.double()).to(weight.dtype))


@schemes
def test_codes_scales_and_weights_belong_together(layer, scheme):
    weight, G = layer
    for found in (gptq(weight, G, scheme), comq(weight, G, scheme), comq(weight, G, scheme, order="cyclic")):
        assert found.codes.shape == weight.shape
        assert found.codes.dtype == scheme.dtype
        assert found.parameters.scale.shape == found.parameters.zero.shape == scheme.groups(weight.shape)
        assert found.parameters.scale.dtype == torch.float32
        assert torch.equal(found.w_hat, decode(found.codes, scheme, found.parameters, weight.dtype))
        nearest = round_trip(weight, scheme)
        assert output_error(weight, found.w_hat, G) < 0.75 * output_error(weight, nearest, G)


@pytest.mark.parametrize(
    "scheme", [Scheme(2), Scheme(2, symmetric=False, group=3), Scheme(2, group="tensor")]
)
def test_between_nearest_and_the_optimum(scheme):
    sums = dict.fromkeys(("nearest", "gptq", "comq", "best"), 0.0)
    for seed in range(6):
        X = correlated(60, 6, seed=10 * seed)
        weight, G = draw(3, 6, seed=seed + 100), X.T @ X
        parameters = fit(weight, scheme)
        scale = parameters.scale.expand(3) if scheme.group == "tensor" else parameters.scale
        errors = []
        for i in range(3):  # each code of a unit, one by one
            own = Parameters(scale[i : i + 1], parameters.zero.expand(scale.shape)[i : i + 1])
            per_unit = Scheme(scheme.bits, scheme.symmetric, 3 if scheme.group == 3 else "channel")
            every = itertools.product(range(scheme.low, scheme.high + 1), repeat=6)
            codes = torch.tensor(list(every))
            wide = Parameters(*(p.expand(len(codes), *p.shape[1:]) for p in own))
            values = decode(codes.to(scheme.dtype), per_unit, wide, torch.float64)
            errors.append(((values - weight[i]) @ X.T).square().sum(1).min().item())
        best = exhaustive(weight, G, scheme, parameters)
        assert output_error(weight, best.w_hat, G) == pytest.approx(sum(errors), rel=1e-6)
        found = {
            "nearest": decode(encode(weight, scheme, parameters), scheme, parameters, weight.dtype),
            "gptq": gptq(weight, G, scheme, damp=0, act_order=True).w_hat,  # the same scales for all
            "comq": comq(weight, G, scheme, scales=False, start="nearest").w_hat,
            "best": best.w_hat,
        }
        for name, w_hat in found.items():
            error = output_error(weight, w_hat, G)
            assert error >= sum(errors) * (1 - 1e-6)
            sums[name] += error
    assert sums["best"] < sums["gptq"] < sums["nearest"]
    assert sums["best"] < sums["comq"] < sums["nearest"]


@schemes
@pytest.mark.parametrize("order", ["greedy", "cyclic"])
@pytest.mark.parametrize("scales", [False, True])
def test_no_sweep_makes_it_worse(layer, scheme, order, scales):
    weight, G = layer
    nearest = output_error(weight, round_trip(weight, scheme), G)
    for start in ("nearest", "weight"):
        options = {"order": order, "scales": scales, "start": start}
        errors = [
            output_error(weight, comq(weight, G, scheme, sweeps=n, **options).w_hat, G) for n in range(1, 8)
        ]
        if start == "nearest":
            errors.insert(0, nearest)
        assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(errors))
        assert errors[-1] < 0.6 * nearest


@schemes
def test_a_scale_that_is_rounded_does_no_harm_either(layer, scheme):
    weight, G = layer
    for seed in range(3):
        options = {"start": "nearest", "scale_dtype": torch.bfloat16}
        W = weight + draw(10, 24, seed=seed)
        found = [comq(W, G, scheme, sweeps=n, **options) for n in range(1, 9)]
        errors = [output_error(W, one.w_hat, G) for one in found]
        assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(errors))
        assert found[-1].parameters.scale.dtype == torch.bfloat16


@schemes
def test_comq_ends_where_no_code_and_no_scale_can_move(layer, scheme):
    weight, G = layer
    fixed = comq(weight, G, scheme, sweeps=60, scales=False)
    best = output_error(weight, fixed.w_hat, G)
    scale, zero = fixed.parameters
    for i, j in itertools.product(range(3), range(24)):
        for step in (-1, 1):
            codes = fixed.codes.clone().int()
            codes[i, j] = (codes[i, j] + step).clamp(scheme.low, scheme.high)
            moved = decode(codes.to(scheme.dtype), scheme, fixed.parameters, weight.dtype)
            assert output_error(weight, moved, G) >= best * (1 - 1e-9)
    free = comq(weight, G, scheme, sweeps=60)
    best = output_error(weight, free.w_hat, G)
    assert not torch.equal(free.parameters.scale, scale)
    for factor in (0.999, 1.001):
        for g in range(free.parameters.scale.numel())[:6]:
            moved = free.parameters.scale.clone()
            moved.view(-1)[g] *= factor
            w_hat = decode(free.codes, scheme, Parameters(moved, zero), weight.dtype)
            assert output_error(weight, w_hat, G) >= best * (1 - 1e-9)


def test_the_first_sweep_rounds_one_weight_after_the_other(layer):
    """From the weights themselves: those that come later are still as they were."""
    weight, G = layer
    scheme = Scheme(3)
    quantize = grid(weight, scheme)
    for order in ("cyclic", "greedy"):
        expected = weight.clone()
        for i in range(10):
            steps = range(24)
            if order == "greedy":
                steps = (G.diagonal().sqrt() * weight[i].abs()).argsort(descending=True).tolist()
            for j in steps:
                rest = expected[i] - weight[i]
                rest[j] = 0
                target = expected.clone()
                target[i, j] = weight[i, j] - (G[j] @ rest) / G[j, j]
                expected[i, j] = quantize(target)[i, j]
        found = comq(weight, G, scheme, sweeps=1, order=order, scales=False)
        torch.testing.assert_close(found.w_hat, expected, rtol=1e-6, atol=1e-6)


def test_the_factor_of_the_inverse(layer):
    _, G = layer
    H = G + 0.01 * G.diagonal().mean() * torch.eye(24)
    U = inverse_factor(G)
    assert torch.equal(U, U.triu())
    torch.testing.assert_close(U.T @ U @ H, torch.eye(24, dtype=torch.float64))
    torch.testing.assert_close(U, torch.linalg.cholesky(torch.linalg.inv(H), upper=True))
    small = torch.diag(torch.logspace(0, -9, 24).double())  # inputs of very different sizes are not singular
    torch.testing.assert_close(inverse_factor(small @ G @ small, 0) @ small, inverse_factor(G, 0))


def test_too_few_examples_are_named_and_damping_is_suggested(layer):
    weight, _ = layer
    X = draw(5, 24)
    G = X.T @ X
    for call in (
        lambda: gptq(weight, G, Scheme(3), damp=0),
        lambda: obq(weight, G, torch.round, damp=0),
        lambda: inverse_factor(G, 0),
    ):
        with pytest.raises(
            ValueError, match=r"gram: .*damp=0.*singular.*24.*more examples.*damp such as 0\.01"
        ):
            call()
    nearest = output_error(weight, round_trip(weight, Scheme(3)), G)
    for w_hat in (gptq(weight, G, Scheme(3)).w_hat, comq(weight, G, Scheme(3)).w_hat):
        assert torch.isfinite(w_hat).all()
        assert output_error(weight, w_hat, G) < 0.5 * nearest


def test_an_input_that_others_explain_is_singular_whatever_rounding_says():
    passed = 0
    for seed in range(20):
        X = draw(500, 6, seed=seed) * 1e3
        X = torch.cat([X @ draw(6, 1, seed=seed + 100), X], 1)
        G = X.T @ X
        passed += not torch.linalg.cholesky_ex(G.flip(0, 1)).info  # with a pivot of rounding errors
        with pytest.raises(ValueError, match="singular"):
            inverse_factor(G, 0)
        assert torch.isfinite(inverse_factor(G)).all()
    assert passed


def test_dead_inputs_are_rounded_to_nearest():
    X = correlated(50, 12)
    X[:, [2, 7]] = 0
    weight, G, scheme = draw(5, 12, seed=3), X.T @ X, Scheme(3)
    expected = encode(weight, scheme, fit(weight, scheme))[:, [2, 7]]
    for found in (
        gptq(weight, G, scheme, damp=0),
        gptq(weight, G, scheme, act_order=True),
        comq(weight, G, scheme, scales=False),
    ):
        assert torch.equal(found.codes[:, [2, 7]], expected)
        assert torch.isfinite(found.w_hat).all()
    nothing = torch.zeros(12, 12)
    for found in (gptq(weight, nothing, scheme), comq(weight, nothing, scheme)):
        assert torch.equal(found.codes, encode(weight, scheme, fit(weight, scheme)))
        assert torch.equal(found.parameters.scale, fit(weight, scheme).scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_other_types_and_convolutions_keep_type_and_shape(dtype):
    X = correlated(100, 18)
    weight, G = draw(4, 2, 3, 3).to(dtype), (X.T @ X).float()
    before = weight.clone()
    for scheme in (Scheme(3), Scheme(3, group=9), Scheme(4, group="tensor")):
        for found in (gptq(weight, G, scheme), comq(weight, G, scheme)):
            assert found.w_hat.dtype == dtype
            assert found.w_hat.shape == found.codes.shape == weight.shape
            flat = gptq(weight.flatten(1), G, scheme).codes
        assert torch.equal(gptq(weight, G, scheme).codes.flatten(1), flat)
        assert obq(weight, G, grid(weight.flatten(1), scheme)).dtype == dtype
    assert torch.equal(weight, before)


def test_how_the_grid_is_fitted_is_passed_on(layer):
    weight, G = layer
    scheme, how = Scheme(2), {"by": "mse", "scale_dtype": torch.float16}
    expected = fit(weight, scheme, **how)
    assert torch.equal(gptq(weight, G, scheme, **how).parameters.scale, expected.scale)
    assert torch.equal(comq(weight, G, scheme, scales=False, **how).parameters.scale, expected.scale)
    assert comq(weight, G, scheme, **how).parameters.scale.dtype == torch.float16
    assert gptq(weight, G, Scheme(2, group=8), **how).parameters.scale.dtype == torch.float16


def test_the_error_is_that_of_the_outputs():
    model, X = seeded(lambda: ConvNet(1, 3, (4, 6)), 0), draw(20, 1, 8, 8).float()
    G = grams_of(model, X)
    key = next(iter(G))
    weight = model.state_dict()[key]
    w_hat = round_trip(weight, Scheme(3))
    module = model.get_submodule(key.removesuffix(".weight"))
    inputs = []
    handle = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        model.eval()(X)
    handle.remove()
    change = torch.nn.functional.conv2d(
        inputs[0], weight - w_hat, None, module.stride, module.padding, module.dilation
    )
    assert output_error(weight, w_hat, G[key]) == pytest.approx(change.square().sum().item(), rel=1e-4)
    assert output_error(weight, gptq(weight, G[key], Scheme(3)).w_hat, G[key]) < change.square().sum()


def bad(value):
    out = draw(10, 24)
    out[0, 0] = value
    return out


W, G, S = draw(10, 24), torch.eye(24), Scheme(3)
BAD = {
    "gram shape": ((W, torch.eye(10), S), {}, r"gram.*\(24, 24\).*\(10, 10\)"),
    "gram nan": ((W, G * float("nan"), S), {}, "gram.*NaN"),
    "gram not symmetric": ((W, G + torch.ones(24, 24).triu(1), S), {}, "gram.*symmetric"),
    "gram negative": ((W, -G, S), {}, "gram.*negative"),
    "weight nan": ((bad(float("nan")), G, S), {}, "weight.*NaN"),
    "weight vector": ((W[0], G, S), {}, r"weight.*\(24,\)"),
    "group": ((W, G, Scheme(3, group=5)), {}, "group.*24.*5"),
    "by": ((W, G, S), {"by": "guess"}, "by: .*guess"),
}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: gptq(W, G, 4), "scheme: .*Scheme.*4"),
        (lambda: comq(W, G, None), "scheme: .*Scheme.*None"),
        (lambda: exhaustive(W[:, :3], G[:3, :3], 4, fit(W[:, :3], S)), "scheme: .*Scheme.*4"),
        (lambda: exhaustive(W[:, :3], G[:3, :3], S, None), "parameters: .*None"),
        (lambda: gptq(W.int(), G, S), "weight: .*int32"),
        (lambda: comq(W, G.int(), S), "gram: .*int32"),
        (lambda: gptq(W, W.tolist(), S), "gram: .*list"),
        (lambda: output_error(W, None, G), "w_hat: .*NoneType"),
        (lambda: obq(W, None, torch.round), "gram: .*NoneType"),
    ],
)
def test_other_types_are_named(call, match):
    with pytest.raises(TypeError, match=match):
        call()


@pytest.mark.parametrize(("arguments", "options", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_named_and_left_alone(arguments, options, match):
    before = [a.clone() for a in arguments[:2]]
    for method in (gptq, comq):
        with pytest.raises(ValueError, match=match):
            method(*arguments, **options)
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(arguments, before, strict=False))
    if "group" not in match and not options:
        with pytest.raises(ValueError, match=match):
            obq(*arguments[:2], torch.round)
        with pytest.raises(ValueError, match=match):
            output_error(arguments[0], torch.zeros_like(arguments[0]), arguments[1])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: gptq(W, G, S, damp=-0.1), r"damp.*-0\.1"),
        (lambda: gptq(W, G, S, damp=float("nan")), "damp.*nan"),
        (lambda: gptq(W, G, S, block=0), "block.*0"),
        (lambda: gptq(W, G, S, block=2.5), r"block.*2\.5"),
        (lambda: gptq(W, G, S, damp=float("inf")), "damp.*finite.*inf"),
        (lambda: inverse_factor(G, "0.01"), r"damp.*'0\.01'"),
        (lambda: inverse_factor(G * float("nan")), "gram.*NaN"),
        (lambda: inverse_factor(W), r"gram.*square.*\(10, 24\)"),
        (lambda: comq(W, G, S, sweeps=0), "sweeps.*0"),
        (lambda: comq(W, G, S, order="random"), "order.*random"),
        (lambda: comq(W, G, S, start="zero"), "start.*zero"),
        (lambda: output_error(W, W[:, :3], G), r"w_hat.*\(10, 24\).*\(10, 3\)"),
        (lambda: output_error(W, bad(float("inf")), G), "w_hat.*infinity"),
        (lambda: exhaustive(W, G, S, fit(W, S)), "7 to the 24"),
        (lambda: exhaustive(W[:, :3], G[:3, :3], S, fit(W[:2, :3], S)), r"scale.*\(10,\).*\(2,\)"),
    ],
)
def test_bad_options_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
