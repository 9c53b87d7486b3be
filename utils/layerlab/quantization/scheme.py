"""What a quantized tensor is: bits, symmetry and groups; scales and zero points; codes; and their cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Literal, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scheme:
    """How many bits a code has, whether the grid is symmetric about zero, and who shares a scale.

    Symmetric codes are −2^(bits−1)+1 … 2^(bits−1)−1: the lowest of the two's complement is not used, so that
    a weight and its negative cost the same; of 2 bits three levels stay. Asymmetric codes are 0 … 2^bits−1.

    Args:
        bits: of a code, 2 … 8.
        symmetric: no zero point; the range is as wide below zero as above.
        group: one scale for the "tensor"; one per "channel", the first axis; or one for that many
            consecutive inputs of a unit, which must divide their number.

    Raises:
        TypeError: a field of another type.
        ValueError: `bits` or `group` out of range.

    >>> Scheme(4).low, Scheme(4).high, Scheme(4, symmetric=False).high
    (-7, 7, 15)
    """

    bits: int
    symmetric: bool = True
    group: Literal["tensor", "channel"] | int = "channel"

    def __post_init__(self):
        if isinstance(self.bits, bool) or not isinstance(self.bits, int):
            raise TypeError(f"bits: expected an integer in 2..8, got {self.bits!r}")
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits: expected an integer in 2..8, got {self.bits}")
        if not isinstance(self.symmetric, bool):
            raise TypeError(f"symmetric: expected True or False, got {self.symmetric!r}")
        number = isinstance(self.group, int) and not isinstance(self.group, bool)
        if not number and not isinstance(self.group, str):
            raise TypeError(f"group: expected 'tensor', 'channel' or an integer, got {self.group!r}")
        if (number and self.group < 1) or (not number and self.group not in ("tensor", "channel")):
            raise ValueError(f"group: expected 'tensor', 'channel' or an integer >= 1, got {self.group!r}")

    @property
    def low(self) -> int:
        """The lowest code."""
        return 1 - 2 ** (self.bits - 1) if self.symmetric else 0

    @property
    def high(self) -> int:
        """The highest code."""
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1

    @property
    def dtype(self) -> torch.dtype:
        """The type of codes that are not packed: int8 where symmetric, else uint8."""
        return torch.int8 if self.symmetric else torch.uint8

    def groups(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the scales of a tensor: () for "tensor", (out,) for "channel", else (out, in / group).

        Raises:
            ValueError: an empty shape; fewer than two axes where the scheme tells units apart; a group that
                does not divide.

        >>> Scheme(4, group=3).groups((8, 2, 3, 3))
        (8, 6)
        """
        shape = tuple(shape)
        count = torch.Size(shape).numel()
        if not count:
            raise ValueError(f"shape: expected at least one entry, got {shape}")
        if self.group == "tensor":
            return ()
        if len(shape) < 2:
            raise ValueError(f"shape: expected (out, in, …) with group={self.group!r}, got {shape}")
        if self.group == "channel":
            return (shape[0],)
        inputs = count // shape[0]
        if inputs % self.group:
            raise ValueError(f"group: expected a divisor of the {inputs} inputs of {shape}, got {self.group}")
        return (shape[0], inputs // self.group)


class Parameters(NamedTuple):
    """Scale (floating point, positive) and zero point (int32), both of the shape `Scheme.groups`.

    The zero point is the code of 0.0; it is 0 everywhere where the scheme is symmetric.
    """

    scale: Tensor
    zero: Tensor


class Quantized(NamedTuple):
    """A tensor's codes, and what is needed to read them."""

    codes: Tensor
    scheme: Scheme
    parameters: Parameters


def check_scheme(scheme: Scheme) -> None:
    """Raise TypeError unless it is a `Scheme`."""
    if not isinstance(scheme, Scheme):
        raise TypeError(f"scheme: expected a Scheme, got {scheme!r}")


def check_how(by: str, percentile: float) -> None:
    """Raise ValueError unless `by` is known and `percentile` lies in (0, 100]."""
    if by not in ("range", "percentile", "mse"):
        raise ValueError(f"by: expected 'range', 'percentile' or 'mse', got {by!r}")
    if isinstance(percentile, bool) or not isinstance(percentile, Real) or not 0 < percentile <= 100:
        raise ValueError(f"percentile: expected a number in (0, 100], got {percentile!r}")


def check_scale_dtype(dtype: torch.dtype) -> None:
    """Raise TypeError unless scales can be kept in that type."""
    if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"scale_dtype: expected float16, bfloat16, float32 or float64, got {dtype!r}")


