"""One bit: gradients against their surrogates, scales against brute force, packed products against float."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layerlab.models import MLP, seeded
from layerlab.quantization import binary as B


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def signs(*shape, seed=0):
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


def gradient(estimator, x):
    x = x.clone().requires_grad_()
    y = estimator(x)
    weights = torch.arange(1, x.numel() + 1, dtype=x.dtype).view(x.shape)
    (y * weights).sum().backward()
    return y.detach(), x.grad / weights


def slope_by_difference(surrogate, x, step=1e-6):
    return (surrogate(x + step) - surrogate(x - step)) / (2 * step)


EVERY = {
    "ste": B.sign_ste,
    "reste": B.reste,
    "reste 1": lambda x: B.reste(x, 1.0),
    "identity": lambda x: B.sign_ste(x, clip=None),
}


@pytest.mark.parametrize("estimator", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_forward_is_the_sign_exactly(estimator, dtype):
    x = torch.tensor([-3.0, -0.01, -0.0, 0.0, 1e-6, 0.7, 9.0, float("nan")], dtype=dtype)
    y = estimator(x)
    assert y.dtype == dtype
    assert y[:-1].tolist() == [-1, -1, 1, 1, 1, 1, 1]
    assert y[-1].isnan()


def test_straight_through_is_the_clipped_identity():
    x = torch.tensor([-1.5, -1.0, 0.0, 0.3, 1.0, 1.01])
    assert gradient(B.sign_ste, x)[1].tolist() == [0, 1, 1, 1, 1, 0]
    assert gradient(lambda x: B.sign_ste(x, clip=0.5), x)[1].tolist() == [0, 0, 1, 1, 0, 0]
    assert gradient(lambda x: B.sign_ste(x, clip=None), x)[1].tolist() == [1] * 6


@pytest.mark.parametrize("o", [1.0, 1.5, 3.0, 10.0])
def test_reste_has_the_slope_of_the_power(o):
    x = torch.tensor([-1.4, -0.9, -0.11, 0.101, 0.3, 1.0, 1.49], dtype=torch.float64)
    found = gradient(lambda x: B.reste(x, o), x)[1]
    power = slope_by_difference(lambda x: x.sign() * x.abs() ** (1 / o), x)
    torch.testing.assert_close(found, power, atol=1e-7, rtol=1e-6)
    near = gradient(lambda x: B.reste(x, o), torch.tensor([-0.1, -0.05, 0.0, 0.02], dtype=torch.float64))[1]
    torch.testing.assert_close(near, torch.full_like(near, 0.1 ** (1 / o) / 0.1))
    far = gradient(lambda x: B.reste(x, o), torch.tensor([-1.51, 1.6, 40.0]))[1]
    assert not far.any()


def test_reste_at_one_is_straight_through():
    x = randn(200) * 2
    expected = gradient(lambda x: B.sign_ste(x, clip=1.5), x)[1]
    assert torch.equal(gradient(lambda x: B.reste(x, 1.0), x)[1], expected)


def test_a_larger_o_is_closer_to_the_sign_and_less_even():
    x = randn(5000)
    errors, spreads = [], []
    for o in (1.0, 2.0, 4.0):
        errors.append((B.bipolar(x) - x.sign() * x.abs() ** (1 / o)).norm().item())
        slope = gradient(lambda x, o=o: B.reste(x, o, clip=9.0), x)[1]
        spreads.append((slope.std() / slope.mean()).item())
    assert errors == sorted(errors, reverse=True)
    assert spreads == sorted(spreads)


@pytest.mark.parametrize("frequency", [1.0, 20.0])
def test_biper_is_a_square_wave_with_the_sines_slope(frequency):
    x = randn(300)
    y, found = gradient(lambda x: B.biper(x, frequency), x)
    period = x.remainder(2 * math.pi / frequency) * frequency / math.pi
    assert torch.equal(y, torch.where(period < 1, 1.0, -1.0).double())
    torch.testing.assert_close(
        found, slope_by_difference(lambda x: torch.sin(frequency * x), x, 1e-7), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("estimator", EVERY.values(), ids=EVERY)
def test_estimators_work_under_vmap_and_grad(estimator):
    x = randn(4, 6)
    each = torch.func.vmap(torch.func.grad(lambda row: (estimator(row) * row.detach()).sum()))(x)
    for row, found in zip(x, each, strict=True):
        mine = row.clone().requires_grad_()
        (estimator(mine) * row).sum().backward()
        assert torch.equal(found, mine.grad)


def test_a_model_of_signs_learns():
    class Binary(nn.Module):
        def forward(self, weight):
            return B.reste(weight, 2.0) * B.binarize(weight)[1]

    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    y = (x[:, :4].sum(1) > 0).long()
    model = seeded(lambda: MLP(8, [32], 2), 0)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.utils.parametrize.register_parametrization(module, "weight", Binary())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert (model(x).argmax(1) == y).float().mean() > 0.9
    weight = model.head.weight
    assert all(len(row.abs().unique()) == 1 for row in weight.detach())


def rows_by_brute_force(row, codes):
    """The least squared error of a row over all codes, each with its best scale."""
    best = math.inf
    for code in itertools.product(codes, repeat=len(row)):
        code = torch.tensor(code, dtype=row.dtype)
        if code.any():
            scale = (row @ code) / (code @ code)
            best = min(best, (row - scale * code).square().sum().item())
    return best


@pytest.mark.parametrize(
    ("quantize", "codes"), [(B.binarize, (-1, 1)), (B.ternary, (-1, 0, 1))], ids=["binary", "ternary"]
)
def test_no_codes_and_scale_are_closer(quantize, codes):
    for seed in range(4):
        weight = randn(3, 7, seed=seed) ** (1 if seed % 2 else 3)
        found, scale = quantize(weight)
        assert set(found.unique().tolist()) <= set(codes)
        assert scale.shape == (3, 1)
        for i, row in enumerate(weight):
            error = (row - found[i] * scale[i]).square().sum().item()
            assert error == pytest.approx(rows_by_brute_force(row, codes), rel=1e-9)


def test_the_errors_of_a_gaussian_weight():
    weight = randn(4, 200_000)
    for quantize, expected in ((B.binarize, math.sqrt(1 - 2 / math.pi)), (B.ternary, math.sqrt(0.1902))):
        codes, scale = quantize(weight)
        assert ((weight - codes * scale).norm() / weight.norm()).item() == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_shapes_and_types_of_convolutions(shape, dtype):
    weight = randn(*shape).to(dtype)
    ones = (1,) * (len(shape) - 1)
    for quantize in (B.binarize, B.ternary):
        codes, scale = quantize(weight)
        assert codes.shape == shape
        assert scale.shape == (shape[0], *ones)
        assert codes.dtype == scale.dtype == dtype
    found, a, b = B.onebit(weight)
    assert torch.equal(found, B.bipolar(weight))
    assert a.shape == (shape[0], *ones)
    assert b.shape == (1, *shape[1:])
    assert (found * a * b).shape == shape
    assert a.dtype == b.dtype == dtype


def test_zeros_have_no_scale():
    codes, scale = B.ternary(torch.zeros(2, 3))
    assert not codes.any()
    assert not scale.any()
    assert not B.binarize(torch.zeros(2, 3))[1].any()


def test_onebit_is_exact_where_magnitudes_have_rank_one():
    a, b = randn(6, 1).abs(), randn(1, 9, seed=1).abs()
    weight = signs(6, 9).double() * a * b
    found, left, right = B.onebit(weight)
    torch.testing.assert_close(found * left * right, weight)
    assert left.norm().item() == pytest.approx(right.norm().item())


def test_onebit_is_between_the_optimum_and_row_scales():
    weight = randn(12, 20) * randn(1, 20, seed=1).exp()
    found, a, b = B.onebit(weight)
    assert (a >= 0).all()
    assert (b >= 0).all()
    error = (weight - found * a * b).norm().item()
    sizes = torch.linalg.svdvals(weight.abs())
    assert error == pytest.approx(sizes[1:].norm().item())
    codes, scale = B.binarize(weight)
    assert error < (weight - codes * scale).norm().item()
    assert error < torch.linalg.svdvals(weight)[1:].norm().item()  # than rank one of the weight itself


def test_onebit_of_blocks_is_not_negative():
    """Two equal singular values, so the first pair is not unique and may come mixed."""
    weight = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)) - 0.0
    found, a, b = B.onebit(weight)
    assert (a >= 0).all()
    assert (b >= 0).all()
    assert (weight - found * a * b).norm().item() == pytest.approx(2.0, rel=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.integers(0, 10_000))
def test_packing_goes_back(n, seed):
    x = signs(2, 3, n, seed=seed)
    packed = B.pack_signs(x)
    assert packed.shape == (2, 3, math.ceil(n / 64))
    assert torch.equal(B.unpack_signs(packed, n), x)
    by_hand = sum(1 << i for i, v in enumerate(x[0, 0, :63].tolist()) if v == 1)
    assert packed[0, 0, 0].item() & (1 << 63) - 1 == by_hand


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 9), st.integers(0, 10_000))
def test_counting_bits_is_the_float_product(n, batch, out, seed):
    x, w = signs(batch, n, seed=seed), signs(out, n, seed=seed + 1)
    found = B.xnor_matmul(B.pack_signs(x), B.pack_signs(w), n)
    assert found.dtype == torch.int32
    assert torch.equal(found.float(), x @ w.T)


def test_large_products_in_parts(monkeypatch):
    x, w = signs(37, 1000), signs(11, 1000, seed=1)
    packed = B.pack_signs(x), B.pack_signs(w)
    expected = (x @ w.T).int()
    assert torch.equal(B.xnor_matmul(*packed, 1000), expected)
    monkeypatch.setattr(B, "CHUNK", 11 * 16 * 5)
    assert torch.equal(B.xnor_matmul(*packed, 1000), expected)
    monkeypatch.setattr(B, "CHUNK", 1)
    assert torch.equal(B.xnor_matmul(*packed, 1000), expected)


def test_all_equal_and_all_different():
    ones = torch.ones(1, 130)
    packed = B.pack_signs(torch.cat([ones, -ones]))
    assert B.xnor_matmul(packed, packed, 130).tolist() == [[130, -130], [-130, 130]]


nan = torch.tensor([[1.0, float("nan")]])
packed = B.pack_signs(torch.ones(2, 70))
BAD = {
    "integers": (lambda: B.sign_ste(torch.arange(3)), TypeError, "x: .*int64"),
    "clip": (lambda: B.sign_ste(nan, clip=0.0), ValueError, r"clip: .*0\.0"),
    "o": (lambda: B.reste(nan, 0.5), ValueError, r"o: .*1 or more.*0\.5"),
    "o text": (lambda: B.reste(nan, "3"), TypeError, "o: .*'3'"),
    "near": (lambda: B.reste(nan, near=2.0), ValueError, r"near: .*clip=1\.5.*2\.0"),
    "reste integers": (lambda: B.reste(torch.arange(3)), TypeError, "x: .*int64"),
    "frequency": (lambda: B.biper(nan, -1.0), ValueError, r"frequency: .*-1\.0"),
    "biper integers": (lambda: B.biper(torch.arange(3), 1.0), TypeError, "x: .*int64"),
    "nan": (lambda: B.binarize(nan), ValueError, "weight: .*NaN"),
    "vector": (lambda: B.onebit(torch.ones(3)), ValueError, r"weight: .*\(out, in, .*\(3,\)"),
    "empty": (lambda: B.ternary(torch.ones(0, 3)), ValueError, r"weight: .*\(0, 3\)"),
    "weight integers": (lambda: B.ternary(torch.ones(2, 3).int()), TypeError, "weight: .*int32"),
    "zero": (lambda: B.pack_signs(torch.tensor([1.0, 0.0])), ValueError, r"signs: .*0\.0"),
    "sign nan": (lambda: B.pack_signs(nan), ValueError, "signs: .*nan"),
    "no signs": (lambda: B.pack_signs(torch.ones(2, 0)), ValueError, r"signs: .*\(2, 0\)"),
    "words": (lambda: B.unpack_signs(packed, 64), ValueError, r"packed: .*1 words.*n=64.*\(2, 2\)"),
    "bits beyond": (lambda: B.unpack_signs(packed, 69), ValueError, "packed: .*n=69"),
    "dtype": (lambda: B.xnor_matmul(packed.int(), packed, 70), TypeError, "packed_x: .*int32"),
    "axes": (lambda: B.xnor_matmul(packed, packed[0], 70), ValueError, r"packed_w: .*\(2,\)"),
    "n": (lambda: B.xnor_matmul(packed, packed, 0), ValueError, "n: .*0"),
    "other n": (lambda: B.xnor_matmul(packed, packed[:, :1], 70), ValueError, r"packed_w: .*\(2, 1\)"),
}


@pytest.mark.parametrize(("call", "error", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
