"""Convolutions for all rotations at once: fields whose vectors turn with the picture, SO(2).

A field of frequency 0 is a number per pixel; one of frequency k > 0 is a vector (u, v), read as u + iv, that
turns by k·θ when the picture turns by θ. After Worrall et al. (2017), Harmonic Networks: Deep Translation and
Rotation Equivariance, CVPR, and Weiler and Cesa (2019), General E(2)-Equivariant Steerable CNNs, NeurIPS.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerlab.equivariance.group_conv import PictureRep
from layerlab.equivariance.groups import FiniteGroup
from layerlab.equivariance.steerable import polar, rings


def _check_frequencies(frequencies: Sequence[int], name: str) -> list[int]:
    found = list(frequencies)
    if not found or any(isinstance(k, bool) or not isinstance(k, int) or k < 0 for k in found):
        raise ValueError(f"{name}: expected integers of at least 0, not empty, got {found}")
    if found != sorted(found):
        raise ValueError(f"{name}: expected ascending frequencies, got {found}")
    return found


def channels(frequencies: Sequence[int]) -> int:
    """How many channels fields of these frequencies take: one for 0, two for each other.

    >>> channels([0, 0, 1, 2])
    6
    """
    return sum(2 if k else 1 for k in frequencies)


def so2_basis(
    k_out: int,
    k_in: int,
    kernel: int,
    radii: Sequence[float] | None = None,
    sigma: float = 0.5,
    *,
    cut: float | None = 2.0,
) -> Tensor:
    """All steerable filters from a field of frequency k_in to one of k_out, with the given rings.

    They are K(ρ, φ) with K(ρ, φ + θ) = R(k_out·θ) K(ρ, φ) R(−k_in·θ), which leaves, in complex numbers and on
    each ring, z ↦ a·exp(i(k_out − k_in)φ)·z and, where both are above 0, z ↦ b·exp(i(k_out + k_in)φ)·z̄, with
    complex a and b: one real filter between two fields of frequency 0, two from or to 0, four between others.
    A ring of radius r keeps what has an angular frequency of at most cut·r, at r = 0 only frequency 0.

    Args:
        k_out, k_in: frequencies of the fields.
        kernel, radii, sigma, cut: as for `circular_harmonics`.

    Returns:
        (count, d_out, d_in, k, k) float64, d = 1 for frequency 0 and 2 for others; norm 1 each. The count may
        be 0.

    >>> so2_basis(1, 1, 5, radii=[2.0]).shape
    torch.Size([4, 2, 2, 5, 5])
    """
    _check_frequencies([k_out], "k_out")
    _check_frequencies([k_in], "k_in")
    rho, phi = polar(kernel)
    families = [(k_out - k_in, 1.0)]
    if k_out and k_in:
        families.append((k_out + k_in, -1.0))
    found = []
    for r, profile in rings(kernel, radii, sigma):
        for m, sign in families:  # sign −1: acts on the conjugate
            if (cut is not None and abs(m) > cut * r) or (r == 0 and m):
                continue
            envelope = profile * (rho > 0) if m else profile  # the angle at the centre is undefined
            for phase in (0.0, torch.pi / 2) if k_out or k_in else (0.0,):
                c, s = (m * phi + phase).cos() * envelope, (m * phi + phase).sin() * envelope
                matrix = torch.stack([torch.stack([c, -s * sign]), torch.stack([s, c * sign])])
                matrix = matrix[: 2 if k_out else 1, : 2 if k_in else 1]
                found.append(matrix / matrix.norm())
    if not found:
        return torch.zeros(0, 2 if k_out else 1, 2 if k_in else 1, kernel, kernel, dtype=torch.float64)
    return torch.stack(found)


class SO2Conv(nn.Module):
    """A convolution between fields that turn by frequencies: equivariant to all rotations, but for sampling.

    Quarter turns are exact to rounding. Pictures are fields of frequency 0.

    Args:
        frequencies_in, frequencies_out: one per field, ascending: [0, 0, 1, 2]: two numbers, two vectors.
        kernel: side of the filters, odd.
        padding: zeros on every side; kernel // 2 by default.
        radii, sigma, cut: as for `circular_harmonics`.

    Shapes: input (N, channels(frequencies_in), H, W), output (N, channels(frequencies_out), H′, W′);
    fields in the order given, a vector's two channels side by side. One weight per pair of frequencies,
    (fields out, fields in, count). Only fields of frequency 0 have a bias: a constant vector would not turn.

    Raises:
        ValueError: frequencies that are negative or not ascending; other channels than said.

    >>> from layerlab.equivariance.check import assert_equivariant
    >>> from layerlab.equivariance.groups import cyclic
    >>> conv = SO2Conv([0], [0, 1, 2], 5).double()
    >>> rep_in, rep_out = IrrepFieldRep(cyclic(4), [0]), IrrepFieldRep(cyclic(4), [0, 1, 2])
    >>> assert_equivariant(conv, rep_in, rep_out, torch.randn(2, 1, 9, 9, dtype=torch.float64)) < 1e-10
    True
    """

    def __init__(
        self,
        frequencies_in: Sequence[int],
        frequencies_out: Sequence[int],
        kernel: int,
        *,
        padding: int | None = None,
        bias: bool = True,
        radii: Sequence[float] | None = None,
        sigma: float = 0.5,
        cut: float | None = 2.0,
    ):
        super().__init__()
        self.frequencies_in = _check_frequencies(frequencies_in, "frequencies_in")
        self.frequencies_out = _check_frequencies(frequencies_out, "frequencies_out")
        self.kernel, self.padding = kernel, kernel // 2 if padding is None else padding
        ins = {k: len(list(group)) for k, group in groupby(self.frequencies_in)}
        outs = {k: len(list(group)) for k, group in groupby(self.frequencies_out)}
        self.pairs = [(k, m) for k in outs for m in ins]
        self.columns = len(ins)
        self.bases = [so2_basis(k, m, kernel, radii, sigma, cut=cut) for k, m in self.pairs]
        weights = []
        for (k, m), basis in zip(self.pairs, self.bases, strict=True):
            bound = (3 / max(1, len(self.frequencies_in) * len(basis))) ** 0.5
            weights.append(nn.Parameter(torch.empty(outs[k], ins[m], len(basis)).uniform_(-bound, bound)))
        self.weights = nn.ParameterList(weights)
        self.bias = nn.Parameter(torch.zeros(outs[0])) if bias and 0 in outs else None

    def filters(self) -> Tensor:
        """The filter bank, (channels out, channels in, k, k)."""
        blocks = []
        for weight, basis in zip(self.weights, self.bases, strict=True):
            block = torch.einsum("oib,bxyp->oxiyp", weight, basis.to(weight).flatten(3))
            blocks.append(block.flatten(2, 3).flatten(0, 1))
        rows = [torch.cat(blocks[i : i + self.columns], 1) for i in range(0, len(blocks), self.columns)]
        return torch.cat(rows).unflatten(-1, (self.kernel, self.kernel))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels in, H, W) → (N, channels out, H′, W′)."""
        if x.ndim != 4 or x.shape[1] != channels(self.frequencies_in):
            expected = f"(N, {channels(self.frequencies_in)}, H, W)"
            raise ValueError(f"x: expected shape {expected}, got {tuple(x.shape)}")
        bias = self.bias
        if bias is not None:  # frequencies ascend, so the numbers come first
            bias = F.pad(bias, (0, channels(self.frequencies_out) - len(bias)))
        return F.conv2d(x, self.filters(), bias, padding=self.padding)


