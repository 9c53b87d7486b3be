"""Weights that jump between two levels while a model trains in few bits: how to count them, how to calm them.

Straight-through training moves a latent weight until it crosses a threshold between two levels, and then
back. How often depends on what moves besides: a learned step size moves every threshold of its layer. The
grid has no zero and as many levels above as below it, (k + ½) · step for −2^(bits−1) ≤ k < 2^(bits−1), as in
OFQ (Liu et al., 2023), and is rounded to straight through.

Chapter: `chapters/quantization/03_one_bit.ipynb`.
"""

import torch
from torch import Tensor

from layerlab.quantization._values import check_floating, check_integer, check_positive


def codes(weight: Tensor, step: Tensor, bits: int) -> Tensor:
    """The level k of each weight, −2^(bits−1) … 2^(bits−1) − 1: its value is (k + ½) · step.

    Args:
        weight: (out, in, …).
        step: above 0, which is not checked, as it may train; broadcast with the weight: (out, 1, …).
        bits: 1 … 8.

    Returns:
        Whole numbers of the weight's shape and dtype; no gradient.

    Raises:
        TypeError, ValueError: not floating point; `bits` out of range.

    >>> codes(torch.tensor([-3.0, -0.2, 0.2, 1.2]), torch.tensor(1.0), 2)
    tensor([-2., -1.,  0.,  1.])
    """
    check_floating(weight, "weight")
    half = _half(bits)
    return (weight.detach() / step.detach()).floor().clamp(-half, half - 1)


def round_to(weight: Tensor, step: Tensor, bits: int) -> Tensor:
    """Weights on their levels, with gradients for the weight and for the step: LSQ (Esser et al., 2020).

    Straight through for the weight where it is in the grid's range, zero outside; for the step, the level
    less weight / step, or outside the outermost level.

    Args:
        weight, step, bits: as in `codes`.

    Raises:
        TypeError, ValueError: as `codes`.

    >>> step = torch.tensor(1.0, requires_grad=True)
    >>> w = torch.tensor([0.2, 3.0], requires_grad=True)
    >>> y = round_to(w, step, 2); y.sum().backward()
    >>> y.tolist(), w.grad.tolist(), round(step.grad.item(), 2)
    ([0.5, 1.5], [1.0, 0.0], 1.8)
    """
    check_floating(weight, "weight")
    half = _half(bits)
    place = (weight / step).clamp(-half, half)
    down = (place.detach().floor().clamp(max=half - 1) - place).detach()
    return (place + down + 0.5) * step


def learned(step: Tensor, weight: Tensor, bits: int) -> Tensor:
    """A step as it is, its gradient divided by √(weights that share it · highest level): LSQ's scale of it.

    Args:
        step: (out, 1, …) or a scalar: what an optimizer moves.
        weight: (out, in, …).
        bits: 1 … 8.

    >>> step = torch.ones(1, 1, requires_grad=True)
    >>> learned(step, torch.zeros(1, 8), 2).sum().backward(); round(step.grad.item(), 4)
    0.25
    """
    scale = (weight.numel() / step.numel() * _half(bits)) ** -0.5
    return step * scale + (step * (1 - scale)).detach()


def statistical(weight: Tensor, bits: int) -> Tensor:
    """A step for each unit from its mean |weight|, which no gradient moves: StatsQ.

    The grid spans −2 to 2 times the mean |weight| (Liu et al., 2023).

    Args:
        weight: (out, in, …).
        bits: 1 … 8.

    Returns:
        (out, 1, …), of the weight's dtype.

    Raises:
        TypeError, ValueError: not floating point, less than two axes; `bits` out of range.

    >>> statistical(torch.tensor([[1.0, -3.0], [0.5, 0.5]]), 2)
    tensor([[2.0000],
            [0.5000]])
    """
    check_floating(weight, "weight")
    if weight.ndim < 2:
        raise ValueError(f"weight: expected shape (out, in, …), got {tuple(weight.shape)}")
    mean = weight.detach().abs().flatten(1).mean(1).view(-1, *[1] * (weight.ndim - 1))
    return 2 * mean / _half(bits)


def confident(weight: Tensor, step: Tensor, bits: int, width: float) -> Tensor:
    """Where a weight is farther than `width` steps from every threshold between two levels.

    Confidence-guided annealing freezes these, so that only what oscillates still moves (Liu et al., 2023).

    Args:
        weight, step, bits: as in `codes`.
        width: positive, in steps.

    Returns:
        Boolean, of the weight's shape.

    Raises:
        TypeError, ValueError: as `codes`; `width` is not positive.

    >>> confident(torch.tensor([-0.05, 0.5, 0.98, 1.98]), torch.tensor(1.0), 2, 0.1)
    tensor([False,  True, False,  True])
    """
    check_floating(weight, "weight")
    check_positive(width, "width")
    half = _half(bits)
    place = weight.detach() / step.detach()
    nearest = place.round().clamp(1 - half, half - 1)  # thresholds are whole steps, none beyond the grid
    return (place - nearest).abs() > width


class Flips:
    """Counts, for each weight, how often its code changes while a model trains.

    >>> flips = Flips()
    >>> for code in (0.0, 1.0, 1.0, 0.0):
    ...     flips.update(torch.tensor([code, 5.0]))
    >>> flips.count, flips.share(2)
    (tensor([2, 0]), 0.5)
    """

    def __init__(self):
        self.count: Tensor | None = None
        self._last: Tensor | None = None

    def update(self, now: Tensor) -> None:
        """Compare codes with those of the last call.

        Raises:
            ValueError: they have another shape.
        """
        now = now.detach().clone()
        if self._last is None:
            self.count = torch.zeros(now.shape, dtype=torch.int64, device=now.device)
        elif now.shape != self._last.shape:
            raise ValueError(f"now: expected shape {tuple(self._last.shape)}, got {tuple(now.shape)}")
        else:
            self.count += now != self._last
        self._last = now

    def share(self, at_least: int) -> float:
        """The share of weights that changed at least so often.

        Raises:
            ValueError: `update` was not called; `at_least` is not positive.
        """
        check_integer(at_least, "at_least", 1, None)
        if self.count is None:
            raise ValueError("flips: expected codes from update first, got none")
        return (self.count >= at_least).double().mean().item()


def _half(bits: int) -> int:
    check_integer(bits, "bits", 1, 8)
    return 2 ** (bits - 1)
