"""The layers of a model that hold weights, and parametrizations that stand in for a weight.

A mask or a grid takes the place of a layer's weight (`torch.nn.utils.parametrize`), so that training keeps to
it; `bake` leaves what it computes in the weight and takes it off.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def layers_of(model: nn.Module) -> dict[str, list[tuple[str, nn.Module]]]:
    """The `nn.Linear` and `nn.Conv2d` modules by the key of their weight; several where they share a weight.

    Returns:
        By the first key of each weight, all (key, module) that use it, in the order of the modules. Keys are
        those that the state dict has without parametrizations.

    Raises:
        ValueError: there are none.
    """
    found: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            users = found.setdefault(id(original(module)), [])
            users.append((f"{name}.weight" if name else "weight", module))
    if not found:
        raise ValueError(
            f"model: expected at least one nn.Linear or nn.Conv2d, found none in {type(model).__name__}"
        )
    return {users[0][0]: users for users in found.values()}


def original(module: nn.Module) -> Tensor:
    """The parameter that a layer's weight is, or is computed from."""
    if parametrize.is_parametrized(module, "weight"):
        # Some parametrizations, such as weight norm, keep several tensors and none of this name.
        steps = module.parametrizations.weight
        return steps.original if hasattr(steps, "original") else steps.original0
    return module.weight


def wears(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether the module's weight has exactly one parametrization, and that is of this kind."""
    if not parametrize.is_parametrized(module, "weight"):
        return False
    steps = module.parametrizations.weight
    return len(steps) == 1 and isinstance(steps[0], kind)


@torch.no_grad()
def bake(model: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """Leave in the weights what parametrizations of this kind compute, and take them off, in place.

    Returns the model. The parameters stay the same objects, and the state dict has the keys and the order
    that it had before.
    """
    # All are computed before one is written: modules may share the parameter that they are computed from.
    computed = [(m, m.weight.detach().clone()) for m in model.modules() if wears(m, kind)]
    for module, weight in computed:
        parameter = original(module)
        parameter.data.copy_(weight)
        # Not `remove_parametrizations`: it takes the attribute off a class that deep copies share, and
        # computes the weight once more.
        del module.parametrizations["weight"]
        if not module.parametrizations:
            del module.parametrizations
            module.__class__ = type(module).__bases__[0]
        else:
            own = type(module)  # which copies share, so another takes its place
            kept = {k: v for k, v in vars(own).items() if k not in ("weight", "__dict__", "__weakref__")}
            module.__class__ = type(own.__name__, own.__bases__, kept)
        rest = dict(module._parameters)
        module._parameters.clear()
        module._parameters.update({"weight": parameter, **rest})  # the order that the state dict had
    return model
