"""Packed codes: exact inverse, files of the size that they claim, and files that are not believed."""

import hashlib
import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerlab import storage
from layerlab.models import ConvNet, seeded
from layerlab.quantization import affine as A
from layerlab.quantization import packed as P
from layerlab.quantization.affine import Parameters, Scheme


def randint(low, high, shape, dtype, seed=0):
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_hand(codes, bits):
    """One large integer, the first code in its lowest bits."""
    number = sum((int(c) % 2**bits) << (i * bits) for i, c in enumerate(codes.flatten()))
    return list(number.to_bytes(-(-codes.numel() * bits // 8), "little"))


@given(bits=st.integers(1, 8), signed=st.booleans(), count=st.integers(0, 40), seed=st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_unpacking_is_the_inverse(bits, signed, count, seed):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    codes = randint(low, high, (count,), torch.int8 if signed else torch.uint8, seed)
    packed = P.pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.tolist() == by_hand(codes, bits)
    found = P.unpack(packed, bits, count, signed)
    assert found.dtype == codes.dtype
    assert torch.equal(found, codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_code_is_there(bits):
    unsigned = torch.arange(2**bits).to(torch.uint8)
    signed = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).to(torch.int8)
    assert torch.equal(P.unpack(P.pack(unsigned, bits), bits, 2**bits, False), unsigned)
    assert torch.equal(P.unpack(P.pack(signed, bits), bits, 2**bits, True), signed)


def test_any_shape_and_order_in_memory():
    codes = randint(-3, 3, (4, 3, 2, 5), torch.int8)
    expected = P.pack(codes.flatten(), 3)
    assert torch.equal(P.pack(codes, 3), expected)
    assert torch.equal(P.pack(codes.to(memory_format=torch.channels_last), 3), expected)
    assert torch.equal(P.pack(codes.transpose(0, 1), 3), P.pack(codes.transpose(0, 1).contiguous(), 3))


@pytest.mark.parametrize(
    ("codes", "bits", "error", "match"),
    [
        (torch.tensor([4], dtype=torch.uint8), 2, ValueError, r"0\.\.3.*4"),
        (torch.tensor([2], dtype=torch.int8), 2, ValueError, r"-2\.\.1.*2"),
        (torch.tensor([-3], dtype=torch.int8), 2, ValueError, r"-2\.\.1.*-3"),
        (torch.tensor([1]), 2, TypeError, "int64"),
        (torch.tensor([1], dtype=torch.uint8), 0, ValueError, "bits: .*0"),
        (torch.tensor([1], dtype=torch.uint8), 9, ValueError, "bits: .*9"),
        (torch.tensor([1], dtype=torch.uint8), 2.0, ValueError, r"bits: .*2\.0"),
    ],
)
def test_bad_codes_are_not_packed(codes, bits, error, match):
    with pytest.raises(error, match=match):
        P.pack(codes, bits)


@pytest.mark.parametrize(
    ("packed", "bits", "count", "error", "match"),
    [
        ([1, 2], 3, 6, ValueError, "3 bytes for 6 codes"),
        ([1, 2, 0, 0], 3, 6, ValueError, "3 bytes for 6 codes"),
        ([1, 4], 3, 3, ValueError, "after the last code"),
        ([1], 3, -1, ValueError, "count: .*-1"),
        ([1], 3, 2.0, ValueError, r"count: .*2\.0"),
        ([1], 9, 1, ValueError, "bits: .*9"),
        ([1.0], 3, 2, TypeError, "packed: .*float32"),
    ],
)
def test_bad_streams_are_not_unpacked(packed, bits, count, error, match):
    dtype = torch.float32 if isinstance(packed[0], float) else torch.uint8
    with pytest.raises(error, match=match):
        P.unpack(torch.tensor(packed, dtype=dtype), bits, count, False)


def example(bits=3, scale_dtype=torch.float16):
    generator = torch.Generator().manual_seed(0)
    weights = {
        "a.weight": torch.randn(5, 12, generator=generator),
        "b.weight": torch.randn(3, 2, 3, 3, generator=generator),
        "c.weight": torch.randn(7, 3, generator=generator),
    }
    schemes = {
        "a.weight": Scheme(bits, False, 4),
        "b.weight": Scheme(bits),
        "c.weight": Scheme(8, False, "tensor"),
    }
    rest = {
        "a.bias": torch.randn(5, generator=generator),
        "steps": torch.tensor(3),
        "half": torch.randn(3, generator=generator).bfloat16(),
    }
    return A.quantize(weights, schemes, scale_dtype=scale_dtype), rest


def same(one, other):
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert torch.equal(one, other)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_file_comes_back_bit_for_bit_at_the_size_that_it_claims(tmp_path, bits, scale_dtype):
    quantized, rest = example(bits, scale_dtype)
    path = tmp_path / "model.safetensors"
    P.save_file(path, quantized, rest)
    found, other = P.load_file(path)
    assert found.keys() == quantized.keys()
    assert other.keys() == rest.keys()
    for key, (codes, scheme, parameters) in found.items():
        same(codes, quantized[key].codes)
        assert scheme == quantized[key].scheme
        same(parameters.scale, quantized[key].parameters.scale)
        same(parameters.zero, quantized[key].parameters.zero)
    for key, value in other.items():
        same(value, rest[key])
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    size = scale_dtype.itemsize
    by_count = -(-60 * bits // 8) + 15 * size + -(-15 * bits // 8)  # a: codes, scales, zero points
    by_count += -(-54 * bits // 8) + 3 * size  # b is symmetric: no zero points
    by_count += 21 + size + 1
    by_count += 5 * 4 + 8 + 3 * 2
    assert P.payload(quantized, rest) == by_count
    assert path.stat().st_size == header + by_count
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_size_is_what_bits_per_weight_says(tmp_path):
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    for scheme in (Scheme(4, False, 16), Scheme(3), Scheme(2, group=32), Scheme(8, group="tensor")):
        quantized = A.quantize({"w": x}, scheme, scale_dtype=torch.float16)
        assert P.payload(quantized) * 8 == A.bits_per_weight(x.shape, scheme) * x.numel()


def test_a_model_comes_back_and_computes_the_same(tmp_path):
    model = seeded(lambda: ConvNet(1, 3, (4, 6)), 0).eval()
    state = model.state_dict()
    weights = {k: v for k, v in state.items() if v.ndim > 1}
    rest = {k: v for k, v in state.items() if k not in weights}
    quantized = A.quantize(weights, Scheme(4, group="tensor"))
    P.save_file(tmp_path / "model", quantized, rest)
    loaded = P.state_of(*P.load_file(tmp_path / "model"))
    expected = {k: A.round_trip(v, Scheme(4, group="tensor")) for k, v in weights.items()} | rest
    assert loaded.keys() == state.keys()
    for key, value in expected.items():
        same(loaded[key], value)
    model.load_state_dict(loaded)
    assert P.state_of(quantized, rest, torch.float64)[next(iter(weights))].dtype == torch.float64
    with pytest.raises(ValueError, match="rest: "):
        P.state_of(quantized, state)


def test_tuples_odd_keys_and_shared_memory(tmp_path):
    codes = randint(-1, 1, (2, 4), torch.int8)
    parameters = Parameters(torch.ones(2), torch.zeros(2, dtype=torch.int32))
    shared = torch.randn(4, 4)
    rest = {'"sha256":"' + "0" * 64: shared, "ü:": shared.T, "": shared[1:]}
    P.save_file(tmp_path / "f", {'k"e:y': (codes, Scheme(2), parameters)}, rest)
    found, other = P.load_file(str(tmp_path / "f"))
    same(found['k"e:y'].codes, codes)
    for key, value in rest.items():
        same(other[key], value)
    P.save_file(tmp_path / "f", {}, {})
    assert P.load_file(tmp_path / "f") == ({}, {})


def test_the_same_content_makes_the_same_bytes(tmp_path):
    """The library that writes the file orders several entries of metadata at random."""
    found = set()
    for _ in range(20):
        P.save_file(tmp_path / "f", *example())
        found.add((tmp_path / "f").read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("flip", [1, 0x80, 0xFF])
def test_a_file_that_is_altered_anywhere_is_refused(tmp_path, flip):
    path = tmp_path / "f"
    P.save_file(path, *example())
    content = path.read_bytes()
    for i in range(len(content)):
        changed = bytearray(content)
        changed[i] ^= flip
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=f"{path}: expected .*(checksum|altered)"):
            P.load_file(path)


def test_a_file_that_is_cut_short_or_longer_is_refused(tmp_path):
    path = tmp_path / "f"
    P.save_file(path, *example())
    content = path.read_bytes()
    for changed in [*(content[:n] for n in range(len(content))), content + b"\0"]:
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=f"{path}: expected .*(checksum|altered)"):
            P.load_file(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "f"
    safetensors.torch.save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="no checksum"):
        P.load_file(path)
    with pytest.raises(FileNotFoundError):
        P.load_file(tmp_path / "absent")


def signed_off(path, change):
    """Rewrite the file with other tensors or another description, and a checksum that fits."""
    content = path.read_bytes()
    outer = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    header, tensors = json.loads(outer["__metadata__"]["layerlab"]), safetensors.torch.load(content)
    header["sha256"] = "0" * 64
    change(tensors, header["quantized"], header)
    content = safetensors.torch.save(tensors, {"layerlab": json.dumps(header, separators=(",", ":"))})
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(content.replace(b"0" * 64, digest.encode(), 1))


def put(name, value):
    return lambda tensors, about, header: tensors.update({name: value(tensors[name])})


def say(key, **fields):
    return lambda tensors, about, header: about[key].update(fields)


BAD_FILES = {
    "codes out of range": (
        put("codes:b.weight", lambda t: P.pack(torch.full((54,), -4).char(), 3)),
        r"quantized\['b\.weight'\]: codes: .*-3\.\.3.*-4",
    ),
    "codes missing": (
        lambda tensors, about, header: tensors.pop("codes:a.weight"),
        "expected 'codes:a.weight'",
    ),
    "too few codes": (put("codes:a.weight", lambda t: t[:-1]), "60 codes"),
    "bits after the last": (put("codes:a.weight", lambda t: t | 128), "after the last"),
    "scale zero": (put("scale:a.weight", lambda t: t * 0), r"\['a\.weight'\]: scale: .*positive"),
    "scale nan": (put("scale:a.weight", lambda t: t * torch.nan), "scale: .*finite"),
    "scale shape": (put("scale:b.weight", lambda t: t[:2]), r"scale: .*\(3,\).*\(2,\)"),
    "zero points": (put("zero:a.weight", lambda t: t[:-1]), "15 codes"),
    "bits": (say("a.weight", bits=9), "bits: .*9"),
    "fewer bits": (say("a.weight", bits=2), "bytes"),
    "group": (say("a.weight", group=5), "divisor"),
    "shape": (say("b.weight", shape=[4, 18]), "bytes"),
    "negative shape": (say("b.weight", shape=[-3, -18]), r"\[-3, -18\]|-3"),
    "bits of another type": (say("a.weight", bits="3"), r"\['a\.weight'\]: bits: .*'3'"),
    "huge shape": (say("a.weight", shape=[2**62, 12]), r"\['a\.weight'\]"),
    "no text": (lambda tensors, about, header: about.update({"a.weight": 3}), "subscriptable"),
    "format": (lambda tensors, about, header: header.update(format="other"), "other"),
    "no shape": (lambda tensors, about, header: about["a.weight"].pop("shape"), "expected 'shape'"),
    "no weights": (lambda tensors, about, header: header.pop("quantized"), "expected 'quantized'"),
}


@pytest.mark.parametrize(("change", "match"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_whose_content_does_not_fit_is_refused(tmp_path, change, match):
    path = tmp_path / "f"
    P.save_file(path, *example())
    signed_off(path, lambda *parts: None)
    P.load_file(path)  # nothing changed: the checksum above is made as it should be
    signed_off(path, change)
    with pytest.raises(ValueError, match=match):
        P.load_file(path)


def test_bad_input_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "f"
    quantized, rest = example()
    P.save_file(path, quantized, rest)
    before = path.read_bytes()
    a = quantized["a.weight"]
    bad = [
        ({"a": a._replace(codes=a.codes + 8)}, {}, ValueError, r"quantized\['a'\].*0\.\.7"),
        ({"a": a._replace(codes=a.codes.char())}, {}, TypeError, r"quantized\['a'\].*int8"),
        ({"a": a._replace(parameters=quantized["b.weight"].parameters)}, {}, ValueError, r"\['a'\]: scale"),
        ({"a": a._replace(scheme=3)}, {}, TypeError, "scheme: .*3"),
        ({"a": a._replace(parameters=None)}, {}, TypeError, r"parameters: .*None"),
        (
            {"a": a._replace(parameters=a.parameters._replace(scale=-a.parameters.scale))},
            {},
            ValueError,
            "pos",
        ),
        (quantized, {"a.weight": torch.zeros(2)}, ValueError, "rest: .*'a.weight'"),
        (quantized, {"n": 3}, TypeError, r"rest\['n'\].*int"),
    ]
    for each, other, error, match in bad:
        with pytest.raises(error, match=match):
            P.save_file(path, each, other)
    with pytest.raises(FileNotFoundError):
        P.save_file(tmp_path / "absent" / "f", quantized, rest)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@contextmanager
def full(*names):
    """A file on a disk that has room for half of what is written."""
    with open(*names) as file:

        def write(content):
            file.write(content[: len(content) // 2])
            raise OSError("no space left")

        yield SimpleNamespace(write=write)


@pytest.mark.parametrize("before", [None, 3], ids=["no file", "a file"])
@pytest.mark.parametrize("where", ["write", "rename"])
def test_a_disk_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch, where, before):
    path = tmp_path / "f"
    if before:
        P.save_file(path, *example(before))
    content = path.read_bytes() if before else None

    def fails(*names):
        raise OSError("no space left")

    if where == "write":
        monkeypatch.setattr(storage, "open", full, raising=False)
    else:
        monkeypatch.setattr(storage.os, "replace", fails)
    with pytest.raises(OSError, match="no space left"):
        P.save_file(path, *example(4))
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == (["f"] if before else [])
    if before:
        assert path.read_bytes() == content
        P.load_file(path)
