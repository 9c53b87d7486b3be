"""Gaunt products: multiply two functions on the sphere, and keep the degrees one wants.

Features of degrees 0 … L are the coefficients of a function f = Σ x[l, m] Y_lm. The product of two functions
is equivariant without any table: turning both turns their product. Its coefficients are those of a
Clebsch–Gordan product with the weights of the Gaunt integrals ∫ Y Y Y. Around a sphere both angles run in
circles, so f is a trigonometric polynomial in two angles, and products of these are convolutions, done by
FFT: O(L³) in place of the O(L⁶) of a dense table.

What is lost: where l1 + l2 + l3 is odd the integral is zero (inversion through the centre), so there is no
cross product; and where a full product has a weight for each path (l1, l2, l3), this one has one for each
degree of each of x, y and the result (`irreps.scale_degrees` before and after).

Luo, Chen and Krishnapriyan 2024, "Enabling Efficient Equivariant Operations in the Fourier Basis via Gaunt
Tensor Products", ICLR.
"""

import math
from functools import cache, lru_cache
from typing import Literal

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from layerlab.equivariance.irreps import degree_of, paths
from layerlab.equivariance.s2 import from_grid, to_grid
from layerlab.equivariance.so3 import check_degree, clebsch_gordan, harmonics_to, racah


def gaunt(l1: int, l2: int, l3: int) -> Tensor:
    """∫ Y(l1, m1) Y(l2, m2) Y(l3, m3) dΩ over the sphere, for all orders.

    √((2 l1 + 1)(2 l2 + 1) / (4π (2 l3 + 1))) |⟨l1 0 l2 0 | l3 0⟩| times `clebsch_gordan`; zero where
    l1 + l2 + l3 is odd or the degrees cannot combine.

    Returns: (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), float64; symmetric in its three degrees.

    Raises:
        ValueError: a degree outside 0 … `MAX_DEGREE`.

    >>> gaunt(0, 2, 2)[0].diagonal()  # Y₀ = 1 / √4π
    tensor([0.2821, 0.2821, 0.2821, 0.2821, 0.2821], dtype=torch.float64)
    >>> gaunt(1, 1, 1).abs().max().item()
    0.0
    """
    for name, degree in zip(("l1", "l2", "l3"), (l1, l2, l3), strict=True):
        check_degree(degree, name)
    if (l1 + l2 + l3) % 2 or not abs(l1 - l2) <= l3 <= l1 + l2:
        return torch.zeros(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1, dtype=torch.float64)
    return gaunt_weight(l1, l2, l3) * clebsch_gordan(l1, l2, l3)


def gaunt_weight(l1: int, l2: int, l3: int) -> float:
    """The weight of a path in a Gaunt product, `gaunt` / `clebsch_gordan`; 0 for odd l1 + l2 + l3."""
    scale = (2 * l1 + 1) * (2 * l2 + 1) / (4 * math.pi * (2 * l3 + 1))
    return 0.0 if (l1 + l2 + l3) % 2 else math.sqrt(scale) * abs(racah(l1, 0, l2, 0, l3))


def lost_paths(degree_x: int, degree_y: int, degree_out: int) -> list[tuple[int, int, int]]:
    """The paths of a full product that a Gaunt product cannot have: l1 + l2 + l3 odd.

    >>> lost_paths(1, 1, 1)
    [(1, 1, 1)]
    """
    return [path for path in paths(degree_x, degree_y, degree_out) if sum(path) % 2]


