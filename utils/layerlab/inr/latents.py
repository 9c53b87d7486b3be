"""SHACIRA: grids whose features are decoded from integers, trained for few bits by a learned entropy model.

Girish, Shrivastava and Gupta 2023, "SHACIRA: Scalable HAsh-grid Compression for Implicit Neural
Representations", Section 3.

```python
model = nn.Sequential(LatentGrid(8, 4, 64, features=2, table_size=512), MLP(16, [16], 1))
fit(model, X, y, steps=500, lr=1e-2, loss=rate_distortion(weight=1e-4, steps=500))
model[0].rate_bits(), model[0].symbols()      # estimated bits, and the integers (rows, latent) to code
```
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import _check_sizes
from .fit import Loss
from .grids import Levels

_RAREST = 1e-9  # probability below which an integer is not thought to be: 30 bits
_EDGE = 1 - 1e-6
_SOFT_UNTIL = 0.9  # of the steps; afterwards integers are integers, and the other weights follow them
_COLDEST = 0.1


class EntropyModel(nn.Module):
    """A learned cumulative distribution for each channel, and the bits that it gives to values.

    Ballé et al. 2018, "Variational Image Compression with a Scale Hyperprior", Appendix 6.1, in the scalar
    form that SHACIRA uses: c(x) = sigmoid(g(x)), where g is a chain of steps u ← softplus(h) u + b and
    u ← u + tanh(a) tanh(u), each rising. A value x has the probability c(x + ½) - c(x - ½).

    Args:
        channels: number of distributions.
        layers: steps of the chain, the last without tanh.

    >>> model = EntropyModel(2)
    >>> model.bits(torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(self, channels: int, layers: int = 3):
        _check_sizes(channels=channels, layers=layers)
        super().__init__()
        self.h = nn.Parameter(0.01 * torch.randn(layers, channels))
        self.b = nn.Parameter(0.01 * torch.randn(layers, channels))
        self.a = nn.Parameter(0.01 * torch.randn(layers - 1, channels))

    def logits(self, x: Tensor) -> Tensor:
        """g(x), (N, channels), rising in x."""
        for i, (h, b) in enumerate(zip(self.h, self.b, strict=True)):
            x = F.softplus(h) * x + b
            if i < len(self.a):
                x = x + torch.tanh(self.a[i]) * torch.tanh(x)
        return x

    def bits(self, values: Tensor) -> Tensor:
        """-log₂ of the probability of each of (N, channels), at most 30."""
        lower, upper = self.logits(values - 0.5), self.logits(values + 0.5)
        # where both are large, 1 - sigmoid is exact and sigmoid is not
        sign = -torch.sign(lower + upper).detach()
        probability = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        return -torch.log2(probability.clamp_min(_RAREST))


class LatentGrid(Levels):
    """Grids whose vertices hold integers; a linear map, one for all vertices, makes features of them.

    Args:
        levels, coarsest, finest, table_size, dims: as in `grids.HashGrid`.
        features: numbers at a vertex after the linear map.
        latent: integers at a vertex.
        pace: the parameter is the latents divided by it, so that an optimizer whose steps are of one size, as
            Adam's are, moves them `pace` times as far as other weights.

    In evaluation mode `latents` are rounded. In training they are rounded softly, to a mixture of the two
    integers around them whose weights are drawn anew at each step (stochastic Gumbel annealing, Yang et al.
    2020, "Improving Inference for Neural Image Compression"), the sharper the lower the buffer `temperature`;
    at 0 they are rounded, and slopes pass as if they were not. The rate is that of the entropy model, in
    training of the latents plus noise from U(-½, ½), in evaluation of the integers.

    Shapes: (N, dims) in [-1, 1] to (N, levels × features). `latents` is (rows, latent), drawn from U(-1, 1);
    the map `scale`, (latent, features), from N(0, 1 / pace²).

    >>> grid = LatentGrid(3, 4, 16, features=2, table_size=100, latent=1).eval()
    >>> grid(torch.zeros(5, 2)).shape, grid.symbols().shape, grid.rate_bits().ndim
    (torch.Size([5, 6]), torch.Size([206, 1]), 0)
    """

    def __init__(
        self,
        levels: int,
        coarsest: int,
        finest: int,
        features: int,
        table_size: int,
        dims: int = 2,
        *,
        latent: int = 1,
        pace: float = 30.0,
    ):
        _check_sizes(features=features, latent=latent)
        if not 0 < pace < math.inf:
            raise ValueError(f"pace: expected a positive number, got {pace}")
        super().__init__(levels, coarsest, finest, table_size, dims)
        self.pace = pace
        self.slow = nn.Parameter(torch.empty(self.rows, latent).uniform_(-1, 1) / pace)
        self.scale = nn.Parameter(torch.randn(latent, features) / pace)
        self.shift = nn.Parameter(torch.zeros(features))
        self.entropy = EntropyModel(latent)
        self.register_buffer("temperature", torch.tensor(1.0))

    @property
    def latents(self) -> Tensor:
        """What is rounded, (rows, latent)."""
        return self.pace * self.slow

    def forward(self, x: Tensor) -> Tensor:
        """(N, dims) to (N, levels × features)."""
        return self.interpolate(x, self._rounded() @ self.scale + self.shift)

    def rate_bits(self) -> Tensor:
        """Bits that the entropy model gives to all latents, a scalar."""
        latents = self.latents
        seen = latents + torch.rand_like(latents) - 0.5 if self.training else latents.round()
        return self.entropy.bits(seen).sum()

    @torch.no_grad()
    def symbols(self) -> Tensor:
        """The integers, int64 (rows, latent)."""
        return self.latents.round().long()

    @torch.no_grad()
    def set_symbols(self, symbols: Tensor) -> None:
        """Make the latents these integers (rows, latent), as decoded from a file."""
        if symbols.shape != self.slow.shape or symbols.is_floating_point() or symbols.is_complex():
            raise ValueError(
                f"symbols: expected integers {tuple(self.slow.shape)}, "
                f"got {symbols.dtype} {tuple(symbols.shape)}"
            )
        self.slow.copy_(symbols / self.pace)

    def _rounded(self) -> Tensor:
        temperature = self.temperature.item()
        if not self.training or not temperature:
            latents = self.latents
            return latents + (latents.round() - latents).detach()
        latents = self.latents
        low = latents.detach().floor()
        part = latents - low
        logits = -torch.atanh(torch.stack([part, 1 - part]).clamp(max=_EDGE)) / temperature
        share = F.gumbel_softmax(logits, tau=temperature, dim=0)
        return low + share[1]


def rate_distortion(weight: float, steps: int, coordinates: int | None = None) -> Loss:
    """A loss for `fit.fit`: mean squared error + weight × bits per coordinate, and the annealing with it.

    Each call of the loss is one step: the temperature of the model's latent grids falls from 1 to 0.1 over
    the first nine tenths of the steps, in equal ratios, and is 0 for the rest.

    Args:
        weight: of the rate; 0 only rounds.
        steps: of the fit.
        coordinates: what the bits are divided by; by default the coordinates of the step, which is right
            where each step takes all.

    Raises:
        ValueError: an argument is out of range, or (in the first step) the model has no latent grid.
    """
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight: expected a number that is not negative, got {weight}")
    _check_sizes(steps=steps, coordinates=1 if coordinates is None else coordinates)
    done = 0

    def loss(model: nn.Module, X: Tensor, y: Tensor) -> Tensor:
        nonlocal done
        grids = [module for module in model.modules() if isinstance(module, LatentGrid)]
        if not grids:
            raise ValueError("model: expected a LatentGrid in it, got none")
        progress = done / (_SOFT_UNTIL * steps)
        for grid in grids:
            grid.temperature.fill_(_COLDEST**progress if progress < 1 else 0)
        done += 1
        value = F.mse_loss(model(X), y)
        if weight:
            bits = sum(grid.rate_bits() for grid in grids)
            value = value + weight * bits / (len(X) if coordinates is None else coordinates)
        return value

    return loss
