"""Channels that really go: the smaller module against zeros, against its own shapes, against bad input."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from layerlab.models import MLP, Attention, ConvNet, TinyViT
from layerlab.pruning import channels
from layerlab.symmetry import Group, permutation_spec
from layerlab.train import fit

X = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MODELS = {
    "mlp": lambda: MLP(64, [8, 6], 3),
    "mlp-batch": lambda: MLP(64, [8, 6], 3, norm="batch"),
    "convnet": lambda: ConvNet(1, 3, (4, 6), norm=None),
    "convnet-batch": lambda: ConvNet(1, 3, (4, 6), blocks=2),
    "convnet-batch-plain": lambda: ConvNet(1, 3, (4, 6), skip=False),
    "convnet-batch-pool4": lambda: ConvNet(1, 3, (4, 6), pool=4),
    "convnet-plain-pool2": lambda: ConvNet(1, 3, (4, 6), skip=False, pool=2, norm=None),
}
MIXING = {
    "mlp-layer": lambda: MLP(64, [8, 6], 3, norm="layer"),
    "convnet-layer": lambda: ConvNet(1, 3, (4, 6), norm="layer", pool=2),
}


def half(model, seed=0):
    """A random half of each group's units, in a random order."""
    generator = torch.Generator().manual_seed(seed)
    spec = permutation_spec(model, X.to(next(model.parameters()).dtype))
    return {k: torch.randperm(g.size, generator=generator)[: g.size // 2] for k, g in spec.items()}


def fresh(model):
    """A module of the same sizes built anew, to compare what modules note about themselves."""
    return {
        name: {k: v for k, v in vars(m).items() if k in SIZES}
        for name, m in model.named_modules()
        if any(k in vars(m) for k in SIZES)
    }


SIZES = (
    "in_features", "out_features", "in_channels", "out_channels", "num_features", "normalized_shape",
    "num_channels", "num_groups", "groups", "heads", "head_dim",
)  # fmt: skip


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_smaller_module_computes_what_zeros_compute(make, randomised):
    model = randomised(make())
    keep = half(model)
    small, masked = channels.remove(model, keep, X), channels.zero(model, keep, X)
    assert (masked(X) - model(X)).abs().max() > 1e-3  # something went
    torch.testing.assert_close(small(X), masked(X), rtol=1e-10, atol=1e-12)
    assert sum(p.numel() for p in small.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "group", ["blocks.0.fc1", "blocks.1.fc1", "blocks.0.attention.q", "blocks.1.attention.q"]
)
def test_hidden_units_and_heads_of_a_transformer_go(group, randomised):
    model = randomised(TinyViT(8, 4, 1, 3, dim=12, depth=2, heads=3))
    keep = {group: [2, 0]}
    small, masked = channels.remove(model, keep, X), channels.zero(model, keep, X)
    assert (masked(X) - model(X)).abs().max() > 1e-6
    torch.testing.assert_close(small(X), masked(X), rtol=1e-10, atol=1e-12)
    block = small.blocks[int(group[7])]
    if "attention" in group:
        assert (block.attention.heads, block.attention.head_dim) == (2, 4)
        assert block.attention.proj.weight.shape == (12, 8)
    else:
        assert block.fc1.out_features == block.fc2.in_features == 2


@pytest.mark.parametrize("make", MIXING.values(), ids=MIXING)
def test_a_norm_over_channels_sees_fewer_of_them(make, randomised):
    model = randomised(make())
    keep = half(model)
    small, masked = channels.remove(model, keep, X), channels.zero(model, keep, X)
    assert small(X).shape == masked(X).shape
    assert (small(X) - masked(X)).abs().max() > 1e-3


BUILT = {
    "mlp-layer": (lambda a, b: MLP(64, [a, b], 3, norm="layer"), {"layers.0": 3, "layers.1": 2}),
    "mlp-batch": (lambda a, b: MLP(64, [a, b], 3, norm="batch"), {"layers.0": 3, "layers.1": 2}),
    "convnet-layer": (
        lambda a, b: ConvNet(1, 3, (a, b), norm="layer", pool=4),
        {"features.0": 3, "features.3.conv1": 3, "features.4": 2, "features.7.conv1": 2},
    ),
    "convnet-batch": (
        lambda a, b: ConvNet(1, 3, (a, b)),
        {"features.0": 3, "features.3.conv1": 3, "features.4": 2, "features.7.conv1": 2},
    ),
}


@pytest.mark.parametrize(("make", "sizes"), BUILT.values(), ids=BUILT)
def test_the_smaller_module_is_the_one_that_would_be_built_small(make, sizes):
    small = channels.remove(make(6, 5), {group: range(n) for group, n in sizes.items()}, X.float())
    target = make(3, 2)
    assert fresh(small) == fresh(target)
    target.load_state_dict(small.state_dict())
    torch.testing.assert_close(small.eval()(X.float()), target.eval()(X.float()))


def test_the_residual_stream_of_a_transformer_shrinks():
    small = channels.remove(TinyViT(8, 4, 1, 3, dim=8, heads=2), {"embed": [7, 1, 4]}, X.float())
    assert small.position.shape == (1, 4, 3)
    assert small.norm.normalized_shape == (3,)
    attention = small.blocks[0].attention
    assert (attention.q.in_features, attention.q.out_features, attention.heads) == (3, 8, 2)
    assert small(X.float()).shape == (6, 3)


def test_kept_units_lie_in_the_order_asked_for():
    model = MLP(64, [4], 2)
    small = channels.remove(model, {"layers.0": [3, 1]}, X.float())
    assert torch.equal(small.layers[0].weight, model.layers[0].weight[[3, 1]])
    assert torch.equal(small.layers[0].bias, model.layers[0].bias[[3, 1]])
    assert torch.equal(small.head.weight, model.head.weight[:, [3, 1]])


def test_a_channel_that_is_flattened_takes_its_whole_block():
    model = ConvNet(1, 2, (3,), pool=2, norm=None)
    small = channels.remove(model, {"features.0": [2, 0]}, X.float())
    assert small.head.in_features == 8
    assert torch.equal(small.head.weight, model.head.weight[:, [8, 9, 10, 11, 0, 1, 2, 3]])


@pytest.mark.parametrize("change", [channels.remove, channels.zero])
def test_the_model_stays_as_it_is(change):
    model = ConvNet(1, 3, (4, 6)).train()
    model.features[1].eval()
    model.head.bias.requires_grad_(False)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    new = change(model, {"features.0": [0], "features.4": [1, 2]}, X.float())
    assert [m.training for m in model.modules()] == modes == [m.training for m in new.modules()]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [new.head.bias.requires_grad, new.head.weight.requires_grad] == [False, True]
    with torch.no_grad():
        for value in new.state_dict().values():
            value.zero_()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert fresh(model) == fresh(ConvNet(1, 3, (4, 6)))


@pytest.mark.parametrize("make", [*MODELS.values(), *MIXING.values()], ids=[*MODELS, *MIXING])
def test_the_smaller_module_trains_and_loads(make):
    model = make()
    small = channels.remove(model, half(model), X.float())
    before = copy.deepcopy(small.state_dict())
    fit(small, X.float(), torch.arange(6) % 3, epochs=1, batch_size=6, lr=0.1)
    assert all(not torch.equal(v, before[k]) for k, v in small.named_parameters() if k.endswith("weight"))
    small.load_state_dict(before)
    again = channels.remove(small, half(small), X.float())
    assert again(X.float()).shape == (6, 3)


def test_shared_weights_stay_shared():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(64, 3)
            self.second.weight = self.first.weight
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            x = torch.relu(self.third(x.flatten(1)))
            return self.head(torch.relu(self.second(torch.relu(self.first(x)))))

    model = Twice()
    (group,) = [name for name, g in permutation_spec(model, X.float()).items() if g.size == 3]
    small = channels.remove(model, {group: [0, 2]}, X.float())
    assert small.first.weight is small.second.weight
    assert small.first.weight.shape == (2, 2)
    assert len(list(small.parameters())) == len(list(model.parameters()))


def test_a_depthwise_convolution_follows(randomised):
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2)
    )
    model = randomised(model)
    small, masked = (f(model, {"0": [1, 4]}, X) for f in (channels.remove, channels.zero))
    assert (small[2].groups, small[2].in_channels, small[2].out_channels) == (2, 2, 2)
    torch.testing.assert_close(small(X), masked(X))


