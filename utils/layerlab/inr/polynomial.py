"""Poly-INR: a network that multiplies by the coordinates in each of its levels, a polynomial but for ReLUs.

Singh, Shukla and Turaga 2023, "Polynomial Implicit Neural Representations For Large Diverse Datasets",
Section 3.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..models import _check_sizes

_SLOPE = 0.2  # of the authors' leaky ReLU below 0


class PolynomialNet(nn.Module):
    """h ← σ(C (h ⊙ (A x + b)) + c), level after level, then a linear layer; the first level has no h yet.

    Each level multiplies the features, element by element, by an affine map of the coordinates, which raises
    the degree by one. In the paper the affine maps come from a latent vector, one for each picture, and so
    does a change of the coordinates; for a single signal they are weights. (The authors' code rectifies the
    affine maps too, which its text does not.)

    Args:
        inputs: number of coordinates d.
        outputs: channels of the signal.
        width: features.
        levels: number of affine maps.
        rectify: σ is the authors' leaky ReLU of slope 0.2; without it, the network is exactly a polynomial of
            total degree ≤ `levels` in the coordinates.

    All weights are drawn as `nn.Linear` does, as in the authors' code.

    Shapes: (N, inputs) to (N, outputs).
    """

    def __init__(self, inputs: int, outputs: int, width: int, levels: int, *, rectify: bool = True):
        _check_sizes(inputs=inputs, outputs=outputs, width=width, levels=levels)
        super().__init__()
        self.inputs, self.rectify = inputs, rectify
        self.affine = nn.ModuleList(nn.Linear(inputs, width) for _ in range(levels))
        self.mix = nn.ModuleList(nn.Linear(width, width) for _ in range(levels))
        self.last = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) to (N, outputs)."""
        if x.ndim != 2 or x.shape[1] != self.inputs:
            raise ValueError(f"x: expected coordinates (N, {self.inputs}), got {tuple(x.shape)}")
        h = None
        for affine, mix in zip(self.affine, self.mix, strict=True):
            by = affine(x)
            h = mix(by if h is None else h * by)
            if self.rectify:
                h = F.leaky_relu(h, _SLOPE)
        return self.last(h)
