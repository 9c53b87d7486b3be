"""What a network's layers read: the Gram matrices of their inputs, and their inverses.

Many methods need of a layer's inputs X only XᵀX: a least-squares merge (RegMean), a score by activations
(Wanda), a second-order update (SparseGPT), a low-rank factorization of what the layer does to its data.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from layerlab.train import check_state, evaluating

_SINGULAR = 1e-12  # share of an input that the others do not explain, below which it counts as none


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


def damped(gram: Tensor, damp: float = 0.01) -> Tensor:
    """XᵀX + λ in float64, λ = `damp` times the mean of the diagonal; inputs that are always zero get a 1.

    Args:
        gram: XᵀX, (d, d).
        damp: share of the mean of the diagonal that is added to it, at least 0.

    Raises:
        ValueError: `damp` is negative or not finite; `gram` is not square or not finite.

    >>> damped(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), damp=0.1)
    tensor([[2.1000, 0.0000],
            [0.0000, 1.1000]], dtype=torch.float64)
    """
    if not isinstance(damp, Real) or not 0 <= damp < math.inf:
        raise ValueError(f"damp: expected a finite number of at least 0, got {damp!r}")
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(f"gram: expected a square matrix, got shape {tuple(gram.shape)}")
    if not torch.isfinite(gram).all():
        raise ValueError("gram: expected finite values, got NaN or infinity")
    H = gram.detach().to(torch.float64, copy=True)
    diagonal = H.diagonal()
    diagonal += damp * diagonal.mean()
    diagonal += (gram.diagonal() <= 0).double()
    return H


def inverse_factor(gram: Tensor, damp: float = 0.01) -> Tensor:
    """The upper triangular U with UᵀU = (XᵀX + λ)⁻¹, the sum as of `damped`.

    Row j of U over U_jj tells how the later weights make up for an error of w_j once the earlier ones are
    fixed. With R upper triangular and R Rᵀ = XᵀX + λ, which is a Cholesky factor in reversed order, U = R⁻¹:
    nothing is inverted but a triangle.

    Args:
        gram: XᵀX, (d, d).
        damp: as in `damped`.

    Raises:
        ValueError: as `damped`; the sum is singular.

    >>> inverse_factor(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), damp=0)
    tensor([[0.5000, 0.0000],
            [0.0000, 1.0000]], dtype=torch.float64)
    """
    H = damped(gram, damp)
    factor, failed = torch.linalg.cholesky_ex(H.flip(0, 1))
    R = factor.flip(0, 1)
    if failed or (R.diagonal().square() <= _SINGULAR * H.diagonal()).any():
        raise ValueError(
            f"gram: expected a matrix that damp={damp} makes positive definite, got a singular one of size "
            f"{len(H)}; take more examples than inputs, or a larger damp such as 0.01"
        )
    return torch.linalg.solve_triangular(R, torch.eye(len(R), dtype=R.dtype, device=R.device), upper=True)
