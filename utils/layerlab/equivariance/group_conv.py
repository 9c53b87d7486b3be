"""Group convolutions on the square grid: pictures are turned and flipped by permuting their pixels.

A picture is (N, C, H, W); a field on the group, (N, C, |G|, H, W), has one map per element. The groups are
`cyclic(n)` and `dihedral(n)` with n = 1, 2 or 4, whose elements map the pixels of a square onto pixels, so
that nothing is interpolated. With the translations, C4 and D4 make the groups p4 and p4m of Cohen and Welling
(2016), Group Equivariant Convolutional Networks, ICML.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerlab.equivariance.groups import FiniteGroup

Pooling = Literal["max", "mean", "sum"]


class PlaneGroup:
    """A group of quarter turns and flips, and how it moves the pixels of a square.

    Args:
        group: `cyclic(n)` or `dihedral(n)` with n = 1, 2 or 4.

    The centre of the square is the origin, x points right and y up, so that element r of C4 is
    `torch.rot90(x, r, (-2, -1))`, and the flip of D4 exchanges top and bottom.

    Raises:
        ValueError: the group is of no such kind: other rotations take pixels between pixels.

    >>> from layerlab.equivariance.groups import cyclic
    >>> PlaneGroup(cyclic(4)).turn(1, torch.tensor([[1, 2], [3, 4]]))
    tensor([[2, 4],
            [1, 3]])
    """

    def __init__(self, group: FiniteGroup):
        planar = getattr(group, "planar", None)
        if planar is None or not torch.equal(planar, planar.round()):
            raise ValueError(f"group: expected cyclic(n) or dihedral(n) with n = 1, 2 or 4, got {group}")
        self.group, self.order = group, group.order

    def index(self, size: int) -> Tensor:
        """(|G|, size²): picture.flatten()[index[g]] is the flat picture moved by g, (g·f)(x) = f(g⁻¹x)."""
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"size: expected an integer of at least 1, got {size!r}")
        row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        x, y = (
            2 * column - (size - 1),
            (size - 1) - 2 * row,
        )  # twice the coordinates, so that they are integers
        back = self.group.planar[self.group.inverse].round().long()
        x, y = torch.einsum("gij,jp->igp", back, torch.stack([x.flatten(), y.flatten()]))
        return (size - 1 - y) // 2 * size + (x + size - 1) // 2

    def turn(self, g: int, x: Tensor) -> Tensor:
        """Move the last two axes of x, which must be equally long, by g."""
        if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
            raise ValueError(f"x: expected a square, (…, H, H), got shape {tuple(x.shape)}")
        index = self.index(x.shape[-1])[self.group.check(g)].to(x.device)
        return x.flatten(-2)[..., index].view(x.shape)


def _plane(group: FiniteGroup | PlaneGroup) -> PlaneGroup:
    return group if isinstance(group, PlaneGroup) else PlaneGroup(group)


class PictureRep:
    """The group on pictures (…, H, H): `act` moves the pixels.

    >>> from layerlab.equivariance.check import assert_equivariant
    >>> from layerlab.equivariance.groups import dihedral
    >>> rep = PictureRep(dihedral(4))
    >>> assert_equivariant(torch.relu, rep, rep, torch.randn(2, 3, 8, 8))
    0.0
    """

    def __init__(self, group: FiniteGroup | PlaneGroup):
        self.plane = _plane(group)
        self.group = self.plane.group

    def act(self, g: int, x: Tensor) -> Tensor:
        """(…, H, H) → the same, moved by g."""
        return self.plane.turn(g, x)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.group})"


class FieldRep(PictureRep):
    """The group on fields (…, |G|, H, H): `act` moves the pixels of every map and permutes the maps.

    (u·f)(g, x) = f(u⁻¹g, u⁻¹x), the regular representation along the group's axis.
    """

    def act(self, g: int, x: Tensor) -> Tensor:
        """(…, |G|, H, H) → the same, moved by g."""
        if x.ndim < 3 or x.shape[-3] != self.group.order:
            raise ValueError(f"x: expected shape (…, {self.group.order}, H, H), got {tuple(x.shape)}")
        moved = self.plane.turn(g, x)
        return moved[..., self.group.table[self.group.inverse[self.group.check(g)]].to(x.device), :, :]


class _PlaneConv2d(nn.Module):
    """Both convolutions: one weight, all filters by indices, one call of conv2d."""

    on_fields: bool  # whether the input has an axis of the group

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        group: FiniteGroup | PlaneGroup,
        *,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = True,
    ):
        super().__init__()
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "kernel": kernel, "stride": stride}
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
        self.plane = _plane(group)
        self.in_channels, self.out_channels, self.kernel = in_channels, out_channels, kernel
        self.fibre = fibre = self.plane.order if self.on_fields else 1
        self.stride, self.padding = stride, kernel // 2 if padding is None else padding
        bound = (in_channels * fibre * kernel**2) ** -0.5  # as torch's Conv2d
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, fibre, kernel, kernel))
        nn.init.uniform_(self.weight, -bound, bound)
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None
        # (|G|, fibre·k²) places in the flat weight: filter g at (h, x) is the weight at (g⁻¹h, g⁻¹x)
        spatial = self.plane.index(kernel)
        from_h = self._from_h()
        index = from_h[:, :, None] * kernel**2 + spatial[:, None]
        self.register_buffer("index", index.flatten(1), persistent=False)

    def _from_h(self) -> Tensor:
        """(|G|, fibre): the map of the weight that meets map h of the input in filter g."""
        group = self.plane.group
        return group.table[group.inverse] if self.on_fields else torch.zeros(group.order, 1).long()

    def filters(self) -> Tensor:
        """All filters, (out, |G|, in, fibre, k, k); fibre is 1 for pictures, |G| for fields."""
        bank = self.weight.flatten(2)[:, :, self.index]  # (out, in, |G|, fibre·k²)
        return bank.transpose(1, 2).unflatten(-1, (self.fibre, self.kernel, self.kernel))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (N, in, H, W) or fields (N, in, |G|, H, W) → fields (N, out, |G|, H′, W′)."""
        maps = (self.in_channels, self.plane.order) if self.on_fields else (self.in_channels,)
        if x.shape[1:-2] != maps:
            expected = ", ".join(map(str, maps))
            raise ValueError(f"x: expected shape (N, {expected}, H, W), got {tuple(x.shape)}")
        for length in x.shape[-2:]:
            if self.stride > 1 and (length + 2 * self.padding - self.kernel) % self.stride:
                raise ValueError(
                    f"x: expected sides with (side + 2·{self.padding} − {self.kernel}) divisible by stride "
                    f"{self.stride}, so that samples lie symmetrically, got {length}"
                )
        bank = self.filters().flatten(2, 3).flatten(0, 1)
        bias = None if self.bias is None else self.bias.repeat_interleave(self.plane.order)
        y = F.conv2d(x.flatten(1, -3), bank, bias, self.stride, self.padding)
        return y.unflatten(1, (self.out_channels, self.plane.order))


