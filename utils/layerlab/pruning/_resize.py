"""A module of the same architecture around smaller weights."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from layerlab.train import evaluating


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
    check_plain(model)
    if state.keys() != model.state_dict().keys():
        raise ValueError(f"state: expected the model's keys, got {sorted(state)}")
    small = copy.deepcopy(model)
    seen: dict[int, nn.Parameter] = {}  # a shared parameter gets one successor
    for prefix, module in small.named_modules(remove_duplicate=False):
        for name, old in [*module._parameters.items()]:
            key = f"{prefix}.{name}" if prefix else name
            if old is not None and id(old) not in seen and old.shape != state[key].shape:
                seen[id(old)] = nn.Parameter(state[key].clone(), requires_grad=old.requires_grad)
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


def check_plain(model: nn.Module) -> None:
    """Raise ValueError if masks are still applied."""
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
