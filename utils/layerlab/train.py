"""Training and evaluation: one plain loop, and the same loop over many models at once.

Every source of chance is a seed that the caller gives: the weights (`models.seeded`), and the order of the
batches and dropout (`seed` here). The global generator is left as it was.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

_OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
_PROGRESS_AFTER = 10.0  # seconds of silence before a bar appears
STACK_BELOW = 30_000  # weights of a model; see `fit_many`


class Metrics(NamedTuple):
    """Mean cross-entropy (nats) and the fraction of examples classified correctly."""

    loss: float
    accuracy: float


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode for a while; afterwards each of its modules has its own mode back.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Dropout())
    >>> with evaluating(model):
    ...     model.training
    False
    >>> model.training
    True
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def check_state(model: nn.Module, state: Mapping[str, Tensor], *, name: str = "state") -> None:
    """Raise unless `state` (called `name` in the message) has the keys and shapes of the model's state dict.

    Raises:
        ValueError: naming the key, both shapes and what was expected.
    """
    own = model.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        raise ValueError(
            f"{name}: expected the model's keys, got none for {missing[:5]}, and besides {extra[:5]}"
        )
    for key, weight in own.items():
        if state[key].shape != weight.shape:
            raise ValueError(
                f"{name}[{key!r}]: expected shape {tuple(weight.shape)}, got {tuple(state[key].shape)}"
            )


def _check_data(X: Tensor, y: Tensor) -> None:
    if len(X) == 0:
        raise ValueError("X: expected at least one example, got none")
    if len(X) != len(y):
        raise ValueError(
            f"X and y: expected as many labels as examples, got {len(X)} examples, {len(y)} labels"
        )
    if y.ndim != 1 or y.dtype != torch.int64:
        raise ValueError(
            f"y: expected class numbers, shape (N,) and int64, got {tuple(y.shape)} and {y.dtype}"
        )
    if not torch.isfinite(X).all():
        raise ValueError("X: expected finite values, got NaN or infinity")


class _Plan(NamedTuple):
    epochs: int
    lr: float
    batch_size: int
    optimizer: str
    weight_decay: float
    schedule: str | None

    def check(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs: expected at least 1, got {self.epochs}")
        if not self.lr > 0:
            raise ValueError(f"lr: expected a positive number, got {self.lr}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {self.batch_size}")
        if self.optimizer not in _OPTIMIZERS:
            raise ValueError(f"optimizer: expected one of {sorted(_OPTIMIZERS)}, got {self.optimizer!r}")
        if self.schedule not in ("cosine", None):
            raise ValueError(f"schedule: expected 'cosine' or None, got {self.schedule!r}")

    def batches(self, count: int, seed: int) -> list[Tensor]:
        """Index tensors of every step; a leftover of one is dropped, since BatchNorm cannot normalise it."""
        generator = torch.Generator().manual_seed(seed)
        epochs = (torch.randperm(count, generator=generator) for _ in range(self.epochs))
        smallest = min(2, count, self.batch_size)
        return [b for order in epochs for b in order.split(self.batch_size) if len(b) >= smallest]

    def make(self, parameters: Sequence[Tensor], steps: int):
        extra = {"momentum": 0.9} if self.optimizer == "sgd" else {}
        make = _OPTIMIZERS[self.optimizer]
        # fused: one pass over the weights per step, on a CPU up to twice as fast for wide layers
        opt = make(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True, **extra)
        scale = (lambda t: (1 + math.cos(math.pi * t / steps)) / 2) if self.schedule else (lambda t: 1.0)
        return opt, torch.optim.lr_scheduler.LambdaLR(opt, scale)


def fit(
    model: nn.Module,
    X: Tensor,
    y: Tensor,
    *,
    epochs: int = 20,
    lr: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
    optimizer: Literal["adam", "adamw", "sgd"] = "adam",
    weight_decay: float = 0.0,
    schedule: Literal["cosine"] | None = None,
) -> Tensor:
    """Train `model` in place on cross-entropy; return the loss of every step, shape (steps,).

    Args:
        model: maps (B, …) to logits (B, classes); left in evaluation mode.
        X: inputs (N, …).
        y: labels (N,), int64.
        epochs: passes over the data.
        lr: learning rate; SGD runs with momentum 0.9.
        batch_size: examples per step; a leftover of one example at the end of an epoch is dropped.
        seed: order of the batches, and dropout.
        optimizer: "adam", "adamw" or "sgd".
        weight_decay: passed to the optimizer.
        schedule: "cosine" lowers the learning rate to zero over the run.

    Raises:
        ValueError: an argument is out of range; X and y differ in length, X holds NaN, y is not int64 (N,).
    """
    plan = _Plan(epochs, lr, batch_size, optimizer, weight_decay, schedule)
    plan.check()
    _check_data(X, y)
    batches = plan.batches(len(X), seed)
    opt, scheduler = plan.make(list(model.parameters()), len(batches))
    losses = []
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout
        for batch in tqdm(batches, desc="fit", unit="step", delay=_PROGRESS_AFTER, leave=False):
            loss = F.cross_entropy(model(X[batch]), y[batch])
            opt.zero_grad()
            loss.backward()
            opt.step()
            scheduler.step()
            losses.append(loss.detach())
    model.eval()
    return torch.stack(losses)


def fit_many(
    models: Sequence[nn.Module],
    X: Tensor,
    y: Tensor,
    *,
    seeds: Sequence[int],
    subsets: Sequence[Tensor] | None = None,
    epochs: int = 20,
    lr: float = 1e-3,
    batch_size: int = 64,
    optimizer: Literal["adam", "adamw", "sgd"] = "adam",
    weight_decay: float = 0.0,
    schedule: Literal["cosine"] | None = None,
) -> Tensor:
    """Train models of one architecture, in place; the result equals `fit` on each with its seed.

    The weights of small models are stacked and the forward pass is mapped over them with `torch.func`, which
    spares the overhead of many small operations. On one CPU thread that pays where a step takes less than
    about a millisecond: ten MLPs on 28×28 pictures train twice as fast at width 32, 1.2 times at 64 (1.4 or
    more with BatchNorm), and `TinyViT` 1.4 times. From width 128 on it would cost up to 60 %, and with
    smaller inputs sooner, so models of more than 30,000 weights are trained one by one. A small `ConvNet`
    takes 1.1 to 1.4 times as long as with `fit`. `benchmarks/fit_many.py` measures it.

    Args:
        models: modules of equal structure; each is left trained and in evaluation mode.
        X: inputs (N, …), shared.
        y: labels (N,), shared.
        seeds: order of the batches, one seed per model.
        subsets: index tensors into X, one per model and of equal length, where each model sees its own part.
        epochs, lr, batch_size, optimizer, weight_decay, schedule: as in `fit`.

    Returns:
        The loss of every step and model, shape (steps, models).

    Raises:
        ValueError: as `fit`; or the models differ in structure; or the numbers of models, seeds and subsets
            differ.
        RuntimeError: small models draw random numbers (dropout), which cannot be mapped; use `fit`.
    """
    plan = _Plan(epochs, lr, batch_size, optimizer, weight_decay, schedule)
    plan.check()
    _check_data(X, y)
    if len(models) == 0:
        raise ValueError("models: expected at least one model, got none")
    if len({id(model) for model in models}) < len(models):
        raise ValueError("models: expected a module each, got one of them twice")
    for i, model in enumerate(models):
        check_state(models[0], model.state_dict(), name=f"models[{i}]")
    if len(seeds) != len(models):
        raise ValueError(f"seeds: expected one per model, got {len(seeds)} for {len(models)} models")
    subsets = [torch.arange(len(X))] * len(models) if subsets is None else list(subsets)
    lengths = [len(s) for s in subsets]
    if len(subsets) != len(models) or len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(
            f"subsets: expected {len(models)}, all of one length and not empty, got lengths {lengths}"
        )

    if sum(p.numel() for p in models[0].parameters()) > STACK_BELOW:
        columns = zip(models, subsets, seeds, strict=True)
        return torch.stack([fit(m, X[s], y[s], seed=k, **plan._asdict()) for m, s, k in columns], 1)
    orders = [plan.batches(len(s), seed) for s, seed in zip(subsets, seeds, strict=True)]
    steps = [
        torch.stack([s[b] for s, b in zip(subsets, step, strict=True)]) for step in zip(*orders, strict=True)
    ]
    for model in models:
        model.train()
    parameters, buffers = stack_module_state(list(models))
    opt, scheduler = plan.make(list(parameters.values()), len(steps))
    forward = vmap(lambda p, b, x: functional_call(models[0], (p, b), (x,)))
    losses = []
    for batch in tqdm(steps, desc="fit_many", unit="step", delay=_PROGRESS_AFTER, leave=False):
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels cannot be mapped
            logits = forward(parameters, buffers, X[batch])  # (models, B, classes)
        loss = F.cross_entropy(logits.flatten(0, 1), y[batch].flatten(), reduction="none")
        loss = loss.view(len(models), -1).mean(1)
        opt.zero_grad()
        loss.sum().backward()
        opt.step()
        scheduler.step()
        losses.append(loss.detach())
    for i, model in enumerate(models):
        model.load_state_dict({k: v[i] for k, v in {**parameters, **buffers}.items()}, strict=False)
        model.eval()
    return torch.stack(losses)


@torch.no_grad()
def evaluate(model: nn.Module, X: Tensor, y: Tensor, *, state: Mapping[str, Tensor] | None = None) -> Metrics:
    """Loss and accuracy of `model` in evaluation mode, with the weights `state` in place of its own if given.

    Args:
        model: maps (N, …) to logits (N, classes); not modified.
        X: inputs (N, …).
        y: labels (N,), int64.
        state: a state dict of the same architecture.

    Raises:
        ValueError: X and y differ in length, X holds NaN, y is not int64 (N,); or `state` does not fit.
    """
    _check_data(X, y)
    if state is not None:
        check_state(model, state)
    with evaluating(model):
        logits = model(X) if state is None else functional_call(model, dict(state), (X,))
    accuracy = (logits.argmax(1) == y).double().mean().item()
    return Metrics(F.cross_entropy(logits, y).item(), accuracy)