def test_norms_without_parameters(randomised):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 2)
    )
    model = randomised(model)
    small, masked = (f(model, {"1": [1, 4]}, X) for f in (channels.remove, channels.zero))
    assert small[2].num_features == 2
    torch.testing.assert_close(small(X), masked(X))


def test_a_group_that_cannot_be_shrunk_is_named():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 6), nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 2)
    )
    with pytest.raises(ValueError, match=r"keep: the groups \['1'\] cannot be shrunk.*1\.bias.*6"):
        channels.remove(model, {"1": [0, 1]}, X.float())


def test_attention_of_its_own_shrinks(randomised):
    attention = randomised(nn.Sequential(nn.Linear(8, 6), Attention(6, 3), nn.Linear(6, 2)))
    tokens = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    small, masked = (f(attention, {"1.q": [2]}, tokens) for f in (channels.remove, channels.zero))
    assert small[1].heads == 1
    torch.testing.assert_close(small(tokens), masked(tokens))


BAD = {
    "unknown": ({"layers.9": [0]}, r"keep: expected groups among \['layers.0', 'layers.1'\], got 'layers.9'"),
    "empty": ({"layers.0": []}, r"keep\['layers.0'\]: expected at least one of 4 units, got none"),
    "high": ({"layers.0": [0, 4]}, r"keep\['layers.0'\]: expected indices in 0..3, got \[0, 4\]"),
    "negative": ({"layers.0": [-1]}, r"keep\['layers.0'\]: expected indices in 0..3, got \[-1\]"),
    "twice": ({"layers.1": [1, 1]}, r"keep\['layers.1'\]: expected each index once, got \[1, 1\]"),
}


