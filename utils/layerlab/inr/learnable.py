"""SL²A: activations that are learned, in the first layer only, and ReLU layers that its output modulates.

Heidari et al. 2025, "SL²A-INR: Single-Layer Learnable Activation for Implicit Neural Representation".
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import _check_sizes


class ChebyshevLayer(nn.Module):
    """Σᵢ Σₖ aᵢⱼₖ Tₖ(tanh xᵢ): on every edge from a coordinate to a feature a polynomial of its own.

    Args:
        inputs: number of coordinates d.
        outputs: features.
        degree: K, of the Chebyshev polynomials T₀ to T_K.

    The coefficients, (inputs, outputs, degree + 1), are drawn from U(-b, b) with
    b = √(6 / ((inputs + outputs) (degree + 1))), which is what `nn.init.xavier_uniform_` makes of this shape
    in the authors' code.

    Shapes: (N, inputs) to (N, outputs).

    >>> ChebyshevLayer(2, 8, degree=16)(torch.zeros(5, 2)).shape
    torch.Size([5, 8])
    """

    def __init__(self, inputs: int, outputs: int, degree: int):
        _check_sizes(inputs=inputs, outputs=outputs, degree=degree)
        super().__init__()
        self.inputs = inputs
        self.coefficients = nn.Parameter(torch.empty(inputs, outputs, degree + 1))
        nn.init.xavier_uniform_(self.coefficients)
        self.register_buffer("order", torch.arange(degree + 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) to (N, outputs)."""
        if x.ndim != 2 or x.shape[1] != self.inputs:
            raise ValueError(f"x: expected coordinates (N, {self.inputs}), got {tuple(x.shape)}")
        basis = torch.cos(self.order * torch.acos(torch.tanh(x))[:, :, None])  # (N, inputs, degree + 1)
        return basis.flatten(1) @ self.coefficients.transpose(1, 2).flatten(0, 1)


class LowRank(nn.Module):
    """A linear layer whose weight is a product of two factors, each drawn as `nn.Linear` draws its own.

    Shapes: (N, inputs) to (N, outputs), through `rank` numbers.
    """

    def __init__(self, inputs: int, outputs: int, rank: int):
        _check_sizes(inputs=inputs, outputs=outputs, rank=rank)
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) to (N, outputs)."""
        return self.up(self.down(x))


class ChebyshevNet(nn.Module):
    """Ψ = LayerNorm(`ChebyshevLayer`(x)); h ← ReLU(low-rank(Ψ ⊙ h)), from h = Ψ; then linear(Ψ ⊙ h).

    Args:
        inputs: number of coordinates d.
        outputs: channels of the signal.
        width: features of Ψ and of the layers.
        depth: number of hidden layers, Ψ the first.
        degree: of the learned activations; what detail they can show grows with it.
        rank: of the later layers; by default half the width, as in the authors' settings.

    Shapes: (N, inputs) to (N, outputs).

    >>> ChebyshevNet(2, 3, width=16, depth=3, degree=32)(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, depth: int, *, degree: int = 64, rank: int | None = None
    ):
        _check_sizes(inputs=inputs, outputs=outputs, width=width, depth=depth)
        rank = max(1, math.ceil(width / 2)) if rank is None else rank
        super().__init__()
        self.learned = ChebyshevLayer(inputs, width, degree)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(LowRank(width, width, rank) for _ in range(depth - 1))
        self.last = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) to (N, outputs)."""
        psi = self.norm(self.learned(x))
        h = psi
        for layer in self.layers:
            h = F.relu(layer(psi * h))
        return self.last(psi * h)
