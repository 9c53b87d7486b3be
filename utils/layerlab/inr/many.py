"""Fit many equal small networks to many signals in one batched computation.

```python
models = [seeded(lambda: Siren(2, [32, 32], 1), seed) for seed in range(64)]
losses = fit_many(models, X, Y, steps=300, lr=1e-3)         # X (4096, 2), Y (64, 4096, 1)
```
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from tqdm import tqdm

from ..train import check_state
from ._sines import SineGradients, chain_of
from .fit import _CHECK_EVERY, _PROGRESS_AFTER, _batches, _check, fit
from .fit import _undone_on_error as _one_undone_on_error

MAP_BELOW = 512  # coordinates of a step; see `fit_many`
_ROWS = 8192  # models × coordinates that the mapped computation takes at a time, to stay in the cache


def fit_many(
    models: Sequence[nn.Module],
    X: Tensor,
    Y: Tensor,
    *,
    steps: int = 500,
    lr: float = 1e-3,
    batch_size: int | None = None,
    seeds: Sequence[int] | None = None,
    schedule: Literal["cosine"] | None = None,
) -> Tensor:
    """Train models of one architecture in place, each on a signal of its own, as `fit` would each of them.

    A model's value at a coordinate may depend on no other coordinate, and on no random number. All sums are
    those of `fit`, in another order. So losses agree to about 1e-5 of their size over the first ten steps in
    float32, and to 1e-9 over a hundred in float64; then rounding errors grow, the faster the larger `lr`.

    SIRENs on a CPU have their gradients written out (`_sines`): 64 of them with two hidden layers of 32 take
    half the time of 64 calls of `fit` where a step has 4096 coordinates, and a quarter where it has 256.
    Other networks are mapped by `torch.func` where a step has at most 512 coordinates. With more, mapping
    would take longer than it spares, and they are fitted one by one (`benchmarks/fit_inr_many.py`).

    Args:
        models: modules of equal structure; each is left trained and in evaluation mode.
        X: coordinates (N, d), shared.
        Y: the signals, (models, N, channels).
        steps, lr, schedule: as in `fit`.
        batch_size: coordinates per step, in an order of its own for each model; None takes all of them.
        seeds: of the order, one for each model; by default 0 for all.

    Returns:
        The loss before every step, (steps, models).

    Raises:
        ValueError: an argument is out of range; models differ in structure or one is there twice; signals
            hold NaN or infinity, which names them; the output has another shape than a signal.
        FloatingPointError: losses became NaN or infinite, of the models and at the step that it names.
        RuntimeError: the models draw random numbers.

    After any error the models are as they were.
    """
    _check_models(models)
    if Y.ndim != 3 or len(Y) != len(models):
        raise ValueError(
            f"Y: expected ({len(models)}, N, channels), one for each model, got {tuple(Y.shape)}"
        )
    bad = (~torch.isfinite(Y).flatten(1).all(1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"Y: expected finite values, got NaN or infinity in signals {bad[:10]}")
    _check(X, Y[0], steps, lr, batch_size, schedule, [])
    seeds = [0] * len(models) if seeds is None else list(seeds)
    if len(seeds) != len(models):
        raise ValueError(f"seeds: expected one for each of {len(models)} models, got {len(seeds)}")

    with _undone_on_error(models):
        for model in models:
            model.train()
        chain = chain_of(models[0]) if X.dtype == Y.dtype == torch.float32 else None
        if not chain and min(len(X), batch_size or len(X)) > MAP_BELOW:
            settings = {"steps": steps, "lr": lr, "batch_size": batch_size, "schedule": schedule}
            return _one_by_one(models, X, Y, seeds, settings)
        parameters, buffers = stack_module_state(list(models))
        _check_output(models[0], parameters, buffers, X, Y)
        step = SineGradients(chain, parameters).step if chain else _mapped(models[0], parameters, buffers)
        opt = torch.optim.Adam(list(parameters.values()), lr=lr, fused=True)
        losses = []
        progress = tqdm(range(steps), desc="fit_many", unit="step", delay=_PROGRESS_AFTER, leave=False)
        for done, (x, y) in zip(progress, _steps(X, Y, batch_size, seeds), strict=False):
            if done % _CHECK_EVERY == 0:
                _check_finite(losses, parameters, lr)
            losses.append(step(x, y))
            if schedule:
                for group in opt.param_groups:
                    group["lr"] = lr * (1 + math.cos(math.pi * done / steps)) / 2
            opt.step()
        _check_finite(losses, parameters, lr)
        with torch.no_grad():
            for i, model in enumerate(models):
                for name, parameter in model.named_parameters():
                    parameter.copy_(parameters[name][i])
                model.eval()
    return torch.stack(losses).cpu()


def _one_by_one(models, X: Tensor, Y: Tensor, seeds: Sequence[int], settings) -> Tensor:
    losses = []
    for i, (model, y, seed) in enumerate(zip(models, Y, seeds, strict=True)):
        try:
            losses.append(fit(model, X, y, seed=seed, **settings).losses)
        except FloatingPointError as error:
            raise FloatingPointError(f"models[{i}]: {error}") from error
    return torch.stack(losses, 1)


@contextmanager
def _undone_on_error(models: Sequence[nn.Module]) -> Iterator[None]:
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(_one_undone_on_error(model))
        yield


@torch.no_grad()
def _check_output(model: nn.Module, parameters, buffers, X: Tensor, Y: Tensor) -> None:
    first = {name: value[0] for name, value in {**parameters, **buffers}.items()}
    made = functional_call(model, first, (X[:1],))
    if made.shape != Y[0, :1].shape:
        raise ValueError(f"Y: expected (models, N, *{tuple(made.shape[1:])}), got {tuple(Y.shape)}")


def _mapped(model: nn.Module, parameters: dict[str, Tensor], buffers: dict[str, Tensor]):
    """A step's losses (models,) and gradients, for any model that `torch.func` can map."""
    axes = {True: 0, False: None}
    forward = {
        own: vmap(lambda p, b, x: functional_call(model, (p, b), (x,)), in_dims=(0, 0, axes[own]))
        for own in (True, False)
    }

    def step(x: Tensor, y: Tensor) -> Tensor:
        for weight in parameters.values():
            weight.grad = None
        losses = 0
        size = max(1, _ROWS // len(y))
        axis = x.ndim - 2
        for part, target in zip(x.split(size, axis), y.split(size, 1), strict=True):
            values = forward[x.ndim == 3](parameters, buffers, part)
            partial = (values - target).square().sum((1, 2)) / (y.shape[1] * y.shape[2])
            partial.sum().backward()
            losses = losses + partial.detach()
        return losses

    return step


def _steps(X: Tensor, Y: Tensor, size: int | None, seeds: Sequence[int]):
    """Coordinates, shared (N, d) or of each model (models, B, d), and values of every step, without end."""
    while size is None or size >= len(X):
        yield X, Y
    orders = [_batches(X, y, size, seed) for y, seed in zip(Y, seeds, strict=True)]
    while True:
        columns = zip(*(next(order) for order in orders), strict=True)
        x, y = (torch.stack(column) for column in columns)
        yield x, y


def _check_models(models: Sequence[nn.Module]) -> None:
    if not models:
        raise ValueError("models: expected at least one model, got none")
    if len({id(model) for model in models}) < len(models):
        raise ValueError("models: expected a module each, got one of them twice")
    for i, model in enumerate(models):
        check_state(models[0], model.state_dict(), name=f"models[{i}]")
        if repr(model) != repr(models[0]):
            raise ValueError(f"models[{i}]: expected the structure of models[0], got {model}")


def _check_finite(losses: list[Tensor], parameters: dict[str, Tensor], lr: float) -> None:
    if not losses:
        return
    recent = torch.stack(losses[-_CHECK_EVERY:])
    bad = ~torch.isfinite(recent)
    if bad.any():
        step = int(bad.any(1).nonzero()[0])
        which = bad[step].nonzero().flatten().tolist()
        when = len(losses) - len(recent) + step
        what = f"the loss became NaN or infinite at step {when} for models {which[:10]}"
    else:
        finite = [torch.isfinite(weight).flatten(1).all(1) for weight in parameters.values()]
        which = (~torch.stack(finite).all(0)).nonzero().flatten().tolist()
        if not which:
            return
        what = f"the weights became NaN or infinite in step {len(losses) - 1} for models {which[:10]}"
    raise FloatingPointError(f"{what}; a smaller lr than {lr} may help")
