"""Which frequencies a network can have, given those of its first layer; and where edges are, to start there.

A product of waves is a wave of the sum of their frequencies. So if the activations behind the first layer are
polynomials of degree K in complex features, each output is a sum of products of at most Kᴸ first-layer waves,
L layers deep. Roddenberry et al. 2024, "Implicit Neural Representations and the Algebra of Complex Wavelets";
for sines Yüce et al. 2022, "A Structured Dictionary Perspective on Implicit Neural Representations".
Frequencies are in cycles over the signal, which spans [-1, 1].
"""

import math

import torch
from torch import Tensor, nn

_SAME = 6  # decimals in which two frequencies are told apart
_LARGEST = 200_000  # frequencies that `sum_set` lists
_CHUNK = 1 << 20


class Atoms(nn.Module):
    """exp(iπ f·(x - c) - s² |x - c|²): waves of frequency f under bumps around c; a first layer.

    Args:
        frequencies: (m, d), cycles over the signal.
        centres: (m, d), the c; by default 0.
        scale: s, one for all or (m,); 0 gives waves without a bump.
        learn: whether f, c and s are trained or stay as they are.

    Shapes: (N, d) to (N, m), complex.

    >>> Atoms(torch.tensor([[1.0], [2.0]]))(torch.tensor([[1.0]])).real
    tensor([[-1.,  1.]])
    """

    def __init__(
        self,
        frequencies: Tensor,
        centres: Tensor | None = None,
        scale: float | Tensor = 0.0,
        *,
        learn: bool = False,
    ):
        _check_frequencies(frequencies)
        frequencies = frequencies.to(torch.get_default_dtype())
        centres = torch.zeros_like(frequencies) if centres is None else centres
        if centres.shape != frequencies.shape:
            raise ValueError(
                f"centres: expected one for each frequency, {tuple(frequencies.shape)}, "
                f"got {tuple(centres.shape)}"
            )
        scale = torch.as_tensor(scale, dtype=frequencies.dtype)
        if scale.shape not in ((), frequencies.shape[:1]) or not torch.isfinite(scale).all():
            raise ValueError(
                f"scale: expected a finite number or ({len(frequencies)},), got {tuple(scale.shape)}"
            )
        super().__init__()
        values = {"frequencies": frequencies, "centres": centres, "scale": scale.expand(len(frequencies))}
        for name, value in values.items():
            value = value.detach().to(frequencies.dtype).clone()
            if learn:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """(N, d) to (N, m)."""
        away = x[:, None, :] - self.centres  # (N, m, d)
        phase = math.pi * (away * self.frequencies).sum(-1)
        size = torch.exp(-self.scale.square() * away.square().sum(-1))
        return torch.complex(size * phase.cos(), size * phase.sin())


def sum_set(frequencies: Tensor, degree: int) -> Tensor:
    """All sums of at most `degree` of the frequencies, each as often as you like, 0 included: (k, d), sorted.

    The support of a network whose first layer has waves of these frequencies and whose later activations
    are, together, of this degree: K after one polynomial layer of degree K, K² after two. Real sines hold
    both f and -f.

    Args:
        frequencies: (m, d), cycles over the signal.
        degree: the largest number of factors.

    Raises:
        ValueError: an argument is out of range, or there would be more than 200,000 sums.

    >>> sum_set(torch.tensor([[2.0], [5.0]]), 2).flatten().tolist()
    [0.0, 2.0, 4.0, 5.0, 7.0, 10.0]
    """
    _check_frequencies(frequencies)
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 0:
        raise ValueError(f"degree: expected an integer that is not negative, got {degree!r}")
    zero = torch.zeros(1, frequencies.shape[1], dtype=torch.float64, device=frequencies.device)
    steps = _distinct(torch.cat([zero, frequencies.double()]))
    sums = zero
    for _ in range(degree):
        if len(sums) * len(steps) > 16 * _LARGEST or len(sums) > _LARGEST:
            break
        sums = _distinct((sums[:, None] + steps).flatten(0, 1))
    else:
        if len(sums) <= _LARGEST:
            return sums.to(frequencies.dtype if frequencies.is_floating_point() else torch.float64)
    raise ValueError(f"degree: expected at most {_LARGEST} sums, got more for degree {degree}")


