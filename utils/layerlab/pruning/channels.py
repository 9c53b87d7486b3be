"""Channels that really go: score units, keep the best, and get a smaller dense module.

Which entries of which weights belong to one unit (a hidden unit, a channel, an attention head, a direction of
the residual stream) is what `layerlab.symmetry.permutation_spec` reads off the module's graph: units that may
be permuted together are units that have to be removed together.

Chapter: `chapters/pruning/02_is_it_the_weights.ipynb`. The criterion by norm is that of Li et al. (2017,
"Pruning filters for efficient ConvNets"); the bookkeeping is the structural coupling that Fang et al. (2023,
"DepGraph") model.
"""

import copy
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from layerlab.symmetry import PermutationSpec, State, check_spec, permutation_spec
from layerlab.train import evaluating

Keep = Mapping[str, Sequence[int] | Tensor]


def writers(spec: PermutationSpec, group: str, weights: Mapping[str, Tensor]) -> list[str]:
    """Keys of the weights whose rows write a group's units; norms and biases are not among them.

    >>> from layerlab.models import MLP
    >>> model = MLP(4, [3], 2, norm="batch")
    >>> writers(permutation_spec(model, torch.zeros(1, 4)), "layers.0", model.state_dict())
    ['layers.0.weight']
    """
    return [k for k, axis in spec[group].axes if axis == 0 and _is_linear_map(k, weights)]


def readers(spec: PermutationSpec, group: str, weights: Mapping[str, Tensor]) -> list[str]:
    """Keys of the weights whose columns read a group's units.

    >>> from layerlab.models import MLP
    >>> model = MLP(4, [3], 2, norm="batch")
    >>> readers(permutation_spec(model, torch.zeros(1, 4)), "layers.0", model.state_dict())
    ['head.weight']
    """
    return [k for k, axis in spec[group].axes if axis == 1 and _is_linear_map(k, weights)]


