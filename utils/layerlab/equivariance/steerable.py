"""Steerable filters: rotations by any angle, with filters made of circular harmonics.

On the square grid only quarter turns move pixels onto pixels. A filter R(ρ) cos(mφ) + … is known between the
pixels as well: to turn it, rotate each pair (cos, sin) of frequency m by m·θ and sample again. What is left
is the error of sampling, which `turning.interpolation_error` measures. After Weiler, Hamprecht and Storath
(2018), Learning Steerable Filters for Rotation Equivariant CNNs, CVPR, and Weiler and Cesa (2019), General
E(2)-Equivariant Steerable CNNs, NeurIPS. The irreducible fields of SO(2) are in `steerable_so2`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerlab.equivariance.groups import FiniteGroup


class Harmonics(NamedTuple):
    """Sampled circular harmonics; entries of frequency m > 0 come in pairs, cos(mφ) then sin(mφ).

    `basis`: (count, k, k), float64. `frequency`: (count,) integers m. `radius`: (count,), of the ring.
    """

    basis: Tensor
    frequency: Tensor
    radius: Tensor

    def steer(self, planar: Tensor) -> Tensor:
        """(count, count): coefficients of a filter → those of the filter after a 2×2 rotation or reflection.

        With θ the angle of the rotation, a pair is rotated by m·θ; a flip (x, y) → (x, −y) negates the sines.
        """
        angle = torch.atan2(planar[1, 0], planar[0, 0])
        flip = planar.det().sign()
        blocks, i = [], 0
        while i < len(self.frequency):
            m = int(self.frequency[i])
            if m == 0:
                blocks.append(torch.ones(1, 1, dtype=torch.float64))
            else:
                c, s = (m * angle).cos(), (m * angle).sin()
                blocks.append(torch.stack([torch.stack([c, -s * flip]), torch.stack([s, c * flip])]))
            i += len(blocks[-1])
        return torch.block_diag(*blocks)


def polar(kernel: int) -> tuple[Tensor, Tensor]:
    """Radius in pixels and angle, (k, k) each, from the centre, x to the right and y up."""
    if isinstance(kernel, bool) or not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel: expected an odd number, got {kernel!r}")
    along = torch.arange(kernel, dtype=torch.float64) - kernel // 2
    y, x = torch.meshgrid(-along, along, indexing="ij")
    return torch.hypot(x, y), torch.atan2(y, x)


def rings(kernel: int, radii: Sequence[float] | None, sigma: float) -> list[tuple[float, Tensor]]:
    """(radius, profile (k, k)) of each ring; checks the arguments of `circular_harmonics`."""
    rho, _ = polar(kernel)
    half = kernel // 2
    if radii is None:
        # Half a pixel inside the rim: a wider ring is cut off by the square, and otherwise after a turn.
        radii = [i * (half - 0.5) / half for i in range(half + 1)] if half else [0.0]
    if not len(radii) or not all(0 <= r <= half for r in radii):
        raise ValueError(f"radii: expected numbers in 0..{half}, half the kernel, got {radii}")
    if not sigma > 0:
        raise ValueError(f"sigma: expected a positive width in pixels, got {sigma}")
    return [(float(r), torch.exp(-((rho - r) ** 2) / (2 * sigma**2))) for r in radii]


def circular_harmonics(
    kernel: int,
    frequencies: int | Sequence[int] | None = None,
    radii: Sequence[float] | None = None,
    sigma: float = 0.5,
    *,
    cut: float | None = 2.0,
) -> Harmonics:
    """Rings with a Gaussian profile times cos(mφ) and sin(mφ), sampled on the k×k pixels of a filter.

    Args:
        kernel: k, odd.
        frequencies: the m ≥ 0, or the largest one; all that the cut allows by default.
        radii: of the rings, in pixels, 0 to k // 2; by default k // 2 + 1 from 0 to k/2 − 1, evenly spaced.
        sigma: width of a ring, in pixels.
        cut: anti-aliasing: a ring of radius r keeps the frequencies m ≤ cut·r. It passes about 2π·r pixels,
            so that above m = π·r the samples of cos(mφ) look like those of a lower frequency, which turns at
            another rate. None keeps all.

    Returns:
        `Harmonics(basis, frequency, radius)`: basis (count, k, k) float64, rings from the inside out, in each
        the frequencies ascending, cos before sin. A pair has the mean square norm 1.

    Raises:
        ValueError: an even kernel; radii outside; a negative frequency; nothing is left.

    >>> harmonics = circular_harmonics(5)
    >>> harmonics.basis.shape, harmonics.frequency.tolist()
    (torch.Size([11, 5, 5]), [0, 0, 1, 1, 0, 1, 1, 2, 2, 3, 3])
    """
    profiles = rings(kernel, radii, sigma)
    rho, phi = polar(kernel)
    if frequencies is None:
        frequencies = int(max(r for r, _ in profiles) * (torch.pi if cut is None else cut))
    wanted = range(frequencies + 1) if isinstance(frequencies, int) else sorted(set(frequencies))
    if any(m < 0 for m in wanted) or not len(wanted):
        raise ValueError(f"frequencies: expected integers of at least 0, got {frequencies}")
    basis, frequency, radius = [], [], []
    for r, profile in profiles:
        for m in wanted:
            if (cut is not None and m > cut * r) or (r == 0 and m):
                continue
            waves = [(m * phi).cos(), (m * phi).sin()] if m else [torch.ones_like(phi)]
            pair = torch.stack(waves) * profile
            if m:
                pair[:, rho == 0] = 0  # the angle at the centre is undefined
            basis.append(pair * (len(pair) / pair.square().sum()).sqrt())
            frequency += [m] * len(pair)
            radius += [r] * len(pair)
    if not basis:
        raise ValueError(f"frequencies: none of {list(wanted)} is left by cut = {cut} on radii {radii}")
    return Harmonics(torch.cat(basis), torch.tensor(frequency), torch.tensor(radius))


class _SteerableConv2d(nn.Module):
    """Both layers: coefficients of harmonics, steered to all elements, one call of conv2d."""

    on_fields: bool  # whether the input has an axis of the group

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        group: FiniteGroup,
        *,
        padding: int | None = None,
        bias: bool = True,
        harmonics: Harmonics | None = None,
    ):
        super().__init__()
        if getattr(group, "planar", None) is None:
            raise ValueError(f"group: expected cyclic(n) or dihedral(n), got {group}")
        for name, value in {"in_channels": in_channels, "out_channels": out_channels}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
        harmonics = circular_harmonics(kernel) if harmonics is None else harmonics
        if harmonics.basis.shape[-1] != kernel:
            raise ValueError(f"harmonics: expected filters of side {kernel}, got {harmonics.basis.shape[-1]}")
        self.group, self.harmonics = group, harmonics
        self.fibre = fibre = group.order if self.on_fields else 1
        self.in_channels, self.out_channels, self.kernel = in_channels, out_channels, kernel
        self.padding = kernel // 2 if padding is None else padding
        count = len(harmonics.basis)
        # (|G|, count, k²): what the coefficients of the filter are multiplied with for element g. It stays in
        # float64, and is no buffer, which a conversion to float32 and back would round.
        self.steered = torch.stack([harmonics.steer(p).T @ harmonics.basis.flatten(1) for p in group.planar])
        bound = (3 / (in_channels * fibre * count)) ** 0.5  # the output's variance is about that of the input
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels, fibre, count).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        from_h = group.table[group.inverse] if self.on_fields else torch.zeros(group.order, 1).long()
        self.register_buffer("from_h", from_h, persistent=False)

    def filters(self) -> Tensor:
        """All filters, (out, |G|, in, fibre, k, k); fibre is 1 for pictures, |G| for fields."""
        moved = self.weight[
            :, :, self.from_h
        ]  # (out, in, |G|, fibre, count): filter g takes coefficients g⁻¹h
        bank = torch.einsum("oighb,gbp->ogihp", moved, self.steered.to(moved))
        return bank.unflatten(-1, (self.kernel, self.kernel))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (N, in, H, W) or fields (N, in, |G|, H, W) → fields (N, out, |G|, H′, W′)."""
        maps = (self.in_channels, self.group.order) if self.on_fields else (self.in_channels,)
        if x.shape[1:-2] != maps:
            expected = ", ".join(map(str, maps))
            raise ValueError(f"x: expected shape (N, {expected}, H, W), got {tuple(x.shape)}")
        bank = self.filters().flatten(2, 3).flatten(0, 1)
        bias = None if self.bias is None else self.bias.repeat_interleave(self.group.order)
        y = F.conv2d(x.flatten(1, -3), bank, bias, padding=self.padding)
        return y.unflatten(1, (self.out_channels, self.group.order))


