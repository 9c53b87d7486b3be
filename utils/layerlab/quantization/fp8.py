"""Eight-bit floats in training: linear layers whose operands are rounded to FP8 under scales of their own.

A float has an exponent, so it needs a scale not to spend its codes well, as an integer does, but to bring its
narrow range to where the values are: what is too small becomes zero, what is too large is cut off.
"""

import math
from numbers import Real
from typing import Literal

import torch
from torch import Tensor, nn

from layerlab.quantization._values import check_floating

Kind = Literal["e4m3", "e5m2"]
Scaling = Literal["dynamic"] | float

_TYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def largest(kind: Kind) -> float:
    """The largest finite value of a format.

    >>> largest("e4m3"), largest("e5m2")
    (448.0, 57344.0)
    """
    return torch.finfo(_type(kind)).max


def smallest(kind: Kind) -> float:
    """The smallest positive value of a format; what is at most half of it becomes zero.

    >>> smallest("e4m3") == 2**-9, smallest("e5m2") == 2**-16
    (True, True)
    """
    info = torch.finfo(_type(kind))
    return info.smallest_normal * info.eps


def dynamic_scale(x: Tensor, kind: Kind, *, margin: int = 0) -> float:
    """The power of two that brings max |x| as far up as the format reaches, less `margin` powers.

    The scale of one tensor at one moment (Perez et al., 2023: computed anew for each weight, activation and
    gradient, in training as in inference). Multiplying by a power of two loses nothing.

    Args:
        x: any shape, finite.
        kind: "e4m3" or "e5m2".
        margin: powers of two that are kept free above.

    Returns:
        The scale; 1 where x is zero or has no entries.

    Raises:
        TypeError: x is not floating point; `margin` is no integer.
        ValueError: x is not finite; another kind.

    >>> dynamic_scale(torch.tensor([0.01, -0.02]), "e4m3")
    16384.0
    """
    top = largest(kind)
    check_floating(x)
    if isinstance(margin, bool) or not isinstance(margin, int):
        raise TypeError(f"margin: expected an integer, got {margin!r}")
    most = float(x.detach().abs().max()) if x.numel() else 0.0
    if most == 0:
        return 1.0
    if not most < math.inf:
        raise ValueError(f"x: expected finite values, got up to {most}")
    # The exponent of a ratio of floats, exactly: frexp gives a mantissa in [0.5, 1).
    exponent = torch.frexp(torch.tensor(top / most, dtype=torch.float64)).exponent.item() - 1
    return 2.0 ** max(-126, min(126, exponent - margin))


def cast(x: Tensor, kind: Kind, scale: Scaling = 1.0) -> Tensor:
    """Round x · scale to FP8, cut off at the largest value, and divide by the scale again.

    Args:
        x: any shape.
        kind: "e4m3" or "e5m2".
        scale: a positive number, or "dynamic".

    Returns:
        x's shape and dtype.

    Raises:
        TypeError: x is not floating point.
        ValueError: another kind; the scale is not positive; with "dynamic", x is not finite.

    >>> cast(torch.tensor([1.06, 0.0001, 1000.0]), "e4m3").tolist()
    [1.0, 0.0, 448.0]
    """
    top = largest(kind)
    check_floating(x)
    _check_scaling(scale, "scale")
    if scale == "dynamic":
        scale = dynamic_scale(x, kind)
    # Torch's cast makes NaN of what is out of range: formats without infinity have no other value for it.
    return (x.float() * scale).clamp(-top, top).to(_TYPES[kind]).float().div(scale).to(x.dtype)


def flushed(x: Tensor, kind: Kind, scale: Scaling = 1.0) -> float:
    """The share of the entries of x that are not zero and become zero in FP8.

    Raises:
        TypeError, ValueError: as `cast`.

    >>> flushed(torch.tensor([0.0, 1.0, 1e-9, 1e-9]), "e5m2")
    0.6666666666666666
    """
    there = x != 0
    gone = there & (cast(x, kind, scale) == 0)
    return int(gone.sum()) / max(1, int(there.sum()))


class _Product(torch.autograd.Function):
    """x Wᵀ with x and W in E4M3, and with the gradient of the output in E5M2 on its way back."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, scaling: Scaling, note: list | None) -> Tensor:
        x, weight = cast(x, "e4m3", scaling), cast(weight, "e4m3", scaling)
        ctx.save_for_backward(x, weight)
        ctx.scaling, ctx.note = scaling, note
        return x @ weight.T

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        if ctx.note is not None:
            ctx.note.append(flushed(grad, "e5m2", ctx.scaling))
        grad = cast(grad, "e5m2", ctx.scaling)
        rows = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        return grad @ weight, rows[0].T @ rows[1], None, None


class FP8Linear(nn.Linear):
    """A linear layer that computes with FP8 operands: simulated, products are summed in float32.

    Weights and inputs are rounded to E4M3, the gradient of the output to E5M2. The weight that an optimizer
    moves stays in float32; the bias is added in float32.

    Args:
        in_features, out_features, bias: as in `nn.Linear`.
        scaling: "dynamic", a power of two for each tensor and call (`dynamic_scale`), or one number for all.

    Attributes:
        note: None, or a list to which each backward pass adds the share of gradient entries that became zero.

    Raises:
        ValueError: `scaling` is neither "dynamic" nor positive.

    >>> FP8Linear(3, 2)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, scaling: Scaling = "dynamic"
    ):
        _check_scaling(scaling, "scaling")
        super().__init__(in_features, out_features, bias)
        self.scaling = scaling
        self.note: list[float] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in_features) to (…, out_features)."""
        y = _Product.apply(x, self.weight, self.scaling, self.note)
        return y if self.bias is None else y + self.bias


def convert(model: nn.Module, scaling: Scaling = "dynamic") -> nn.Module:
    """Put an `FP8Linear` with the same parameters in the place of every `nn.Linear`, in place.

    Modules that are used twice stay one module; the state dict keeps its keys.

    Returns:
        The model.

    Raises:
        ValueError: the model has no `nn.Linear` below it; `scaling` as in `FP8Linear`. It is unchanged then.

    >>> convert(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))[0]
    FP8Linear(in_features=2, out_features=3, bias=True)
    """
    _check_scaling(scaling, "scaling")
    made: dict[int, FP8Linear] = {}
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if type(child) is nn.Linear
    ]
    if not places:
        raise ValueError(f"model: expected an nn.Linear inside it, found none in {type(model).__name__}")
    for parent, name, child in places:
        if id(child) not in made:
            with torch.device("meta"):
                new = FP8Linear(
                    child.in_features, child.out_features, child.bias is not None, scaling=scaling
                )
            new.weight, new.bias = child.weight, child.bias
            new.train(child.training)
            made[id(child)] = new
        parent._modules[name] = made[id(child)]
    return model


def _type(kind: Kind) -> torch.dtype:
    if kind not in _TYPES:
        raise ValueError(f"kind: expected 'e4m3' or 'e5m2', got {kind!r}")
    return _TYPES[kind]


def _check_scaling(scale: Scaling, name: str) -> None:
    number = isinstance(scale, Real) and not isinstance(scale, bool)
    if scale != "dynamic" and not (number and 0 < scale < math.inf):
        raise ValueError(f"{name}: expected a positive number or 'dynamic', got {scale!r}")