def _is_linear_map(key: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether a key is the weight of a linear map or a convolution, not of a norm or a position."""
    prefix, _, last = key.rpartition(".")
    bias = weights.get(f"{prefix}.bias" if prefix else "bias")
    found = last == "weight" and key in weights and weights[key].ndim > 1
    return found and not (bias is not None and bias.shape == weights[key].shape)  # a norm over two axes


def channel_scores(
    weights: Mapping[str, Tensor], spec: PermutationSpec, *, p: float = 1, which: str = "in"
) -> dict[str, Tensor]:
    """The norm of each unit's weights: Σ|w|ᵖ to the power 1/p, summed over the weights that hold the unit.

    Args:
        weights: the prunable weights or a whole state dict; biases and norms do not count.
        spec: the groups of units.
        p: 1 (Li et al., 2017) or 2, or another positive number.
        which: "in", what writes a unit; "out", what reads it; "both", the sum of the two.

    Returns:
        For each group with such weights, a score for each unit (size,), float64; higher = keep.

    Raises:
        ValueError: p is not positive, `which` is unknown.

    >>> from layerlab.symmetry import Group
    >>> spec = {"a": Group(2, (("a.weight", 0), ("a.bias", 0), ("b.weight", 1)))}
    >>> state = {"a.weight": torch.tensor([[1.0, -2.0], [0.5, 0.5]]), "b.weight": torch.ones(3, 2)}
    >>> channel_scores(state, spec)["a"]
    tensor([3., 1.], dtype=torch.float64)
    """
    if not p > 0:
        raise ValueError(f"p: expected a positive number, got {p}")
    if which not in ("in", "out", "both"):
        raise ValueError(f"which: expected 'in', 'out' or 'both', got {which!r}")
    scores = {}
    for name, group in spec.items():
        parts = [(k, 0) for k in writers(spec, name, weights)] if which != "out" else []
        parts += [(k, 1) for k in readers(spec, name, weights)] if which != "in" else []
        if parts:
            scores[name] = sum(
                weights[k].detach().double().movedim(axis, 0).reshape(group.size, -1).norm(p, dim=1)
                for k, axis in parts
            )
    return scores


def keep_best(
    scores: Mapping[str, Tensor],
    share_kept: float | Mapping[str, float],
    *,
    groups: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """The units with the highest scores: `round(share · n)` of each group, at least one; ties by index.

    Args:
        scores: a score for each unit, by group.
        share_kept: in (0, 1], one number for all or one for each group.
        groups: the groups to shrink; all that have a share by default.

    Returns:
        Sorted indices of the kept units, int64, by group.

    Raises:
        ValueError: a share outside (0, 1], an unknown group, scores that are NaN.

    >>> keep_best({"a": torch.tensor([3.0, 1.0, 2.0, 2.0])}, 0.5)
    {'a': tensor([0, 2])}
    """
    shares = share_kept if isinstance(share_kept, Mapping) else dict.fromkeys(groups or scores, share_kept)
    keep = {}
    for name in shares if groups is None else groups:
        if name not in scores or name not in shares:
            raise ValueError(f"groups: expected groups with a score and a share, got {name!r}")
        share, score = shares[name], scores[name]
        if not 0 < share <= 1:
            raise ValueError(f"share_kept[{name!r}]: expected a number in (0, 1], got {share}")
        if torch.isnan(score).any():
            raise ValueError(f"scores[{name!r}]: expected numbers, got NaN")
        count = max(1, round(share * len(score)))
        keep[name] = score.argsort(descending=True, stable=True)[:count].sort().values
    return keep


def check_keep(keep: Keep, spec: PermutationSpec) -> dict[str, Tensor]:
    """The indices as tensors, after a check.

    Raises:
        ValueError: an unknown group, no unit left, an index out of range or twice.
        TypeError: indices that are no integers.
    """
    checked = {}
    for name, indices in keep.items():
        if name not in spec:
            raise ValueError(f"keep: expected groups among {sorted(spec)}, got {name!r}")
        n = spec[name].size
        index = torch.as_tensor(indices)
        if index.numel() == 0:
            raise ValueError(f"keep[{name!r}]: expected at least one of {n} units, got none")
        if index.dtype.is_floating_point or index.dtype == torch.bool or index.ndim != 1:
            raise TypeError(f"keep[{name!r}]: expected a list of indices, got {index.dtype} {index.ndim}-d")
        index = index.long().cpu()
        if index.min() < 0 or index.max() >= n:
            raise ValueError(f"keep[{name!r}]: expected indices in 0..{n - 1}, got {index.tolist()}")
        if len(index.unique()) < len(index):
            raise ValueError(f"keep[{name!r}]: expected each index once, got {index.tolist()}")
        checked[name] = index
    return checked


def select(state: Mapping[str, Tensor], spec: PermutationSpec, keep: Keep) -> State:
    """The state dict of the smaller network: along each axis of a group only the kept units' entries.

    Raises:
        ValueError, TypeError: as `check_keep`; a spec that does not fit.
    """
    check_spec(spec, state)
    new = {key: value.detach().clone() for key, value in state.items()}
    for name, index in check_keep(keep, spec).items():
        for key, axis in spec[name].axes:
            blocks = new[key].unflatten(axis, (spec[name].size, -1))
            new[key] = blocks.index_select(axis, index.to(blocks.device)).flatten(axis, axis + 1)
    return new


def resize(model: nn.Module, state: Mapping[str, Tensor], example: Tensor) -> nn.Module:
    """A copy of `model` that holds `state`, whose shapes may be smaller; sizes that modules note follow.

    Follows the shapes in `nn.Linear`, `nn.Conv2d` (depthwise too), `nn.BatchNorm1d`/`2d`, `nn.LayerNorm`,
    `nn.GroupNorm`, and in any module with `q`, `heads` and `head_dim` (`layerlab.models.Attention`). Shared
    parameters stay shared, and each module keeps its mode.

    Args:
        model: the architecture; not modified.
        state: its weights, with its keys.
        example: an input (N, …) that the result is run on before it is returned.

    Raises:
        ValueError: other keys; masks still applied; or the smaller module does not run, or not to an output
            of the same shape.
    """
    _check_plain(model)
    if state.keys() != model.state_dict().keys():
        raise ValueError(f"state: expected the model's keys, got {sorted(state)}")
    small = copy.deepcopy(model)
    seen: dict[int, nn.Parameter] = {}  # a shared parameter gets one successor
    for prefix, module in small.named_modules(remove_duplicate=False):
        for name, old in [*module._parameters.items()]:
            key = f"{prefix}.{name}" if prefix else name
            if old is not None and id(old) not in seen and old.shape != state[key].shape:
                seen[id(old)] = nn.Parameter(state[key].clone(), requires_grad=old.requires_grad)
                seen[id(seen[id(old)])] = seen[id(old)]
            if old is not None and id(old) in seen:
                module._parameters[name] = seen[id(old)]
        for name, old in module._buffers.items():
            key = f"{prefix}.{name}" if prefix else name
            if old is not None and key in state:
                module._buffers[name] = state[key].clone()
    for module in small.modules():
        _note_sizes(module)
    small.load_state_dict(dict(state))
    try:
        with torch.no_grad(), evaluating(small), evaluating(model), torch.random.fork_rng(devices=[]):
            after, before = small(example), model(example)
    except (RuntimeError, ValueError, IndexError) as error:
        changed = sorted(k for k, v in model.state_dict().items() if v.shape != state[k].shape)
        raise ValueError(f"state: the model does not run with smaller {changed[:4]}: {error}") from error
    if after.shape != before.shape:
        raise ValueError(
            f"state: expected an output of shape {tuple(before.shape)} still, got {tuple(after.shape)}"
        )
    return small


def _check_plain(model: nn.Module) -> None:
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise ValueError("model: expected plain weights, got masked ones; call masks.make_permanent first")


def _note_sizes(module: nn.Module) -> None:
    """Set the sizes that a module notes beside its weights."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.Conv2d):
        if module.groups == module.in_channels == module.out_channels:
            module.groups = len(weight)  # depthwise
        module.out_channels, module.in_channels = len(weight), weight.shape[1] * module.groups
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        found = weight if weight is not None else module.running_mean
        module.num_features = module.num_features if found is None else len(found)
    elif isinstance(module, nn.LayerNorm) and weight is not None:
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm) and weight is not None:
        module.num_groups = 1 if module.num_groups == 1 else len(weight)
        module.num_channels = len(weight)
    elif isinstance(getattr(module, "q", None), nn.Linear) and hasattr(module, "head_dim"):
        module.heads = len(module.q.weight) // module.head_dim


