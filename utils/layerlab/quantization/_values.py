"""What quantization asks of numbers and tensors; each error says what was expected and what came."""

import math
from numbers import Real

import torch
from torch import Tensor


def check_integer(value: int, name: str, low: int, high: int | None) -> None:
    """Raise unless `value` is an integer in low..high, or from low where there is no high."""
    wanted = f"an integer in {low}..{high}" if high is not None else f"an integer from {low}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected {wanted}, got {value!r}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name}: expected {wanted}, got {value}")


def check_positive(value: float, name: str) -> None:
    """Raise unless `value` is a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number above 0, got {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a finite number above 0, got {value}")


def check_floating(x: Tensor, name: str = "x") -> None:
    """Raise TypeError unless x is a floating-point tensor."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}: expected a floating-point tensor, got {found}")


def check_finite(x: Tensor, name: str = "x") -> None:
    """Raise unless x is a floating-point tensor, not empty and finite."""
    check_floating(x, name)
    if not x.numel():
        raise ValueError(f"{name}: expected at least one value, got shape {tuple(x.shape)}")
    if not torch.isfinite(torch.stack(x.detach().aminmax())).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")


def check_values(x: Tensor, name: str = "x") -> Tensor:
    """The values in float64, without gradient; raise as `check_finite`."""
    check_finite(x, name)
    return x.detach().double()
