"""Quantization held against torchao and torch's observers: equal scales, zero points, codes and values.

torchao is in the extra `test`. Where the two differ a test says how: torchao's own symmetric range has one
more negative code, half precision is computed as it comes, and a group of zeros has another scale; torch's
observers let no scale fall below 2⁻²³.
"""

import logging
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from layerlab.quantization.affine import Scheme, decode, encode, fit, round_trip, snr_db
from layerlab.quantization.fake import FakeQuant
from layerlab.quantization.grids import nearest, nf4, round_groups
from layerlab.quantization.observers import Observer

BITS = range(2, 9)
symmetries = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])


@pytest.fixture(scope="module")
def ao():
    """What is compared of torchao, imported without what it says about kernels for GPUs."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip("torchao", reason="torchao is in the extra `test`")
            from torchao import quantization
            from torchao.quantization import quant_primitives
    finally:
        logging.disable(logging.NOTSET)
    kinds = quant_primitives.MappingType
    return SimpleNamespace(
        kind=lambda symmetric: kinds.SYMMETRIC if symmetric else kinds.ASYMMETRIC,
        choose=quant_primitives.choose_qparams_affine,
        quantize=quant_primitives.quantize_affine,
        dequantize=quant_primitives.dequantize_affine,
        api=quantization,
    )


def draw(*shape, seed=0):
    """Rows of very different sizes; some lie on one side of zero, and one on the middles between codes."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x *= torch.logspace(-6, 3, shape[0]).view(-1, *[1] * (x.ndim - 1))
    x[1], x[2] = x[1].abs() + 1, -x[2].abs() - 1
    x[3] = (torch.arange(x[3].numel()) / 2 - 3).view(x[3].shape)
    return x


def block(shape, scheme):
    """The entries that share a scale, as torchao says it."""
    if scheme.group == "tensor":
        return tuple(shape)
    return (1, *shape[1:]) if scheme.group == "channel" else (1, scheme.group)


def assert_equal(ao, x, scheme, size):
    bounds = scheme.low, scheme.high
    scale, zero = ao.choose(x, ao.kind(scheme.symmetric), size, scheme.dtype, *bounds)
    p = fit(x, scheme)
    assert torch.equal(p.scale.flatten(), scale.flatten())
    assert torch.equal(p.zero.flatten(), zero.flatten())
    expected = ao.quantize(x, size, scale, zero, scheme.dtype, *bounds)
    codes = encode(x, scheme, p)
    assert codes.dtype == expected.dtype
    assert torch.equal(codes, expected)
    found = decode(codes, scheme, p)
    assert torch.equal(found, ao.dequantize(expected, size, scale, zero, scheme.dtype, *bounds))
    assert torch.equal(found, FakeQuant(scheme)(x))
    return codes


@symmetries
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", ["tensor", "channel", 4, 16, 64])
def test_torchao_gives_the_same_scales_codes_and_values(ao, bits, symmetric, group):
    scheme, x = Scheme(bits, symmetric, group), draw(24, 64)
    codes = assert_equal(ao, x, scheme, block(x.shape, scheme))
    assert scheme.low in codes or scheme.high in codes


@symmetries
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_torchao_gives_the_same_for_convolutions(ao, bits, symmetric):
    x = draw(8, 6, 3, 3)
    assert_equal(ao, x, Scheme(bits, symmetric, "tensor"), (8, 6, 3, 3))
    assert_equal(ao, x, Scheme(bits, symmetric), (1, 6, 3, 3))
    assert_equal(ao, x, Scheme(bits, symmetric, 9), (1, 1, 3, 3))  # a scale per kernel
    assert_equal(ao, x, Scheme(bits, symmetric, 18), (1, 2, 3, 3))


@symmetries
@pytest.mark.parametrize("bits", [4, 8])
def test_torchao_reads_scales_that_were_fitted_otherwise(ao, bits, symmetric):
    scheme, x = Scheme(bits, symmetric, 16), draw(24, 64)
    size, bounds = block(x.shape, scheme), (scheme.low, scheme.high)
    for how in ({"by": "mse"}, {"by": "percentile", "percentile": 90}):
        p = fit(x, scheme, **how)
        codes = encode(x, scheme, p)
        assert torch.equal(codes, ao.quantize(x, size, *p, scheme.dtype, *bounds))
        expected = ao.dequantize(codes, size, *p, scheme.dtype, *bounds)
        assert torch.equal(decode(codes, scheme, p), expected)


