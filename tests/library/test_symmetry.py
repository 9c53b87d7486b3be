"""Permutation symmetries of the library's models, and what is done with a `PermutationSpec`."""

import copy

import pytest
import torch
from torch import Tensor, nn

from layerlab.models import MLP, ConvNet, TinyViT
from layerlab.symmetry import (
    Group,
    apply_permutation,
    check_spec,
    identity_permutations,
    permutation_spec,
    permute_axis,
    random_permutations,
    unit_activations,
)

VECTORS, PICTURES = (3, 4), (3, 2, 6, 6)  # shapes of example inputs


def data(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The library's own models


@pytest.mark.parametrize("norm", [None, "batch", "layer"])
@pytest.mark.parametrize("hidden", [[5], [5, 6], [7, 7, 7]])
def test_mlp(norm, hidden, assert_preserved):
    sizes = assert_preserved(MLP(4, hidden, 3, norm=norm), data(VECTORS))
    assert sizes == {f"layers.{i}": width for i, width in enumerate(hidden)}


@pytest.mark.parametrize("norm", [None, "batch", "layer"])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(("widths", "blocks"), [((4,), 1), ((4, 6), 2), ((3, 5, 7), 1)])
def test_convnet(norm, skip, widths, blocks, assert_preserved):
    sizes = assert_preserved(ConvNet(2, 3, widths, blocks, norm=norm, skip=skip), data((2, 2, 8, 8)), draws=2)
    inside = len(widths) * blocks
    streams = len(widths) * (1 if skip else 1 + blocks)
    assert len(sizes) == inside + streams


def test_the_residual_stream_of_a_stage_is_one_group():
    spec = permutation_spec(ConvNet(2, 3, (4, 6), blocks=2), torch.zeros(PICTURES))
    stream = dict.fromkeys(key for key, _ in spec["features.0"].axes)
    assert {k for k in stream if k.endswith("weight") and "norm" not in k} == {
        "features.0.weight",  # writes the stream
        "features.1.weight",  # its BatchNorm
        "features.3.conv1.weight",
        "features.3.conv2.weight",
        "features.4.conv1.weight",
        "features.4.conv2.weight",
        "features.5.weight",  # reads it for the next stage
    }
    assert ("features.5.weight", 1) in spec["features.0"].axes
    assert ("features.5.weight", 0) in spec["features.5"].axes


@pytest.mark.parametrize(("depth", "heads"), [(1, 1), (2, 4), (3, 2)])
def test_tinyvit(depth, heads, assert_preserved):
    model = TinyViT(8, 4, 1, 3, dim=8, depth=depth, heads=heads)
    sizes = assert_preserved(model, data((3, 1, 8, 8)))
    assert sizes.pop("embed") == 8  # one residual stream
    assert [sizes.pop(f"blocks.{i}.fc1") for i in range(depth)] == [16] * depth
    assert sizes == ({f"blocks.{i}.attention.q": heads for i in range(depth)} if heads > 1 else {})


def test_a_head_is_a_block_of_rows_in_q_k_v_and_of_columns_in_proj():
    spec = permutation_spec(TinyViT(8, 4, 1, 3, dim=8, depth=1, heads=2), torch.zeros(1, 1, 8, 8))
    here = "blocks.0.attention"
    rows = {(f"{here}.{m}.{w}", 0) for m in "qkv" for w in ("weight", "bias")}
    assert set(spec[f"{here}.q"].axes) == rows | {(f"{here}.proj.weight", 1)}


# What is pinned


@pytest.mark.parametrize(
    ("model", "shape", "first", "last"),
    [
        (MLP(4, [5, 6], 3, "layer"), VECTORS, "layers.0.weight", "head"),
        (ConvNet(2, 3, (4, 6)), PICTURES, "features.0.weight", "head"),
        (TinyViT(6, 3, 2, 3, dim=8), PICTURES, "embed.weight", "head"),
    ],
)
def test_inputs_and_outputs_are_never_permuted(model, shape, first, last):
    spec = permutation_spec(model, data(shape).float())
    axes = {axis for group in spec.values() for axis in group.axes}
    assert (first, 0) in axes
    assert (first, 1) not in axes
    assert (f"{last}.weight", 1) in axes
    assert (f"{last}.weight", 0) not in axes
    assert (f"{last}.bias", 0) not in axes


def test_no_permutation_of_tokens():
    spec = permutation_spec(TinyViT(8, 2, 1, 3, dim=8), torch.zeros(1, 1, 8, 8))
    assert [axis for group in spec.values() for key, axis in group.axes if key == "position"] == [2]


def test_a_linear_model_has_no_symmetry():
    assert permutation_spec(MLP(4, [], 3), torch.zeros(1, 4)) == {}


# Applying permutations


def example(norm="batch"):
    model = MLP(4, [3, 5], 2, norm=norm)
    return model, permutation_spec(model, torch.zeros(1, 4))


def test_permute_axis_moves_blocks():
    x = torch.arange(12).reshape(2, 6)
    pi = torch.tensor([2, 0, 1])
    assert permute_axis(x, 1, pi).tolist() == [[4, 5, 0, 1, 2, 3], [10, 11, 6, 7, 8, 9]]
    assert permute_axis(x, 1, torch.arange(6).flip(0)).tolist() == [[5, 4, 3, 2, 1, 0], [11, 10, 9, 8, 7, 6]]
    assert permute_axis(x, 0, torch.tensor([1, 0])).tolist() == x.flip(0).tolist()


def test_unit_i_of_the_result_is_unit_pi_i():
    model, spec = example(None)
    pi = torch.tensor([2, 0, 1])
    state = model.state_dict()
    new = apply_permutation(spec, {"layers.0": pi}, state)
    assert torch.equal(new["layers.0.weight"], state["layers.0.weight"][pi])
    assert torch.equal(new["layers.0.bias"], state["layers.0.bias"][pi])
    assert torch.equal(new["layers.1.weight"], state["layers.1.weight"][:, pi])
    for key in ("layers.1.bias", "head.weight", "head.bias"):  # a partial permutation leaves the rest alone
        assert torch.equal(new[key], state[key])


def test_a_channel_takes_its_block_of_features_along():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(12, 2))
    spec = permutation_spec(model, torch.zeros(1, 1, 2, 2))
    assert spec["0"] == Group(3, (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)), (("_1", 1),))
    weight = torch.arange(24.0).reshape(2, 12)
    new = apply_permutation(spec, {"0": torch.tensor([1, 2, 0])}, {**model.state_dict(), "2.weight": weight})
    assert new["2.weight"][0].tolist() == [4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (MLP(4, [6, 7], 3, norm="batch"), VECTORS),
        (ConvNet(2, 3, (4, 6)), PICTURES),
        (TinyViT(6, 3, 2, 3, dim=8), PICTURES),
    ],
)
def test_inverse_permutations_compose_to_the_identity(model, shape, randomised):
    spec, state = permutation_spec(model, data(shape).float()), randomised(model).state_dict()
    there = random_permutations(spec, 0)
    back = {name: permutation.argsort() for name, permutation in there.items()}
    moved = apply_permutation(spec, there, state)
    assert any(not torch.equal(moved[key], state[key]) for key in state)
    assert all(torch.equal(apply_permutation(spec, back, moved)[key], state[key]) for key in state)
    same = apply_permutation(spec, identity_permutations(spec), state)
    assert all(torch.equal(same[key], state[key]) for key in state)


