"""Coordinate networks that differ in their activation, each with the initialization of its paper.

```python
make = lambda width: CoordinateNet(2, 1, width, depth=3, activation="gabor")
width = width_for(2000, make)          # the widest network of at most 2000 numbers
model = seeded(lambda: make(width), 0)
```
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..models import _check_sizes
from .siren import Sine, _check_frequency, init_sine

_SMALLEST = 1e-12  # below it SPDER's square root is held, whose slope would be infinite
_WIDEST = 1 << 16  # of `width_for`


class Spder(nn.Module):
    """sin(u) √|u| with u = ω₀ x, element by element: a sine that keeps some of its argument's size.

    "SPDER: Semiperiodic Damping-Enabled Object Representation", 2024. The slope at 0 is 0,
    as its limit is; below |u| = 1e-12, in half precision below its smallest normal number, the square root is
    held, of which automatic differentiation would else make NaN. (The authors' code, too, takes the root of
    ω₀ x and not of x.)

    >>> Spder(1.0)(torch.tensor([0.0, math.pi / 2]))
    tensor([0.0000, 1.2533])
    """

    def __init__(self, w0: float = 30.0):
        super().__init__()
        _check_frequency(w0=w0)
        self.w0 = w0

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, kept."""
        u = self.w0 * x
        return torch.sin(u) * u.abs().clamp_min(max(_SMALLEST, torch.finfo(u.dtype).tiny)).sqrt()

    def extra_repr(self) -> str:
        """Shown by print."""
        return f"w0={self.w0:g}"


class Gauss(nn.Module):
    """exp(-(s₀ x)²), element by element: a bump of standard deviation 1 / (√2 s₀).

    Ramasinghe and Lucey 2022, "Beyond Periodicity: Towards a Unifying Framework for Activations in
    Coordinate-MLPs".

    >>> Gauss(2.0)(torch.tensor([0.0, 0.5]))
    tensor([1.0000, 0.3679])
    """

    def __init__(self, s0: float = 10.0):
        super().__init__()
        _check_frequency(s0=s0)
        self.s0 = s0

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, kept."""
        return torch.exp(-(self.s0 * x).square())

    def extra_repr(self) -> str:
        """Shown by print."""
        return f"s0={self.s0:g}"


class Gabor(nn.Module):
    """exp(i ω₀ z - |s₀ z|²), element by element, of real or complex z: complex.

    Saragadam et al. 2023, "WIRE: Wavelet Implicit Neural Representations". Its modulus is at most
    exp(ω₀² / 4 s₀²), taken at z = -i ω₀ / 2 s₀². Sine, cosine and exponential are those of real numbers, with
    which a step of training takes less than half the time of `torch.exp` of complex ones.

    >>> Gabor(2.0, 1.0)(torch.tensor([0.0]))
    tensor([1.+0.j])
    """

    def __init__(self, w0: float = 10.0, s0: float = 10.0):
        super().__init__()
        _check_frequency(w0=w0, s0=s0)
        self.w0, self.s0 = w0, s0

    def forward(self, z: Tensor) -> Tensor:
        """Any shape, kept; complex."""
        re = z.real.contiguous() if z.is_complex() else z
        exponent = -(self.s0 * re).square()
        if z.is_complex():
            im = z.imag.contiguous()
            exponent = exponent - (self.s0 * im).square() - self.w0 * im
        size, phase = exponent.exp(), self.w0 * re
        return torch.complex(size * phase.cos(), size * phase.sin())

    def extra_repr(self) -> str:
        """Shown by print."""
        return f"w0={self.w0:g}, s0={self.s0:g}"


class RealGabor(Gabor):
    """cos(ω₀ x) exp(-(s₀ x)²), element by element: the real part of `Gabor` for real x.

    The authors' real layer draws the arguments of cosine and exponential from two linear maps; here they are
    one.

    >>> RealGabor(math.pi, 1.0)(torch.tensor([0.0, 1.0]))
    tensor([ 1.0000, -0.3679])
    """

    def forward(self, z: Tensor) -> Tensor:
        """Any shape, kept; real."""
        if z.is_complex():
            raise TypeError("z: expected real numbers, got complex ones, which Gabor takes")
        return torch.cos(self.w0 * z) * torch.exp(-(self.s0 * z).square())


class Polynomial(nn.Module):
    """Σ aₖ xᵏ, element by element, of real or complex x.

    Args:
        coefficients: a₀, a₁, …, fixed.

    >>> Polynomial([1, 0, 2])(torch.tensor([3.0]))
    tensor([19.])
    """

    def __init__(self, coefficients: Sequence[float] = (0.0, 1.0, 1.0)):
        super().__init__()
        self.coefficients = tuple(float(a) for a in coefficients)
        if not self.coefficients or not all(math.isfinite(a) for a in self.coefficients):
            raise ValueError(f"coefficients: expected finite numbers, at least one, got {coefficients}")

    @property
    def degree(self) -> int:
        """The highest power whose coefficient is not 0."""
        return max((k for k, a in enumerate(self.coefficients) if a), default=0)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, kept."""
        y = torch.full_like(x, self.coefficients[-1])
        for a in self.coefficients[-2::-1]:
            y = y * x + a
        return y

    def extra_repr(self) -> str:
        """Shown by print."""
        return f"coefficients={self.coefficients}"


