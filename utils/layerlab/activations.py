"""What a network's layers read: the Gram matrices of their inputs.

Many methods need of a layer's inputs X only XᵀX: a least-squares merge (RegMean), a score by activations
(Wanda), a second-order update (SparseGPT), a low-rank factorization of what the layer does to its data.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from layerlab.train import check_state, evaluating


def check_inputs(X: Tensor, batch_size: int) -> None:
    """Raise ValueError unless there are inputs, all finite, and room for at least one per batch."""
    if len(X) == 0:
        raise ValueError("X: expected at least one example, got none")
    if X.is_floating_point() and not torch.isfinite(X).all():
        raise ValueError("X: expected finite values, got NaN or infinity")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")


def names_of(model: nn.Module) -> dict[str, list[str]]:
    """All names under which the model lists a parameter, by the first of them."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {found[0]: found for found in names.values()}


def _plain(name: str) -> str:
    """The name that a parameter had before it was parametrized, as by a mask."""
    return name.replace("parametrizations.", "").removesuffix(".original")


def _rows(module: nn.Module, x: Tensor) -> Tensor:
    """What the weight of a layer is multiplied with: one row per example, token or position, float64."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1]).double()
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = [(n // 2, n - n // 2) for n in total]
    else:
        padding = (0, 0) if module.padding == "valid" else module.padding
        sides = [(n, n) for n in padding]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x.double(), [*sides[1], *sides[0]], mode=mode)
    patches = F.unfold(x, kernel, dilation=dilation, stride=stride)  # (N, C·kh·kw, positions)
    return patches.transpose(1, 2).flatten(0, 1)


@torch.no_grad()
def watch(
    model: nn.Module,
    X: Tensor,
    hooks: Iterable[tuple[nn.Module, Callable]],
    *,
    state: Mapping[str, Tensor] | None = None,
    batch_size: int = 256,
) -> None:
    """Run a model in evaluation mode over inputs while hooks look at what its modules read.

    Args:
        model: not modified, unless by a hook.
        X: inputs (N, …).
        hooks: (module, hook) for `register_forward_pre_hook`; they are gone afterwards, also after an error.
        state: weights to use in place of the model's own.
        batch_size: inputs per forward pass.

    Raises:
        ValueError: no examples or NaN; `state` does not fit.
    """
    check_inputs(X, batch_size)
    if state is not None:
        check_state(model, state)
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooks]
    try:
        with evaluating(model):
            for x in X.split(batch_size):
                _ = model(x) if state is None else functional_call(model, dict(state), (x,))
    finally:
        for handle in handles:
            handle.remove()


def gram(
    model: nn.Module, X: Tensor, *, state: Mapping[str, Tensor] | None = None, batch_size: int = 256
) -> dict[str, Tensor]:
    """Gram matrix XᵀX of the inputs of every `nn.Linear` and `nn.Conv2d`, summed over examples and tokens.

    A convolution is a linear map of the patches under its kernel (`torch.nn.functional.unfold`); grouped ones
    are left out. So are layers whose weights are used without calling them, as in `nn.MultiheadAttention`.

    Args:
        model: the architecture, run in evaluation mode; not modified.
        X: inputs (N, …).
        state: weights to use in place of the model's own.
        batch_size: inputs per forward pass.

    Returns:
        For each such weight, under its names in the state dict, float64 (d, d), d the number of inputs of a
        unit. The sums grow with the number of examples.

    Raises:
        ValueError: no examples or NaN; `state` does not fit.

    >>> gram(nn.Linear(2, 1), torch.tensor([[1.0, 2.0], [0.0, 1.0]]))["weight"]
    tensor([[1., 2.],
            [2., 5.]], dtype=torch.float64)
    """
    found: dict[str, Tensor] = {}
    names = {_plain(name): [_plain(a) for a in aliases] for name, aliases in names_of(model).items()}
    first = {alias: name for name, aliases in names.items() for alias in aliases}

    def hook(key: str) -> Callable:
        def record(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows = _rows(module, args[0])
            found[key] = found.get(key, 0) + rows.T @ rows

        return record

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
            hooks.append((module, hook(first[f"{name}.weight" if name else "weight"])))
    watch(model, X, hooks, state=state, batch_size=batch_size)
    return {alias: found[name] for name, aliases in names.items() if name in found for alias in aliases}