def energy_inside(values: Tensor, support: Tensor, radius: float = 0.0) -> float:
    """The share of a signal's energy at frequencies within `radius` of one in `support`, from 0 to 1.

    Args:
        values: the signal on `fit.coordinates(*shape)`, real or complex, (*shape).
        support: frequencies (k, d), cycles over the signal. Those that the sampling cannot tell apart, n
            cycles away on an axis of n samples, count as one.
        radius: in cycles, in the Euclidean norm. A frequency that is no integer, or a wave under a bump,
            fills more than one place of the discrete spectrum.

    Raises:
        ValueError: the signal is all 0 or not finite, or has not d axes.

    >>> from layerlab.inr.fit import coordinates
    >>> wave = torch.sin(torch.pi * 3 * coordinates(32)).flatten()
    >>> round(energy_inside(wave, torch.tensor([[3.0]])), 6)
    0.5
    """
    _check_frequencies(support, "support")
    if values.ndim != support.shape[1]:
        raise ValueError(
            f"values: expected {support.shape[1]} axes, as the frequencies have, got {tuple(values.shape)}"
        )
    if not torch.isfinite(values).all() or not values.any():
        raise ValueError("values: expected a finite signal that is not all 0")
    if not 0 <= radius < math.inf:
        raise ValueError(f"radius: expected a number that is not negative, got {radius}")
    wide = torch.complex128 if values.is_complex() else torch.float64
    energy = torch.fft.fftn(values.to(wide)).abs().square().flatten()
    bins = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in values.shape))
    bins, sizes = bins.view(-1, values.ndim), torch.tensor(values.shape, dtype=torch.float64)
    inside = torch.zeros(len(bins), dtype=torch.bool)
    for part in support.double().cpu().split(max(1, _CHUNK // len(bins))):
        away = bins[:, None] - part  # (bins, frequencies, d)
        away = away - sizes * torch.round(away / sizes)
        inside |= (away.norm(dim=-1) <= radius + 10**-_SAME).any(1)
    return (energy[inside.to(energy.device)].sum() / energy.sum()).item()


def edge_centres(picture: Tensor, count: int, seed: int = 0) -> Tensor:
    """Places drawn where a picture is steep, with probability proportional to its slope: (count, 2).

    For the centres of `Atoms`. Roddenberry et al. 2024 start wavelets at the singularities of the
    signal; here these are drawn from the slope of a picture, which has no threshold to choose.

    Args:
        picture: (channels, H, W), at least 2 × 2 pixels; the slope is that of the mean over channels.
        count: number of places, spread evenly within the pixel that was drawn.
        seed: of the draw.

    >>> step = torch.zeros(1, 8, 8)
    >>> step[:, :, 4:] = 1
    >>> bool((edge_centres(step, 100)[:, 1].abs() <= 0.25).all())
    True
    """
    if picture.ndim != 3 or min(picture.shape) < 1 or min(picture.shape[1:]) < 2:
        raise ValueError(
            f"picture: expected (channels, H, W) of 2 × 2 pixels or more, got {tuple(picture.shape)}"
        )
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"count: expected an integer of at least 1, got {count!r}")
    if not torch.isfinite(picture).all():
        raise ValueError("picture: expected finite values, got NaN or infinity")
    rows, columns = torch.gradient(picture.detach().double().cpu().mean(0))
    slope = (rows.square() + columns.square()).sqrt().flatten()
    if not slope.any():
        raise ValueError("picture: expected an edge, got a picture of one value")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(slope, count, replacement=True, generator=generator)
    height, width = picture.shape[1:]
    corner = torch.stack([drawn // width, drawn % width], 1)
    place = corner + torch.rand(count, 2, generator=generator)
    return place / torch.tensor([height, width]) * 2 - 1


def _distinct(rows: Tensor) -> Tensor:
    """Each row once, in ascending order; rows equal in `_SAME` decimals are one."""
    return torch.unique((rows * 10**_SAME).round(), dim=0) / 10**_SAME


def _check_frequencies(frequencies: Tensor, name: str = "frequencies") -> None:
    if frequencies.ndim != 2 or not frequencies.numel() or not torch.isfinite(frequencies).all():
        raise ValueError(f"{name}: expected finite (m, d), got {tuple(frequencies.shape)}")
