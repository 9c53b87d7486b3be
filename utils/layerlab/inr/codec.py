"""A file of integers: an entropy coder, the frequencies that it needs in a few bytes, and a checksum.

    magic "INRc" | version | header | for each array: its model | one range-coded stream | CRC-32

The header is JSON, deflated against a dictionary of the words that headers hold. An array is coded with
the model that makes it shortest, its own description included: all values alike ("flat"), probabilities
that fall off from zero as θ^|k| or as q^(k²) with a byte for the rate ("geometric", "gaussian"), or a
table of frequencies, each to a quarter of an octave in 6 bits ("table"). What the coder is given is computed
by multiplications alone, so that every machine computes the same.
"""

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import constriction
import numpy as np

from ..storage import whole

MAGIC, VERSION = b"INRc", 1
MOST = 1 << 24  # numbers in a file
ALPHABET = 1 << 17  # values that the numbers of an array may lie apart
_WORDS = (
    b'"per":"tensor","options":{"s0":"coefficients":"gabor""gauss""relu""sine""spder""hash","latents","random",'
    b'"base":"modulated","free":["layers.0.weight"],"seed":0,"latent":"of":{"grid":[[4,4,4,4,10,10,10,[8,8,10,'
    b'{"bits":8,"kind":"siren","net":[64,32,32,3],[16,16,1],"size":[64,64],128],256,256],"w0":[30.0,30.0]}'
)
_KINDS = ("flat", "geometric", "gaussian", "table")
_RATES = 64  # of the models with a byte j from 1: θ = 1 - 2^(-j/4), q = 1 - 2^(-j/2)
_QUARTERS = (1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429)


class Payload(NamedTuple):
    """What a file holds: a header of plain JSON, and arrays of integers, read back with one axis each."""

    header: dict
    arrays: list[np.ndarray]


class Sizes(NamedTuple):
    """Bytes of a coded file: header, descriptions of the models, the stream, and the frame around them."""

    header: int
    models: int
    stream: int
    frame: int


def encode(payload: Payload) -> bytes:
    """The file's bytes.

    Args:
        payload: header and arrays. An array's values lie less than 2^17 apart, and within 32 bits.

    Raises:
        TypeError: the header is no JSON, or an array does not hold integers.
        ValueError: an array's values are out of range, or there are too many.

    >>> codes = np.random.default_rng(0).integers(-1, 2, 8000)
    >>> coded = encode(Payload({"kind": "noise"}, [codes]))
    >>> len(coded) < 8000 * math.log2(3) / 8 * 1.02 + 40
    True
    >>> bool((decode(coded).arrays[0] == codes).all())
    True
    """
    return b"".join(_parts(payload))


def sizes(payload: Payload) -> Sizes:
    """How many bytes of `encode(payload)` go where."""
    frame, header, models, stream, end = (len(part) for part in _parts(payload))
    return Sizes(header, models, stream, frame + end)


def decode(coded: bytes) -> Payload:
    """What `encode` was given.

    Raises:
        ValueError: the bytes are no such file, of another version, cut short or altered.
    """
    if coded[: len(MAGIC)] != MAGIC:
        raise ValueError(f"file: expected one that begins with {MAGIC!r}, got {coded[: len(MAGIC)]!r}")
    if len(coded) < len(MAGIC) + 5:
        raise ValueError(f"file: expected more than {len(coded)} bytes; it is cut short")
    if coded[len(MAGIC)] != VERSION:
        raise ValueError(f"file: expected version {VERSION}, got version {coded[len(MAGIC)]}")
    body, checksum = coded[:-4], int.from_bytes(coded[-4:], "little")
    if zlib.crc32(body) != checksum:
        raise ValueError("file: its checksum does not fit its content; it is cut short or altered")
    try:
        return _decode(_Reader(body, len(MAGIC) + 1))
    except (
        ValueError,
        AssertionError,
        RecursionError,
        zlib.error,
    ) as error:  # the coder asserts that its data is valid
        raise ValueError(f"file: its checksum fits, but its content is no payload ({error})") from error


