"""Turning pictures by any angle, and how far a layer is from turning its output with its input."""

import math
from collections.abc import Callable

import torch
from scipy.ndimage import affine_transform
from torch import Tensor, nn

from layerlab.equivariance.groups import FiniteGroup


def smooth_pictures(
    number: int,
    size: int,
    *,
    angle: float = 0.0,
    channels: int = 1,
    wavelength: float = 8.0,
    waves: int = 12,
    seed: int = 0,
) -> Tensor:
    """Sums of plane waves, sampled after a turn: pictures that can be turned by any angle without error.

    Args:
        number, channels, size: of the pictures.
        angle: the turn about the centre, counterclockwise, in radians; the same pictures for every angle.
        wavelength: the shortest, in pixels; the longest is three times that. At least 2.
        waves: how many are added up.
        seed: of directions, wavelengths and phases.

    Returns:
        (number, channels, size, size) float64, variance about 1.

    >>> quarter = smooth_pictures(1, 9, angle=math.pi / 2)
    >>> torch.allclose(quarter, smooth_pictures(1, 9).rot90(1, (2, 3)))
    True
    """
    if not wavelength >= 2:
        raise ValueError(f"wavelength: expected at least 2 pixels, got {wavelength}")
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(3, number, channels, waves, generator=generator, dtype=torch.float64)
    along, phase = 2 * math.pi * draw[0], 2 * math.pi * draw[1]
    rate = 2 * math.pi / (wavelength * (1 + 2 * draw[2]))
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    back_x, back_y = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    kx, ky = (rate * along.cos())[..., None, None], (rate * along.sin())[..., None, None]
    return (kx * back_x + ky * back_y + phase[..., None, None]).cos().sum(2) * (2 / waves) ** 0.5


def rotate(x: Tensor, angle: float, order: int = 5) -> Tensor:
    """Turn pictures (…, H, W) counterclockwise about the centre by `angle` radians, by splines (scipy).

    Outside the picture its mirror image is read. Quarter turns of squares are exact but for rounding.

    >>> x = smooth_pictures(1, 9)
    >>> torch.allclose(rotate(x, math.pi / 2), x.rot90(1, (2, 3)))
    True
    """
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(f"x: expected floating point, (…, H, W), got {x.dtype} {tuple(x.shape)}")
    c, s = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)  # (row, column) of the result → of x
    centre = (torch.tensor(x.shape[-2:], dtype=torch.float64) - 1) / 2
    offset = (centre - matrix @ centre).numpy()
    maps = x.detach().double().flatten(0, -3) if x.ndim > 2 else x.detach().double()[None]
    turned = [
        torch.from_numpy(affine_transform(m.numpy(), matrix.numpy(), offset, order=order, mode="mirror"))
        for m in maps
    ]
    return torch.stack(turned).view(x.shape).to(x.dtype)


def disk(size: int, margin: float = 0.0) -> Tensor:
    """(size, size) bool: the pixels whose distance from the centre is at most size/2 − margin."""
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return torch.hypot(axis[:, None], axis) <= size / 2 - margin


def permute_fibre(group: FiniteGroup, g: int) -> Callable[[Tensor], Tensor]:
    """What g does to the maps of a field (…, |G|, H, W), leaving the pixels: map h moves to g·h."""
    index = group.table[group.inverse[group.check(g)]]
    return lambda x: x.index_select(-3, index.to(x.device))


@torch.no_grad()
def interpolation_error(
    layer: Callable[[Tensor], Tensor],
    angle: float,
    *,
    fibre: Callable[[Tensor], Tensor] | None = None,
    size: int = 41,
    channels: int = 1,
    wavelength: float = 8.0,
    margin: float = 6.0,
    number: int = 4,
    seed: int = 0,
) -> float:
    """‖layer(turned x) − turned layer(x)‖ / ‖turned layer(x)‖ inside a disk, over smooth pictures.

    The input is turned without error (`smooth_pictures`); the output by splines of order 5, whose own error
    is what the identity shows as a layer.

    Args:
        layer: pictures (N, channels, size, size) → (N, …, size, size); a module in evaluation mode.
        angle: counterclockwise, radians.
        fibre: what the turn does to the output besides moving pixels: `permute_fibre(group, r)` for fields on
            C_n and angle 2π·r/n, `lambda y: turn_vectors(y, frequencies, angle)` for fields of SO(2); by
            default nothing, for pictures.
        size, channels, wavelength, number, seed: of the pictures.
        margin: pixels left out at the rim of the disk; at least the reach of the filters.

    Raises:
        ValueError: the output has another size.

    >>> interpolation_error(lambda x: x, math.pi / 7) < 1e-3
    True
    """
    like = (
        next(layer.parameters(), torch.zeros(0, dtype=torch.float64))
        if isinstance(layer, nn.Module)
        else None
    )
    options = {"channels": channels, "wavelength": wavelength, "seed": seed}
    x, turned = (
        smooth_pictures(number, size, **options),
        smooth_pictures(number, size, angle=angle, **options),
    )
    if like is not None:
        x, turned = x.to(like), turned.to(like)
    y, found = layer(x), layer(turned)
    if y.shape[-2:] != (size, size):
        raise ValueError(f"layer: expected an output (…, {size}, {size}), got {tuple(y.shape)}")
    expected = rotate(y, angle)
    if fibre is not None:
        expected = fibre(expected)
    inside = disk(size, margin)
    return ((found - expected)[..., inside].norm() / expected[..., inside].norm()).item()
