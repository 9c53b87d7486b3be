"""Scores of channels by their norms, and the best of them in exact number."""

import pytest
import torch

from layerlab.models import ConvNet, TinyViT
from layerlab.pruning import channels
from layerlab.symmetry import Group, permutation_spec

X = torch.zeros(2, 1, 8, 8)


def test_scores_are_norms_of_what_writes_or_reads():
    model = ConvNet(1, 3, (4,), pool=2)
    state, spec = model.state_dict(), permutation_spec(model, X)
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
    score = channels.channel_scores(state, permutation_spec(model, X))["blocks.0.attention.q"]
    parts = [state[f"blocks.0.attention.{k}.weight"].double().view(2, -1).abs().sum(1) for k in "qkv"]
    torch.testing.assert_close(score, sum(parts))
    stream = channels.channel_scores(state, permutation_spec(model, X))["embed"]
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
    assert channels.keep_best(scores, 0.7)["a"].tolist() == [1, 2, 3, 4]  # round(3.5) is 4
    assert channels.keep_best({"a": torch.zeros(999)}, 0.3)["a"].tolist() == list(range(300))
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
