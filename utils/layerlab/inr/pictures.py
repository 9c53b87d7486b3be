"""A picture as a file that holds a network: written from the network, decoded from the file alone.

COIN (Dupont et al. 2021) with any of the part's networks: a `Siren` or `CoordinateNet`, one that D'OH
generates, a grid of features or of integers with a small network behind it, or the latent of a shared network
that the decoder has already.
"""

import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..models import seeded
from . import codec
from .architectures import build, describe, integers, set_integers, stored
from .codec import Payload
from .fit import coordinates
from .modulation import ModulatedSiren
from .rounding import By, Per, Rounded, channels, dequantize, quantize_state

_PIXELS = 1 << 26  # of a picture


def picture_payload(
    model: nn.Module,
    height: int,
    width: int,
    *,
    bits: int | Mapping[str, int],
    per: Per = "channel",
    by: By = "range",
) -> Payload:
    """The network, its parameters rounded by `quantize_state`, and how to build it again.

    Args:
        model: a `Siren` or `CoordinateNet`, a `RandomHypernet` of one, or an `nn.Sequential` of a `HashGrid`
            or `LatentGrid` and an `MLP`; on two coordinates, with one output or three. Integer latents are
            kept as they are; of a latent grid's entropy model, which the decoder does not need, nothing is.
        height, width: pixels of the picture to decode.
        bits, per, by: as of `quantize_state`.

    Returns:
        For `codec.write`.

    Raises:
        TypeError: another kind of network.
        ValueError: as `quantize_state`, or sizes or outputs that make no picture.
    """
    header = {"size": [height, width], **describe(model)}
    _check_size(header["size"])
    payload = _pack(header, quantize_state(stored(model), bits, per, by), per)
    return Payload(payload.header, [*payload.arrays, *integers(model)])


def latent_payload(base: ModulatedSiren, z: Tensor, height: int, width: int, *, bits: int) -> Payload:
    """A latent (latent,) of a shared network, which the file names by its checksum and does not hold.

    Raises:
        ValueError: as `quantize_state`, or a latent or sizes of another shape.
    """
    if z.shape != (base.latent,):
        raise ValueError(f"z: expected ({base.latent},), got {tuple(z.shape)}")
    header = {"size": [height, width], "kind": "modulated", "base": _checksum(base)}
    _check_size(header["size"])
    return _pack(header, quantize_state({"z": z}, bits), "tensor")


def network(payload: Payload, base: ModulatedSiren | None = None) -> nn.Module:
    """The network that the file holds, from coordinates (N, 2) to (N, channels).

    Args:
        payload: what `codec.read` gives.
        base: the shared network, for a file that holds a latent.

    Raises:
        ValueError: the header or the arrays describe no such network, or `base` is missing or another one.
    """
    header = payload.header
    kind = header.get("kind")
    if kind == "modulated":
        if base is None or header.get("base") != _checksum(base):
            got = "none" if base is None else f"one with {_checksum(base)}"
            raise ValueError(f"base: expected the network with the checksum {header.get('base')}, got {got}")
        z = dequantize(_unpack(payload, {"z": (base.latent,)})[0])["z"]
        return _Modulated(base, z)
    try:
        model = seeded(lambda: build(header), 0)  # whose weights are replaced
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"payload: its header describes no network ({type(error).__name__}: {error})"
        ) from error
    own = stored(model)
    rounded, rest = _unpack(payload, {name: tuple(p.shape) for name, p in own.items()})
    with torch.no_grad():
        for name, value in dequantize(rounded).items():
            own[name].copy_(value)
    set_integers(model, rest)
    return model.eval()


