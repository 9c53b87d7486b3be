"""Weights on a coarse grid: rounded afterwards, or trained to be rounded.

The grid is symmetric: a code is an integer from -(2^(b-1) - 1) to 2^(b-1) - 1, and a value is its code times
the scale of its channel. Scales lie on a grid of their own, 2^(e/8) with an integer e, so that a file holds
nothing but small integers and gives back exactly the weights that were measured.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

Per = Literal["channel", "tensor"]
By = Literal["range", "error"]

STEPS = 8  # scales in an octave
LOWEST, HIGHEST = -256, 63  # of the exponents e: scales from 2^-32 to 2^7.875
_SHORTEST = 8  # numbers in a row that has a scale of its own
_NARROWER = 12  # exponents below the range's that `by="error"` tries: down to 2^-1.5 of the range


class Rounded(NamedTuple):
    """One tensor on its grid: `codes` (int32, the tensor's shape; a complex one's with a last axis of 2) and
    `exponents` (int32, one per channel)."""

    codes: Tensor
    exponents: Tensor
    bits: int


def quantize_state(
    state: Mapping[str, Tensor],
    bits: int | Mapping[str, int],
    per: Per = "channel",
    by: By = "range",
) -> dict[str, Rounded]:
    """Round every tensor of a state dict to its grid.

    Args:
        state: real or complex tensors of at least one number each; of a complex one the real and imaginary
            parts are rounded.
        bits: 2 to 16, for all tensors, or for each by its key.
        per: "channel" gives each row of a tensor (its first axis, a unit's inputs) a scale of its own, where
            rows hold at least 8 numbers; tensors with shorter rows or one axis, and "tensor", have one scale.
        by: "range" takes the smallest scale on which no value is cut off; "error" the scale, from that one
            down to 0.35 of it, with the least squared error.

    Raises:
        ValueError: bits out of range or not given for a key, an unknown `per` or `by`, or a tensor that is
            empty, is not of floating point, holds NaN or infinity, or is too large for the grid of scales.

    >>> made = quantize_state({"weight": torch.tensor([0.6, -1.0, 0.02])}, bits=3)
    >>> made["weight"].codes, made["weight"].exponents
    (tensor([ 2, -3,  0], dtype=torch.int32), tensor([-12], dtype=torch.int32))
    >>> dequantize(made)["weight"].round(decimals=2)
    tensor([ 0.7100, -1.0600,  0.0000])
    """
    _check_how(per, by)
    width = _bits_of(state, bits)
    for key, value in state.items():
        _check_tensor(key, value)
    return {
        key: Rounded(*_round(value.detach(), width[key], per, by), width[key]) for key, value in state.items()
    }


def dequantize(rounded: Mapping[str, Rounded], *, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The weights that the codes stand for: code × 2^(exponent / 8); complex ones as pairs (…, 2)."""
    return {key: _values(r.codes, r.exponents, dtype) for key, r in rounded.items()}


def on_grid(
    model: nn.Module, bits: int | Mapping[str, int], per: Per = "channel", by: By = "range"
) -> dict[str, Tensor]:
    """The model's parameters, rounded, with the gradient of the rounding taken to be one (straight through).

    Bengio, Léonard, and Courville 2013. Scales follow the parameters, with no gradient of their own. What
    `dequantize(quantize_state(parameters, bits, per, by))` gives is the same, bit for bit.

    Returns:
        For `torch.func.functional_call`: tensors by the parameters' names.
    """
    _check_how(per, by)
    parameters = dict(model.named_parameters())
    width = _bits_of(parameters, bits)
    made = {}
    for name, weight in parameters.items():
        real = _real(weight)
        with torch.no_grad():
            rounded = _values(*_round(weight, width[name], per, by), real.dtype)
        through = rounded + (real - real.detach())  # exactly `rounded`, with the gradient of `real`
        made[name] = torch.view_as_complex(through) if weight.is_complex() else through
    return made


def rounded_error(bits: int | Mapping[str, int], per: Per = "channel", by: By = "range"):
    """A loss for `fit`: the mean squared error of the rounded model, so that training prepares for rounding.

    Quantization-aware training of a network that is an image, as in Hoshikawa et al. 2024, "Extreme
    Compression of Adaptive Neural Images", which keeps 4 bits of each weight. The parameters themselves stay
    in floating point: `quantize_state` with the same arguments gives the weights that the loss has seen.

    Raises:
        ValueError: as `quantize_state`; when the loss is first computed, for what depends on the model.
    """
    _check_how(per, by)
    if not isinstance(bits, Mapping):
        _check_bits("bits", bits)

    def loss(model: nn.Module, X: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(functional_call(model, on_grid(model, bits, per, by), (X,)), y)

    return loss


def channels(shape: Sequence[int], per: Per) -> int:
    """How many scales a tensor of this shape has; see `quantize_state`.

    >>> channels((32, 20), "channel"), channels((32, 2), "channel"), channels((32, 20), "tensor")
    (32, 1, 1)
    """
    return shape[0] if per == "channel" and math.prod(shape[1:]) >= _SHORTEST and len(shape) > 1 else 1


def mixed_bits(model: nn.Module, bits: int, rest: int) -> dict[str, int]:
    """`bits` for each weight behind the first layer, `rest` for the first layer's and for all biases.

    Weights are the parameters with two axes or more whose name does not end in "bias"; the first of them is
    the first layer's.

    The first layer and the biases hold frequencies and phases, which a sine of ω₀ = 30 multiplies by 30; they
    are few.

    >>> from layerlab.inr.siren import Siren
    >>> mixed_bits(Siren(2, [8], 1), 4, rest=10)
    {'layers.0.weight': 10, 'layers.0.bias': 10, 'layers.1.weight': 4, 'layers.1.bias': 10}
    """
    _check_bits("bits", bits)
    _check_bits("rest", rest)
    weights = [n for n, p in model.named_parameters() if p.ndim > 1 and not n.endswith("bias")]
    return {name: bits if name in weights[1:] else rest for name, _ in model.named_parameters()}


def scales(exponents: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """2^(e/8), the same on every machine: a power of two times one of eight constants."""
    parts = torch.tensor(_FRACTIONS, dtype=torch.float64)
    e = exponents.to("cpu", torch.int64)
    return torch.ldexp(parts[e % STEPS], e.div(STEPS, rounding_mode="floor")).to(exponents.device, dtype)


_FRACTIONS = (
    1.0,
    1.0905077326652577,
    1.189207115002721,
    1.2968395546510096,
    1.4142135623730951,
    1.5422108254079407,
    1.681792830507429,
    1.8340080864093424,
)


def _real(value: Tensor) -> Tensor:
    return torch.view_as_real(value) if value.is_complex() else value


def _round(value: Tensor, bits: int, per: Per, by: By) -> tuple[Tensor, Tensor]:
    """Codes of the tensor's shape, and the exponent of each of its channels."""
    real, top = _real(value), 2 ** (bits - 1) - 1
    rows = real.reshape(channels(real.shape, per), -1).double()
    # A value less than a millionth beyond the last code rounds to it, so noise in the logarithm does no harm.
    needed = torch.ceil(STEPS * torch.log2(rows.abs().amax(1).clamp_min(2.0**-40) / top) - 1e-6)
    exponents = needed.clamp(LOWEST, HIGHEST).long()
    if by == "error":
        tried = (exponents - torch.arange(_NARROWER + 1)[:, None].to(exponents.device)).clamp_min(LOWEST)
        step = scales(tried, torch.float64)[..., None]
        errors = ((rows / step).round().clamp(-top, top) * step - rows).square().sum(-1)
        exponents = tried.gather(0, errors.argmin(0, keepdim=True))[0]
    codes = (rows / scales(exponents, torch.float64)[:, None]).round().clamp(-top, top)
    return codes.to(torch.int32).view(real.shape), exponents.to(torch.int32)


def _values(codes: Tensor, exponents: Tensor, dtype: torch.dtype) -> Tensor:
    rows = codes.reshape(len(exponents), -1).double()
    return (rows * scales(exponents, torch.float64)[:, None]).to(dtype).view(codes.shape)


def _bits_of(state: Mapping[str, Tensor], bits: int | Mapping[str, int]) -> dict[str, int]:
    if not state:
        raise ValueError("state: expected at least one tensor, got none")
    if not isinstance(bits, Mapping):
        bits = dict.fromkeys(state, bits)
    if missing := sorted(state.keys() - bits.keys()):
        raise ValueError(f"bits: expected a number for each key, got none for {missing[:5]}")
    for key in state:
        _check_bits(f"bits[{key!r}]", bits[key])
    return {key: int(bits[key]) for key in state}


def _check_bits(name: str, bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 16:
        raise ValueError(f"{name}: expected an integer from 2 to 16, got {bits!r}")


def _check_how(per: str, by: str) -> None:
    if per not in ("channel", "tensor"):
        raise ValueError(f"per: expected 'channel' or 'tensor', got {per!r}")
    if by not in ("range", "error"):
        raise ValueError(f"by: expected 'range' or 'error', got {by!r}")


def _check_tensor(key: str, value: Tensor) -> None:
    if not (value.is_floating_point() or value.is_complex()) or not value.numel():
        raise ValueError(
            f"state[{key!r}]: expected at least one number, in floating point, "
            f"got {value.dtype} of shape {tuple(value.shape)}"
        )
    largest = _real(value.detach()).abs().max().item()
    if not largest < 2.0 ** (HIGHEST // STEPS):
        raise ValueError(
            f"state[{key!r}]: expected finite values below {2 ** (HIGHEST // STEPS)}, got {largest}"
        )
