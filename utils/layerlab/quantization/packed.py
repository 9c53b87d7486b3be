"""Codes at their own size: a stream of bits, and files that hold a quantized model at the size it claims.

The file is a safetensors file. Of each quantized weight it holds the packed codes, the scales in their type
and, if asymmetric, the packed zero points; the header begins with the SHA-256 of the file and says how to
read them. The same content makes the same bytes.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from layerlab.quantization.affine import decode
from layerlab.quantization.scheme import Parameters, Quantized, Scheme, check_codes, check_parameters
from layerlab.storage import whole

_FORMAT = "layerlab-quantized-1"
_BLANK = "0" * 64
# What follows the length of the header. All is JSON in one entry: the library orders several at random.
_START = rb'{"__metadata__":{"layerlab":"{\"sha256\":\"'
_DIGEST = slice(8 + len(_START), 8 + len(_START) + len(_BLANK))


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack integers of few bits: code i takes the bits i · bits … (i + 1) · bits − 1 of the stream.

    Lowest bit first, in codes as in bytes; int8 codes in two's complement. The last byte is filled with
    zeros.

    Args:
        codes: int8, −2^(bits−1) … 2^(bits−1)−1, or uint8, 0 … 2^bits−1, of any shape.
        bits: 1 … 8.

    Returns:
        uint8 (⌈n · bits / 8⌉,).

    Raises:
        TypeError: codes of another type.
        ValueError: `bits` out of range, or a code that does not fit.

    >>> pack(torch.tensor([1, 2, 3, 0, 1], dtype=torch.uint8), 2)
    tensor([57,  1], dtype=torch.uint8)
    """
    _check_bits(bits)
    if codes.dtype not in (torch.int8, torch.uint8):
        raise TypeError(f"codes: expected int8 or uint8, got {codes.dtype}")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if codes.dtype == torch.int8 else (0, 2**bits - 1)
    if codes.numel() and (codes.min() < low or codes.max() > high):
        raise ValueError(f"codes: expected {low}..{high} in {bits} bits, got {codes.min()}..{codes.max()}")
    flat = codes.detach().cpu().contiguous().view(torch.uint8).numpy().reshape(-1, 1)
    stream = np.unpackbits(flat, axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(stream, bitorder="little"))