@pytest.mark.parametrize(("bits", "dtype"), [(4, torch.int4), (8, torch.int8)])
def test_a_layer_of_torchao_has_the_same_codes(ao, bits, dtype):
    """Its zero points are signed: codes and zero points lie half a range lower."""
    layer = nn.Linear(64, 24, bias=False)
    with torch.no_grad():
        layer.weight.copy_(draw(24, 64))
    for granularity, group in ((ao.api.PerGroup(16), 16), (ao.api.PerAxis(0), "channel")):
        scheme, model = Scheme(bits, False, group), nn.Sequential(nn.Linear(64, 24, bias=False))
        model.load_state_dict({"0.weight": layer.weight.detach()})
        kind = ao.kind(False)
        config = ao.api.IntxWeightOnlyConfig(weight_dtype=dtype, granularity=granularity, mapping_type=kind)
        ao.api.quantize_(model, config)
        weight, p = model[0].weight, fit(layer.weight, scheme)
        half, shape = 2 ** (bits - 1), p.scale.shape
        assert torch.equal(weight.scale.view(shape), p.scale)
        assert torch.equal(weight.zero_point.int().view(shape) + half, p.zero)
        codes = encode(layer.weight, scheme, p)
        assert torch.equal(weight.qdata.int() + half, codes.int())
        assert torch.equal(weight.dequantize(), decode(codes, scheme, p))


