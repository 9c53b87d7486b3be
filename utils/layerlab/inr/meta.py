"""Initial weights that are learned from many signals, so that a new one is fitted in a few steps.

Tancik et al. 2021, "Learned Initializations for Optimizing Coordinate-Based Neural Representations", with
MAML (Finn, Abbeel, and Levine 2017) or Reptile (Nichol, Achiam, and Schulman 2018). The inner steps are plain
gradient descent on the mean squared error at the observed coordinates, for a batch of signals at once.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from tqdm import tqdm

from ..models import seeded
from ..train import check_state

_PROGRESS_AFTER = 10.0  # seconds of silence before a bar appears
State = dict[str, Tensor]


def adapt(
    model: nn.Module,
    state: Mapping[str, Tensor],
    signals: Tensor,
    X: Tensor,
    *,
    steps: int,
    lr: float,
    mask: Tensor | None = None,
) -> State:
    """Fit each signal from the same initial weights by `steps` steps of gradient descent.

    Args:
        model: the network; it is left as it is.
        state: initial weights, as the model's state dict; buffers stay as they are.
        signals: values (S, N, channels) of S signals at X.
        X: coordinates (N, d).
        steps: steps of gradient descent; 0 gives S copies of the initial weights.
        lr: learning rate.
        mask: which values are observed, bool, (N,) for all signals or (S, N); the others are not looked at.

    Returns:
        State dicts of S models, stacked: each tensor has a first axis of S. See `predict`.

    Raises:
        ValueError: shapes that do not fit together, a signal that holds NaN or infinity (named) or has no
            observed value, or `steps` or `lr` out of range.
        FloatingPointError: the weights became NaN or infinite.

    >>> from layerlab.inr.fit import coordinates
    >>> from layerlab.inr.siren import Siren
    >>> model, X = Siren(1, [8], 1), coordinates(16)
    >>> states = adapt(model, model.state_dict(), torch.zeros(3, 16, 1), X, steps=2, lr=1e-2)
    >>> states["layers.0.weight"].shape, predict(model, states, X).shape
    (torch.Size([3, 8, 1]), torch.Size([3, 16, 1]))
    """
    seen = _check(model, signals, X, mask)
    check_state(model, state)
    _check_numbers(lr=lr)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps: expected an integer that is not negative, got {steps!r}")
    free = {name for name, _ in model.named_parameters()}
    start = {key: value.detach() for key, value in state.items() if key in free}
    fitted = vmap(_descend(model, X, steps, lr), (None, 0, 0))(start, signals, seen)
    if not all(torch.isfinite(weight).all() for weight in fitted.values()):
        raise FloatingPointError(f"the weights became NaN or infinite; a smaller lr than {lr} may help")
    copies = {key: value.detach().expand(len(signals), *value.shape) for key, value in state.items()}
    return {key: fitted[key] if key in fitted else copies[key].clone() for key in state}


@torch.no_grad()
def predict(model: nn.Module, states: Mapping[str, Tensor], X: Tensor) -> Tensor:
    """The values at X of S models whose state dicts are stacked: (S, N, channels)."""
    return vmap(lambda state: functional_call(model, state, (X,)))(dict(states))


def maml(
    make: Callable[[], nn.Module],
    signals: Tensor,
    X: Tensor,
    *,
    steps: int = 500,
    lr: float = 1e-3,
    inner_steps: int = 2,
    inner_lr: float = 1e-2,
    batch_size: int = 8,
    observed: float = 1.0,
    first_order: bool = False,
    seed: int = 0,
) -> State:
    """Initial weights from which `inner_steps` steps leave the least error, by gradients through the steps.

    Args:
        make: builds the network; its initial weights are drawn from `seed`.
        signals: (S, N, channels) to learn from.
        X: coordinates (N, d).
        steps: outer steps, of Adam.
        lr: outer learning rate.
        inner_steps, inner_lr: what `adapt` will be given.
        batch_size: signals per outer step.
        observed: fraction of the coordinates, drawn anew for each signal and step, that the inner steps see;
            the error after them counts at all.
        first_order: take the inner gradients for constants; cheaper, and often as good.
        seed: initial weights, and the order of signals and coordinates.

    Returns:
        A state dict for the network of `make`.

    Raises:
        ValueError: as `adapt`.
        FloatingPointError: the error became NaN or infinite, at the step that the message names.
    """

    def update(model: nn.Module, batches, bar) -> None:
        descend = _descend(model, X, inner_steps, inner_lr, first_order=first_order)
        parameters = dict(model.named_parameters())

        def error(state: State, batch: Tensor, seen: Tensor) -> Tensor:
            def after(values: Tensor, mask: Tensor) -> Tensor:
                made = functional_call(model, descend(state, values, mask), (X,))
                return (made - values).square().mean()

            return vmap(after)(batch, seen).mean()

        opt = torch.optim.Adam(parameters.values(), lr=lr)
        for step, (batch, seen) in zip(bar, batches, strict=False):
            found, value = torch.func.grad_and_value(error)(
                {name: p.detach() for name, p in parameters.items()}, batch, seen
            )
            _check_finite(value, step, inner_lr)
            for name, p in parameters.items():
                p.grad = found[name]
            opt.step()

    return _learn(make, signals, X, update, steps, lr, inner_steps, inner_lr, batch_size, observed, seed)


def reptile(
    make: Callable[[], nn.Module],
    signals: Tensor,
    X: Tensor,
    *,
    steps: int = 500,
    lr: float = 1.0,
    inner_steps: int = 5,
    inner_lr: float = 1e-2,
    batch_size: int = 8,
    observed: float = 1.0,
    seed: int = 0,
) -> State:
    """Initial weights near those that fit each signal: moved again and again towards where `adapt` leads.

    θ ← θ + β mean(θ_k - θ) over a batch of signals after k inner steps, β falling linearly from `lr` to zero.

    Arguments and errors are those of `maml`; `lr` is at most 1, where θ becomes the mean of the θ_k.
    """
    if not 0 < lr <= 1:
        raise ValueError(f"lr: expected a number above 0 and at most 1, got {lr}")

    def update(model: nn.Module, batches, bar) -> None:
        fit = vmap(_descend(model, X, inner_steps, inner_lr), (None, 0, 0))
        parameters = dict(model.named_parameters())
        for step, (batch, seen) in zip(bar, batches, strict=False):
            start = {name: p.detach() for name, p in parameters.items()}
            fitted = fit(start, batch, seen)
            with torch.no_grad():
                for name, p in parameters.items():
                    p.add_(fitted[name].mean(0) - p, alpha=lr * (1 - step / steps))
                    _check_finite(p, step, inner_lr)

    return _learn(make, signals, X, update, steps, lr, inner_steps, inner_lr, batch_size, observed, seed)


def _descend(model: nn.Module, X: Tensor, steps: int, lr: float, *, first_order: bool = False):
    """f(state, values, seen): the weights after `steps` steps on one signal; differentiable."""

    def error(state: State, values: Tensor, seen: Tensor) -> Tensor:
        squares = (functional_call(model, state, (X,)) - values).square().mean(-1)
        return torch.where(seen, squares, 0).sum() / seen.sum()

    def descend(state: State, values: Tensor, seen: Tensor) -> State:
        for _ in range(steps):
            slope = grad(error)(state, values, seen)
            if first_order:
                slope = {name: value.detach() for name, value in slope.items()}
            state = {name: value - lr * slope[name] for name, value in state.items()}
        return state

    return descend


def _learn(make, signals, X, update, steps, lr, inner_steps, inner_lr, batch_size, observed, seed) -> State:
    model = seeded(make, seed)
    _check(model, signals, X, None)
    _check_numbers(lr=lr, inner_lr=inner_lr)
    for name, number in (("steps", steps), ("inner_steps", inner_steps), ("batch_size", batch_size)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {number!r}")
    if not 0 < observed <= 1:
        raise ValueError(f"observed: expected a fraction above 0 and at most 1, got {observed}")
    bar = tqdm(range(steps), desc="meta", unit="step", delay=_PROGRESS_AFTER, leave=False)
    update(model, _batches(signals, batch_size, observed, seed), bar)
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def _batches(signals: Tensor, size: int, observed: float, seed: int):
    """Signals of every step, each once in a pass, and which of their coordinates are seen; without end."""
    generator = torch.Generator().manual_seed(seed)
    N = signals.shape[1]
    count = max(1, round(observed * N))
    while True:
        for chosen in torch.randperm(len(signals), generator=generator).split(size):
            if count == N:
                seen = torch.ones(len(chosen), N, dtype=torch.bool)
            else:
                ranks = torch.rand(len(chosen), N, generator=generator).argsort(1).argsort(1)
                seen = ranks < count
            yield signals[chosen.to(signals.device)], seen.to(signals.device)


def _check(model: nn.Module, signals: Tensor, X: Tensor, mask: Tensor | None) -> Tensor:
    """The mask, (S, N)."""
    if X.ndim != 2 or not len(X) or not torch.isfinite(X).all():
        raise ValueError(f"X: expected finite coordinates (N, d) with N of at least 1, got {tuple(X.shape)}")
    if signals.ndim != 3 or not len(signals) or signals.shape[1] != len(X):
        raise ValueError(f"signals: expected (S, {len(X)}, channels), got {tuple(signals.shape)}")
    bad = (~torch.isfinite(signals)).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"signals: expected finite values, got NaN or infinity in signals {bad[:5]}")
    with torch.no_grad():
        made = model(X[:1]).shape[-1]
    if made != signals.shape[2]:
        raise ValueError(f"signals: expected the model's number of channels, {made}, got {signals.shape[2]}")
    if mask is None:
        return torch.ones(signals.shape[:2], dtype=torch.bool, device=signals.device)
    if mask.dtype != torch.bool or mask.shape not in (signals.shape[:2], signals.shape[1:2]):
        raise ValueError(
            f"mask: expected bool, ({len(X)},) or {tuple(signals.shape[:2])}, "
            f"got {mask.dtype}, {tuple(mask.shape)}"
        )
    mask = mask.expand(signals.shape[:2])
    empty = (~mask.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"mask: expected an observed value in every signal, got none in signals {empty[:5]}")
    return mask


def _check_numbers(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name}: expected a positive number, got {number}")


def _check_finite(value: Tensor, step: int, inner_lr: float) -> None:
    if not torch.isfinite(value).all():
        raise FloatingPointError(
            f"the weights became NaN or infinite at step {step}; a smaller inner_lr than {inner_lr} may help"
        )
