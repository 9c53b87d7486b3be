"""Second derivatives of a loss without the matrix: products, the top eigenvalue, the trace.

A loss is a function of a dict of tensors; H is its matrix of second derivatives with respect to all their
entries, in the order of the keys. `loss_of` makes such a function from a model, `by_key` takes one block of
the diagonal at a time, which is how a layer's sensitivity to rounding is measured (HAWQ).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from layerlab.activations import check_inputs
from layerlab.quantization._values import check_integer
from layerlab.train import evaluating

Params = Mapping[str, Tensor]
Loss = Callable[[dict[str, Tensor]], Tensor]
T = TypeVar("T")

LARGEST = 4096  # entries for which `exact` builds the matrix: 128 MiB in float64


class Trace(NamedTuple):
    """The mean over the probes, and its standard error."""

    mean: float
    standard_error: float


def loss_of(
    model: nn.Module,
    X: Tensor,
    y: Tensor,
    keys: Iterable[str] | None = None,
    *,
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> tuple[Loss, dict[str, Tensor]]:
    """The loss of a model as a function of some of its parameters, and these parameters.

    Args:
        model: run in evaluation mode; not modified. The other parameters stay as they are at this moment.
        X: inputs (N, …), all in one forward pass.
        y: targets, (N, …).
        keys: names of parameters; by default the weights of every `nn.Linear` and `nn.Conv2d`.
        criterion: maps (outputs, targets) to a number.

    Returns:
        The function, and a dict of copies to evaluate it at.

    Raises:
        ValueError: no examples or NaN; another number of targets; a key is unknown, or none is given.

    >>> loss, params = loss_of(nn.Linear(2, 3), torch.ones(4, 2), torch.tensor([0, 1, 2, 0]))
    >>> list(params), loss(params).shape
    (['weight'], torch.Size([]))
    """
    check_inputs(X, 1)
    if len(y) != len(X):
        raise ValueError(f"y: expected as many targets as inputs, {len(X)}, got {len(y)}")
    own = {key: p.detach().clone() for key, p in model.named_parameters()}
    if keys is None:
        layers = (name for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d))
        keys = [f"{name}.weight" if name else "weight" for name in layers]
    chosen = list(keys)
    unknown = [key for key in chosen if key not in own]
    if unknown or not chosen:
        raise ValueError(f"keys: expected some of {list(own)}, got {unknown or 'none'}")

    def loss(params: dict[str, Tensor]) -> Tensor:
        # Only the plain kernel of attention has second derivatives.
        with evaluating(model), sdpa_kernel(SDPBackend.MATH):
            return criterion(functional_call(model, {**own, **params}, (X,)), y)

    return loss, {key: own[key] for key in chosen}


def by_key(estimate: Callable[..., T], loss: Loss, params: Params, **options: object) -> dict[str, T]:
    """An estimate for each key alone, the others held fixed: one block of the diagonal of H at a time.

    >>> loss = lambda p: (p["a"] ** 2).sum() + 3 * (p["b"] ** 2).sum() + (p["a"] * p["b"]).sum()
    >>> params = {"a": torch.ones(2), "b": torch.ones(2)}
    >>> {key: found.mean for key, found in by_key(trace, loss, params, probes=4, seed=0).items()}
    {'a': 4.0, 'b': 12.0}
    """
    _check(loss, params)

    def alone(key: str) -> Loss:
        return lambda part: loss({**params, **part})

    return {key: estimate(alone(key), {key: p}, **options) for key, p in params.items()}


def hvp(loss: Loss, params: Params, v: Params) -> dict[str, Tensor]:
    """H v: the derivative of the gradient along v (Pearlmutter, 1994), forward mode over reverse mode.

    Costs a few times as much as a gradient, whatever the number of entries.

    Args:
        loss: maps a dict as `params` to a number; it must be twice differentiable.
        params: where, floating point.
        v: direction, with the keys and shapes of `params`.

    Raises:
        ValueError: nothing to differentiate, values or the loss are not finite, `loss` does not return a
            scalar, or `v` has other keys or shapes.
        TypeError: a tensor is not floating point.

    >>> hvp(lambda p: (p["a"] ** 3).sum(), {"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([1.0, 10.0])})
    {'a': tensor([  6., 120.])}
    """
    _check(loss, params)
    if v.keys() != params.keys():
        raise ValueError(f"v: expected the keys {list(params)}, got {list(v)}")
    for key, p in params.items():
        if v[key].shape != p.shape:
            raise ValueError(f"v[{key!r}]: expected shape {tuple(p.shape)}, got {tuple(v[key].shape)}")
        if not torch.isfinite(v[key]).all():
            raise ValueError(f"v[{key!r}]: expected finite values, got NaN or infinity")
    return _product(loss, params)({key: v[key].to(p) for key, p in params.items()})


def top_eigenvalue(
    loss: Loss, params: Params, *, iterations: int = 100, seed: int, tolerance: float = 1e-3
) -> tuple[float, dict[str, Tensor]]:
    """The eigenvalue of H of the largest absolute value, by power iteration; what HAWQ ranks layers by.

    Starts from a random direction and stops when ‖H v − λ v‖ ≤ `tolerance` · |λ|, λ = vᵀ H v, or after
    `iterations` products. Some eigenvalue lies within ‖H v − λ v‖ of λ in any case. Where the two largest are
    nearly equal, the vector is a mixture of theirs; where they differ only in sign, λ may lie between them.

    Args:
        loss, params: as in `hvp`.
        iterations: products at most, at least 1.
        seed: of the starting direction.
        tolerance: at least 0.

    Returns:
        λ, and v of length 1.

    Raises:
        ValueError, TypeError: as `hvp`, or a number is out of range.

    Source: Dong et al. (2019), HAWQ.

    >>> loss = lambda p: p["a"][0] ** 2 - 4 * p["a"][1] ** 2
    >>> value, vector = top_eigenvalue(loss, {"a": torch.zeros(2)}, seed=0)
    >>> round(value, 3), vector["a"].abs().round(decimals=1)
    (-8.0, tensor([0., 1.]))
    """
    check_integer(iterations, "iterations", 1, None)
    if not tolerance >= 0:
        raise ValueError(f"tolerance: expected a number of at least 0, got {tolerance}")
    _check(loss, params)
    product, generator = _product(loss, params), torch.Generator().manual_seed(seed)
    v = {key: torch.randn(p.shape, generator=generator).to(p) for key, p in params.items()}
    length = _dot(v, v) ** 0.5
    v = {key: x / length for key, x in v.items()}
    for left in reversed(range(iterations)):
        Hv = product(v)
        value, length = _dot(v, Hv), _dot(Hv, Hv) ** 0.5
        residual = max(length**2 - value**2, 0.0) ** 0.5
        if not left or residual <= tolerance * abs(value):
            break
        v = {key: x / length for key, x in Hv.items()}
    return value, v


def trace(loss: Loss, params: Params, *, probes: int = 64, seed: int, chunk: int = 32) -> Trace:
    """The trace of H by Hutchinson's estimator: the mean of vᵀ H v over random signs v.

    One probe has the variance 2 Σ_{i≠j} H_ij², so the estimate is exact where H is diagonal. Divided by the
    number of entries it is the mean eigenvalue, HAWQ-V2's sensitivity of a layer.

    Args:
        loss, params: as in `hvp`.
        probes: at least 2, to know the standard error.
        seed: of the signs.
        chunk: probes at once; fewer need less memory.

    Returns:
        The mean, and its standard error from the spread of the probes.

    Raises:
        ValueError, TypeError: as `hvp`, or a number is out of range.

    Source: Hutchinson (1989); Dong et al. (2020), HAWQ-V2.

    >>> trace(lambda p: (p["a"] ** 2).sum(), {"a": torch.ones(3)}, probes=5, seed=0)
    Trace(mean=6.0, standard_error=0.0)
    """
    check_integer(probes, "probes", 2, None)
    _check(loss, params)
    product, generator = _product(loss, params, chunk), torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, probes, chunk):
        count = min(chunk, probes - start)
        drawn = [{key: _signs(p, generator) for key, p in params.items()} for _ in range(count)]
        v = {key: torch.stack([one[key] for one in drawn]) for key in params}
        Hv = product(v)
        parts.append(sum((v[key].double() * Hv[key].double()).reshape(count, -1).sum(1) for key in v))
    values = torch.cat(parts)
    return Trace(values.mean().item(), values.std().item() / probes**0.5)


def exact(loss: Loss, params: Params, *, chunk: int = 32) -> Tensor:
    """H itself, one product per entry, for small problems.

    Args:
        loss, params: as in `hvp`; together at most `LARGEST` entries.
        chunk: products at once; fewer need less memory.

    Returns:
        (n, n), n the number of entries, in the order of the keys and row by row within a tensor.

    Raises:
        ValueError, TypeError: as `hvp`, there are too many entries, or `chunk` is below 1.

    >>> exact(lambda p: p["a"][0] * p["a"][1] ** 2, {"a": torch.tensor([1.0, 3.0])})
    tensor([[0., 6.],
            [6., 2.]])
    """
    _check(loss, params)
    sizes = [p.numel() for p in params.values()]
    if sum(sizes) > LARGEST:
        raise ValueError(f"params: expected at most {LARGEST} entries, got {sum(sizes)}; see `trace`")
    first = next(iter(params.values()))
    units = torch.eye(sum(sizes), dtype=first.dtype, device=first.device).split(sizes, dim=1)
    v = {key: unit.view(-1, *p.shape) for (key, p), unit in zip(params.items(), units, strict=True)}
    Hv = _product(loss, params, chunk)(v)
    return torch.cat([Hv[key].reshape(sum(sizes), -1) for key in params], dim=1)


def _product(
    loss: Loss, params: Params, chunk: int | None = None
) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """The map v → H v; with `chunk` of many v, along a first axis, so many at once."""
    if chunk is not None:
        check_integer(chunk, "chunk", 1, None)
    at = {key: p.detach() for key, p in params.items()}
    gradient = torch.func.grad(loss)

    def product(v: dict[str, Tensor]) -> dict[str, Tensor]:
        return torch.func.jvp(gradient, (at,), (v,))[1]

    return product if chunk is None else torch.func.vmap(product, chunk_size=chunk)


def _signs(p: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, p.shape, generator=generator).mul(2).sub(1).to(p)


def _dot(a: Params, b: Params) -> float:
    return sum((a[key].double() * b[key].double()).sum().item() for key in a)


def _check(loss: Loss, params: Params) -> None:
    if not any(p.numel() for p in params.values()):
        raise ValueError("params: expected at least one entry, got none")
    for key, p in params.items():
        if not p.is_floating_point():
            raise TypeError(f"params[{key!r}]: expected a floating-point tensor, got {p.dtype}")
        if not torch.isfinite(p).all():
            raise ValueError(f"params[{key!r}]: expected finite values, got NaN or infinity")
    with torch.no_grad():
        value = loss({key: p.detach() for key, p in params.items()})
    if not isinstance(value, Tensor) or value.ndim:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss: expected a function that returns a scalar tensor, got {shape}")
    if not torch.isfinite(value):
        raise ValueError(f"loss: expected a finite value at params, got {value.item()}")
