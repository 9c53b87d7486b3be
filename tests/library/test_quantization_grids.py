"""Grids: known tables, torch's own 8-bit floats, optimality by integration, and rotations that go back."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, linalg, stats

from layerlab.quantization import grids as G

# Published values of the 4-bit NormalFloat (Dettmers et al., 2023, Appendix E), to 7 digits.
NF4 = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0]
NF4 += [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
# Max's table for a Gaussian (1960): by levels, the positive values and the mean squared error.
MAX = {
    2: ([0.7980], 0.3634),
    3: ([0.0, 1.224], 0.1902),
    4: ([0.4528, 1.510], 0.1175),
    8: ([0.2451, 0.7560, 1.344, 2.152], 0.03454),
    16: ([0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733], 0.009497),
}
# The positive values of HIGGS's scalar grids, as transformers ships them, to 7 digits.
HIGGS = {
    4: [0.4527800, 1.5104176],
    8: [0.2450942, 0.7560053, 1.3439093, 2.1519456],
    16: [0.1283950, 0.3880483, 0.6567591, 0.9423404, 1.2562312, 1.6180464, 2.0690172, 2.7325895],
}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_error(grid):
    """Mean squared error of a grid for a standard Gaussian, by scipy's integration, cell by cell."""
    grid = grid.tolist()
    edges = [-np.inf, *[(a + b) / 2 for a, b in itertools.pairwise(grid)], np.inf]
    cells = zip(grid, itertools.pairwise(edges), strict=True)
    return sum(integrate.quad(lambda t, v=v: (t - v) ** 2 * stats.norm.pdf(t), *ends)[0] for v, ends in cells)


@pytest.mark.parametrize("bits", range(2, 9))
def test_even_grids_have_even_steps(bits):
    grid = G.uniform(bits)
    assert len(grid) == 2**bits - 1
    assert grid[len(grid) // 2] == 0
    full = G.uniform(bits, zero=False)
    assert len(full) == 2**bits
    assert (full != 0).all()
    for each in (grid, full):
        assert each[0] == -1
        assert each[-1] == 1
        torch.testing.assert_close(each.diff(), each.diff()[:1].expand(len(each) - 1))
    torch.testing.assert_close(G.power(bits, 1.0), grid)


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0, 2.0])
def test_power_codes_are_rounded_powers_and_decode_to_the_grid(exponent):
    x = randn(500)
    codes, values = G.power_round(x, 4, exponent)
    expected = [round(7 * abs(v) ** exponent / x.abs().max().item() ** exponent) for v in x.tolist()]
    assert codes.abs().tolist() == expected
    assert (codes.sign() * x.sign() >= 0).all()
    torch.testing.assert_close(values, G.power(4, exponent)[codes.long() + 7] * x.abs().max())
    better = G.nearest(x / x.abs().max(), G.power(4, exponent))[1] * x.abs().max()
    assert (x - better).square().sum() <= (x - values).square().sum() + 1e-12


def test_powers_keep_products_before_rounding_and_zeros_after():
    x, y = randn(50), randn(50, seed=1)
    scale = x.abs().max() * y.abs().max()
    exact = [G.power_round(v, 8, 0.5)[1] for v in (x, y)]
    assert (exact[0] * exact[1] - x * y).abs().max() < 0.02 * scale
    codes, values = G.power_round(torch.zeros(3), 4, 0.5)
    assert not codes.any()
    assert not values.any()
    assert values.dtype == torch.float32


def test_an_exponent_below_one_is_denser_around_zero():
    assert (G.power(4, 0.5)[7:].diff().diff() > 0).all()
    assert (G.power(4, 2.0)[7:].diff().diff() < 0).all()


def test_nf4_is_the_published_table():
    grid = G.nf4()
    torch.testing.assert_close(grid, torch.tensor(NF4, dtype=torch.float64), atol=2e-7, rtol=0)
    assert (grid == 0).sum() == 1


