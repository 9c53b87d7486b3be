"""Gradients of many SIRENs at once, by hand: what `many.fit_many` does for them.

A step of a small SIREN spends most of its time on sines and on memory that comes and goes. NumPy's sine of
float32 takes a third of the time of torch's, and backpropagation written out needs no new memory: each block
of models keeps what it computes in the processor's cache. Threads take blocks, not parts of an operation.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from .activations import CoordinateNet
from .siren import Sine, Siren

_BLOCK = 131_072  # values of a layer that a block holds: 512 KB, of which it needs three a layer


class Chain:
    """Where a network of linear layers and sines has its weights, and the frequencies of its sines.

    `layers` are names of modules, first to last; `frequencies` one less.
    """

    def __init__(self, layers: Sequence[str], frequencies: Sequence[float]):
        self.layers, self.frequencies = list(layers), list(frequencies)


def chain_of(model: nn.Module) -> Chain | None:
    """The chain that a model is, or None if it is no plain chain of float32 layers and sines on a CPU."""
    if type(model) is Siren:
        names = [f"layers.{i}" for i in range(len(model.layers))]
        chain = Chain(names, [sine.w0 for sine in model.sines])
    elif (
        type(model) is CoordinateNet and type(model.activation) is Sine and type(model.first) is nn.Sequential
    ):
        if [type(part) for part in model.first] != [nn.Linear, Sine]:
            return None
        names = ["first.0", *(f"layers.{i}" for i in range(len(model.layers))), "last"]
        chain = Chain(names, [model.first[1].w0] + [model.activation.w0] * len(model.layers))
    else:
        return None
    parts = dict(model.named_modules())
    plain = all(type(parts[name]) is nn.Linear and parts[name].bias is not None for name in chain.layers)
    parameters = list(model.parameters())
    usual = all(p.dtype == torch.float32 and p.device.type == "cpu" and p.requires_grad for p in parameters)
    return chain if plain and usual and len(parameters) == 2 * len(chain.layers) else None


class SineGradients:
    """Mean squared errors of stacked SIRENs and the gradients of their weights.

    Args:
        chain: of each model.
        weights: by name, of all models, each (models, …); `step` sets their `grad`.
    """

    def __init__(self, chain: Chain, weights: dict[str, Tensor]):
        self.frequencies = chain.frequencies
        self.weights = [weights[f"{name}.weight"] for name in chain.layers]  # (models, outputs, inputs)
        self.biases = [weights[f"{name}.bias"] for name in chain.layers]  # (models, outputs)
        for weight in (*self.weights, *self.biases):
            weight.grad = torch.zeros_like(weight)

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Losses (models,) at coordinates (N, d) or (models, N, d) and values (models, N, channels)."""
        for weight in (*self.weights, *self.biases):
            weight.grad.zero_()
        models, pixels = len(y), y.shape[1]
        widest = max(weight.shape[1] for weight in self.weights)
        take = max(1, min(models, _BLOCK // (widest * pixels)))
        size = max(1, min(pixels, _BLOCK // (widest * take)))
        blocks = [slice(start, start + take) for start in range(0, models, take)]
        losses = torch.zeros(models)
        factors = [*self.frequencies, 1.0]
        scaled = [
            (weight * factor, bias[:, None] * factor)
            for weight, bias, factor in zip(self.weights, self.biases, factors, strict=True)
        ]
        threads = min(torch.get_num_threads(), len(blocks))

        @torch.no_grad()
        def work(first: int) -> None:
            # one buffer each for the sine, the cosine and the slope behind every hidden layer
            hidden = [weight.shape[1] for weight in self.weights[:-1]]
            buffers = [[torch.empty(take * size, width) for width in hidden] for _ in range(3)]
            for block in blocks[first::threads]:
                for start in range(0, pixels, size):
                    part = slice(start, min(start + size, pixels))
                    self._add(block, part, x, y, scaled, losses, buffers)

        if threads == 1:
            work(0)
        else:
            allowed = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(work, range(threads)))
            finally:
                torch.set_num_threads(allowed)
        for weight, bias, factor in zip(self.weights, self.biases, self.frequencies, strict=False):
            weight.grad.mul_(factor)
            bias.grad.mul_(factor)
        return losses

    def _add(self, block: slice, part: slice, x: Tensor, y: Tensor, scaled, losses: Tensor, buffers) -> None:
        """Add the losses and gradients of a block of models at a part of the coordinates."""
        target, share = y[block, part], y.shape[1] * y.shape[2]
        count, length = target.shape[:2]
        waves, slopes, deltas = (
            [buffer[: count * length].view(count, length, -1) for buffer in group] for group in buffers
        )
        inputs = [x[part].expand(count, -1, -1) if x.ndim == 2 else x[block, part], *waves]
        for (weight, bias), h, wave, slope in zip(scaled, inputs, waves, slopes, strict=False):
            phase = torch.baddbmm(bias[block], h, weight[block].mT, out=slope).numpy()  # ω₀ (W h + b)
            np.sin(phase, out=wave.numpy())
            np.cos(phase, out=phase)
        weight, bias = scaled[-1]
        error = torch.baddbmm(bias[block], inputs[-1], weight[block].mT).sub_(target)
        losses[block] += error.square().sum((1, 2)) / share
        delta = error.mul_(2 / share)
        for i in reversed(range(len(scaled))):
            # (inputs, outputs): with few coordinates several times as fast as the other way round
            self.weights[i].grad[block] += torch.bmm(inputs[i].mT, delta).mT
            self.biases[i].grad[block] += delta.sum(1)
            if i:
                delta = torch.bmm(delta, scaled[i][0][block], out=deltas[i - 1]).mul_(slopes[i - 1])