@pytest.mark.parametrize(("keep", "message"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("change", [channels.remove, channels.zero])
def test_bad_indices_are_named(change, keep, message):
    with pytest.raises(ValueError, match=message):
        change(MLP(64, [4, 4], 2), keep, X.float())


@pytest.mark.parametrize("indices", [[True, False, True, False], [0.0, 1.0], [[0, 1]]])
def test_indices_that_are_none(indices):
    with pytest.raises(TypeError, match=r"keep\['layers.0'\]: expected a list of indices"):
        channels.remove(MLP(64, [4], 2), {"layers.0": indices}, X.float())


class Mask(nn.Module):
    def forward(self, weight):
        return weight * (weight > 0)


@pytest.mark.parametrize("change", [channels.remove, channels.zero])
def test_masks_have_to_be_made_permanent_first(change):
    model = MLP(64, [4], 2)
    parametrize.register_parametrization(model.layers[0], "weight", Mask())
    with pytest.raises(ValueError, match="expected plain weights, got masked ones"):
        change(model, {"layers.0": [0]}, X.float())


def test_a_spec_by_hand_is_taken():
    model = MLP(64, [4], 2)
    spec = {"hidden": Group(4, (("layers.0.weight", 0), ("layers.0.bias", 0), ("head.weight", 1)))}
    small = channels.remove(model, {"hidden": [1]}, X.float(), spec=spec)
    assert small.layers[0].out_features == 1
    with pytest.raises(ValueError, match="cannot be shrunk"):  # the bias is missing
        channels.remove(model, {"h": [1]}, X.float(), spec={"h": Group(4, (("layers.0.weight", 0),))})
    with pytest.raises(ValueError, match="expected 'nowhere' among"):
        channels.remove(model, {"h": [1]}, X.float(), spec={"h": Group(4, (("nowhere", 0),))})


def test_resize_wants_the_models_keys():
    model = MLP(64, [4], 2)
    with pytest.raises(ValueError, match="state: expected the model's keys"):
        channels.resize(model, {"head.weight": torch.ones(2, 2)}, X.float())
    state = model.state_dict() | {"head.weight": torch.ones(3, 4), "head.bias": torch.ones(3)}
    with pytest.raises(ValueError, match=r"expected an output of shape \(6, 2\) still, got \(6, 3\)"):
        channels.resize(model, state, X.float())


def test_scores_are_norms_of_what_writes_or_reads():
    model = ConvNet(1, 3, (4,), pool=2)
    state, spec = model.state_dict(), permutation_spec(model, X.float())
    stem, inner, outer = (state[f"features.{k}.weight"].double() for k in ("0", "3.conv1", "3.conv2"))
    head = state["head.weight"].double().view(3, 4, 4)

    def rows(w, p):
        return w.flatten(1).abs().pow(p).sum(1).pow(1 / p)

    def columns(w, p):
        return rows(w.transpose(0, 1), p)

    for p in (1, 2):
        incoming = channels.channel_scores(state, spec, p=p)
        torch.testing.assert_close(incoming["features.0"], rows(stem, p) + rows(outer, p))
        torch.testing.assert_close(incoming["features.3.conv1"], rows(inner, p))
        outgoing = channels.channel_scores(state, spec, p=p, which="out")
        torch.testing.assert_close(outgoing["features.0"], columns(inner, p) + columns(head, p))
        both = channels.channel_scores(state, spec, p=p, which="both")
        torch.testing.assert_close(both["features.0"], incoming["features.0"] + outgoing["features.0"])
    only = {k: v for k, v in state.items() if k.endswith("weight") and v.ndim > 1}  # as masks.prunable gives
    torch.testing.assert_close(channels.channel_scores(only, spec, p=2)["features.0"], incoming["features.0"])
    for bad in ({"p": 0}, {"which": "sideways"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            channels.channel_scores(state, spec, **bad)


def test_heads_are_scored_by_what_writes_q_k_and_v():
    model = TinyViT(8, 4, 1, 3, dim=8, depth=1, heads=2)
    state = model.state_dict()
    score = channels.channel_scores(state, permutation_spec(model, X.float()))["blocks.0.attention.q"]
    parts = [state[f"blocks.0.attention.{k}.weight"].double().view(2, -1).abs().sum(1) for k in "qkv"]
    torch.testing.assert_close(score, sum(parts))
    stream = channels.channel_scores(state, permutation_spec(model, X.float()))["embed"]
    keys = ("embed", "blocks.0.attention.proj", "blocks.0.fc2")
    torch.testing.assert_close(
        stream, sum(state[f"{k}.weight"].double().flatten(1).abs().sum(1) for k in keys)
    )


def test_a_norm_over_two_axes_neither_writes_nor_reads():
    spec = {"a": Group(2, (("a.weight", 0), ("n.weight", 0), ("n.bias", 0), ("b.weight", 1)))}
    state = {k: torch.ones(2, 2) for k in ("a.weight", "n.weight", "n.bias", "b.weight")}
    assert channels.writers(spec, "a", state) == ["a.weight"]
    assert channels.readers(spec, "a", state) == ["b.weight"]


def test_the_best_are_kept_in_exact_number():
    scores = {"a": torch.tensor([1.0, 5.0, 5.0, 2.0, 5.0]), "b": torch.tensor([0.0, 1.0])}
    keep = channels.keep_best(scores, 0.4)
    assert {k: v.tolist() for k, v in keep.items()} == {"a": [1, 2], "b": [1]}
    assert channels.keep_best(scores, 0.01)["a"].tolist() == [1]  # one stays
    assert channels.keep_best(scores, 1.0)["a"].tolist() == [0, 1, 2, 3, 4]
    keep = channels.keep_best(scores, {"b": 0.5})
    assert list(keep) == ["b"]
    assert list(channels.keep_best(scores, 0.5, groups=["a"])) == ["a"]
    for share, groups, message in (
        (0, None, "share_kept"),
        (1.5, None, "share_kept"),
        ({"c": 0.5}, None, "groups: expected groups with a score and a share, got 'c'"),
        (0.5, ["c"], "got 'c'"),
        ({"a": 0.5}, ["b"], "got 'b'"),
    ):
        with pytest.raises(ValueError, match=message):
            channels.keep_best(scores, share, groups=groups)
    with pytest.raises(ValueError, match="NaN"):
        channels.keep_best({"a": torch.tensor([1.0, torch.nan])}, 0.5)
