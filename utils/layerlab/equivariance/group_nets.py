"""Small classifiers of pictures, with group convolutions and without, and what makes them comparable."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from layerlab.equivariance.group_conv import (
    GroupBatchNorm,
    GroupConv2d,
    LiftingConv2d,
    PlaneGroup,
    group_pool,
    spatial_pool,
)
from layerlab.equivariance.groups import FiniteGroup
from layerlab.equivariance.steerable import SteerableGroupConv, SteerableLifting
from layerlab.train import evaluating


def _sides(size: int, blocks: int) -> int:
    """The side that is left after halving `blocks` − 1 times."""
    if blocks < 1:
        raise ValueError("widths: expected at least one width, got none")
    if size % 2 ** (blocks - 1):
        raise ValueError(f"size: expected a multiple of {2 ** (blocks - 1)} for {blocks} widths, got {size}")
    return size // 2 ** (blocks - 1)


class GroupConvNet(nn.Module):
    """A classifier whose logits do not change when the picture is turned by the group.

    Blocks of convolution, batch norm and ReLU, with max-pooling by 2 between them; then a group convolution
    as large as the map that is left, so that what lies where still counts, a ReLU, the maximum over the
    group, and a linear layer.

    Args:
        in_channels, classes: of the pictures and the logits.
        widths: channels of each block; the first lifts pictures to fields. A field has |G| maps per channel.
        group: `cyclic(n)` or `dihedral(n)`, n = 1, 2 or 4; with steerable filters any n.
        size: side of the pictures, a multiple of 2^(len(widths) − 1).
        kernel: side of the filters of the blocks.
        head: channels of the last convolution, all that the linear layer sees: more than there are classes.
        pool: how the group is pooled.
        steerable: filters of circular harmonics in place of free ones; the side of the map that is left must
            then be odd (size 14 with two widths, 28 with three). Blocks are pooled by means, which alias less
            than maxima. Turns other than quarter turns change the logits by the error of sampling.

    Shapes: (N, in, size, size) → (N, classes).

    >>> from layerlab.equivariance.groups import cyclic
    >>> net = GroupConvNet(1, 10, (4, 6), cyclic(4), size=8).eval()
    >>> x = torch.randn(3, 1, 8, 8)
    >>> torch.allclose(net(x), net(x.rot90(1, (2, 3))), atol=1e-5)
    True
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: Sequence[int],
        group: FiniteGroup | PlaneGroup,
        *,
        size: int,
        kernel: int = 3,
        head: int = 32,
        pool: Literal["max", "mean", "sum"] = "max",
        steerable: bool = False,
    ):
        super().__init__()
        left = _sides(size, len(widths))
        lift, conv = (SteerableLifting, SteerableGroupConv) if steerable else (LiftingConv2d, GroupConv2d)
        convs: list[nn.Module] = [lift(in_channels, widths[0], kernel, group, bias=False)]
        convs += [conv(a, b, kernel, group, bias=False) for a, b in pairwise(widths)]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(GroupBatchNorm(width) for width in widths)
        self.last = conv(widths[-1], head, left, group, padding=0)
        self.head = nn.Linear(head, classes)
        self.pool, self.between = pool, "mean" if steerable else "max"

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, size, size) → (N, classes)."""
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(spatial_pool(x, 2, self.between) if i else x)))
        x = group_pool(F.relu(self.last(x)), self.pool)
        return self.head(x.flatten(1))


class PlainConvNet(nn.Module):
    """The same classifier with ordinary convolutions: `GroupConvNet` for the group of one element.

    >>> PlainConvNet(1, 10, (4, 6), size=8)(torch.randn(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: Sequence[int],
        *,
        size: int,
        kernel: int = 3,
        head: int = 32,
    ):
        super().__init__()
        left = _sides(size, len(widths))
        channels = [in_channels, *widths]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False) for a, b in pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.last = nn.Conv2d(widths[-1], head, left)
        self.head = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, size, size) → (N, classes)."""
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(F.max_pool2d(x, 2) if i else x)))
        return self.head(F.relu(self.last(x)).flatten(1))


def count_parameters(model: nn.Module) -> int:
    """How many numbers are trained.

    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def multiply_adds(model: nn.Module, x: Tensor) -> int:
    """Multiply-adds of convolutions and matrix products for the batch x; gathers, norms and ReLUs are free.

    Steerable filters are matrix products too, made once per call: for few pictures they outweigh the
    convolutions, so give the batch that is meant and divide by its size.

    >>> multiply_adds(nn.Linear(3, 2), torch.zeros(5, 3))
    30
    """
    with evaluating(model), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() // 2  # the counter takes a multiply-add for two


def match_widths(
    make: Callable[[Sequence[int], int], nn.Module],
    widths: Sequence[int],
    head: int,
    measure: Callable[[nn.Module], int],
    target: int,
) -> tuple[list[int], int]:
    """Scale all widths by one factor, 0.1 to 16 in steps of 1/20, so that the measure is nearest a target.

    Args:
        make: builds a network from the widths of its blocks and of its head.
        widths, head: what is scaled; rounded to integers, at least 1.
        measure: of a network: `count_parameters`, or `lambda net: multiply_adds(net, x)`.
        target: what it should be.

    Returns:
        The widths and the head.

    >>> make = lambda widths, head: PlainConvNet(1, 10, widths, size=8, head=head)
    >>> match_widths(make, (4, 6), 16, count_parameters, 7700)
    ([8, 12], 33)
    """
    if target < 1:
        raise ValueError(f"target: expected at least 1, got {target}")
    sizes = sorted({tuple(max(1, round(s / 20 * w)) for w in (*widths, head)) for s in range(2, 321)})

    @cache
    def found(i: int) -> int:
        # what is only tried draws no numbers from the caller's generator
        with torch.random.fork_rng(devices=[]):
            return measure(make(sizes[i][:-1], sizes[i][-1]))

    above = bisect_left(range(len(sizes)), target, key=found)  # the measure grows with the widths
    near = [i for i in (above - 1, above) if 0 <= i < len(sizes)]
    *scaled, last = sizes[min(near, key=lambda i: abs(found(i) - target))]
    return scaled, last