class ComplexLinear(nn.Module):
    """z W^T + b with complex weights, drawn as `nn.Linear` draws complex ones: real and imaginary parts each
    from U(-1/√n, 1/√n).

    The weights are kept as real numbers, (outputs, inputs, 2) and (outputs, 2), so that optimizers, files and
    quantizers see plain tensors.

    Shapes: (N, inputs), real or complex, to (N, outputs), complex.

    >>> ComplexLinear(3, 4)(torch.zeros(5, 3)).dtype
    torch.complex64
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        _check_sizes(inputs=inputs, outputs=outputs)
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 2).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs, 2).uniform_(-bound, bound))

    def forward(self, z: Tensor) -> Tensor:
        """(N, inputs) to (N, outputs)."""
        weight, bias = torch.view_as_complex(self.weight), torch.view_as_complex(self.bias)
        return z.to(weight.dtype) @ weight.mT + bias


ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "sine": Sine,
    "spder": Spder,
    "gauss": Gauss,
    "gabor": Gabor,
    "real-gabor": RealGabor,
    "polynomial": Polynomial,
}


class CoordinateNet(nn.Module):
    """Linear layers with one activation after each but the last: coordinates in [-1, 1] to values.

    Args:
        inputs: number of coordinates d.
        outputs: channels of the signal.
        width: units of each hidden layer; with `first` of all but the first.
        depth: number of hidden layers, the first included.
        activation: a key of `ACTIVATIONS`.
        first: in place of the first linear layer and its activation, a module from (N, d) to (N, m), such as
            `support.Atoms`. If it gives complex numbers, the activation has to take them: "gabor",
            "polynomial".
        options: of the activation: `w0` of "sine" and "spder" (30 unless given), `s0` of "gauss" (10), both
            of "gabor" and "real-gabor" (10, 10), `coefficients` of "polynomial".

    Weights of "sine" and "spder" are drawn by `siren.init_sine`, as the authors of both do; all others as
    `nn.Linear` does, as the authors of WIRE do for theirs, for Gaussians and for ReLU. From the first "gabor"
    on, weights are complex; the output is the real part.

    Shapes: (N, inputs) to (N, outputs).

    >>> CoordinateNet(2, 3, width=16, depth=2, activation="spder", w0=20)(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        depth: int,
        activation: str = "sine",
        *,
        first: nn.Module | None = None,
        **options,
    ):
        _check_sizes(inputs=inputs, outputs=outputs, width=width, depth=depth)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: expected one of {sorted(ACTIVATIONS)}, got {activation!r}")
        try:
            made = ACTIVATIONS[activation](**options)
        except TypeError as error:
            raise TypeError(f"options: expected those of {activation!r}, got {sorted(options)}") from error
        super().__init__()
        self.inputs, self.activation = inputs, made
        self.first = first if first is not None else nn.Sequential(nn.Linear(inputs, width), made)
        with torch.no_grad():
            seen = self.first(torch.zeros(1, inputs))
        if seen.is_complex() and not isinstance(made, Polynomial | Gabor):
            raise TypeError(f"first: expected real values for {activation!r}, got {seen.dtype}")
        linear = ComplexLinear if seen.is_complex() else nn.Linear
        widths = [seen.shape[1], *[width] * (depth - 1)]
        self.layers = nn.ModuleList(linear(n, width) for n in widths[:-1])
        self.last = linear(widths[-1], outputs)
        if isinstance(made, Sine | Spder):
            for layer in [*self.layers, self.last]:
                init_sine(layer, made.w0, first=False)
            if first is None:
                init_sine(self.first[0], made.w0, first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) to (N, outputs)."""
        if x.ndim != 2 or x.shape[1] != self.inputs:
            raise ValueError(f"x: expected coordinates (N, {self.inputs}), got {tuple(x.shape)}")
        h = self.first(x)
        for layer in self.layers:
            h = self.activation(layer(h))
        y = self.last(h)
        return y.real if y.is_complex() else y


def count(model: nn.Module) -> int:
    """How many real numbers the model's parameters are; a complex one is two.

    >>> count(nn.Linear(3, 4)), count(ComplexLinear(3, 4))
    (16, 32)
    """
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())


def width_for(parameters: int, make: Callable[[int], nn.Module]) -> int:
    """The largest width with which `make` builds a model of at most `parameters` numbers.

    Networks whose numbers are complex, or come in pairs of factors, so compare with others at equal cost.
    Nothing is drawn: the models are built without memory.

    Args:
        parameters: how many numbers the model may have, as `count` counts.
        make: builds the model of a width, from which the count must grow.

    Raises:
        ValueError: a model of width 1 is larger already, or one of width 65,536 is not.

    >>> width_for(1000, lambda width: CoordinateNet(2, 1, width, depth=3))
    20
    """

    def fits(width: int) -> bool:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return count(make(width)) <= parameters

    if not fits(1):
        raise ValueError(f"parameters: expected at least those of a model of width 1, got {parameters}")
    low, high = 1, 2
    while fits(high):
        if high >= _WIDEST:
            raise ValueError(f"make: expected a model that grows with its width, got one fit at {high}")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