def gaunt_product(
    x: Tensor, y: Tensor, degree_out: int | None = None, how: Literal["fourier", "grid", "direct"] = "fourier"
) -> Tensor:
    """The coefficients of the product of two functions on the sphere, up to a degree.

    Args:
        x, y: (…, (L1 + 1)²) and (…, (L2 + 1)²), coefficients in the order of `so3.harmonics_to`.
        degree_out: highest degree kept; by default the larger of L1 and L2. From L1 + L2 on nothing is cut.
        how: "fourier", by FFT, O(L³); "grid", at the points of `s2.grid` by dense matrices, O(L⁴) (after Xie
            et al. 2025, "The Price of Freedom", ICML); "direct", by the table of all Gaunt integrals, O(L⁶).

    Returns: (…, (degree_out + 1)²), the same each way up to rounding; empty for an empty batch.

    Raises:
        TypeError: x and y are not both float32 or both float64.
        ValueError: a last axis that is no (L + 1)²; a degree out of range; another `how`.

    >>> z = gaunt_product(torch.eye(4)[1], torch.eye(4)[2], 2)  # the function x times the function y
    >>> [round(z[l * l : (l + 1) ** 2].norm().item(), 4) for l in range(3)]  # all of degree 2
    [0.0, 0.0, 0.2185]
    """
    degree_x, degree_y = degree_of(x, "x"), degree_of(y, "y")
    degree_out = max(degree_x, degree_y) if degree_out is None else degree_out
    check_degree(degree_out, "degree_out")
    if how not in ("fourier", "grid", "direct"):
        raise ValueError(f'how: expected "fourier", "grid" or "direct", got {how!r}')
    if x.dtype != y.dtype or x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x and y: expected both float32 or both float64, got {x.dtype} and {y.dtype}")
    shape = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    if 0 in shape:  # an FFT of nothing is an error; the sums keep the gradient's path
        return x.new_zeros(*shape, (degree_out + 1) ** 2) + 0 * (x.sum() + y.sum())
    if how == "direct":
        table = _table_as(degree_x, degree_y, degree_out, x.dtype, x.device)
        return (x[..., :, None] * y[..., None, :]).flatten(-2) @ table
    if how == "grid":
        top = max(degree_x, degree_y, degree_out)
        resolution = max(top + 1, (degree_x + degree_y + degree_out) // 2 + 1)
        return from_grid(to_grid(x, resolution) * to_grid(y, resolution), degree_out)
    sizes = _sizes(degree_x, degree_y, degree_out)
    values = _on_torus(to_fourier(x), sizes) * _on_torus(to_fourier(y), sizes)
    spectrum = torch.fft.rfft2(values, norm="forward")  # the convolution of the two
    return from_fourier(_cut(spectrum, degree_x + degree_y), degree_out)


@lru_cache(maxsize=16)
def gaunt_table(degree_x: int, degree_y: int, degree_out: int) -> Tensor:
    """All Gaunt integrals: ((L1 + 1)², (L2 + 1)², (L3 + 1)²), float64. Cached: do not write into it."""
    table = torch.zeros(*((ell + 1) ** 2 for ell in (degree_x, degree_y, degree_out)), dtype=torch.float64)
    for l1, l2, l3 in paths(degree_x, degree_y, degree_out):
        a, b, c = (slice(ell**2, (ell + 1) ** 2) for ell in (l1, l2, l3))
        table[a, b, c] = gaunt(l1, l2, l3)
    return table


@lru_cache(maxsize=16)
def _table_as(
    degree_x: int, degree_y: int, degree_out: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return gaunt_table(degree_x, degree_y, degree_out).flatten(0, 1).to(device, dtype)


def to_fourier(x: Tensor) -> Tensor:
    """f as a trigonometric polynomial: F with f(θ, φ) = Re Σ c_v F[u, v] exp(i(uθ + vφ)), c₀ = 1 and else 2.

    θ is the angle from y, φ that from z towards x. Beyond θ = π the direction goes on round the sphere, so f
    is periodic in both. f is real, so half of the v suffices (as in `torch.fft.rfft2`).

    Shapes: (…, (L + 1)²) to (…, 2L + 1, L + 1), complex; u = -L … L, v = 0 … L.

    >>> to_fourier(torch.ones(1))
    tensor([[0.2821+0.j]])
    """
    degree = degree_of(x)
    table = _waves_as(degree, _complex(x), x.device)
    cos, sin = _by_order(x, degree)
    return torch.einsum("...vl,vlu->...uv", torch.complex(cos, -sin), table)


def from_fourier(spectrum: Tensor, degree: int) -> Tensor:
    """The coefficients ∫ f Y_lm dΩ up to `degree` of a function given as `to_fourier` returns it.

    Exact for what `to_fourier` gives and for products of such. All u count, also those beyond `degree`, since
    the integral over θ is over half of its circle.

    Shapes: (…, 2L + 1, orders) complex to (…, (degree + 1)²) real; v = 0 … orders - 1, others taken as zero.
    """
    check_degree(degree)
    if not spectrum.is_complex() or spectrum.ndim < 2 or spectrum.shape[-2] % 2 == 0:
        raise ValueError(f"spectrum: expected complex (…, 2L + 1, orders), got {tuple(spectrum.shape)}")
    top = spectrum.shape[-2] // 2
    table = _projection(degree, top, spectrum.dtype, spectrum.device)
    orders = min(degree + 1, spectrum.shape[-1])
    found = torch.einsum("...uv,vlu->...vl", spectrum[..., :orders], table[:orders])
    x = spectrum.real.new_zeros(*spectrum.shape[:-2], (degree + 1) ** 2)
    v, ell, plus, minus = _places(degree)
    keep = v < orders
    v, ell, plus, minus = v[keep], ell[keep], plus[keep], minus[keep]
    x[..., minus] = -found.imag[..., v, ell]
    x[..., plus] = found.real[..., v, ell]  # after: order 0 has the real part alone
    return x


def multiply_adds(degree: int, how: Literal["fourier", "gaunt", "full", "dense"]) -> int:
    """Real multiplications of one product of features of degree L with features of degree L, kept to L.

    "full": one for each nonzero Clebsch–Gordan coefficient, "gaunt" for each nonzero Gaunt integral: some L⁵,
    where the tables have (L + 1)⁶ entries, "dense". "fourier": the changes of basis, the FFTs (5/2 n log₂ n
    operations for n points, two to a multiplication with its addition) and the product on the points.
    """
    if how == "fourier":
        top, waves = 2 * degree, (degree + 1) * (degree + 2) // 2
        rows, columns = _sizes(degree, degree, degree)
        points = rows * columns
        change = 2 * 2 * waves * (2 * degree + 1) + 2 * waves * (2 * top + 1)
        return round(change + 3 * 1.25 * points * math.log2(points) + points)
    if how == "dense":
        return (degree + 1) ** 6
    table = {"full": clebsch_gordan, "gaunt": gaunt}
    if how not in table:
        raise ValueError(f'how: expected "fourier", "gaunt", "full" or "dense", got {how!r}')
    return sum(int((table[how](*path).abs() > 1e-14).sum()) for path in paths(degree, degree, degree))


def _complex(x: Tensor) -> torch.dtype:
    return torch.complex128 if x.dtype == torch.float64 else torch.complex64


@cache
def _places(degree: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Order v, degree l, and where (l, v) and (l, -v) stand among the coefficients."""
    pairs = [(v, ell) for v in range(degree + 1) for ell in range(v, degree + 1)]
    v, ell = (torch.tensor(column) for column in zip(*pairs, strict=True))
    return v, ell, ell * ell + ell + v, ell * ell + ell - v


def _by_order(x: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """The coefficients of cos vφ and of sin vφ, each (…, L + 1 orders, L + 1 degrees)."""
    v, ell, plus, minus = _places(degree)
    cos = x.new_zeros(*x.shape[:-1], degree + 1, degree + 1)
    sin = torch.zeros_like(cos)
    cos[..., v, ell] = x[..., plus]
    sin[..., v, ell] = x[..., minus] * (v > 0).to(x)
    return cos, sin


@cache
def _legendre_waves(degree: int) -> Tensor:
    """t[v, l, u]: half of Y(l, v) at φ = 0 as Σ_u t exp(iuθ), the whole for v = 0; complex128."""
    count = 2 * degree + 1
    theta = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    around = torch.stack([torch.zeros_like(theta), theta.cos(), theta.sin()], -1)  # φ = 0
    values = harmonics_to(degree, around)  # (θ, (L + 1)²)
    waves = torch.fft.fftshift(torch.fft.fft(values, dim=0, norm="forward"), dim=0)
    v, ell, plus, _ = _places(degree)
    table = torch.zeros(degree + 1, degree + 1, count, dtype=torch.complex128)
    table[v, ell] = waves[:, plus].T * torch.where(v > 0, 0.5, 1.0)[:, None]
    return table


@lru_cache(maxsize=64)
def _waves_as(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _legendre_waves(degree).to(device, dtype)


@lru_cache(maxsize=64)
def _projection(degree: int, top: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """p[v, l, u]: ∫ exp(iuθ) Y(l, v)(θ, 0) sin θ dθ · 2π, for u = -top … top, the θ integral from 0 to π."""
    waves = _legendre_waves(degree) * torch.where(torch.arange(degree + 1) > 0, 2.0, 1.0)[:, None, None]
    k = torch.arange(-degree, degree + 1)[:, None] + torch.arange(-top, top + 1)
    # odd k have integrals too, for k = ±1; but on a sphere f(-θ, φ) = f(θ, φ + π), and the two cancel
    integral = torch.where(k % 2 == 0, 2 / (1.0 - k.double().square()), 0.0).to(waves.dtype)
    return 2 * math.pi * torch.einsum("vlk,ku->vlu", waves, integral).to(device, dtype)


def _sizes(degree_x: int, degree_y: int, degree_out: int) -> tuple[int, int]:
    """Angles θ and φ that hold a product: all its u, and without overlap those of its v that are read."""
    top = degree_x + degree_y
    columns = max(top + min(top, degree_out), 2 * degree_x, 2 * degree_y) + 1
    return next_fast_len(2 * top + 1), next_fast_len(columns, real=True)


def _on_torus(spectrum: Tensor, sizes: tuple[int, int]) -> Tensor:
    """Values at these numbers of angles, (…, θ, φ), by one inverse FFT."""
    degree = spectrum.shape[-1] - 1
    padded = spectrum.new_zeros(*spectrum.shape[:-2], sizes[0], sizes[1] // 2 + 1)
    padded[..., : degree + 1, : degree + 1] = spectrum[..., degree:, :]
    if degree:
        padded[..., -degree:, : degree + 1] = spectrum[..., :degree, :]
    return torch.fft.irfft2(padded, s=sizes, norm="forward")


def _cut(spectrum: Tensor, degree: int) -> Tensor:
    """From the order of an FFT to u = -degree … degree, with as many v as there are."""
    negative = spectrum[..., -degree:, :] if degree else spectrum[..., :0, :]
    return torch.cat([negative, spectrum[..., : degree + 1, :]], -2)
