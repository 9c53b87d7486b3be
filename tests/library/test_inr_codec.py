"""The file of integers: round trips, length against the entropy, and files that are not what they seem."""

import math
import zlib

import numpy as np
import pytest

from layerlab.inr import codec
from layerlab.inr.codec import MAGIC, VERSION, Payload, decode, encode, entropy, read, sizes, write

rng = np.random.default_rng(0)
ARRAYS = {
    "uniform": rng.integers(-7, 8, 20_000),
    "gaussian": np.rint(rng.normal(0, 2.5, 20_000)).astype(np.int64),
    "wide gaussian": np.rint(rng.normal(0, 30, 60_000)).astype(np.int64),
    "laplace": np.rint(rng.laplace(0, 4, 20_000)).astype(np.int32),
    "far from zero": rng.poisson(3, 20_000) + 100_000,
    "rare ones": (rng.random(200_000) < 0.003).astype(np.int64),
    "two humps": np.where(rng.random(20_000) < 0.5, -9, 5) + rng.integers(0, 3, 20_000),
}
GOLDEN = "494e5263010bab46371aaa1be884d85a00020f0505000306010066b19208c8374f3c98cd5063"
SMALL = Payload({"kind": "siren", "size": [8, 8]}, [np.arange(-7, 8) // 3, np.array([3, 3, 4])])


@pytest.mark.parametrize("name", ARRAYS)
def test_round_trip_within_two_percent_of_the_entropy(name):
    values = ARRAYS[name]
    payload = Payload({"kind": name, "w0": 30.0, "hidden": [32, 32]}, [values])
    back = decode(encode(payload))
    assert back.header == payload.header
    assert [array.tolist() for array in back.arrays] == [values.tolist()]
    found = sizes(payload)
    assert sum(found) == len(encode(payload))
    assert 8 * (found.models + found.stream) < 1.02 * entropy(values)
    assert 8 * found.stream > 0.999 * entropy(values)
    assert found.header < 60


def test_several_arrays_and_odd_ones():
    arrays = [
        *ARRAYS.values(),
        np.zeros(0, np.int64),
        np.full(1000, -5),
        np.array([2**31 - 1]),
        np.array([-(2**31), -(2**31) + 2**17 - 1]),
        rng.integers(-32767, 32768, 500),  # 16 bits
        np.array([[1, 2], [3, 4]], dtype=np.uint8),
    ]
    back = decode(encode(Payload({}, arrays)))
    assert all((a == b.reshape(-1)).all() for a, b in zip(back.arrays, arrays, strict=True))
    assert back.header == {}
    constant = encode(Payload({}, [np.full(1_000_000, -5)]))
    assert len(constant) < 25


@pytest.mark.parametrize("spread", [1.0, 40.0, 9000.0])
def test_models_of_one_byte_serve_short_arrays(spread):
    # a table for so many values would be longer than what it saves
    values = np.rint(np.random.default_rng(2).normal(0, spread, 3000)).astype(np.int64)
    density = np.log2(spread * math.sqrt(2 * math.pi)) + (values / spread) ** 2 / (2 * math.log(2))
    found = sizes(Payload({}, [values]))
    assert 8 * (found.models + found.stream) < density.sum() + 0.03 * 3000 + 64
    assert found.models < 12


def test_entropy_by_hand():
    assert entropy(np.array([1, 1, 2, 3])) == pytest.approx(4 * 1.5)
    assert entropy(np.array([7, 7])) == 0


def test_files_of_this_version_stay_readable():
    assert VERSION == 1
    found = decode(bytes.fromhex(GOLDEN))
    assert found.header == SMALL.header
    assert [a.tolist() for a in found.arrays] == [a.tolist() for a in SMALL.arrays]


def test_every_flipped_byte_and_every_truncation_is_an_error():
    coded = encode(SMALL)
    for i in range(len(coded)):
        for flip in (1, 128, 255):
            altered = bytearray(coded)
            altered[i] ^= flip
            with pytest.raises(ValueError, match="file: "):
                decode(bytes(altered))
        with pytest.raises(ValueError, match="file: "):
            decode(coded[:i])
    with pytest.raises(ValueError, match="altered"):
        decode(coded + b"\0")


def test_other_versions_and_other_files():
    coded = bytearray(encode(SMALL))
    coded[len(MAGIC)] = 2
    coded[-4:] = zlib.crc32(coded[:-4]).to_bytes(4, "little")
    with pytest.raises(ValueError, match="expected version 1, got version 2"):
        decode(bytes(coded))
    with pytest.raises(ValueError, match=r"begins with b'INRc', got b'\\x89PNG'"):
        decode(b"\x89PNG\r\n\x1a\n" + bytes(50))
    with pytest.raises(ValueError, match="begins with"):
        decode(b"")


def test_nonsense_under_a_right_checksum_is_an_error_or_a_payload():
    coded, random = encode(SMALL)[:-4], np.random.default_rng(1)
    refused = 0
    for _ in range(2000):
        body = bytearray(coded)
        for at in random.integers(len(MAGIC) + 1, len(body), random.integers(1, 4)):
            body[at] = random.integers(256)
        try:
            found = decode(bytes(body) + zlib.crc32(body).to_bytes(4, "little"))
        except ValueError:
            refused += 1
        else:
            assert isinstance(found.header, dict)
    assert refused > 500


@pytest.mark.parametrize(
    ("low", "count", "fits"),
    [
        (-(1 << 31), 3, True),
        (-(1 << 31) - 1, 3, False),
        ((1 << 31) - 3, 3, True),
        ((1 << 31) - 2, 3, False),
        (1 << 31, 1, False),
        (1 << 66, 1, False),
        (-(1 << 66), 3, False),
    ],
)
def test_values_beyond_32_bits_are_no_payload(low, count, fits):
    frame, header, _, _, _ = codec._parts(Payload({}, [np.zeros(5, int)]))
    model = [1, 5, codec._zigzag(low), count - 1]  # one array of five numbers, with the model "flat"
    body = frame + header + b"".join(map(codec._varint, model)) + bytes([0, *(4 * (count > 1) * b"\0")])
    coded = body + zlib.crc32(body).to_bytes(4, "little")
    if fits:
        assert decode(coded).arrays[0].min() == low
    else:
        with pytest.raises(ValueError, match="values beyond 32 bits"):
            decode(coded)


def test_files(tmp_path):
    path = tmp_path / "picture.inr"
    assert write(path, SMALL) == len(encode(SMALL)) == path.stat().st_size
    assert read(path).header == read(str(path)).header == SMALL.header
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"picture\.inr: file: its checksum"):
        read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "picture.inr"
    write(path, SMALL)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write(path, Payload({}, [np.array([0.5])]))

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, Payload({}, [np.arange(9)]))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("header", "arrays", "kind", "message"),
    [
        ({}, [np.array([1.0])], TypeError, r"arrays\[0\]: expected integers, got float64"),
        ({}, [np.arange(2), np.array([True])], TypeError, r"arrays\[1\]: expected integers, got bool"),
        ({}, [np.array([0, 2**17])], ValueError, "less than 131072 apart, got 0 to 131072"),
        ({}, [np.array([2**31])], ValueError, "32 bits"),
        ([], [], TypeError, "header: expected a dictionary, got list"),
        ({"a": object()}, [], TypeError, "object"),
        ({"a": math.nan}, [], ValueError, "JSON"),
    ],
)
def test_bad_input(header, arrays, kind, message):
    with pytest.raises(kind, match=message):
        encode(Payload(header, arrays))


def test_too_many_numbers(monkeypatch):
    coded = encode(Payload({}, [np.arange(10), np.arange(10)]))
    monkeypatch.setattr(codec, "MOST", 15)
    with pytest.raises(ValueError, match="too many numbers"):
        decode(coded)
    with pytest.raises(ValueError, match="at most 15 numbers, got 16"):
        encode(Payload({}, [np.arange(16)]))
