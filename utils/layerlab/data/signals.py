"""Signals of known frequencies, for networks that represent them: t (n, 1) in [0, 1) and value (n, 1)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def chirp(low: float = 1.0, high: float = 32.0, n: int = 1024) -> tuple[Tensor, Tensor]:
    """A sine whose frequency rises evenly from `low` to `high` cycles per unit of time.

    >>> t, value = chirp(n=256)
    >>> t.shape, value.shape
    (torch.Size([256, 1]), torch.Size([256, 1]))
    """
    t = _time(n, max(low, high))
    return t, torch.sin(2 * math.pi * (low * t + (high - low) * t**2 / 2))


def sines(
    frequencies: Sequence[float] = (2, 7, 19), amplitudes: Sequence[float] | None = None, n: int = 1024
) -> tuple[Tensor, Tensor]:
    """A sum of sines of the given frequencies (cycles per unit of time); all amplitudes are 1 unless given.

    >>> t, value = sines([1, 2], [1, 0.5], n=4)
    >>> [round(v, 3) for v in value.flatten().tolist()]
    [0.0, 1.0, 0.0, -1.0]
    """
    if not frequencies:
        raise ValueError("frequencies: expected at least one, got none")
    amplitudes = [1.0] * len(frequencies) if amplitudes is None else amplitudes
    if len(amplitudes) != len(frequencies):
        raise ValueError(
            f"amplitudes: expected {len(frequencies)}, one for each frequency, got {len(amplitudes)}"
        )
    t = _time(n, max(frequencies))
    return t, sum(a * torch.sin(2 * math.pi * f * t) for f, a in zip(frequencies, amplitudes, strict=True))


def _time(n: int, highest: float) -> Tensor:
    """n even steps; refuses frequencies above what n samples can carry (Nyquist)."""
    if n < 2 * highest:
        raise ValueError(
            f"n: expected at least two samples a cycle, {2 * highest:g} for this signal, got {n}"
        )
    return torch.arange(n, dtype=torch.float32)[:, None] / n