@pytest.mark.parametrize("bits", BITS)
def test_torchao_has_one_more_negative_code_unless_told_otherwise(ao, bits):
    """Its symmetric range is −2^(b−1) … 2^(b−1)−1 over the same width: the largest positive value is cut."""
    scheme, x = Scheme(bits, group=16), draw(24, 64)
    size, bounds = (1, 16), (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    scale, zero = ao.choose(x, ao.kind(True), size, torch.int8, *bounds)
    p = fit(x, scheme)
    torch.testing.assert_close(scale * (2**bits - 1), p.scale * (2**bits - 2))
    assert not zero.any()
    codes = ao.quantize(x, size, scale, zero, torch.int8, *bounds)
    assert codes.min() == scheme.low - 1
    theirs = ao.dequantize(codes, size, scale, zero, torch.int8, *bounds)
    largest = x[1].view(4, 16).amax(1)  # a row of positive values
    cut = (2**bits - 2) / (2**bits - 1)
    torch.testing.assert_close(theirs[1].view(4, 16).amax(1), cut * largest)
    torch.testing.assert_close(round_trip(x, scheme)[1].view(4, 16).amax(1), largest)
    # A weight and its negative: ours differ in sign only.
    assert torch.equal(round_trip(-x, scheme), -round_trip(x, scheme))
    turned = ao.quantize(-x, size, scale, zero, torch.int8, *bounds)
    assert not torch.equal(ao.dequantize(turned, size, scale, zero, torch.int8, *bounds), -theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_torchao_computes_half_precision_as_it_comes(ao, dtype):
    """Here it is computed in float32, which is what torchao does with the same numbers in float32."""
    x, scheme = torch.randn(24, 64, generator=torch.Generator().manual_seed(0)).to(dtype), Scheme(8)
    size, bounds = (1, 64), (scheme.low, scheme.high)
    codes = assert_equal(ao, x.float(), scheme, size)
    assert torch.equal(encode(x, scheme, fit(x, scheme)), codes)
    scale, zero = ao.choose(x, ao.kind(True), size, torch.int8, *bounds)
    assert scale.dtype == dtype
    theirs = ao.quantize(x, size, scale, zero, torch.int8, *bounds)
    values = ao.dequantize(theirs, size, scale, zero, torch.int8, *bounds)
    assert (codes != theirs).any()
    assert snr_db(x.float(), decode(codes, scheme, fit(x, scheme))) >= snr_db(x.float(), values)


@symmetries
def test_torchao_gives_a_group_of_zeros_the_smallest_scale(ao, symmetric):
    scheme, x = Scheme(4, symmetric), torch.zeros(2, 8)
    scale, zero = ao.choose(x, ao.kind(symmetric), (1, 8), scheme.dtype, scheme.low, scheme.high)
    assert (scale == torch.finfo(torch.float32).tiny).all()
    p = fit(x, scheme)
    assert (p.scale == 1).all()
    assert torch.equal(p.zero, zero)
    assert not decode(encode(x, scheme, p), scheme, p).any()


def test_the_4_bit_normal_float_is_torchaos_to_its_four_digits(ao):
    x, grid = torch.linspace(-1, 1, 64 * 63).view(63, 64), nf4()
    x[:, 0] = 1.0  # the scale of each block, so that scales of 8 bits are exact
    values, places = ao.api.to_nf4(x, 64, 63).to(torch.float32).unique(return_inverse=True)
    torch.testing.assert_close(values.double(), grid, atol=5.1e-5, rtol=0)
    codes, rounded = nearest(x, grid)
    middle = (grid[1:] + grid[:-1]) / 2
    clear = (x.double()[..., None] - middle).abs().amin(-1) > 1e-4
    assert clear.float().mean() > 0.98
    assert torch.equal(codes.long()[clear], places[clear])
    assert torch.equal(round_groups(x, grid, 64), rounded)


@pytest.mark.filterwarnings("ignore")
@symmetries
@pytest.mark.parametrize("bits", BITS)
def test_ranges_over_batches_are_those_of_torchs_observer(bits, symmetric):
    from torch.ao.quantization import observer as theirs

    scheme = Scheme(bits, symmetric, "tensor")
    kind = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    dtype = torch.qint8 if symmetric else torch.quint8
    other = theirs.MinMaxObserver(dtype, kind, quant_min=scheme.low, quant_max=scheme.high)
    ours = Observer(scheme)
    for i in range(5):
        batch = torch.randn(40, 7, generator=torch.Generator().manual_seed(i)) * (i + 1) + i
        other(batch)
        ours.update(batch)
    scale, zero = other.calculate_qparams()
    p = ours.parameters()
    torch.testing.assert_close(p.scale, scale[0], rtol=2e-7, atol=0)
    assert p.zero == zero[0]


@pytest.mark.filterwarnings("ignore")
@symmetries
def test_scales_per_channel_are_those_of_torchs_observer_down_to_its_least(symmetric):
    from torch.ao.quantization import observer as theirs

    scheme, x = Scheme(8, symmetric), draw(24, 4, 3, 3)
    x[5] *= 1e-6
    kind = torch.per_channel_symmetric if symmetric else torch.per_channel_affine
    dtype = torch.qint8 if symmetric else torch.quint8
    other = theirs.PerChannelMinMaxObserver(0, dtype, kind, quant_min=scheme.low, quant_max=scheme.high)
    other(x)
    scale, zero = other.calculate_qparams()
    p = fit(x, scheme)
    least = torch.finfo(torch.float32).eps
    assert (p.scale < least).sum() == 2
    torch.testing.assert_close(p.scale.clamp(min=least), scale, rtol=2e-7, atol=0)
    assert torch.equal(p.zero[p.scale >= least], zero[p.scale >= least].int())


@pytest.mark.filterwarnings("ignore")
@symmetries
@pytest.mark.parametrize("bits", [4, 8])
def test_the_least_error_is_not_above_that_of_torchs_histogram(bits, symmetric):
    from torch.ao.quantization import observer as theirs

    scheme = Scheme(bits, symmetric, "tensor")
    kind = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    dtype = torch.qint8 if symmetric else torch.quint8
    other = theirs.HistogramObserver(
        dtype=dtype, qscheme=kind, quant_min=scheme.low, quant_max=scheme.high, reduce_range=False
    )
    ours, batches = Observer(scheme), []
    for i in range(4):
        x = torch.randn(5000, generator=torch.Generator().manual_seed(i))
        batches.append(torch.where(x.abs() > 2.5, x * 4, x))  # few outliers
        other(batches[-1])
        ours.update(batches[-1])
    scale, zero = other.calculate_qparams()
    X = torch.cat(batches)
    found, wanted = (
        torch.fake_quantize_per_tensor_affine(X, float(s), int(z), scheme.low, scheme.high)
        for s, z in (ours.parameters(by="mse"), (scale, zero))
    )
    assert snr_db(X, found) >= snr_db(X, wanted) - 0.02