def remove(
    model: nn.Module, keep: Keep, example: Tensor, *, spec: PermutationSpec | None = None
) -> nn.Module:
    """A smaller dense module without the units that are not kept.

    Where no norm mixes channels, the result computes in evaluation mode what `zero` computes with the units
    still there. LayerNorm and GroupNorm take their mean over the channels that are left, so there the two
    differ.

    Args:
        model: a module that `permutation_spec` can read; not modified.
        keep: by group, the units that stay, in the order in which they shall lie.
        example: an input (N, …); the result is run on it before it is returned.
        spec: the groups, where they are known already; read off the module by default.

    Raises:
        ValueError: an unknown group, no unit left, an index out of range or twice, masks still applied, a
            group that cannot be shrunk.
        TypeError: indices that are no integers.

    >>> from layerlab.models import MLP
    >>> remove(MLP(4, [3], 2), {"layers.0": [0, 2]}, torch.zeros(1, 4)).layers[0]
    Linear(in_features=4, out_features=2, bias=True)
    """
    _check_plain(model)
    spec = permutation_spec(model, example) if spec is None else spec
    small = select(model.state_dict(), spec, keep)
    try:
        return resize(model, small, example)
    except ValueError as error:
        raise ValueError(f"keep: the groups {sorted(keep)} cannot be shrunk: {error}") from error


def zero(model: nn.Module, keep: Keep, example: Tensor, *, spec: PermutationSpec | None = None) -> nn.Module:
    """A copy whose readers ignore the units that are not kept: the same size, the same time.

    Args:
        model: a module that `permutation_spec` can read; not modified.
        keep: by group, the units that stay.
        example: an input (N, …).
        spec: as in `remove`.

    Raises:
        ValueError, TypeError: as `remove`.

    >>> from layerlab.models import MLP
    >>> zero(MLP(4, [3], 2), {"layers.0": [0, 2]}, torch.zeros(1, 4)).head.weight[:, 1].tolist()
    [0.0, 0.0]
    """
    _check_plain(model)
    spec = permutation_spec(model, example) if spec is None else spec
    masked = copy.deepcopy(model)
    state = masked.state_dict()
    for name, index in check_keep(keep, spec).items():
        gone = torch.ones(spec[name].size, dtype=torch.bool)
        gone[index] = False
        for key in readers(spec, name, state):
            blocks = state[key].unflatten(1, (spec[name].size, -1))
            blocks[:, gone.to(blocks.device)] = 0  # a view of the copy's own weight
    return masked