def unpack(packed: Tensor, bits: int, count: int, signed: bool) -> Tensor:
    """What was packed: `count` codes (count,), int8 if `signed`, else uint8.

    Raises:
        TypeError: `packed` is not uint8.
        ValueError: `bits` out of range; another number of bytes than the codes take; bits set after the last.

    >>> unpack(torch.tensor([57, 1], dtype=torch.uint8), 2, 5, signed=False)
    tensor([1, 2, 3, 0, 1], dtype=torch.uint8)
    """
    _check_bits(bits)
    if packed.dtype != torch.uint8:
        raise TypeError(f"packed: expected uint8, got {packed.dtype}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ValueError(f"count: expected an integer >= 0, got {count!r}")
    if tuple(packed.shape) != (_bytes(count, bits),):
        raise ValueError(
            f"packed: expected {_bytes(count, bits)} bytes for {count} codes of {bits} bits, got shape "
            f"{tuple(packed.shape)}"
        )
    stream = np.unpackbits(packed.detach().cpu().numpy(), bitorder="little")
    if stream[count * bits :].any():
        raise ValueError("packed: expected zeros after the last code, got other bits")
    each = stream[: count * bits].reshape(count, bits)
    if signed and bits < 8:  # the sign fills the bits above
        each = np.concatenate([each, np.repeat(each[:, -1:], 8 - bits, axis=1)], axis=1)
    codes = torch.from_numpy(np.packbits(each, axis=1, bitorder="little").reshape(count))
    return codes.view(torch.int8) if signed else codes


def payload(quantized: Mapping[str, tuple], rest: Mapping[str, Tensor] | None = None) -> int:
    """Bytes that `save_file` writes after the header.

    Args:
        quantized: by key `Quantized`, or a tuple (codes, scheme, parameters).
        rest: tensors that are kept as they are.

    >>> codes = torch.zeros(8, 64, dtype=torch.int8)
    >>> scale = torch.ones(8, 2, dtype=torch.float16)
    >>> payload({"w": (codes, Scheme(4, group=32), Parameters(scale, scale.int() * 0))}) * 8 / 512
    4.5
    """
    total = sum(v.numel() * v.element_size() for v in (rest or {}).values())
    for codes, scheme, (scale, zero) in quantized.values():
        total += _bytes(codes.numel(), scheme.bits) + scale.numel() * scale.element_size()
        total += 0 if scheme.symmetric else _bytes(zero.numel(), scheme.bits)
    return total


def save_file(
    path: str | Path, quantized: Mapping[str, tuple], rest: Mapping[str, Tensor] | None = None
) -> None:
    """Write quantized weights and the rest of a state dict; the file is whole or as it was before.

    Its size is `payload` and a header: 8 bytes, and as many as these say. Tensors that share memory are each
    written.

    Args:
        path: of the file; its folder exists.
        quantized: by key `Quantized`, or a tuple (codes, scheme, parameters).
        rest: tensors that are kept as they are, such as biases.

    Raises:
        TypeError: codes of another type than their scheme's; something that is no tensor.
        ValueError: codes or parameters that do not fit their scheme; a key that is in both.
        OSError: the file cannot be written.
    """
    tensors, about = {}, {}
    for key, (codes, scheme, parameters) in quantized.items():
        check_codes(codes, scheme, f"quantized[{key!r}]: codes")
        try:
            check_parameters(parameters, scheme, codes.shape)
        except ValueError as error:
            raise ValueError(f"quantized[{key!r}]: {error}") from error
        about[key] = {
            "bits": scheme.bits,
            "symmetric": scheme.symmetric,
            "group": scheme.group,
            "shape": list(codes.shape),
        }
        tensors[f"codes:{key}"] = pack(codes, scheme.bits)
        tensors[f"scale:{key}"] = parameters.scale
        if not scheme.symmetric:
            tensors[f"zero:{key}"] = pack(parameters.zero.to(torch.uint8), scheme.bits)
    for key, value in (rest or {}).items():
        if not isinstance(value, Tensor):
            raise TypeError(f"rest[{key!r}]: expected a tensor, got {type(value).__name__}")
        if key in quantized:
            raise ValueError(f"rest: expected keys that are not quantized, got {key!r}")
        tensors[f"rest:{key}"] = value
    # Copies: the library refuses tensors that share memory.
    tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    header = {"sha256": _BLANK, "format": _FORMAT, "quantized": about}
    content = safetensors.torch.save(tensors, {"layerlab": json.dumps(header, separators=(",", ":"))})
    digest = hashlib.sha256(content).hexdigest().encode()
    with whole(Path(path)) as file:
        file.write(content[: _DIGEST.start] + digest + content[_DIGEST.stop :])


def load_file(path: str | Path) -> tuple[dict[str, Quantized], dict[str, Tensor]]:
    """Read what `save_file` wrote: quantized weights by key, and the rest, each bit as it was.

    Raises:
        ValueError: the file is cut short, altered or of another kind; codes out of the range of their scheme.
        OSError: it cannot be read.
    """
    content = Path(path).read_bytes()
    if content[8 : _DIGEST.start] != _START:
        raise ValueError(f"{path}: expected a file of save_file, found no checksum in its header")
    blank = content[: _DIGEST.start] + _BLANK.encode() + content[_DIGEST.stop :]
    if hashlib.sha256(blank).hexdigest().encode() != content[_DIGEST]:
        raise ValueError(f"{path}: expected the content of its checksum, found it cut short or altered")
    try:
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8:end])["__metadata__"]["layerlab"])
        if header["format"] != _FORMAT:
            raise ValueError(f"expected the format {_FORMAT!r}, got {header['format']!r}")
        tensors = safetensors.torch.load(content)
        quantized = {key: _read(tensors, key, each) for key, each in header["quantized"].items()}
    except KeyError as missing:
        raise ValueError(f"{path}: expected {missing}, found none") from missing
    except (AttributeError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from error
    return quantized, {k.removeprefix("rest:"): v for k, v in tensors.items() if k.startswith("rest:")}


def _read(tensors: Mapping[str, Tensor], key: str, about: Mapping) -> Quantized:
    try:
        scheme = Scheme(about["bits"], about["symmetric"], about["group"])
        shape = tuple(about["shape"])
        count = torch.Size(shape).numel()
        codes = unpack(tensors[f"codes:{key}"], scheme.bits, count, scheme.symmetric).view(shape)
        check_codes(codes, scheme)
        scale = tensors[f"scale:{key}"]
        if scheme.symmetric:
            zero = torch.zeros_like(scale, dtype=torch.int32)
        else:
            zero = unpack(tensors[f"zero:{key}"], scheme.bits, scale.numel(), False).view(scale.shape).int()
        check_parameters(Parameters(scale, zero), scheme, shape)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"quantized[{key!r}]: {error}") from error
    return Quantized(codes, scheme, Parameters(scale, zero))


def state_of(
    quantized: Mapping[str, tuple],
    rest: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """A state dict: the weights decoded to `dtype`, and the rest as it is.

    Raises:
        ValueError: a key that is in both; as `affine.decode`.
    """
    both = quantized.keys() & (rest or {}).keys()
    if both:
        raise ValueError(f"rest: expected keys that are not quantized, got {sorted(both)}")
    return {k: decode(*each, dtype) for k, each in quantized.items()} | dict(rest or {})


def _check_bits(bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
        raise ValueError(f"bits: expected an integer in 1..8, got {bits!r}")


def _bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)
