"""Merging units: exact for twins, weighted by how many, blocks and norms included."""

import pytest
import torch

from layerlab.models import MLP, ConvNet, TinyViT
from layerlab.pruning import channels, merge_units
from layerlab.symmetry import Group, permutation_spec

X = torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def with_twins(model, group, pairs, spec):
    """Make units equal in all that writes them; what reads them stays different."""
    state = model.state_dict()
    read = set(channels.readers(spec, group, state))
    for key, axis in spec[group].axes:
        if not (key in read and axis == 1):
            blocks = state[key].unflatten(axis, (spec[group].size, -1))
            for a, b in pairs:
                blocks.select(axis, b).copy_(blocks.select(axis, a))
    return model


CASES = {
    "mlp": (lambda: MLP(64, [6, 5], 3), "layers.0"),
    "mlp-batch": (lambda: MLP(64, [6, 5], 3, norm="batch"), "layers.1"),
    "convnet-stream": (lambda: ConvNet(1, 3, (6,), pool=2), "features.0"),
    "convnet-inner": (lambda: ConvNet(1, 3, (6,)), "features.3.conv1"),
    "vit-hidden": (lambda: TinyViT(8, 4, 1, 3, dim=4, depth=1, heads=2, mlp_ratio=2), "blocks.0.fc1"),
    "vit-heads": (lambda: TinyViT(8, 4, 1, 3, dim=12, depth=1, heads=6), "blocks.0.attention.q"),
}


@pytest.mark.parametrize(("make", "group"), CASES.values(), ids=CASES)
def test_twins_are_merged_exactly(make, group, randomised):
    model = randomised(make())
    spec = permutation_spec(model, X)
    with_twins(model, group, [(0, 3), (1, 4), (1, 2)], spec)
    n, before = spec[group].size, {k: v.clone() for k, v in model.state_dict().items()}
    state, clusters = merge_units.merge_similar(model.state_dict(), spec, group, threshold=1 - 1e-9)
    assert clusters == [[0, 3], [1, 2, 4], *[[i] for i in range(5, n)]]
    small = channels.resize(model, state, X)
    torch.testing.assert_close(small(X), model(X))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    if n > 3:
        again, _ = merge_units.merge_similar(model.state_dict(), spec, group, size=n - 3)
        assert all(torch.equal(again[k], v) for k, v in state.items())


def naive(features, size):
    """Merge by the definition: all pairs anew at every step, the mean of all members."""
    members = [[i] for i in range(len(features))]
    while len(members) > size:
        means = torch.stack([features[m].mean(0) for m in members])
        cosine = torch.nn.functional.cosine_similarity(means[:, None], means[None], dim=2).fill_diagonal_(-2)
        i, j = sorted(divmod(int(cosine.argmax()), len(members)))
        members[i] += members.pop(j)
    return sorted(sorted(m) for m in members)


@pytest.mark.parametrize("seed", range(5))
def test_clusters_equal_those_by_definition(seed):
    features = torch.randn(14, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for size in range(1, 15):
        assert merge_units.cluster(features, size=size) == naive(features, size)


def test_the_mean_is_weighted_by_how_many():
    """Three of a kind, one after another: each has a third, not the last one half."""
    features = torch.tensor([[1.0, 0.00], [1.0, 0.01], [1.0, 0.90]])
    spec = {"a": Group(3, (("a.weight", 0), ("b.weight", 1)))}
    state = {"a.weight": features, "b.weight": torch.tensor([[1.0, 10.0, 100.0]])}
    merged, clusters = merge_units.merge_similar(state, spec, "a", size=1)
    assert clusters == [[0, 1, 2]]
    torch.testing.assert_close(merged["a.weight"], features.mean(0, keepdim=True))
    torch.testing.assert_close(merged["b.weight"], torch.tensor([[111.0]]))


def test_the_threshold_is_a_cosine_and_scale_does_not_count():
    features = torch.tensor([[1.0, 0.0], [10.0, 1.0], [0.0, 1.0]])
    assert merge_units.cluster(features, threshold=0.995) == [[0, 1], [2]]
    assert merge_units.cluster(features, threshold=0.996) == [[0], [1], [2]]
    assert merge_units.cluster(features, threshold=0.0, size=2) == [[0, 1], [2]]  # the first that stops
    assert merge_units.cluster(features, threshold=0.996, size=1) == [[0], [1], [2]]
    assert merge_units.cluster(torch.zeros(3, 2), threshold=0.5) == [[0], [1], [2]]


def test_features_hold_all_that_writes_a_unit(randomised):
    model = randomised(ConvNet(1, 3, (4,), pool=2))
    state, spec = model.state_dict(), permutation_spec(model, X)
    features = merge_units.unit_features(state, spec, "features.0")
    # stem 9 + bias, 4 of its norm; conv2 36 + bias, 4 of its norm
    assert features.shape == (4, 9 + 1 + 4 + 36 + 1 + 4)
    assert torch.equal(features[:, :9], state["features.0.weight"].flatten(1))


def test_merging_down_to_the_size_that_there_is_changes_nothing():
    model = MLP(4, [3], 2)
    spec = permutation_spec(model, torch.zeros(1, 4))
    state, clusters = merge_units.merge_similar(model.state_dict(), spec, "layers.0", size=3)
    assert clusters == [[0], [1], [2]]
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())


def test_bad_input():
    model = MLP(4, [3], 2)
    state, spec = model.state_dict(), permutation_spec(model, torch.zeros(1, 4))
    for group, kwargs, message in (
        ("layers.9", {"size": 1}, r"group: expected one of \['layers.0'\], got 'layers.9'"),
        ("layers.0", {}, "size: expected a size or a threshold, got neither"),
        ("layers.0", {"size": 0}, "size: expected an integer in 1..3, got 0"),
        ("layers.0", {"size": 4}, "got 4"),
        ("layers.0", {"threshold": 2}, r"threshold: expected a cosine in \[-1, 1\], got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            merge_units.merge_similar(state, spec, group, **kwargs)
    with pytest.raises(ValueError, match=r"expected 'layers\.0\.weight' among"):
        merge_units.merge_similar({}, spec, "layers.0", size=1)
