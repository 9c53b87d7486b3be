"""D'OH: all weights of a network from one short code, through random projections that only a seed describes.

Gordon, MacDonald, Saratchandran, and Lucey 2024, "D'OH: Decoder-Only Random Hypernetworks for Implicit Neural
Representations".
"""

import copy
import math
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..models import _check_sizes
from .activations import ComplexLinear, CoordinateNet, Spder
from .siren import Sine, Siren


class RandomHypernet(nn.Module):
    """A network whose weights are a fixed random projection of a code z, and whose biases are its own.

    The weights of layer l are W_l = s_l P_l z / √k for a code of k numbers: P_l holds random signs, and s_l
    is the standard deviation with which the layer's weights are drawn where they are free. With z of unit
    variance, as it is at the start, the network starts like the free one. Only z and the biases are trained
    and stored; the signs are the stream of bits of NumPy's Philox generator, which is the same everywhere.

    Args:
        target: the network to generate, left as it is; its parameters with two axes or more are replaced by
            generated ones, of the others, and of complex biases, which are kept as pairs, a copy is trained.
            It holds no buffers and shares no parameters.
        latent: numbers in the code; the projections take `latent` × (number of weights) × 4 bytes of memory.
        free: names of weights that are not generated but trained and stored, as biases are. A SIREN's first
            layer holds its frequencies, where the steps of a rounded code do most harm.
        seed: of the projections; of the code it is the seed that torch has, as for any module (`seeded`).

    Parameters are `code`, (latent,), and one for each bias or free weight, with "_" in its name for each ".".

    Shapes: those of the target.

    >>> from layerlab.models import seeded
    >>> net = seeded(lambda: RandomHypernet(Siren(2, [32, 32], 1), latent=100, seed=0), 0)
    >>> sum(p.numel() for p in net.parameters()), sum(w.numel() for w in net.weights().values())
    (165, 1120)
    >>> net(torch.zeros(5, 2)).shape
    torch.Size([5, 1])
    """

    def __init__(self, target: nn.Module, latent: int, seed: int, free: Collection[str] = ()):
        super().__init__()
        _check_sizes(latent=latent)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
            raise ValueError(f"seed: expected an integer from 0 to 2^64 - 1, got {seed!r}")
        if any(True for _ in target.buffers()):
            raise ValueError(
                f"target: expected no buffers, got {[name for name, _ in target.named_buffers()]}"
            )
        parameters = dict(target.named_parameters())
        if unknown := sorted(set(free) - parameters.keys()):
            raise ValueError(f"free: expected names of the target's parameters, got {unknown}")
        self.free = tuple(sorted(free))
        kept = {*self.free, *(f"{name}.bias" for name in _complex_layers(target))}
        self._shapes = {n: p.shape for n, p in parameters.items() if p.ndim > 1 and n not in kept}
        if not self._shapes:
            raise ValueError("target: expected a weight with two axes or more to generate, got none")
        if any(parameters[name].is_complex() for name in self._shapes):
            raise ValueError("target: expected real weights, got complex ones")
        self._own = {name: name.replace(".", "_") for name in parameters if name not in self._shapes}
        self.latent, self.seed = latent, seed
        self._target = (copy.deepcopy(target).to("meta"),)  # in a tuple: its weights are no parameters
        self.code = nn.Parameter(torch.randn(latent))
        for name, own in self._own.items():
            self.register_parameter(own, nn.Parameter(parameters[name].detach().clone()))
        scales = _deviations(target)
        counts = [math.prod(shape) for shape in self._shapes.values()]
        projection = _signs(seed, sum(counts), latent)
        for name, rows in zip(self._shapes, projection.split(counts), strict=True):
            rows *= scales[name] / math.sqrt(latent)
        self.register_buffer("projection", projection, persistent=False)

    @property
    def target(self) -> nn.Module:
        """The generated network without its numbers, on torch's "meta" device."""
        return self._target[0]

    def weights(self) -> dict[str, Tensor]:
        """The generated weights by the target's names, as functions of the code."""
        parts = (self.projection @ self.code).split([math.prod(shape) for shape in self._shapes.values()])
        return {
            name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def forward(self, x: Tensor) -> Tensor:
        """The target's output at x with the generated weights."""
        own = {name: getattr(self, kept) for name, kept in self._own.items()}
        return functional_call(self.target, {**self.weights(), **own}, (x,))


def _signs(seed: int, rows: int, columns: int) -> Tensor:
    """A matrix of -1 and 1, float32, from the bits of Philox, whose raw stream NumPy keeps unchanged."""
    count = rows * columns
    raw = np.random.Philox(key=seed).random_raw(-(-count // 64)).astype("<u8")
    bits = np.unpackbits(raw.view(np.uint8), bitorder="little")[:count]
    return torch.from_numpy(bits.reshape(rows, columns)).float().mul_(2).sub_(1)


def _complex_layers(target: nn.Module) -> dict[str, ComplexLinear]:
    return {name: layer for name, layer in target.named_modules() if isinstance(layer, ComplexLinear)}


def _deviations(target: nn.Module) -> dict[str, float]:
    """The standard deviation of each weight where it is drawn.

    SIREN's for a `Siren` and for a `CoordinateNet` of "sine" or "spder", else that of linear layers.
    """
    bounds = {}
    for name, p in target.named_parameters():
        if p.ndim > 1:
            bounds[name] = 1 / math.sqrt(p[0].numel())
    for name, layer in _complex_layers(target).items():
        bounds[f"{name}.weight"] = 1 / math.sqrt(layer.weight.shape[1])  # its last axis is that of i
    if isinstance(target, Siren):
        frequencies = [sine.w0 for sine in target.sines]
        for i, layer in enumerate(target.layers):
            n = layer.in_features
            bounds[f"layers.{i}.weight"] = (
                1 / n if i == 0 else math.sqrt(6 / n) / [*frequencies, frequencies[-1]][i]
            )
    if isinstance(target, CoordinateNet) and isinstance(target.activation, Sine | Spder):
        for name in [*(f"layers.{i}" for i in range(len(target.layers))), "last"]:
            n = target.get_submodule(name).in_features
            bounds[f"{name}.weight"] = math.sqrt(6 / n) / target.activation.w0
        if getattr(target.first, "1", None) is target.activation:  # its own first layer
            bounds["first.0.weight"] = 1 / target.inputs
    return {name: bound / math.sqrt(3) for name, bound in bounds.items()}
