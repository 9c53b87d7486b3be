"""Pictures in files of networks: what comes out is what the rounded network computes, from the file alone."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from layerlab.inr.activations import CoordinateNet
from layerlab.inr.codec import Payload, decode, encode, write
from layerlab.inr.fit import coordinates, render
from layerlab.inr.grids import DenseGrid, HashGrid
from layerlab.inr.hypernetwork import RandomHypernet
from layerlab.inr.latents import LatentGrid
from layerlab.inr.modulation import ModulatedSiren
from layerlab.inr.pictures import decode_picture, latent_payload, network, picture_payload
from layerlab.inr.rounding import dequantize, mixed_bits, quantize_state
from layerlab.inr.siren import Siren
from layerlab.models import MLP, seeded


def lifted(net):
    """With values about the middle of [0, 1]."""
    with torch.no_grad():
        list(net.parameters())[-1].add_(0.5)
    return net


GREY = lifted(seeded(lambda: Siren(2, [12, 10], 1, w0=20.0, hidden_w0=10.0), 0))
COLOUR = lifted(seeded(lambda: Siren(2, [12], 3), 0))
RANDOM = lifted(seeded(lambda: RandomHypernet(Siren(2, [12, 10], 1), 40, 7, free=["layers.0.weight"]), 0))
WAVES = lifted(seeded(lambda: CoordinateNet(2, 1, 9, 2, "spder", w0=12.0), 0))
WAVELETS = lifted(seeded(lambda: CoordinateNet(2, 3, 6, 3, "gabor", w0=8.0, s0=4.0), 0))
POWERS = lifted(seeded(lambda: CoordinateNet(2, 1, 6, 2, "polynomial", coefficients=[0.1, 1, 0.5]), 0))
HASH = lifted(seeded(lambda: nn.Sequential(HashGrid(3, 4, 16, 2, 60), MLP(6, [8], 1)), 0))
LATENTS = lifted(seeded(lambda: nn.Sequential(LatentGrid(3, 4, 16, 2, 60, latent=2), MLP(6, [8], 3)), 0))
DENSE = lifted(seeded(lambda: nn.Sequential(DenseGrid(5, 4), MLP(4, [8, 7], 1)), 0))
with torch.no_grad():  # features begin next to zero
    HASH[0].table.mul_(1e4)
    DENSE[0].table.mul_(1e4)
    LATENTS[0].slow.mul_(3)
MODELS = {
    "grey": GREY,
    "colour": COLOUR,
    "random": RANDOM,
    "spder": WAVES,
    "gabor": WAVELETS,
    "polynomial": POWERS,
    "hash": HASH,
    "dense": DENSE,
    "latents": LATENTS,
}
RULES = {
    "one width": lambda model: {"bits": 6},
    "mixed": lambda model: {
        "bits": {name: 4 + i % 9 for i, name in enumerate(dict(model.named_parameters()))}
    },
    "per tensor": lambda model: {"bits": 5, "per": "tensor"},
    "least error": lambda model: {"bits": 3, "by": "error"},
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_file_alone_gives_what_the_rounded_network_computes(model, rule, tmp_path):
    how = rule(model)
    path = tmp_path / "picture.inr"
    assert write(path, picture_payload(model, 9, 14, **how)) == path.stat().st_size
    before = torch.get_rng_state()
    picture = decode_picture(path)
    assert torch.equal(torch.get_rng_state(), before)
    rounded = copy.deepcopy(model).eval()
    kept = dict(model.named_parameters())
    if model is LATENTS:
        kept = {key: value for key, value in kept.items() if "entropy" not in key and key != "0.slow"}
    for key, value in dequantize(quantize_state(kept, **how)).items():
        rounded.get_parameter(key).data.copy_(value)
    expected = render(rounded, 9, 14).clamp(0, 1)
    assert expected.std() > 0.001
    assert picture.shape == ((9, 14, 3) if len(expected) == 3 else (9, 14))
    assert torch.equal(picture.view(9, 14, -1), expected.movedim(0, -1))
    assert torch.equal(decode_picture(path.read_bytes()), picture)


def test_the_network_in_the_file_has_the_weights_to_the_bit():
    bits = mixed_bits(GREY, 4, rest=10)
    back = network(decode(encode(picture_payload(GREY, 8, 8, bits=bits))))
    held = dequantize(quantize_state(GREY.state_dict(), bits))
    assert all(torch.equal(back.state_dict()[key], value) for key, value in held.items())
    assert [sine.w0 for sine in back.sines] == [20.0, 10.0]
    # 16 bits are as good as the network itself
    fine = network(picture_payload(GREY, 8, 8, bits=16))
    torch.testing.assert_close(render(fine, 8, 8), render(GREY, 8, 8), atol=2e-3, rtol=0)


def test_latents_are_kept_as_they_are_and_levels_have_models_of_their_own():
    grid = seeded(lambda: LatentGrid(2, 8, 32, 2, 2000), 0)
    with torch.no_grad():
        grid.slow.zero_()
        grid.slow[:50] = 3.2 / grid.pace  # all in the coarse level; 1089 + 31 zeros
    model = nn.Sequential(grid, MLP(4, [8], 1))
    payload = picture_payload(model, 16, 16, bits=8)
    # codes of the map and the MLP, and none of the entropy model; scales; two levels
    assert [len(array) for array in payload.arrays] == [2 + 2 + 40 + 9, 6, 81, 1089]
    back = network(decode(encode(payload)))
    assert torch.equal(back[0].symbols(), grid.symbols())
    assert back[0].symbols().unique().tolist() == [0, 3]
    without = encode(Payload(payload.header, payload.arrays[:2]))
    assert len(encode(payload)) - len(without) < 81 / 8 + 20
    with pytest.raises(ValueError, match="expected 1170 latents, got 0"):
        decode_picture(without)
    with pytest.raises(ValueError, match="expected no more arrays, got 1"):
        decode_picture(Payload(payload.header, [*payload.arrays, np.zeros(3, int)]))


def test_more_pixels_than_the_file_says():
    payload = picture_payload(GREY, 6, 8, bits=8)
    large = decode_picture(payload, scale=3)
    assert large.shape == (18, 24)
    torch.testing.assert_close(large[1::3, 1::3], decode_picture(payload))  # the middle of each 3 × 3


def test_values_are_cut_off():
    bright = lifted(copy.deepcopy(GREY))
    picture = decode_picture(picture_payload(bright, 8, 8, bits=8))
    assert picture.max() == 1
    assert picture.min() >= 0


def test_a_file_is_little_more_than_its_codes():
    model = seeded(lambda: Siren(2, [32, 32], 1), 0)
    payload = picture_payload(model, 64, 64, bits=8)
    codes = sum(p.numel() for p in model.parameters())
    # a byte for each code, and at most one for each of 37 scales; then header and frame
    assert codes < len(encode(payload)) < codes + 37 + 60


def test_a_latent_needs_the_shared_network(tmp_path):
    base = seeded(lambda: ModulatedSiren(2, [8], 1, latent=6), 0)
    z = torch.linspace(-1, 1, 6)
    path = tmp_path / "latent.inr"
    assert write(path, latent_payload(base, z, 8, 8, bits=5)) < 70
    picture = decode_picture(path, base=base)
    rounded = dequantize(quantize_state({"z": z}, 5))["z"]
    expected = base(coordinates(8, 8), rounded).detach().view(8, 8).clamp(0, 1)
    assert torch.equal(picture, expected)
    other = seeded(lambda: ModulatedSiren(2, [8], 1, latent=6), 1)
    with pytest.raises(ValueError, match=r"base: expected the network with the checksum \d+, got one with"):
        decode_picture(path, base=other)
    with pytest.raises(ValueError, match=r"base: .* got none"):
        decode_picture(path)


@pytest.mark.parametrize(
    ("of", "to"),
    [
        ({"how": "shift"}, {"how": "scale"}),
        ({"w0": 30.0}, {"w0": 10.0}),
        ({"hidden_w0": 30.0}, {"hidden_w0": 20.0}),
        ({"how": "gate", "rank": 4}, {"how": "gate", "rank": 2}),
        ({"latent": 6}, {"latent": 5}),
        ({"map_width": 0}, {"map_width": 6}),
    ],
)
def test_a_latent_refuses_a_network_that_computes_something_else(of, to):
    made = [
        seeded(lambda own=own: ModulatedSiren(2, [8, 8], 1, **{"latent": 6, **own}), 0) for own in (of, to)
    ]
    with torch.no_grad():  # as many of the same numbers as there can be
        for p in (p for base in made for p in base.parameters()):
            p.fill_(0.1)
    payload = latent_payload(made[0], torch.ones(made[0].latent), 8, 8, bits=5)
    assert decode_picture(payload, base=copy.deepcopy(made[0])).shape == (8, 8)
    with pytest.raises(ValueError, match=r"base: expected the network with the checksum \d+, got one with"):
        decode_picture(payload, base=made[1])


def test_a_latent_refuses_the_same_numbers_in_other_shapes():
    base, other = (
        seeded(lambda hidden=hidden: ModulatedSiren(2, hidden, 1, latent=2), 0) for hidden in ([4, 7], [8, 3])
    )
    wide, thin = (sum(p.numel() for p in model.parameters()) for model in (base, other))
    with torch.no_grad():
        for p in (*base.parameters(), *other.parameters()):
            p.zero_()
    assert wide == thin
    with pytest.raises(ValueError, match="base: expected the network"):
        decode_picture(latent_payload(base, torch.ones(2), 8, 8, bits=5), base=other)


HEADER = picture_payload(GREY, 8, 8, bits=4).header
ARRAYS = picture_payload(GREY, 8, 8, bits=4).arrays


@pytest.mark.parametrize(
    ("header", "arrays", "message"),
    [
        ({**HEADER, "kind": "wavelet"}, ARRAYS, "describes no network.*'wavelet'"),
        ({k: v for k, v in HEADER.items() if k != "net"}, ARRAYS, "describes no network.*net"),
        ({**HEADER, "net": "many"}, ARRAYS, "describes no network"),
        ({**HEADER, "net": [10**9, 1]}, ARRAYS, "at most"),
        ({**HEADER, "w0": [-1, 2]}, ARRAYS, "describes no network"),
        ({**HEADER, "bits": [4, 4]}, ARRAYS, "expected bits for 6 tensors"),
        ({**HEADER, "bits": None}, ARRAYS, "expected bits for 6 tensors, got None"),
        (HEADER, ARRAYS[:1], "expected arrays of"),
        (HEADER, [ARRAYS[0][:-1], ARRAYS[1]], "expected arrays of"),
        (HEADER, [], "expected arrays of"),
        ({**HEADER, "size": [8]}, ARRAYS, r"size: .*\[8\]"),
        ({**HEADER, "size": [8, 10**9]}, ARRAYS, "size: expected height and width"),
        ({**HEADER, "size": [2**15, 2**15]}, ARRAYS, "size: expected height and width"),
        (
            {**HEADER, "kind": "gabor", "net": [4, 2, 1], "options": {"w0": -1}},
            ARRAYS,
            "describes no network",
        ),
        ({**HEADER, "kind": "hash", "grid": [10**9, 4, 8, 2, 99]}, ARRAYS, "grid: expected a network of at"),
        ({**HEADER, "kind": "latents", "grid": [2, 4, 8, 2, 99]}, ARRAYS, "describes no network"),
        ({}, ARRAYS, "describes no network"),
        (
            {"kind": "random", "of": HEADER, "latent": 10**9, "seed": 0, "size": [8, 8], "bits": 4},
            ARRAYS,
            "latent: expected a network of at most",
        ),
    ],
)
def test_files_that_hold_no_picture(header, arrays, message):
    coded = encode(Payload(header, [np.asarray(a) for a in arrays]))
    with pytest.raises(ValueError, match=message):
        decode_picture(coded)


@pytest.mark.parametrize(
    ("model", "size", "error", "message"),
    [
        (nn.Linear(2, 1), (8, 8), TypeError, "model: expected a Siren, a CoordinateNet,.* got Linear"),
        (Siren(1, [4], 1), (8, 8), ValueError, "expected two inputs and one output or three, got 1 and 1"),
        (Siren(2, [4], 2), (8, 8), ValueError, "got 2 and 2"),
        (Siren(2, [4], 1), (0, 8), ValueError, r"size: .*\[0, 8\]"),
        (Siren(2, [4], 1), (8, 8.0), ValueError, r"size: .*\[8, 8\.0\]"),
    ],
)
def test_bad_networks(model, size, error, message):
    with pytest.raises(error, match=message):
        picture_payload(model, *size, bits=8)


def test_other_bad_input():
    base = ModulatedSiren(2, [8], 1, latent=6)
    with pytest.raises(ValueError, match=r"z: expected \(6,\), got \(5,\)"):
        latent_payload(base, torch.zeros(5), 8, 8, bits=8)
    with pytest.raises(ValueError, match="scale: expected an integer of at least 1, got 0"):
        decode_picture(picture_payload(GREY, 8, 8, bits=8), scale=0)