@torch.no_grad()
def decode_picture(
    source: str | Path | bytes | Payload, *, base: ModulatedSiren | None = None, scale: int = 1
) -> Tensor:
    """The picture, (H, W) or (H, W, 3), cut off to [0, 1], from the file alone (or with the shared network).

    Args:
        source: a path, a file's bytes, or what was read of it.
        base: the shared network, for a file that holds a latent.
        scale: more pixels than the file says, that many times along each axis: a network has no resolution.

    Raises:
        ValueError: as `codec.read` and `network`.
        OSError: the file cannot be read.
    """
    if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
        raise ValueError(f"scale: expected an integer of at least 1, got {scale!r}")
    if isinstance(source, Payload):
        payload = source
    else:
        payload = codec.decode(source) if isinstance(source, bytes) else codec.read(source)
    model = network(payload, base)
    size = payload.header.get("size")
    _check_size(size)
    height, width = (scale * n for n in size)
    _check_size([height, width])
    values = torch.cat([model(part) for part in coordinates(height, width).split(1 << 16)])
    picture = values.clamp(0, 1).view(height, width, -1)
    return picture[..., 0] if picture.shape[2] == 1 else picture


def _pack(header: dict, rounded: Mapping[str, Rounded], per: Per) -> Payload:
    """All codes of as many bits in one array, in the order of the network; the scales in the last one."""
    bits = [r.bits for r in rounded.values()]
    header = header | {"bits": bits[0] if len(set(bits)) == 1 else bits}
    if per == "tensor":
        header["per"] = per
    arrays = [_joined(r.codes for r in rounded.values() if r.bits == width) for width in sorted(set(bits))]
    return Payload(header, [*arrays, _joined(r.exponents for r in rounded.values())])


def _unpack(payload: Payload, shapes: Mapping[str, tuple[int, ...]]):
    """The rounded tensors, and the arrays behind theirs."""
    bits, per = payload.header.get("bits"), payload.header.get("per", "channel")
    bits = [bits] * len(shapes) if isinstance(bits, int) else bits
    if not isinstance(bits, list) or len(bits) != len(shapes) or not all(isinstance(b, int) for b in bits):
        raise ValueError(f"payload: expected bits for {len(shapes)} tensors, got {bits!r}")
    streams = dict(zip(sorted(set(bits)), payload.arrays, strict=False))
    counts = {key: math.prod(shape) for key, shape in shapes.items()}
    rows = {key: channels(shape, per) for key, shape in shapes.items()}
    expected = [
        sum(counts[k] for k, b in zip(shapes, bits, strict=True) if b == w) for w in sorted(set(bits))
    ]
    expected.append(sum(rows.values()))
    found = [len(array) for array in payload.arrays[: len(expected)]]
    if found != expected:
        raise ValueError(f"payload: expected arrays of {expected} numbers, got {found}")
    rest = payload.arrays[len(expected) :]
    exponents, made = torch.from_numpy(payload.arrays[len(expected) - 1]), {}
    for (key, shape), width in zip(shapes.items(), bits, strict=True):
        codes, streams[width] = np.split(streams[width], [counts[key]])
        own, exponents = exponents.tensor_split([rows[key]])
        made[key] = Rounded(torch.from_numpy(codes).view(shape), own, width)
    return made, rest


def _joined(parts) -> np.ndarray:
    return torch.cat([part.reshape(-1) for part in parts]).cpu().numpy()


def _check_size(size) -> None:
    pair = isinstance(size, list) and len(size) == 2
    whole = pair and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size)
    if not whole or math.prod(size) > _PIXELS:
        raise ValueError(f"size: expected height and width of at most {_PIXELS} pixels, got {size!r}")


def _checksum(base: ModulatedSiren) -> int:
    """CRC-32 of how the shared network computes, and of its parameters: names, shapes and values."""
    shapes = [(name, tuple(p.shape)) for name, p in base.named_parameters()]
    identity = base.how, base.latent, base.rank, [float(sine.w0) for sine in base.sines], shapes
    found = zlib.crc32(repr(identity).encode())
    for p in base.parameters():
        found = zlib.crc32(p.detach().cpu().float().contiguous().numpy().tobytes(), found)
    return found


class _Modulated(nn.Module):
    def __init__(self, base: ModulatedSiren, z: Tensor):
        super().__init__()
        self.base, self.z = base, z

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x, self.z)
