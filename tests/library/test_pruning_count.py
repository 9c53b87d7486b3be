"""What a network costs: against counts by hand, against sums over the weights, against bad input."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from layerlab.models import MLP, ConvNet, TinyViT
from layerlab.pruning import channels, count, low_rank


class Mask(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


def test_parameters_count_shared_ones_once():
    model = ConvNet(1, 3, (4, 6), pool=2)
    assert count.parameters(model) == sum(p.numel() for p in model.parameters())
    shared = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    shared[1].weight = shared[0].weight
    assert (count.parameters(shared), count.nonzero(shared)) == (15, 15)
    lone = nn.Module()
    lone.scale = nn.Parameter(torch.zeros(4))
    lone.register_buffer("kept", torch.ones(7))
    assert (count.parameters(lone), count.nonzero(lone)) == (4, 0)


def test_masked_weights_count_as_they_take_effect():
    model = MLP(6, [4], 2)
    dense = count.parameters(model)
    mask = torch.zeros(4, 6)
    mask[1, 2:4] = 1
    parametrize.register_parametrization(model.layers[0], "weight", Mask(mask))
    parametrize.register_parametrization(model.layers[0], "weight", Mask(torch.ones(4, 6)))
    assert count.parameters(model) == dense
    assert count.nonzero(model) == dense - 24 + 2
    x = torch.zeros(1, 6)
    assert count.multiply_adds(model, x) == {"layers.0": 24, "head": 8, "total": 32}
    assert count.multiply_adds(model, x, sparse=True) == {"layers.0": 2, "head": 8, "total": 10}


def test_multiply_adds_of_a_convnet_by_hand():
    model = ConvNet(2, 3, (4, 6), pool=2).train()
    found = count.multiply_adds(model, torch.zeros(5, 2, 8, 8))
    by_hand = {
        "features.0": 64 * 9 * 2 * 4,
        "features.3.conv1": 64 * 9 * 4 * 4,
        "features.3.conv2": 64 * 9 * 4 * 4,
        "features.4": 16 * 9 * 4 * 6,  # stride 2
        "features.7.conv1": 16 * 9 * 6 * 6,
        "features.7.conv2": 16 * 9 * 6 * 6,
        "head": 4 * 6 * 3,
    }
    assert found == {**by_hand, "total": sum(by_hand.values())}
    assert model.training


def test_multiply_adds_of_a_transformer_by_hand():
    tokens, dim, heads, hidden = 4, 12, 3, 24
    model = TinyViT(8, 4, 1, 5, dim=dim, depth=1, heads=heads)
    found = count.multiply_adds(model, torch.zeros(2, 1, 8, 8))
    inside = {f"blocks.0.attention.{k}": tokens * dim * dim for k in ("q", "k", "v", "proj")}
    assert found == {
        "embed": tokens * 16 * dim,
        "blocks.0.attention": 2 * heads * tokens * tokens * (dim // heads),  # q·k, and its weights times v
        **inside,
        "blocks.0.fc1": tokens * dim * hidden,
        "blocks.0.fc2": tokens * dim * hidden,
        "head": dim * 5,
        "total": sum(found.values()) - found["total"],
    }


def test_sparse_multiply_adds_skip_zeros_at_every_position():
    model = ConvNet(1, 3, (4,))
    with torch.no_grad():
        model.features[0].weight[1:] = 0
        model.features[3].conv1.weight[:, :, 1] = 0
    dense, sparse = (count.multiply_adds(model, torch.zeros(1, 1, 8, 8), sparse=s) for s in (False, True))
    assert sparse["features.0"] * 4 == dense["features.0"]
    assert sparse["features.3.conv1"] * 3 == dense["features.3.conv1"] * 2
    assert sparse["features.3.conv2"] == dense["features.3.conv2"]
    assert sparse["total"] == sum(v for k, v in sparse.items() if k != "total") < dense["total"]


def test_removing_makes_multiply_adds_go_and_masking_does_not():
    model, x = ConvNet(1, 3, (8, 8)), torch.zeros(1, 1, 8, 8)
    keep = {k: range(4) for k in ("features.0", "features.3.conv1", "features.4", "features.7.conv1")}
    dense = count.multiply_adds(model, x)["total"]
    assert count.multiply_adds(channels.zero(model, keep, x), x)["total"] == dense
    small = count.multiply_adds(channels.remove(model, keep, x), x)
    assert small == count.multiply_adds(ConvNet(1, 3, (4, 4)), x)


def test_factors_count_as_layers_of_their_own():
    model, x = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)), torch.zeros(1, 8)
    small = low_rank.factorize(model, {"0.weight": (2, 3), "2.weight": 1})
    assert count.multiply_adds(small, x) == {"0.0": 24, "0.1": 36, "2.0": 6, "2.1": 4, "total": 70}
    assert count.parameters(small) == 24 + 36 + 6 + 6 + 4 + 4


def test_a_single_layer_and_a_layer_called_twice():
    assert count.multiply_adds(nn.Linear(3, 2), torch.zeros(4, 3)) == {"": 6, "total": 6}
    layer = nn.Linear(3, 3)
    twice = nn.Sequential(layer, nn.ReLU(), layer)
    assert count.multiply_adds(twice, torch.zeros(1, 3))["total"] == 18


def test_attention_of_torch_is_counted():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    found = count.multiply_adds(model, torch.zeros(1, 5, 8))["total"]
    assert found == 5 * 8 * (24 + 8 + 16 + 16) + 2 * 5 * 5 * 8
    assert torch.backends.mha.get_fastpath_enabled() is fast


@pytest.mark.parametrize("make", [lambda: MLP(64, [8], 3, norm="layer"), lambda: ConvNet(1, 3, (4,))])
def test_half_of_what_torch_counts(make):
    model, x = make().eval(), torch.zeros(1, 1, 8, 8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert 2 * count.multiply_adds(model, x)["total"] == counter.get_total_flops()


def test_no_example():
    with pytest.raises(ValueError, match="example: expected at least one input"):
        count.multiply_adds(MLP(4, [], 2), torch.zeros(0, 4))


def drawn(rows, columns, kept):
    mask = torch.zeros(rows * columns, dtype=torch.bool)
    mask[torch.randperm(rows * columns, generator=torch.Generator().manual_seed(kept))[:kept]] = True
    return mask.view(rows, columns)


@pytest.mark.parametrize("kept", [0, 1, 17, 640])
def test_index_bits_by_formula(kept):
    mask = drawn(20, 32, kept)
    assert count.index_bits(mask, "dense") == 0
    assert count.index_bits(mask, "bitmap") == 640
    assert count.index_bits(mask, "coo") == kept * (5 + 5)
    assert count.index_bits(mask, "csr") == kept * 5 + 21 * math.ceil(math.log2(kept + 1))
    for index in ("dense", "bitmap", "coo", "csr"):
        values = 640 if index == "dense" else kept
        expected = (values * 8 + count.index_bits(mask, index)) / 8
        assert count.stored_bytes(mask, value_bits=8, index=index) == expected
        assert count.stored_bytes(mask * 0.3, value_bits=8, index=index) == expected  # a weight, by its zeros


@pytest.mark.parametrize("index", ["coo", "csr"])
def test_the_bits_are_enough_to_tell_every_place(index):
    """Coordinates of every kept entry fit the bits that each is given."""
    for rows, columns in itertools.product((1, 2, 3, 5, 8, 9), repeat=2):
        mask = torch.ones(rows, columns, dtype=torch.bool)
        bits = count.index_bits(mask, index)
        k = rows * columns
        row_bits, column_bits = (max(n - 1, 0).bit_length() for n in (rows, columns))
        pointers = (rows + 1) * k.bit_length()
        expected = k * column_bits + (k * row_bits if index == "coo" else pointers)
        assert bits == expected


def test_n_of_m_stores_n_of_each_m():
    mask = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 1]], dtype=torch.bool)
    assert count.index_bits(mask, "2:4") == 2 * 2 * 2
    assert count.stored_bytes(mask, index="2:4") == (4 * 32 + 8) / 8
    with pytest.raises(ValueError, match="expected at most 1 of 4 consecutive entries, got 2"):
        count.index_bits(mask, "1:4")
    with pytest.raises(ValueError, match="m dividing 8, got '2:3'"):
        count.index_bits(mask, "2:3")
    with pytest.raises(ValueError, match="1 ≤ n ≤ m"):
        count.index_bits(mask, "5:4")


def test_convolutions_and_dicts():
    conv = torch.ones(4, 2, 3, 3)
    assert count.index_bits(conv, "csr") == 72 * 5 + 5 * 7  # 18 columns
    assert count.stored_bytes({"a": conv, "b": conv}) == 2 * count.stored_bytes(conv)
    assert count.index_bits(torch.ones(8), "coo") == 8 * 3  # a vector is a row


def test_break_even_of_bitmap_and_dense():
    """At 32 bits a bitmap pays from one zero in 32 on; csr only from far more."""
    assert count.stored_bytes(drawn(32, 32, 992)) == count.stored_bytes(drawn(32, 32, 992), index="dense")
    assert count.stored_bytes(drawn(32, 32, 991)) < 4096 < count.stored_bytes(drawn(32, 32, 993))


@pytest.mark.parametrize(
    ("weight", "kwargs", "message"),
    [
        (torch.ones(2, 2), {"index": "n:m"}, "index: expected 'dense', 'bitmap', 'csr', 'coo' or a pattern"),
        (torch.ones(2, 2), {"index": "zip"}, "got 'zip'"),
        (torch.ones(2, 2), {"value_bits": 0}, "value_bits: expected a positive number, got 0"),
        (torch.ones(()), {}, r"weight: expected a tensor \(out, …\) with entries"),
        (torch.ones(0, 2), {}, r"got shape \(0, 2\)"),
    ],
)
def test_bad_input(weight, kwargs, message):
    with pytest.raises(ValueError, match=message):
        count.stored_bytes(weight, **kwargs)