def test_inputs_are_not_modified_and_nothing_is_shared():
    model, spec = example()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    permutations = random_permutations(spec, 1)
    before, order = copy.deepcopy(state), copy.deepcopy(permutations)
    new = apply_permutation(spec, permutations, state)
    for value in new.values():
        value.fill_(7)
    assert all(torch.equal(state[key], before[key]) for key in state)
    assert all(torch.equal(permutations[name], order[name]) for name in order)


def test_the_step_counter_of_batchnorm_stays():
    model, spec = example()
    state = {**model.state_dict(), "norms.0.num_batches_tracked": torch.tensor(17)}
    assert not any(key.endswith("num_batches_tracked") for group in spec.values() for key, _ in group.axes)
    assert apply_permutation(spec, random_permutations(spec, 0), state)["norms.0.num_batches_tracked"] == 17


@pytest.mark.parametrize(
    ("permutations", "error", "message"),
    [
        (
            {"layers.0": torch.arange(4)},
            ValueError,
            r"permutations\['layers.0'\]: expected a permutation of 0..2",
        ),
        ({"layers.1": torch.tensor([0, 1, 1, 2, 3])}, ValueError, r"'layers.1'.*got \[0, 1, 1, 2, 3\]"),
        ({"layers.0": torch.tensor([1, 2, 3])}, ValueError, r"of 0\.\.2, got \[1, 2, 3\]"),
        ({"layers.0": torch.tensor([[0, 1, 2]])}, ValueError, "expected a permutation"),
        (
            {"head": torch.arange(2)},
            ValueError,
            r"expected groups among \['layers.0', 'layers.1'\], got 'head'",
        ),
        ({"layers.0": torch.arange(3.0)}, TypeError, "expected a tensor of int64, got torch.float32"),
        ({"layers.0": [0, 1, 2]}, TypeError, "expected a tensor of int64, got list"),
    ],
)
def test_what_is_no_permutation_is_refused(permutations, error, message):
    model, spec = example()
    with pytest.raises(error, match=message):
        apply_permutation(spec, permutations, model.state_dict())


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"g": Group(3, (("gone", 0),))}, r"spec\['g'\]: expected 'gone' among the state dict's keys"),
        (
            {"g": Group(3, (("w", 1),))},
            r"expected axis 1 of 'w' to be a multiple of 3 long, got shape \(6, 4\)",
        ),
        ({"g": Group(2, (("w", 2),))}, "expected axis 2 of 'w'"),
        ({"g": Group(2, (("w", -1),))}, "expected axis -1 of 'w'"),
        ({"g": Group(0, (("w", 0),))}, "expected a size of at least 1, got 0"),
        ({"g": Group(2, (("w", 0),)), "h": Group(3, (("w", 0),))}, r"spec\['h'\]: .* it is in 'g' already"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        check_spec(groups, {"w": torch.zeros(6, 4)})


def test_random_permutations_are_deterministic_by_seed():
    _, spec = example()
    one, same, other = (random_permutations(spec, seed) for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in spec)
    assert any(not torch.equal(one[name], other[name]) for name in spec)
    generator = torch.get_rng_state()
    random_permutations(spec, 0)
    assert torch.equal(generator, torch.get_rng_state())


# Activations


def test_activations_are_what_the_next_layer_reads(randomised):
    model, x = randomised(MLP(4, [3, 5], 2, norm="batch")), data(VECTORS)
    spec = permutation_spec(model, x)
    units = unit_activations(model, spec, x)
    h1 = torch.relu(model.norms[0](model.layers[0](x)))
    h2 = torch.relu(model.norms[1](model.layers[1](h1)))
    torch.testing.assert_close(units["layers.0"], h1.detach())
    torch.testing.assert_close(units["layers.1"], h2.detach())


def test_positions_count_as_samples_and_streams_are_read_at_every_layer(randomised):
    model, x = randomised(ConvNet(2, 3, (4,))), data(PICTURES)
    units = unit_activations(model, permutation_spec(model, x), x)
    stem = model.features[:3](x)
    block = model.features[3](stem)
    expected = [y.movedim(1, -1).reshape(-1, 4) for y in (stem, block.mean((2, 3)))]  # conv1, then the head
    torch.testing.assert_close(units["features.0"], torch.cat(expected).detach())
    assert units["features.3.conv1"].shape == (3 * 6 * 6, 4)


def test_entries_of_a_block_count_as_samples(randomised):
    model, x = randomised(TinyViT(6, 3, 2, 3, dim=8, depth=1, heads=2)), data(PICTURES)
    units = unit_activations(model, permutation_spec(model, x), x)
    assert units["blocks.0.attention.q"].shape == (3 * 4 * 4, 2)  # pictures × tokens × entries of a head
    assert units["embed"].shape[1] == 8


def test_activations_of_permuted_weights_are_permuted_activations(randomised):
    for model, shape in ((ConvNet(2, 3, (4, 6)), PICTURES), (TinyViT(6, 3, 2, 3, dim=8), PICTURES)):
        model, x = randomised(model), data(shape)
        spec = permutation_spec(model, x)
        permutations = random_permutations(spec, 5)
        before = copy.deepcopy(model.state_dict())
        moved = unit_activations(model, spec, x, state=apply_permutation(spec, permutations, before))
        here = unit_activations(model, spec, x)
        for name, permutation in permutations.items():
            torch.testing.assert_close(moved[name], here[name][:, permutation])
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_layers_that_work_in_place_do_not_spoil_what_was_recorded(randomised):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x):
            x = self.a(x)
            y = self.b(x)
            return y + self.c(torch.nn.functional.relu(x, inplace=True))

    model, x = randomised(InPlace()), data(VECTORS)
    units = unit_activations(model, permutation_spec(model, x), x)["a"]
    h = model.a(x)
    torch.testing.assert_close(units, torch.cat([h, h.relu()]).detach())


def test_groups_that_nothing_reads_are_refused():
    model, spec = example()
    with pytest.raises(ValueError, match=r"spec\['g'\]: expected at least one node in reads, got none"):
        unit_activations(model, {**spec, "g": Group(2, (("head.bias", 0),))}, torch.zeros(2, 4))