def norms(x: Tensor, frequencies: Sequence[int]) -> Tensor:
    """(N, channels, H, W) → (N, fields, H, W): numbers as they are, the lengths of vectors; turns leave both.

    >>> norms(torch.tensor([-2.0, 3.0, 4.0]).view(1, 3, 1, 1), [0, 1]).flatten()
    tensor([-2.,  5.])
    """
    numbers = sum(k == 0 for k in _check_frequencies(frequencies, "frequencies"))
    if x.ndim != 4 or x.shape[1] != channels(frequencies):
        raise ValueError(f"x: expected shape (N, {channels(frequencies)}, H, W), got {tuple(x.shape)}")
    vectors = (
        x[:, numbers:].unflatten(1, (-1, 2))
        if x.shape[1] > numbers
        else x.new_zeros(*x.shape[:1], 0, 2, *x.shape[2:])
    )
    return torch.cat([x[:, :numbers], torch.linalg.vector_norm(vectors, dim=2)], 1)


class NormReLU(nn.Module):
    """ReLU on numbers, and on the lengths of vectors: z ↦ relu(|z| + b)·z/|z|, which keeps their directions.

    A ReLU on each coordinate of a vector would not commute with rotations. One learned b per field.

    >>> relu = NormReLU([0, 1])
    >>> relu(torch.tensor([-2.0, 3.0, -4.0]).view(1, 3, 1, 1)).flatten().round(decimals=3)
    tensor([ 0.0000,  2.9400, -3.9200], grad_fn=<RoundBackward1>)
    """

    def __init__(self, frequencies: Sequence[int]):
        super().__init__()
        self.frequencies = _check_frequencies(frequencies, "frequencies")
        self.bias = nn.Parameter(torch.tensor([-0.1 if k else 0.0 for k in self.frequencies]))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) → the same."""
        lengths = norms(x, self.frequencies)
        numbers = sum(k == 0 for k in self.frequencies)
        kept = F.relu(lengths + self.bias[:, None, None])
        scale = (kept[:, numbers:] / lengths[:, numbers:].clamp(min=1e-12)).repeat_interleave(2, 1)
        return torch.cat([kept[:, :numbers], x[:, numbers:] * scale], 1)


class IrrepFieldRep(PictureRep):
    """Quarter turns on fields (N, channels, H, H): pixels move, vectors turn by frequency times angle.

    Args:
        group: `cyclic(n)`, n = 1, 2 or 4, the rotations that need no interpolation.
        frequencies: of the fields, ascending.
    """

    def __init__(self, group: FiniteGroup, frequencies: Sequence[int]):
        super().__init__(group)
        if bool((group.planar.det() < 0).any()):
            raise ValueError(f"group: expected rotations, got {group} with flips")
        self.frequencies = _check_frequencies(frequencies, "frequencies")

    def act(self, g: int, x: Tensor) -> Tensor:
        """(…, channels, H, H) → the same, moved by g."""
        turn = self.group.planar[self.group.check(g)]
        return turn_vectors(
            self.plane.turn(g, x), self.frequencies, float(torch.atan2(turn[1, 0], turn[0, 0]))
        )


def turn_vectors(x: Tensor, frequencies: Sequence[int], angle: float) -> Tensor:
    """Turn the vectors of fields, (…, channels, H, W), by frequency times angle (radians); pixels stay."""
    if x.ndim < 3 or x.shape[-3] != channels(frequencies):
        raise ValueError(f"x: expected shape (…, {channels(frequencies)}, H, W), got {tuple(x.shape)}")
    blocks = []
    for k in frequencies:
        t = torch.tensor(k * angle, dtype=torch.float64)
        turn = torch.stack([torch.stack([t.cos(), -t.sin()]), torch.stack([t.sin(), t.cos()])])
        blocks.append(turn if k else torch.ones(1, 1, dtype=torch.float64))
    return torch.einsum("cd,...dhw->...chw", torch.block_diag(*blocks).to(x), x)
