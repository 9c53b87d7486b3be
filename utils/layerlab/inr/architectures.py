"""The networks that a picture's file may hold: each as a few words of JSON, and built again from them."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from ..models import MLP
from .activations import ACTIVATIONS, CoordinateNet
from .grids import HashGrid
from .hypernetwork import RandomHypernet
from .latents import LatentGrid
from .siren import Siren

MOST = 1 << 24  # numbers that a network of a file may have
_OPTIONS = ("w0", "s0", "coefficients")
_KINDS = "a Siren, a CoordinateNet, a RandomHypernet of one, or a grid and an MLP in an nn.Sequential"


def describe(model: nn.Module) -> dict:
    """What `build` needs: plain JSON.

    Raises:
        TypeError: another kind of network.
        ValueError: it does not map two coordinates to one value or three.
    """
    if isinstance(model, RandomHypernet):
        found = {"latent": model.latent, "seed": model.seed, "of": describe(model.target)}
        return {"kind": "random", **found, **({"free": list(model.free)} if model.free else {})}
    if isinstance(model, Siren):
        widths = [layer.out_features for layer in model.layers]
        frequencies = [sine.w0 for sine in model.sines]
        later = frequencies[1] if len(frequencies) > 1 else frequencies[0]
        _check_ends(model.layers[0].in_features, widths[-1])
        return {"kind": "siren", "net": widths, "w0": [frequencies[0], later]}
    if isinstance(model, CoordinateNet):
        first = model.first
        plain = isinstance(first, nn.Sequential) and len(first) == 2 and isinstance(first[0], nn.Linear)
        names = [name for name, kind in ACTIVATIONS.items() if type(model.activation) is kind]
        if not plain or not names:
            raise TypeError("model: expected a CoordinateNet with its own first layer and a named activation")
        outputs = len(model.last.bias)
        _check_ends(model.inputs, outputs)
        options = {
            name: getattr(model.activation, name) for name in _OPTIONS if hasattr(model.activation, name)
        }
        net = [first[0].out_features, 1 + len(model.layers), outputs]
        return {"kind": names[0], "net": net, "options": options}
    if isinstance(model, nn.Sequential) and len(model) == 2 and isinstance(model[1], MLP):
        grid, mlp = model
        latents = isinstance(grid, LatentGrid)
        if (latents or isinstance(grid, HashGrid)) and all(isinstance(n, nn.Identity) for n in mlp.norms):
            _check_ends(grid.dims, mlp.head.out_features)
            features, *more = grid.scale.T.shape if latents else grid.table.shape[1:]
            sizes = [
                int(grid.resolutions[0]),
                int(grid.resolutions[-1]),
                features,
                int(grid.sizes.max()),
                *more,
            ]
            widths = [*(layer.out_features for layer in mlp.layers), mlp.head.out_features]
            kind = "latents" if latents else "hash"
            return {"kind": kind, "grid": [len(grid.sizes), *sizes], "net": widths}
    raise TypeError(f"model: expected {_KINDS}, got {type(model).__name__}")


def build(header: Mapping) -> nn.Module:
    """The network, its weights drawn from torch's generator.

    Raises:
        LookupError, TypeError, ValueError: the header describes none, or one that is too large.
    """
    kind = header["kind"]
    if kind == "random":
        target = build(header["of"])
        _check_size(sum(p.numel() for p in target.parameters()) * header["latent"] / 64, "latent")
        return RandomHypernet(target, header["latent"], header["seed"], header.get("free", ()))
    *hidden, channels = header["net"]
    if kind == "siren":
        first, later = header["w0"]
        _check_size(sum(a * b for a, b in pairwise([2, *hidden, channels])), "net")
        return Siren(2, hidden, channels, w0=first, hidden_w0=later)
    if kind in ACTIVATIONS:
        width, depth = hidden
        _check_size(2 * width * width * depth, "net")
        return CoordinateNet(2, channels, width, depth, kind, **header["options"])
    if kind in ("hash", "latents"):
        levels, coarsest, finest, features, table_size, *more = header["grid"]
        _check_size(levels * min(table_size, (finest + 1) ** 2) * features, "grid")
        _check_size(sum(a * b for a, b in pairwise([levels * features, *hidden, channels])), "net")
        sizes = (levels, coarsest, finest, features, table_size)
        grid = LatentGrid(*sizes, latent=more[0]) if kind == "latents" else HashGrid(*sizes)
        return nn.Sequential(grid, MLP(levels * features, hidden, channels))
    raise ValueError(f"kind: expected one that is known, got {kind!r}")


def stored(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that a file holds rounded: all but integer latents and what only training needs."""
    skipped = {f"{name}.{part}" for name, module in _latents(model) for part in _unrounded(module)}
    return {name: p for name, p in model.named_parameters() if name not in skipped}


def integers(model: nn.Module) -> list[np.ndarray]:
    """The integer latents, an array for each level of each grid, since levels are spread differently."""
    return [
        part.reshape(-1).numpy()
        for _, grid in _latents(model)
        for part in grid.symbols().cpu().split(grid.sizes.tolist())
    ]


def set_integers(model: nn.Module, arrays: list[np.ndarray]) -> None:
    """Take what `integers` gave.

    Raises:
        ValueError: other numbers of integers.
    """
    arrays = list(arrays)
    for _, grid in _latents(model):
        shape = grid.slow.shape
        own = [arrays.pop(0) for _ in grid.sizes[: len(arrays)]]
        if [len(a) for a in own] != [shape[1] * n for n in grid.sizes.tolist()]:
            raise ValueError(f"payload: expected {shape.numel()} latents, got {sum(map(len, own))}")
        grid.set_symbols(torch.from_numpy(np.concatenate(own)).view(shape))
    if arrays:
        raise ValueError(f"payload: expected no more arrays, got {len(arrays)}")


def _latents(model: nn.Module) -> list[tuple[str, LatentGrid]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LatentGrid)]


def _unrounded(grid: LatentGrid) -> list[str]:
    return ["slow", *(f"entropy.{name}" for name, _ in grid.entropy.named_parameters())]


def _check_ends(inputs: int, outputs: int) -> None:
    if inputs != 2 or outputs not in (1, 3):
        raise ValueError(f"model: expected two inputs and one output or three, got {inputs} and {outputs}")


def _check_size(numbers: float, name: str) -> None:
    if not 0 < numbers <= MOST:
        raise ValueError(f"{name}: expected a network of at most {MOST} numbers, got {numbers:g}")