@pytest.mark.parametrize(
    ("kind", "dtype"), [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)], ids=["e4m3", "e5m2"]
)
def test_fp8_is_every_finite_value_that_torch_has(kind, dtype):
    everything = torch.arange(256, dtype=torch.uint8).view(dtype).double()
    finite = everything[everything.isfinite()].unique()
    grid = G.fp8(kind)
    assert torch.equal(grid, finite)
    assert grid[-1] == torch.finfo(dtype).max
    x = (randn(4000) * torch.logspace(-7, 2, 4000, dtype=torch.float64)).float()
    middle = (grid[1:] + grid[:-1]) / 2
    x = x[(x.abs() < grid[-1]) & ~torch.isin(x.double(), middle)]
    assert torch.equal(G.nearest(x, grid)[1], x.to(dtype).float())


@pytest.mark.parametrize("levels", MAX)
def test_a_gaussian_grid_is_max_table(levels):
    values, error = MAX[levels]
    grid = G.gaussian_lloyd_max(levels)
    expected = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(grid[-len(values) :], expected, atol=2e-3, rtol=0)
    assert gaussian_error(grid) == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("levels", HIGGS)
def test_a_gaussian_grid_is_that_of_higgs(levels):
    expected = torch.tensor(HIGGS[levels], dtype=torch.float64)
    torch.testing.assert_close(G.gaussian_lloyd_max(levels)[levels // 2 :], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("levels", [1, 2, 3, 7, 16, 64, 255, 256])
def test_gaussian_values_are_the_means_of_their_cells(levels):
    grid = G.gaussian_lloyd_max(levels)
    assert len(grid) == levels
    assert (grid.diff() > 0).all()
    assert torch.equal(grid, -grid.flip(0))
    edges = np.concatenate([[-12], ((grid[1:] + grid[:-1]) / 2).numpy(), [12]])

    def integral(power, *ends):
        return integrate.quad(lambda t: t**power * math.exp(-t * t / 2), *ends, epsabs=1e-13)[0]

    for cell in {0, levels // 3, levels // 2, levels - 1}:
        low, high = edges[cell : cell + 2]
        mean = integral(1, low, high) / integral(0, low, high)
        assert grid[cell].item() == pytest.approx(mean, abs=1e-9)


def test_nothing_close_to_a_gaussian_grid_is_better():
    grid = G.gaussian_lloyd_max(5)
    best = gaussian_error(grid)
    for seed in range(5):
        assert gaussian_error(grid + 0.02 * randn(5, seed=seed)) > best


@pytest.mark.parametrize("levels", [1, 2, 5, 16])
def test_a_density_and_its_closed_forms(levels):
    found = G.lloyd_max(stats.norm.pdf, levels, support=(-9, 9))
    torch.testing.assert_close(found, G.gaussian_lloyd_max(levels), atol=1e-6, rtol=0)
    flat = G.lloyd_max(np.ones_like, levels, support=(2, 4))
    even = 2 + (torch.arange(levels, dtype=torch.float64) + 0.5) * 2 / levels
    torch.testing.assert_close(flat, even, atol=1e-8, rtol=0)
    # At two levels a Laplace density's values are the means of its halves, ±1.
    laplace = G.lloyd_max(lambda t: 7 * np.exp(-np.abs(t)), 2, support=(-40, 40))
    torch.testing.assert_close(laplace, torch.tensor([-1.0, 1.0], dtype=torch.float64), atol=1e-5, rtol=0)


def test_samples_of_a_gaussian_come_to_its_grid():
    quantiles = torch.from_numpy(stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000))
    found = G.lloyd_max(quantiles, 8)
    torch.testing.assert_close(found, G.gaussian_lloyd_max(8), atol=2e-3, rtol=0)


few = st.lists(st.integers(-20, 20), min_size=2, max_size=30)


@settings(deadline=None, max_examples=60)
@given(few, st.integers(1, 6))
def test_samples_end_where_each_value_is_the_mean_of_its_own(values, levels):
    x = torch.tensor(values, dtype=torch.float64)
    if len(x.unique()) < levels:
        with pytest.raises(ValueError, match=rf"at least {levels}"):
            G.lloyd_max(x, levels)
        return
    grid = G.lloyd_max(x, levels)
    assert (grid.diff() > 0).all()
    codes = torch.bucketize(x, (grid[1:] + grid[:-1]) / 2, right=True)
    for code in codes.unique():
        assert grid[code].item() == pytest.approx(x[codes == code].mean().item())


def test_equal_samples_count_as_often_as_they_come():
    x = torch.tensor([0.0, 1.0, 1.0, 1.0, 8.0, 9.0])
    assert G.lloyd_max(x, 2).tolist() == [0.75, 8.5]
    pairs = G.lloyd_max(torch.stack([x, 2 * x], 1), 2)
    torch.testing.assert_close(
        pairs[pairs[:, 0].argsort()], torch.tensor([[0.75, 1.5], [8.5, 17.0]], dtype=torch.float64)
    )


def test_pairs_of_gaussians_beat_two_scalars_at_equal_bits():
    samples = randn(20_000, 2)
    grid = G.lloyd_max(samples, 16, seed=0)
    assert grid.shape == (16, 2)
    fresh = randn(40_000, 2, seed=1)
    codes, values = G.nearest(fresh, grid)
    assert codes.shape == (40_000, 1)
    assert torch.equal(values, grid[codes[:, 0].long()])
    pairs = (fresh - values).square().mean()
    scalars = (fresh - G.nearest(fresh, G.gaussian_lloyd_max(4))[1]).square().mean()
    assert pairs < 0.98 * scalars


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_nearest_is_the_least_distance(dtype):
    x = (randn(7, 50) * 3).to(dtype)
    for grid in (G.nf4(), G.gaussian_lloyd_max(5), G.fp8("e5m2")):
        codes, values = G.nearest(x, grid)
        assert codes.dtype == torch.uint8
        assert values.dtype == dtype
        distance = (x.double().unsqueeze(-1) - grid).abs()
        assert torch.equal(distance.gather(-1, codes.long().unsqueeze(-1))[..., 0], distance.amin(-1))
        assert torch.equal(grid[codes.long()].to(dtype), values)


def test_nearest_vectors_are_the_least_distance(monkeypatch):
    monkeypatch.setattr(G, "CHUNK", 64)  # more than one part
    x, grid = randn(5, 6), randn(9, 3, seed=1)
    codes, values = G.nearest(x, grid)
    assert codes.shape == (5, 2)
    assert values.shape == (5, 6)
    assert torch.equal(codes.flatten().long(), torch.cdist(x.view(-1, 3), grid).argmin(1))
    assert torch.equal(values.view(-1, 3), grid[codes.flatten().long()])


def test_halfway_goes_towards_zero_on_both_sides():
    grid = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    x = torch.tensor([-9.0, -1.5, -0.5, -0.0, 0.5, 1.5, 9.0])
    assert G.nearest(x, grid)[1].tolist() == [-2, -1, 0, 0, 0, 1, 2]
    many = torch.linspace(-1, 1, 1000, dtype=torch.float64)
    assert G.nearest(many, many)[0].dtype == torch.int32


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_hadamard_is_scipys_and_orthonormal(n):
    H = G.hadamard(n)
    torch.testing.assert_close(H, torch.from_numpy(linalg.hadamard(n) / n**0.5))
    torch.testing.assert_close(H @ H.T, torch.eye(n, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_rotation_goes_back_and_keeps_norms(dtype):
    x = randn(3, 2, 32).to(dtype)
    y = G.rotate(x, seed=3)
    assert y.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(G.unrotate(y, seed=3), x, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1), atol=10 * tolerance, rtol=tolerance)
    assert not torch.allclose(G.rotate(x, seed=4), y, atol=0.1)
    assert not torch.allclose(G.unrotate(y, seed=4), x, atol=0.1)


def test_a_rotation_is_signs_and_then_hadamard():
    turn = G.rotate(torch.eye(16, dtype=torch.float64), seed=0)
    signs = turn[:, 0] * 4  # Hadamard's first column is all ones
    assert set(signs.tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(turn, signs[:, None] * G.hadamard(16))
    x = randn(5, 16).requires_grad_()
    G.rotate(x, seed=0).sum().backward()
    torch.testing.assert_close(x.grad, turn.sum(1).expand(5, 16))


def test_groups_have_scales_of_their_own():
    x = torch.cat([randn(4, 64), 1e4 * randn(4, 64, seed=1), torch.zeros(4, 64)], 1)
    found = G.round_groups(x, G.nf4(), 64)
    for start in (0, 64):
        part, mine = x[:, start : start + 64], found[:, start : start + 64]
        scale = part.abs().amax(1, keepdim=True).bfloat16().double()
        assert torch.equal(mine, G.nearest(part / scale, G.nf4())[1] * scale)
        assert (part - mine).norm() < 0.12 * part.norm()
    assert not found[:, 128:].any()
    # A grid's own largest value does not matter with "max".
    torch.testing.assert_close(G.round_groups(x, G.nf4() * 4, 64), found)


def test_rotation_makes_the_gaussian_grid_fit_outliers():
    """About the error of Max's table at 16 levels, whether or not the weights were Gaussian."""
    x = randn(64, 256)
    spiky = x.clone()
    spiky[:, torch.randperm(256, generator=torch.Generator().manual_seed(1))[:32]] *= 20
    grid = G.gaussian_lloyd_max(16)
    for weight in (x, spiky):
        error = (weight - G.higgs_like(weight, grid, 256, seed=0)).square().sum() / weight.square().sum()
        assert error.item() == pytest.approx(0.0095, rel=0.1)
    still = (spiky - G.round_groups(spiky, grid, 256, by="rms")).square().sum() / spiky.square().sum()
    assert still > 0.1


def test_higgs_like_is_its_steps():
    x = randn(3, 32).float()
    turned = G.rotate(x.double().view(3, 2, 16), seed=5)
    scale = turned.square().mean(-1, keepdim=True).sqrt().bfloat16().double()
    expected = G.unrotate(G.nearest(turned / scale, G.nf4())[1] * scale, seed=5).view(3, 32).float()
    assert torch.equal(G.higgs_like(x, G.nf4(), 16, seed=5), expected)
    assert not G.higgs_like(torch.zeros(2, 8), G.nf4(), 4).any()


def test_bits_count_codes_and_scales():
    assert G.grid_bits(G.uniform(4), 32) == 4.5
    assert G.grid_bits(G.gaussian_lloyd_max(9), 1, scale_bits=0) == 4
    assert G.grid_bits(torch.zeros(256, 2), 128) == 4 + 1 / 8


x = torch.ones(2, 12)
nan = torch.tensor([1.0, float("nan")])
BAD = {
    "bits": (lambda: G.uniform(9), ValueError, r"bits: .*2\.\.8.*9"),
    "one bit with zero": (lambda: G.power(1, 0.5), ValueError, "bits: .*1"),
    "bits type": (lambda: G.uniform(4.0), TypeError, r"bits: .*4\.0"),
    "bits bool": (lambda: G.uniform(True), TypeError, "bits: .*True"),
    "exponent": (lambda: G.power(4, 0.0), ValueError, r"exponent: .*0\.0"),
    "exponent nan": (lambda: G.power_round(x, 4, float("nan")), ValueError, "exponent: .*nan"),
    "exponent text": (lambda: G.power(4, "half"), TypeError, "exponent: .*half"),
    "kind": (lambda: G.fp8("e3m4"), ValueError, "kind: .*e3m4"),
    "levels": (lambda: G.gaussian_lloyd_max(0), ValueError, "levels: .*0"),
    "many levels": (lambda: G.gaussian_lloyd_max(257), ValueError, "levels: .*257"),
    "samples nan": (lambda: G.lloyd_max(nan, 1), ValueError, "source: .*NaN"),
    "samples shape": (lambda: G.lloyd_max(torch.ones(2, 2, 2), 1), ValueError, r"source: .*\(2, 2, 2\)"),
    "samples integer": (lambda: G.lloyd_max(torch.arange(4), 2), TypeError, "source: .*int64"),
    "few": (lambda: G.lloyd_max(x.flatten(), 2), ValueError, "source: .*2 samples that differ, got 1"),
    "samples support": (lambda: G.lloyd_max(x[0], 1, support=(0, 1)), ValueError, "support: .*none"),
    "no support": (lambda: G.lloyd_max(np.ones_like, 2), ValueError, "support: .*None"),
    "infinite": (lambda: G.lloyd_max(np.ones_like, 2, support=(0, np.inf)), ValueError, "support: .*inf"),
    "reversed": (lambda: G.lloyd_max(np.ones_like, 2, support=(1, 0)), ValueError, r"support: .*\(1, 0\)"),
    "negative": (lambda: G.lloyd_max(np.sin, 2, support=(-1, 1)), ValueError, "source: .*negative"),
    "nowhere": (lambda: G.lloyd_max(np.zeros_like, 2, support=(0, 1)), ValueError, "source: .*positive"),
    "one number": (lambda: G.lloyd_max(lambda t: 1.0, 2, support=(0, 1)), ValueError, r"source: .*\(\)"),
    "x nan": (lambda: G.nearest(nan, G.nf4()), ValueError, "x: .*NaN"),
    "x empty": (lambda: G.nearest(x[:0], G.nf4()), ValueError, r"x: .*\(0, 12\)"),
    "x integer": (lambda: G.nearest(torch.arange(3), G.nf4()), TypeError, "x: .*int64"),
    "x list": (lambda: G.nearest([1.0], G.nf4()), TypeError, "x: .*list"),
    "grid falls": (lambda: G.nearest(x, -G.uniform(2)), ValueError, r"grid: .*ascend.*\[1\.0"),
    "grid axes": (lambda: G.nearest(x, torch.ones(1, 1, 1)), ValueError, r"grid: .*\(1, 1, 1\)"),
    "grid size": (lambda: G.nearest(x, randn(4, 5)), ValueError, r"grid: .*5.*\(2, 12\)"),
    "group": (lambda: G.round_groups(x, G.nf4(), 5), ValueError, r"group: .*5.*\(2, 12\)"),
    "scale": (lambda: G.round_groups(x * 3.4e38, G.nf4(), 4), ValueError, r"x: .*bfloat16.*e\+38"),
    "by": (lambda: G.round_groups(x, G.nf4(), 4, by="mean"), ValueError, "by: .*mean"),
    "hadamard": (lambda: G.hadamard(6), ValueError, "n: .*power of two.*6"),
    "axis": (lambda: G.rotate(x, 0), ValueError, "x: last axis: .*power of two.*12"),
    "no axis": (lambda: G.rotate(torch.tensor(1.0), 0), ValueError, "x: .*single"),
    "seed": (lambda: G.unrotate(x[:, :4], -1), ValueError, "seed: .*-1"),
    "rotate integers": (lambda: G.rotate(torch.arange(4), 0), TypeError, "x: .*int64"),
    "higgs group": (lambda: G.higgs_like(x, G.nf4(), 8), ValueError, r"group: .*8.*\(2, 12\)"),
    "higgs power": (lambda: G.higgs_like(x, G.nf4(), 12), ValueError, "power of two.*12"),
    "bits of no group": (lambda: G.grid_bits(G.nf4(), 0), ValueError, "group: .*0"),
}


@pytest.mark.parametrize(("call", "error", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