def write(path: str | Path, payload: Payload) -> int:
    """Write the file, whole or not at all; returns its size in bytes.

    Raises:
        TypeError, ValueError: as `encode`, before anything is written.
        OSError: the folder does not exist or cannot be written, or the disk is full.
    """
    coded = encode(payload)
    with whole(Path(path)) as file:
        file.write(coded)
    return len(coded)


def read(path: str | Path) -> Payload:
    """What `write` was given.

    Raises:
        ValueError: naming the file and what is wrong with it; see `decode`.
        OSError: it cannot be read.
    """
    try:
        return decode(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def entropy(values: np.ndarray) -> float:
    """Empirical entropy of an array's values in bits for the whole of it: what an ideal code by counts takes.

    >>> entropy(np.array([0, 0, 1, 1]))
    4.0
    """
    counts = np.unique(np.asarray(values), return_counts=True)[1]
    return float((counts * np.log2(counts.sum() / counts)).sum())


def _parts(payload: Payload) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Magic and version, header, models, stream, checksum."""
    if not isinstance(payload.header, Mapping):
        raise TypeError(f"header: expected a dictionary, got {type(payload.header).__name__}")
    text = json.dumps(payload.header, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=_WORDS)
    text = squeeze.compress(text) + squeeze.flush()
    header = _varint(len(text)) + text
    models = [_varint(len(payload.arrays))]
    coder = constriction.stream.queue.RangeEncoder()
    for i, array in enumerate(payload.arrays):
        values = _check_array(i, array)
        low = int(values.min()) if len(values) else 0
        counts = np.bincount(values - low) if len(values) else np.ones(1, np.int64)
        kind, argument = _shortest(counts, low)
        models += [_varint(len(values)), _varint(_zigzag(low)), _varint(len(counts) - 1)]
        models += [bytes([kind]), argument]
        if len(counts) > 1:
            model = _model(_weights(_KINDS[kind], argument, low, len(counts)))
            coder.encode((values - low).astype(np.int32), model)
    frame = MAGIC + bytes([VERSION])
    body = [frame, header, b"".join(models), coder.get_compressed().astype("<u4").tobytes()]
    return *body, zlib.crc32(b"".join(body)).to_bytes(4, "little")


def _decode(reader: "_Reader") -> Payload:
    squeezed = reader.take(reader.varint())
    text = zlib.decompressobj(-15, zdict=_WORDS).decompress(squeezed, 1 << 20)
    header = json.loads(text)
    _require(isinstance(header, dict), "the header is no object")
    plans, total = [], 0
    for _ in range(reader.varint()):
        length, low, count = reader.varint(), _unzigzag(reader.varint()), reader.varint() + 1
        total += length
        _require(total <= MOST, "too many numbers")
        _require(count <= ALPHABET, "too many values")
        _require(low >= -(1 << 31) and low + count <= 1 << 31, "values beyond 32 bits")
        kind = reader.take(1)[0]
        _require(kind < len(_KINDS), "an unknown model")
        plans.append((length, low, count, _KINDS[kind], reader.take(_argument_size(_KINDS[kind], count))))
    stream = reader.rest()
    _require(len(stream) % 4 == 0, "the stream ends within a word")
    coder = constriction.stream.queue.RangeDecoder(np.frombuffer(stream, "<u4").astype(np.uint32))
    arrays = []
    for length, low, count, kind, argument in plans:
        if count > 1 and length:
            values = coder.decode(_model(_weights(kind, argument, low, count)), length).astype(np.int64)
        else:
            values = np.zeros(length, np.int64)
        arrays.append(values + low)
    return Payload(header, arrays)


def _model(weights: np.ndarray):
    return constriction.stream.model.Categorical(weights, perfect=False)


def _weights(kind: str, argument: bytes, low: int, count: int) -> np.ndarray:
    """What the probabilities of low, low + 1, … are proportional to, float64, none of them zero.

    Accumulated products are computed one after the other, hence alike everywhere; sums need not be.
    """
    if kind == "flat":
        return np.ones(count)
    if kind == "table":
        packed = np.unpackbits(np.frombuffer(argument, np.uint8))[: 6 * count].reshape(count, 6)
        levels = packed @ (1 << np.arange(5, -1, -1))
        return np.where(levels, np.array(_QUARTERS)[(levels - 1) % 4] * 2.0 ** ((levels - 1) // 4), 2.0**-10)
    _require(low <= 0 < low + count, "a model about zero of values that lie elsewhere")
    far = max(-low, low + count)
    if kind == "geometric":
        falls = np.full(far, _rate(argument[0]))
    else:  # q^((k+1)²) / q^(k²) = q^(2k+1)
        rate = _rate(2 * argument[0])
        falls = np.multiply.accumulate(np.full(far, rate * rate)) / rate
    tail = np.concatenate([[1.0], np.multiply.accumulate(falls)])
    return np.maximum(tail[np.abs(np.arange(low, low + count))], 2.0**-30)


def _rate(j: int) -> float:
    """1 - 2^(-j/4)."""
    return 1 - 1 / math.ldexp(_QUARTERS[j % 4], j // 4)


def _argument_size(kind: str, count: int) -> int:
    return {"flat": 0, "geometric": 1, "gaussian": 1, "table": -(-6 * count // 8)}[kind]


def _shortest(counts: np.ndarray, low: int) -> tuple[int, bytes]:
    """The model under which the values and its own description take the fewest bits."""
    total = counts.sum()
    tried = [("flat", b"")]
    if len(counts) > 1:
        if low <= 0 < low + len(counts):
            tried += [(kind, bytes([j])) for kind in ("geometric", "gaussian") for j in range(1, _RATES)]
        # A quarter of an octave is coarse enough for 6 bits and costs about a thousandth of the length.
        ratio = counts * min(1.0, 2.0**15 / counts.max())
        levels = np.where(counts, 1 + np.maximum(0, np.round(4 * np.log2(np.maximum(ratio, 1e-9)))), 0)
        bits = (levels.astype(np.int64)[:, None] >> np.arange(5, -1, -1)) & 1
        tried.append(("table", np.packbits(bits.astype(np.uint8)).tobytes()))
    best = (math.inf, 0, b"")
    for kind, argument in tried:
        weights = _weights(kind, argument, low, len(counts))
        length = total * math.log2(weights.sum()) - counts @ np.log2(weights) + 8 * len(argument)
        best = min(best, (length, _KINDS.index(kind), argument))
    return best[1:]


def _check_array(i: int, array: np.ndarray) -> np.ndarray:
    values = np.asarray(array).reshape(-1)
    if values.dtype.kind not in "iu":
        raise TypeError(f"arrays[{i}]: expected integers, got {values.dtype}")
    if len(values) > MOST:
        raise ValueError(f"arrays[{i}]: expected at most {MOST} numbers, got {len(values)}")
    if len(values):
        low, high = int(values.min()), int(values.max())
        if not -(1 << 31) <= low <= high < 1 << 31 or high - low >= ALPHABET:
            raise ValueError(
                f"arrays[{i}]: expected values of 32 bits that lie less than {ALPHABET} apart, "
                f"got {low} to {high}"
            )
    return values.astype(np.int64)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


class _Reader:
    """Bytes read from front to back; running out of them is a ValueError."""

    def __init__(self, data: bytes, at: int):
        self.data, self.at = data, at

    def take(self, count: int) -> bytes:
        _require(count <= len(self.data) - self.at, "it ends early")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            _require(shift < 64, "a number is too long")

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _zigzag(value: int) -> int:
    return 2 * value if value >= 0 else -2 * value - 1


def _unzigzag(value: int) -> int:
    return value // 2 if value % 2 == 0 else -(value + 1) // 2
