"""Masks: which weights stay, how a model keeps to that while it trains, and exact counts of what goes.

A mask is a bool tensor of a weight's shape, True where the weight is kept; masks, scores and weights travel
as dicts by the weight's key in the state dict. A mask alone makes nothing faster: zeros are
multiplied too.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from layerlab.layers import bake, layers_of, wears
from layerlab.pruning._checks import check_mask, check_scores, check_sparsity, shares_of
from layerlab.pruning._select import keep_in_rows, keep_largest

Masks = dict[str, Tensor]


class Mask(nn.Module):
    """The parametrization: the weight where the mask is True, zero elsewhere; so is the gradient."""

    def __init__(self, mask: Tensor):
        super().__init__()
        self.register_buffer("mask", mask.clone())

    def forward(self, weight: Tensor) -> Tensor:
        """Map a weight to one of the same shape."""
        return torch.where(self.mask, weight, 0)


@torch.no_grad()
def prunable(model: nn.Module) -> dict[str, Tensor]:
    """The weights of every `nn.Linear` and `nn.Conv2d`, by key, in the order of the modules.

    Where masks are applied, the masked weights, under the keys that they had before. A weight that several
    modules share is listed once, under its first key. Other weights are the model's own memory, not copies.

    Raises:
        ValueError: there are none.

    >>> list(prunable(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))))
    ['0.weight', '2.weight']
    """
    return {key: users[0][1].weight.detach() for key, users in layers_of(model).items()}


def unstructured(
    scores: Mapping[str, Tensor],
    sparsity: float | Mapping[str, float],
    *,
    per: Literal["layer", "row", "model"] = "layer",
    allow_empty: bool = False,
) -> Masks:
    """Remove the entries of lowest score; exactly `round(sparsity · n)` of every n that are ranked together.

    Of equal scores the first are kept, in the order of the keys and then of the entries.

    Args:
        scores: tensors of the weights' shapes (out, …), higher = keep.
        sparsity: share to remove, in [0, 1); by key where layers differ (not with `per="model"`).
        per: rank each layer by itself; each output unit by itself (Wanda; Sun et al., 2024); or all layers
            together, under one threshold ("global").
        allow_empty: with `per="model"`, let a layer lose all its weights.

    Raises:
        TypeError: a score is no floating-point tensor.
        ValueError: `sparsity` is out of range or its keys differ; scores are NaN or empty; `per` is unknown;
            a layer (or with "row" a unit) would be emptied.

    >>> unstructured({"a": torch.tensor([[3.0, 1.0], [2.0, 4.0]])}, 0.5)
    {'a': tensor([[ True, False],
            [False,  True]])}
    """
    check_scores(scores)
    if per not in ("layer", "row", "model"):
        raise ValueError(f"per: expected 'layer', 'row' or 'model', got {per!r}")
    if per == "model":
        if isinstance(sparsity, Mapping):
            raise ValueError("sparsity: expected one number with per='model', got one per layer")
        check_sparsity(sparsity)
        total = sum(s.numel() for s in scores.values())
        kept = keep_largest(list(scores.values()), total - round(sparsity * total))
        masks = dict(zip(scores, kept, strict=True))
        if not allow_empty:
            for key, mask in masks.items():
                if not mask.any():
                    raise ValueError(
                        f"sparsity: expected one that leaves every layer a weight, got {sparsity}, which "
                        f"empties {key!r} under one threshold (allow_empty=True lets it)"
                    )
        return masks
    shares = shares_of(sparsity, scores)
    masks = {}
    for key, score in scores.items():
        n = score.numel() if per == "layer" else score[0].numel()
        keep = n - round(shares[key] * n)
        if not keep:
            raise ValueError(
                f"sparsity: expected one that leaves {key!r} a weight per {per}, got {shares[key]}, which "
                f"removes all {n}"
            )
        if per == "layer":
            (masks[key],) = keep_largest([score], keep)
        else:
            masks[key] = keep_in_rows(score.flatten(1), keep).view(score.shape)
    return masks


def n_of_m(scores: Mapping[str, Tensor], n: int, m: int) -> Masks:
    """Keep the n best of every m consecutive inputs of each unit (inputs · height · width of a kernel).

    The pattern that sparse tensor cores run, as 2:4 (Mishra et al., 2021). Of equal scores the first stay.

    Raises:
        TypeError: a score is no floating-point tensor.
        ValueError: not 1 ≤ n ≤ m; m does not divide the inputs of a layer; scores are NaN or empty.

    >>> n_of_m({"a": torch.tensor([[4.0, 1.0, 2.0, 3.0]])}, 2, 4)
    {'a': tensor([[ True, False, False,  True]])}
    """
    check_scores(scores)
    if not 1 <= n <= m:
        raise ValueError(f"n, m: expected 1 <= n <= m, got n={n}, m={m}")
    for key, score in scores.items():
        if score[0].numel() % m:
            raise ValueError(f"m: expected a divisor of {key!r}'s {score[0].numel()} inputs, got {m}")
    return {key: keep_in_rows(s.reshape(-1, m), n).view(s.shape) for key, s in scores.items()}


def channels(weights: Mapping[str, Tensor], keep: Mapping[str, Sequence[int] | Tensor]) -> Masks:
    """Masks that keep whole output units: rows of a Linear weight, filters of a convolution.

    Args:
        weights: by key, first axis the output units.
        keep: indices of the units that stay, by key; layers that are not named stay whole.

    Raises:
        ValueError: an unknown key, an index out of range, or no unit left.
    """
    masks = {key: torch.ones_like(weight, dtype=torch.bool) for key, weight in weights.items()}
    for key, units in keep.items():
        if key not in weights:
            raise ValueError(f"keep: expected keys among {list(weights)}, got {key!r}")
        units, count = torch.as_tensor(units), len(weights[key])
        whole = not units.is_floating_point() and units.dtype != torch.bool
        if not whole or not units.numel() or units.min() < 0 or units.max() >= count:
            raise ValueError(
                f"keep[{key!r}]: expected indices in [0, {count}), at least one, got {units.tolist()}"
            )
        masks[key].zero_()[units.long()] = True
    return masks


def apply(model: nn.Module, masks: Mapping[str, Tensor], *, allow_empty: bool = False) -> nn.Module:
    """Mask weights in place, so that they stay zero while the model trains; return the model.

    Each masked weight becomes a `torch.nn.utils.parametrize` parametrization: the module computes it from a
    parameter `parametrizations.weight.original`, so an optimizer's momentum or weight decay may move what
    lies under the mask and never shows. Masks applied again keep what both keep. Modules that share a weight
    are masked together. The parameters stay the same objects; the keys of the state dict change until
    `make_permanent`.

    Args:
        model: any module.
        masks: bool tensors by key of a weight as `prunable` lists it; other layers stay as they are.
        allow_empty: let a mask remove a whole layer.

    Raises:
        ValueError: no masks; an unknown key; wrong shape; not bool; a layer would be emptied; the weight has
            a parametrization of another kind. The model is unchanged then.
    """
    layers = layers_of(model)
    first = {key: root for root, users in layers.items() for key, _ in users}
    if not masks:
        raise ValueError("masks: expected at least one, got none")
    joint: Masks = {}
    for key, mask in masks.items():
        if key not in first:
            raise ValueError(f"masks: expected keys among {list(first)}, got {key!r}")
        root = first[key]
        module = layers[root][0][1]
        check_mask(mask, module.weight, f"masks[{key!r}]")
        mask = mask.to(module.weight.device)
        joint[root] = joint[root] & mask if root in joint else mask
    for root in joint:
        for key, module in layers[root]:
            if parametrize.is_parametrized(module, "weight"):
                if not wears(module, Mask):
                    raise ValueError(f"model: expected {key!r} to have no other parametrization")
                joint[root] = joint[root] & module.parametrizations.weight[0].mask
        if not allow_empty and not joint[root].any():
            raise ValueError(f"masks[{root!r}]: expected at least one weight that stays, got none")
    for root, mask in joint.items():
        for _, module in layers[root]:
            if wears(module, Mask):
                module.parametrizations.weight[0].mask = mask.clone()
            else:
                parametrize.register_parametrization(module, "weight", Mask(mask))
    return model


def make_permanent(model: nn.Module) -> nn.Module:
    """Take the masks off, in place; the zeros stay in the weights. Return the model.

    The state dict has the keys that it had before `apply`. An optimizer may move the zeros from here on.
    """
    return bake(model, Mask)


def layer_sparsity(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of removed weights of each layer."""
    return {key: 1 - int(mask.sum()) / mask.numel() for key, mask in masks.items()}


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """Share of removed weights of all layers together.

    >>> sparsity({"a": torch.tensor([True, False, False]), "b": torch.tensor([True])})
    0.5
    """
    if not masks:
        raise ValueError("masks: expected at least one, got none")
    return 1 - sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


def masked(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A new state dict (or dict of weights) in which the masked entries are zero; the rest is shared.

    Entries that share their memory, as tied weights do, are masked together.

    Raises:
        ValueError: an unknown key; a mask of another shape, or not bool.

    >>> masked({"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([True, False])})
    {'a': tensor([1., 0.])}
    """
    for key, mask in masks.items():
        if key not in state:
            raise ValueError(f"masks: expected keys among {list(state)}, got {key!r}")
        check_mask(mask, state[key], f"masks[{key!r}]")
    out = dict(state)
    for key, mask in masks.items():
        tied = [k for k, v in state.items() if _same_memory(v, state[key])]
        out |= dict.fromkeys(tied, torch.where(mask, out[key], 0))
    return out


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
