"""Uniform quantization: torch's codes, scales by hand, what each calibration promises, and bad input."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerlab.quantization import affine as A
from layerlab.quantization.affine import Parameters, Scheme

BITS = [2, 3, 4, 5, 8]


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def torch_dtype(scheme):
    return torch.qint8 if scheme.symmetric else torch.quint8


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("by", ["range", "percentile", "mse"])
def test_values_are_those_of_torch_per_tensor(bits, symmetric, by):
    scheme, x = Scheme(bits, symmetric, "tensor"), randn(37, 53) + 0.3
    p = A.fit(x, scheme, by=by, percentile=97)
    assert p.scale.shape == p.zero.shape == ()
    found = A.decode(A.encode(x, scheme, p), scheme, p)
    expected = torch.fake_quantize_per_tensor_affine(x, float(p.scale), int(p.zero), scheme.low, scheme.high)
    assert torch.equal(found, expected)
    assert torch.equal(A.round_trip(x, scheme, by=by, percentile=97), expected)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(20, 36), (20, 4, 3, 3)])
def test_values_are_those_of_torch_per_channel(bits, symmetric, shape):
    scheme, x = (
        Scheme(bits, symmetric),
        randn(*shape) * torch.logspace(-3, 2, 20).view(-1, *[1] * (len(shape) - 1)),
    )
    p = A.fit(x, scheme, by="percentile", percentile=95)
    found = A.decode(A.encode(x, scheme, p), scheme, p)
    expected = torch.fake_quantize_per_channel_affine(x, p.scale, p.zero, 0, scheme.low, scheme.high)
    assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_those_of_torch(symmetric):
    scheme, x = Scheme(8, symmetric), randn(30, 70)
    p = A.fit(x, scheme)
    expected = torch.quantize_per_channel(x, p.scale, p.zero, 0, torch_dtype(scheme)).int_repr()
    assert torch.equal(A.encode(x, scheme, p), expected)
    one = Scheme(8, symmetric, "tensor")
    p = A.fit(x, one)
    expected = torch.quantize_per_tensor(x, float(p.scale), int(p.zero), torch_dtype(one)).int_repr()
    assert torch.equal(A.encode(x, one, p), expected)


@pytest.mark.parametrize("group", [1, 3, 12, 36])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_group_is_a_channel_of_its_own(group, symmetric):
    x = randn(6, 4, 3, 3)
    p = A.fit(x, Scheme(4, symmetric, group), by="mse")
    q = A.fit(x.reshape(-1, group), Scheme(4, symmetric), by="mse")
    assert p.scale.shape == (6, 36 // group)
    assert torch.equal(p.scale.flatten(), q.scale)
    assert torch.equal(p.zero.flatten(), q.zero)
    expected = A.encode(x.reshape(-1, group), Scheme(4, symmetric), q).view(x.shape)
    assert torch.equal(A.encode(x, Scheme(4, symmetric, group), p), expected)


@pytest.mark.parametrize("bits", range(2, 9))
def test_scales_of_a_range_by_hand(bits):
    x = torch.tensor([[-1.0, 0.5, 3.0], [1.0, 2.0, 4.0], [-2.0, -8.0, -4.0]])
    p = A.fit(x, Scheme(bits))
    torch.testing.assert_close(p.scale, torch.tensor([3.0, 4.0, 8.0]) / (2 ** (bits - 1) - 1))
    assert not p.zero.any()
    p = A.fit(x, Scheme(bits, symmetric=False))
    most = 2**bits - 1  # the range of the second and third row is widened to zero
    torch.testing.assert_close(p.scale, torch.tensor([4.0, 4.0, 8.0]) / most)
    assert p.zero.tolist() == [round(most / 4), 0, most]
    assert p.zero.dtype == torch.int32


@given(
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    group=st.sampled_from(["tensor", "channel", 2, 4]),
    size=st.floats(-30, 30),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_the_error_is_half_a_step_and_zero_is_exact(bits, symmetric, group, size, seed):
    scheme, x = Scheme(bits, symmetric, group), randn(3, 8, seed=seed) * 10.0**size
    x[0, 0] = 0
    p = A.fit(x, scheme)
    codes = A.encode(x, scheme, p)
    assert codes.dtype == scheme.dtype
    assert scheme.low <= codes.min()
    assert codes.max() <= scheme.high
    x_hat = A.decode(codes, scheme, p)
    assert x_hat[0, 0] == 0
    step = p.scale.reshape(-1, 1).expand(-1, x.numel() // p.scale.numel()).reshape(x.shape)
    # Where the zero point is rounded, an end of the range may lie half a step outside.
    assert ((x_hat - x).abs() <= step * (0.5 if symmetric else 1.0) * (1 + 1e-4)).all()
    assert torch.equal(A.encode(x_hat, scheme, p), codes)


def test_ties_go_to_the_even_code():
    s = Scheme(4)
    p = Parameters(torch.tensor([1.0]), torch.tensor([0]))
    assert A.encode(torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5]]), s, p).tolist() == [[0, 2, 2, 0, -2]]


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_group_of_zeros_has_scale_one(symmetric):
    x = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    for by in ("range", "percentile", "mse"):
        p = A.fit(x, Scheme(4, symmetric), by=by)
        assert p.scale[0] == 1
        assert p.zero[0] == 0
        assert p.scale[1] != 1
        assert not A.round_trip(x, Scheme(4, symmetric), by=by)[0].any()


def test_a_percentile_leaves_out_so_many():
    x = torch.arange(-100.0, 101).view(1, -1) * torch.tensor([[1.0], [0.5]])
    p = A.fit(x, Scheme(8), by="percentile", percentile=90)
    expected = [float(r.abs().quantile(0.9)) / 127 for r in x]
    assert p.scale.tolist() == pytest.approx(expected)
    y = x.clamp(min=-20)  # most of a tail is at one end
    p = A.fit(y, Scheme(8, symmetric=False), by="percentile", percentile=90)
    ends = [(float(r.quantile(0.05)), float(r.quantile(0.95))) for r in y]
    assert p.scale.tolist() == pytest.approx([(b - a) / 255 for a, b in ends])
    whole = A.fit(x, Scheme(8), by="percentile", percentile=100)
    assert torch.equal(whole.scale, A.fit(x, Scheme(8)).scale)
    sparse = torch.zeros(1, 1000)
    sparse[0, 7] = 2.0  # the percentile is zero, so the range counts
    assert A.fit(sparse, Scheme(4), by="percentile", percentile=90).scale == pytest.approx(2 / 7)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_is_near_the_best_scale_and_never_worse_than_the_range(bits, symmetric):
    scheme, x = Scheme(bits, symmetric), randn(4, 2000) ** 3

    def error(p):
        return (A.decode(A.encode(x, scheme, p), scheme, p) - x).square().sum(1)

    p, r = A.fit(x, scheme, by="mse"), A.fit(x, scheme)
    assert (error(p) <= error(r)).all()
    if symmetric:
        tried = torch.stack([error(Parameters(r.scale * f, r.zero)) for f in torch.linspace(0.02, 1, 500)])
        assert (error(p) <= tried.amin(0) * 1.008).all()


def test_more_bits_are_six_decibels_each():
    x = torch.rand(1, 200_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = [A.snr_db(x, A.round_trip(x, Scheme(bits, symmetric=False))) for bits in range(5, 9)]
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert steps == pytest.approx([20 * math.log10(2)] * 3, abs=0.3)
    # A step Δ over a uniform density has error Δ²/12 against a signal of 1/3.
    assert found[-1] == pytest.approx(10 * math.log10((1 / 3) / ((2 / 255) ** 2 / 12)), abs=0.1)


def test_smaller_groups_do_not_lose():
    x = randn(32, 64) * torch.logspace(-2, 1, 32)[:, None]
    found = [A.snr_db(x, A.round_trip(x, Scheme(4, group=g))) for g in ("tensor", "channel", 16, 4)]
    assert found == sorted(found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_types_are_kept_and_computed_in_float32_or_more(dtype):
    x = randn(5, 16).to(dtype)
    p = A.fit(x, Scheme(8))
    assert p.scale.dtype == torch.float32
    codes = A.encode(x, Scheme(8), p)
    assert torch.equal(codes, A.encode(x.float(), Scheme(8), p))
    assert A.round_trip(x, Scheme(8)).dtype == dtype
    assert A.decode(codes, Scheme(8), p, dtype).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_scales_are_rounded_before_the_codes(dtype):
    x = randn(50, 64)
    p = A.fit(x, Scheme(4, False), scale_dtype=dtype)
    assert p.scale.dtype == dtype
    assert torch.equal(p.scale, A.fit(x, Scheme(4, False)).scale.to(dtype))
    small = A.fit(x * 1e-4, Scheme(8), scale_dtype=dtype)  # in float16, below the normal numbers
    torch.testing.assert_close(small.scale.float(), A.fit(x * 1e-4, Scheme(8)).scale, atol=3e-8, rtol=4e-3)
    assert (A.fit(x * 1e-30, Scheme(8), scale_dtype=dtype).scale > 0).all()
    widened = Parameters(p.scale.float(), p.zero)
    assert torch.equal(A.encode(x, Scheme(4, False), p), A.encode(x, Scheme(4, False), widened))
    with pytest.raises(ValueError, match=r"x: .*float16 can hold"):
        A.fit(x * 1e8, Scheme(2), scale_dtype=torch.float16)


def test_the_order_in_memory_does_not_matter():
    x = randn(6, 5, 3, 3)
    last = x.to(memory_format=torch.channels_last)
    for group in ("tensor", "channel", 15):
        p, q = A.fit(x, Scheme(4, group=group)), A.fit(last, Scheme(4, group=group))
        assert torch.equal(p.scale, q.scale)
        codes = A.encode(x, Scheme(4, group=group), p)
        assert torch.equal(codes, A.encode(last, Scheme(4, group=group), q))
        there = codes.to(memory_format=torch.channels_last)
        assert torch.equal(
            A.decode(codes, Scheme(4, group=group), p), A.decode(there, Scheme(4, group=group), p)
        )


def test_inputs_are_not_changed():
    x = randn(4, 8)
    before = x.clone()
    for by in ("range", "percentile", "mse"):
        A.round_trip(x, Scheme(3, False, 4), by=by)
    assert torch.equal(x, before)
    x.requires_grad_()
    assert not A.round_trip(x, Scheme(3)).requires_grad


def test_bits_count_scales_and_zero_points():
    assert A.bits_per_weight((16, 128), Scheme(4, group="tensor")) == 4 + 16 / 2048
    assert A.bits_per_weight((16, 8, 4, 4), Scheme(3)) == 3 + 16 / 128
    assert A.bits_per_weight((16, 128), Scheme(3, False, 32), scale_bits=32) == 3 + (32 + 3) / 32


def test_several_weights_each_with_its_scheme():
    weights = {"a": randn(4, 8), "b": randn(3, 6)}
    found = A.quantize(weights, {"a": Scheme(2), "b": Scheme(4, False, 3)}, by="mse")
    assert list(found) == ["a", "b"]
    assert found["b"].scheme == Scheme(4, False, 3)
    for key, each in found.items():
        expected = A.round_trip(weights[key], each.scheme, by="mse")
        assert torch.equal(A.decode(*each), expected)
    with pytest.raises(ValueError, match=r"weights\['b'\].*group.*6 inputs.*got 4"):
        A.quantize(weights, Scheme(4, group=4))
    with pytest.raises(ValueError, match="expected the keys"):
        A.quantize(weights, {"a": Scheme(4)})
    with pytest.raises(ValueError, match="'c'"):
        A.quantize(weights, {"c": Scheme(4)})
    with pytest.raises(ValueError, match="at least one"):
        A.quantize({}, Scheme(4))
    with pytest.raises(TypeError, match=r"schemes\['a'\].*4"):
        A.quantize(weights, {"a": 4, "b": 4})


BAD_SCHEMES = {
    "one bit": ({"bits": 1}, ValueError, r"bits: .*2\.\.8.*1"),
    "nine bits": ({"bits": 9}, ValueError, "got 9"),
    "half a bit": ({"bits": 2.5}, TypeError, r"2\.5"),
    "bool": ({"bits": True}, TypeError, "True"),
    "symmetric": ({"bits": 4, "symmetric": 1}, TypeError, "symmetric.*1"),
    "group": ({"bits": 4, "group": "row"}, ValueError, "group.*'row'"),
    "no group": ({"bits": 4, "group": 0}, ValueError, "group.*0"),
    "group type": ({"bits": 4, "group": 2.0}, TypeError, r"group.*2\.0"),
    "group bool": ({"bits": 4, "group": True}, TypeError, "group.*True"),
}


@pytest.mark.parametrize(("options", "error", "match"), BAD_SCHEMES.values(), ids=BAD_SCHEMES)
def test_bad_schemes_name_what_was_wrong(options, error, match):
    with pytest.raises(error, match=match):
        Scheme(**options)


X = randn(4, 6)
NAN, INF = X.clone(), X.clone()
NAN[1, 2], INF[1, 2] = float("nan"), -torch.inf
BAD_FITS = {
    "nan": (NAN, {}, {}, ValueError, "x: .*NaN"),
    "infinity": (INF, {}, {}, ValueError, "x: .*infinity"),
    "integers": (X.int(), {}, {}, TypeError, "x: .*int32"),
    "empty": (torch.zeros(0, 3), {}, {}, ValueError, r"\(0, 3\)"),
    "a list": ([1.0], {}, {}, TypeError, "list"),
    "one axis": (X[0], {}, {}, ValueError, r"shape: .*\(6,\)"),
    "group": (X, {"group": 4}, {}, ValueError, "group: .*divisor of the 6.*4"),
    "by": (X, {}, {"by": "best"}, ValueError, "by: .*'best'"),
    "percentile": (X, {}, {"by": "percentile", "percentile": 101}, ValueError, "percentile: .*101"),
    "no percentile": (X, {}, {"by": "percentile", "percentile": 0}, ValueError, "percentile: .*0"),
    "percentile bool": (X, {}, {"by": "percentile", "percentile": True}, ValueError, "percentile: .*True"),
    "percentile nan": (X, {}, {"by": "percentile", "percentile": math.nan}, ValueError, "percentile: .*nan"),
    "scale type": (X, {}, {"scale_dtype": torch.int8}, TypeError, "scale_dtype: .*int8"),
    "scale of 8 bits": (X, {}, {"scale_dtype": torch.float8_e4m3fn}, TypeError, "float8"),
    "range": (torch.tensor([[3e38, -3e38]]), {"symmetric": False}, {}, ValueError, "x: .*range"),
}


@pytest.mark.parametrize(("x", "scheme", "how", "error", "match"), BAD_FITS.values(), ids=BAD_FITS)
def test_bad_fits_name_what_was_wrong(x, scheme, how, error, match):
    with pytest.raises(error, match=match):
        A.fit(x, Scheme(4, **scheme), **how)


GOOD = A.fit(X, Scheme(4, False))
BAD_PARAMETERS = {
    "scale shape": (GOOD._replace(scale=GOOD.scale[:3]), r"scale: .*\(4,\).*\(3,\)"),
    "zero shape": (GOOD._replace(zero=GOOD.zero[0]), r"zero: .*\(4,\).*\(\)"),
    "scale zero": (GOOD._replace(scale=GOOD.scale * 0), "scale: .*positive"),
    "scale nan": (GOOD._replace(scale=GOOD.scale * torch.nan), "scale: .*finite"),
    "zero out of range": (GOOD._replace(zero=GOOD.zero + 16), r"zero: .*0\.\.15"),
    "zero negative": (GOOD._replace(zero=GOOD.zero - 16), r"zero: .*0\.\.15"),
    "zero float": (GOOD._replace(zero=GOOD.zero.float()), "zero: .*integers"),
}


@pytest.mark.parametrize(("parameters", "match"), BAD_PARAMETERS.values(), ids=BAD_PARAMETERS)
def test_bad_parameters_name_what_was_wrong(parameters, match):
    with pytest.raises(ValueError, match=match):
        A.encode(X, Scheme(4, False), parameters)
    with pytest.raises(ValueError, match=match):
        A.decode(A.encode(X, Scheme(4, False), GOOD), Scheme(4, False), parameters)


@pytest.mark.parametrize("scheme", [4, None, "int4"])
def test_what_is_no_scheme_is_named(scheme):
    codes = A.encode(X, Scheme(4, False), GOOD)
    for call in (
        lambda: A.fit(X, scheme),
        lambda: A.encode(X, scheme, GOOD),
        lambda: A.decode(codes, scheme, GOOD),
        lambda: A.round_trip(X, scheme),
        lambda: A.bits_per_weight((4, 6), scheme),
    ):
        with pytest.raises(TypeError, match=f"scheme: expected a Scheme, got {scheme!r}"):
            call()


@pytest.mark.parametrize("parameters", [None, 0.5, (GOOD.scale, 0)], ids=str)
def test_what_are_no_parameters_is_named(parameters):
    with pytest.raises(TypeError, match=r"parameters: expected two tensors, .*got "):
        A.encode(X, Scheme(4, False), parameters)
    with pytest.raises(TypeError, match=r"parameters: expected two tensors, .*got "):
        A.decode(A.encode(X, Scheme(4, False), GOOD), Scheme(4, False), parameters)


def test_bad_codes_name_what_was_wrong():
    p = A.fit(X, Scheme(4))
    with pytest.raises(ValueError, match="zero"):
        A.encode(X, Scheme(4), p._replace(zero=p.zero + 1))  # symmetric
    codes = A.encode(X, Scheme(4), p)
    for bad in (-8, 8):
        with pytest.raises(ValueError, match=rf"codes: .*-7\.\.7.*{bad}"):
            A.decode(codes.masked_fill(codes == codes[0, 0], bad), Scheme(4), p)
    with pytest.raises(TypeError, match=r"int8.*uint8"):
        A.decode(codes.view(torch.uint8), Scheme(4), p)
    with pytest.raises(ValueError, match="NaN"):
        A.encode(NAN, Scheme(4), p)
    with pytest.raises(ValueError, match=r"x_hat: .*shape"):
        A.snr_db(X, X[:2])
    with pytest.raises(TypeError, match=r"x: .*list"):
        A.snr_db([1.0], X)
    with pytest.raises(TypeError, match=r"x_hat: .*NoneType"):
        A.snr_db(X, None)
    with pytest.raises(ValueError, match="only zeros"):
        A.snr_db(X * 0, X)
    with pytest.raises(ValueError, match=r"scale_bits.*-1"):
        A.bits_per_weight((4, 4), Scheme(4), scale_bits=-1)
    assert A.snr_db(X, X) == math.inf