class SteerableLifting(_SteerableConv2d):
    """Pictures to fields for C_n and D_n with any n: correlate with every steered copy of each filter.

    y[o, g] = Σ_c (g·w[o, c]) ⋆ x[c] + b[o], w a combination of circular harmonics. Equivariant under quarter
    turns to rounding, where n allows them; under the others up to the error of sampling.

    Args:
        in_channels, out_channels: of pictures and fields.
        kernel: side of the filters, odd.
        group: `cyclic(n)` or `dihedral(n)`.
        padding: zeros on every side; kernel // 2 by default.
        harmonics: `circular_harmonics(kernel)` by default.

    Shapes: weight (out, in, 1, count); input (N, in, H, W), output (N, out, |G|, H′, W′).

    Raises:
        ValueError: another group; harmonics of another size; other channels than said.

    >>> from layerlab.equivariance.groups import cyclic
    >>> SteerableLifting(3, 4, 5, cyclic(8))(torch.randn(2, 3, 9, 9)).shape
    torch.Size([2, 4, 8, 9, 9])
    """

    on_fields = False


class SteerableGroupConv(_SteerableConv2d):
    """Fields to fields for C_n and D_n with any n.

    y[o, g] = Σ_c Σ_h (g·w[o, c, g⁻¹h]) ⋆ x[c, h] + b[o]

    Args and errors: as for `SteerableLifting`.

    Shapes: weight (out, in, |G|, count); input (N, in, |G|, H, W), output (N, out, |G|, H′, W′).

    >>> from layerlab.equivariance.groups import cyclic
    >>> SteerableGroupConv(4, 2, 5, cyclic(8))(torch.randn(2, 4, 8, 9, 9)).shape
    torch.Size([2, 2, 8, 9, 9])
    """

    on_fields = True