class LiftingConv2d(_PlaneConv2d):
    """Pictures to fields: correlate with every moved copy of each filter.

    y[o, g] = Σ_c (g·w[o, c]) ⋆ x[c] + b[o]

    Args:
        in_channels, out_channels, kernel: as in `nn.Conv2d`; the kernel is square.
        group: `cyclic(n)` or `dihedral(n)`, n = 1, 2 or 4.
        stride: allowed where it leaves no remainder: (H + 2·padding − kernel) divisible by it.
        padding: zeros on every side; kernel // 2 by default.

    Shapes: weight (out, in, 1, k, k); input (N, in, H, W), output (N, out, |G|, H′, W′).

    Raises:
        ValueError: the group turns pixels off the grid; other channels than said; a stride with a remainder.

    >>> from layerlab.equivariance.check import assert_equivariant
    >>> from layerlab.equivariance.groups import cyclic
    >>> lift = LiftingConv2d(3, 4, 5, cyclic(4)).double()
    >>> x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    >>> lift(x).shape
    torch.Size([2, 4, 4, 8, 8])
    >>> assert_equivariant(lift, PictureRep(cyclic(4)), FieldRep(cyclic(4)), x) < 1e-10
    True
    """

    on_fields = False


class GroupConv2d(_PlaneConv2d):
    """Fields to fields: correlate over translations and the group.

    y[o, g] = Σ_c Σ_h (g·w[o, c, g⁻¹h]) ⋆ x[c, h] + b[o]

    Args: as for `LiftingConv2d`.

    Shapes: weight (out, in, |G|, k, k); input (N, in, |G|, H, W), output (N, out, |G|, H′, W′).

    Raises:
        ValueError: as for `LiftingConv2d`.

    >>> from layerlab.equivariance.check import assert_equivariant
    >>> from layerlab.equivariance.groups import dihedral
    >>> conv, rep = GroupConv2d(2, 3, 3, dihedral(4)).double(), FieldRep(dihedral(4))
    >>> assert_equivariant(conv, rep, rep, torch.randn(2, 2, 8, 6, 6, dtype=torch.float64)) < 1e-10
    True
    """

    on_fields = True


class GroupBatchNorm(nn.BatchNorm3d):
    """Batch normalisation of fields: one mean, variance, scale and shift per channel, shared by all elements.

    Statistics per map would differ after a turn, which permutes the maps. (N, C, |G|, H, W) → the same.
    """


def group_pool(x: Tensor, how: Pooling = "max") -> Tensor:
    """Reduce the group's axis: (N, C, |G|, H, W) → (N, C, H, W), a picture that turns with the input.

    >>> group_pool(torch.tensor([1.0, 5.0]).view(1, 1, 2, 1, 1)).item()
    5.0
    """
    if x.ndim != 5:
        raise ValueError(f"x: expected shape (N, C, |G|, H, W), got {tuple(x.shape)}")
    if how not in ("max", "mean", "sum"):
        raise ValueError(f"how: expected 'max', 'mean' or 'sum', got {how!r}")
    return {"max": torch.amax, "mean": torch.mean, "sum": torch.sum}[how](x, 2)


def spatial_pool(x: Tensor, size: int = 2, how: Literal["max", "mean"] = "max") -> Tensor:
    """Pool squares of size×size pixels: fields or pictures, (…, H, W) → (…, H/size, W/size).

    Raises:
        ValueError: `size` is below 1; a side is no multiple of it: the squares would not be placed
            symmetrically.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size: expected an integer of at least 1, got {size!r}")
    if how not in ("max", "mean"):
        raise ValueError(f"how: expected 'max' or 'mean', got {how!r}")
    if any(length % size for length in x.shape[-2:]):
        raise ValueError(f"x: expected sides that are multiples of {size}, got shape {tuple(x.shape)}")
    pool = F.max_pool2d if how == "max" else F.avg_pool2d
    return pool(x.flatten(0, -4) if x.ndim > 4 else x, size).view(
        *x.shape[:-2], *(n // size for n in x.shape[-2:])
    )