def check_parameters(parameters: Parameters, scheme: Scheme, shape: tuple[int, ...]) -> None:
    """Raise unless scales and zero points are tensors of their shape and lie in their range."""
    check_scheme(scheme)
    if not isinstance(parameters, tuple) or not all(isinstance(p, Tensor) for p in parameters):
        raise TypeError(f"parameters: expected two tensors, Parameters(scale, zero), got {parameters!r}")
    scale, zero = parameters
    expected = scheme.groups(shape)
    for name, value in (("scale", scale), ("zero", zero)):
        if tuple(value.shape) != expected:
            raise ValueError(f"{name}: expected shape {expected}, got {tuple(value.shape)}")
    if not (scale.is_floating_point() and torch.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError("scale: expected finite positive numbers")
    low, high = (0, 0) if scheme.symmetric else (0, scheme.high)
    if zero.is_floating_point() or zero.min() < low or zero.max() > high:
        raise ValueError(f"zero: expected integers in {low}..{high}, got {zero.min()}..{zero.max()}")


def check_codes(codes: Tensor, scheme: Scheme, name: str = "codes") -> None:
    """Raise unless codes have the type of the scheme and lie in its range."""
    check_scheme(scheme)
    if codes.dtype != scheme.dtype:
        raise TypeError(f"{name}: expected {scheme.dtype}, got {codes.dtype}")
    if codes.numel() and (codes.min() < scheme.low or codes.max() > scheme.high):
        raise ValueError(
            f"{name}: expected codes in {scheme.low}..{scheme.high}, got {codes.min()}..{codes.max()}"
        )


def schemes_of(schemes: Scheme | Mapping[str, Scheme], keys: Mapping[str, object]) -> dict[str, Scheme]:
    """The scheme of each key, from one or some by key; raise unless each is a `Scheme` of a known key."""
    found = dict(schemes) if isinstance(schemes, Mapping) else dict.fromkeys(keys, schemes)
    if not found:
        raise ValueError("schemes: expected at least one, got none")
    for key, scheme in found.items():
        if key not in keys:
            raise ValueError(f"schemes: expected keys among {list(keys)}, got {key!r}")
        if not isinstance(scheme, Scheme):
            raise TypeError(f"schemes[{key!r}]: expected a Scheme, got {scheme!r}")
    return found


def bits_per_weight(shape: tuple[int, ...], scheme: Scheme, *, scale_bits: int = 16) -> float:
    """Bits that a weight costs, with its share of the scales and, if asymmetric, of the zero points.

    A zero point takes as many bits as a code.

    Raises:
        ValueError: a shape that does not fit the scheme; `scale_bits` negative.

    >>> bits_per_weight((8, 64), Scheme(4, group=32)), bits_per_weight((8, 64), Scheme(4, False, 32))
    (4.5, 4.625)
    """
    check_scheme(scheme)
    if scale_bits < 0:
        raise ValueError(f"scale_bits: expected at least 0, got {scale_bits}")
    groups = torch.Size(scheme.groups(shape)).numel()
    each = scale_bits + (0 if scheme.symmetric else scheme.bits)
    return scheme.bits + each * groups / torch.Size(shape).numel()
