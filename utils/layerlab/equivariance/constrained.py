"""Augmentation as a constraint: keep the loss under a transformation small, and see what that costs.

Instead of transforming every training picture, minimize the clean loss subject to a bound on the loss of
transformed pictures. A dual variable per transformation is the price of its constraint: it grows for as
long as the constraint is violated and falls back to zero where invariance comes for free. The
transformations are drawn in proportion to the loss that they cause, by Metropolis and Hastings' algorithm.

Chapter: `chapters/equivariance/01_group_convolutions.ipynb`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm


class Transformation(NamedTuple):
    """A family of transformations: how to draw one for each picture, and how to apply them.

    `draw(count, generator)` gives parameters, a tensor (count, …), from the distribution that stands for "all
    of them alike"; `apply(X, parameters)` maps (count, …) to the same shape.
    """

    draw: Callable[[int, torch.Generator], Tensor]
    apply: Callable[[Tensor, Tensor], Tensor]


def rotations(degrees: float = 180.0) -> Transformation:
    """Turn each picture about its center by an angle up to ±`degrees`, uniformly.

    Parameters are angles in radians, (count,), positive to the left.
    Bilinear interpolation, and zeros where the turned picture has no pixel. Pictures need not be square:
    shapes stay as they are, and what leaves the frame is lost.

    Raises:
        ValueError: degrees outside (0, 180]; `apply` to what is no (N, C, H, W).

    >>> X = torch.zeros(1, 1, 3, 3); X[0, 0, 0, 1] = 1  # the top pixel, a quarter turn to the left
    >>> rotations().apply(X, torch.tensor([torch.pi / 2])).round().abs()[0, 0]
    tensor([[0., 0., 0.],
            [1., 0., 0.],
            [0., 0., 0.]])
    """
    if not 0 < degrees <= 180:
        raise ValueError(f"degrees: expected a number in (0, 180], got {degrees}")
    most = degrees * torch.pi / 180

    def draw(count: int, generator: torch.Generator) -> Tensor:
        return (2 * torch.rand(count, generator=generator) - 1) * most

    def apply(X: Tensor, angle: Tensor) -> Tensor:
        H, W = _sides(X)
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        # the grid's coordinates run from -1 to 1 along either side, however many pixels it has
        rows = (cos, -sin * H / W, zero), (sin * W / H, cos, zero)
        return _resample(X, torch.stack([torch.stack(row, -1) for row in rows], -2))

    return Transformation(draw, apply)


def translations(pixels: float = 2.0) -> Transformation:
    """Shift each picture by up to ±`pixels` along each axis, uniformly.

    Parameters are pixels to the right and down, (count, 2).

    Raises:
        ValueError: pixels not above 0.
    """
    if not pixels > 0:
        raise ValueError(f"pixels: expected a positive number, got {pixels}")

    def draw(count: int, generator: torch.Generator) -> Tensor:
        return (2 * torch.rand(count, 2, generator=generator) - 1) * pixels

    def apply(X: Tensor, shift: Tensor) -> Tensor:
        matrix = torch.eye(2, 3, dtype=shift.dtype).repeat(len(X), 1, 1)
        H, W = _sides(X)
        matrix[:, :, 2] = -2 * shift / torch.tensor([W, H])
        return _resample(X, matrix)

    return Transformation(draw, apply)


def quarter_turns() -> Transformation:
    """Turn each picture by 0, 90, 180 or 270 degrees, exactly; parameters 0 … 3 (count,), to the left.

    Raises:
        ValueError: `apply` to pictures that are not square.
    """

    def apply(X: Tensor, turns: Tensor) -> Tensor:
        if X.ndim < 3 or X.shape[-1] != X.shape[-2]:
            raise ValueError(f"X: expected square pictures (N, …, H, H), got shape {tuple(X.shape)}")
        turned = torch.stack([X.rot90(k, (-2, -1)) for k in range(4)])
        return turned[turns, torch.arange(len(X))]

    return Transformation(lambda count, generator: torch.randint(4, (count,), generator=generator), apply)


def _sides(X: Tensor) -> tuple[int, int]:
    if X.ndim != 4:
        raise ValueError(f"X: expected pictures (N, C, H, W), got shape {tuple(X.shape)}")
    return X.shape[2], X.shape[3]


def _resample(X: Tensor, matrix: Tensor) -> Tensor:
    grid = F.affine_grid(matrix.to(X), list(X.shape), align_corners=False)
    return F.grid_sample(X, grid, align_corners=False, padding_mode="zeros")


class Chain(NamedTuple):
    """Where chains ended: parameters (count, …), losses (count,), and the fraction of accepted steps."""

    parameters: Tensor
    losses: Tensor
    acceptance: float


def metropolis_hastings(
    loss: Callable[[Tensor], Tensor],
    draw: Callable[[int, torch.Generator], Tensor],
    count: int,
    *,
    steps: int = 2,
    generator: torch.Generator,
) -> Chain:
    """Draw transformations in proportion to their loss: `count` chains side by side, one per example.

    A chain starts at a draw. Each step proposes another, whatever the present one is, and moves there with
    probability min(1, proposed loss / present loss). The stationary distribution has the density of `draw`
    times the loss: transformations that hurt come more often, and none is left out.

    Args:
        loss: parameters (count, …) to losses (count,), at least 0; called `steps` + 1 times, without
        gradients. draw: as in `Transformation`. count: number of chains. steps: proposals per chain; 0
        gives the draw itself. generator: of proposals and decisions.

    Raises:
        ValueError: count or steps out of range; a loss that is negative, not finite or of another shape.

    Source: Hounie, Chamon and Ribeiro (2023), Automatic Data Augmentation via Invariance-Constrained
    Learning.
    """
    for name, value, least in (("count", count, 1), ("steps", steps, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")

    @torch.no_grad()
    def measured(parameters: Tensor) -> Tensor:
        losses = loss(parameters)
        if losses.shape != (count,) or not (torch.isfinite(losses) & (losses >= 0)).all():
            raise ValueError(f"loss: expected {count} finite values of at least 0, got {losses}")
        return losses

    parameters = draw(count, generator)
    losses, accepted = measured(parameters), 0
    for _ in range(steps):
        proposed = draw(count, generator)
        new = measured(proposed)
        accept = torch.rand(count, generator=generator) * losses <= new
        parameters = torch.where(accept.view(-1, *[1] * (parameters.ndim - 1)), proposed, parameters)
        losses = torch.where(accept, new, losses)
        accepted += int(accept.sum())
    return Chain(parameters, losses, accepted / max(1, count * steps))


class History(NamedTuple):
    """One entry per step of the training.

    `loss` (steps,): clean loss; `constraint` (steps, T): loss of transformed examples, one column per
    transformation; `duals` (steps, T): the dual variables after the step; `names`: the transformations.
    """

    loss: Tensor
    constraint: Tensor
    duals: Tensor
    names: tuple[str, ...]


def fit_constrained(
    model: nn.Module,
    X: Tensor,
    y: Tensor,
    transformations: Mapping[str, Transformation],
    *,
    epsilon: float = 0.1,
    dual_lr: float = 0.05,
    duals: Sequence[float] | None = None,
    mcmc_steps: int = 2,
    epochs: int = 20,
    lr: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
) -> History:
    """Train `model` in place: minimize the clean loss, with each transformation's at most `epsilon`.

    Each step descends by Adam on the Lagrangian ℓ(x) + Σₜ γₜ (ℓ(t x) − ε), cross-entropies of the batch,
    with t x drawn by `metropolis_hastings` from the examples' chains, and then ascends: γₜ ← max(0, γₜ + η
    (ℓ(t x) − ε)). Drawn so, ℓ(t x) is above its mean over all transformations: the constraint is on a
    smoothed worst case.

    Args:
        model: maps (B, …) to logits (B, classes); left in evaluation mode.
        X: inputs (N, …).
        y: labels (N,), int64.
        transformations: families by name; each is a constraint of its own with a dual variable of its own.
            One that cannot be met pulls the logits towards zero, so that the others' duals grow as well: to
            compare symmetries, train once with each.
        epsilon: ε, in nats. Below what the clean loss reaches no γ comes to rest.
        dual_lr: η. With 0 the duals stay what they are: with no `duals` training is on clean examples alone,
            with duals=[1] and mcmc_steps=0 it is ordinary augmentation beside the clean examples.
        duals: γ at the start, one for each transformation; without it 0.
        mcmc_steps: proposals for each example and step; each costs one forward pass.
        epochs, lr, batch_size: as in `layerlab.train.fit`.
        seed: order of the batches, dropout, and the chains.

    Returns:
        the history; `history.duals[-1]` are the prices at the end.

    Raises:
        ValueError: an argument is out of range, or shapes do not fit.

    Source: Hounie, Chamon and Ribeiro (2023), Automatic Data Augmentation via Invariance-Constrained
    Learning.
    """
    _check(X, y, transformations, epsilon=epsilon, dual_lr=dual_lr, lr=lr)
    for name, value, least in (
        ("epochs", epochs, 1),
        ("batch_size", batch_size, 1),
        ("mcmc_steps", mcmc_steps, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
    generator = torch.Generator().manual_seed(seed)
    orders = (torch.randperm(len(X), generator=generator) for _ in range(epochs))
    least = min(2, len(X), batch_size)  # BatchNorm cannot normalise a leftover of one
    batches = [batch for order in orders for batch in order.split(batch_size) if len(batch) >= least]
    opt = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    names = tuple(transformations)
    duals = torch.zeros(len(names)) if duals is None else torch.tensor([float(v) for v in duals])
    if duals.shape != (len(names),) or not (duals >= 0).all():
        raise ValueError(f"duals: expected {len(names)} numbers of at least 0, got {duals.tolist()}")
    losses, constraints, prices = [], [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout
        for batch in tqdm(batches, desc="fit_constrained", unit="step", delay=10, leave=False):
            x, target = X[batch], y[batch]
            moved = [_worst(model, x, target, transformations[n], mcmc_steps, generator) for n in names]
            model.train()
            # one pass over clean and transformed examples together, so that BatchNorm sees them all
            logits = model(torch.cat([x, *moved])).split(len(x))
            values = torch.stack([F.cross_entropy(part, target) for part in logits])
            opt.zero_grad()
            (values[0] + duals @ values[1:]).backward()
            opt.step()
            violation = values[1:].detach() - epsilon
            duals = (duals + dual_lr * violation).clamp_min(0)
            losses.append(values[0].detach())
            constraints.append(values[1:].detach())
            prices.append(duals)
    model.eval()
    return History(torch.stack(losses), torch.stack(constraints), torch.stack(prices), names)


def _worst(model: nn.Module, x: Tensor, y: Tensor, t: Transformation, steps: int, generator) -> Tensor:
    """The examples, transformed in proportion to the loss that it causes."""
    if steps == 0:
        return t.apply(x, t.draw(len(x), generator))
    model.eval()  # the chains leave the running statistics as they are
    chain = metropolis_hastings(
        lambda p: F.cross_entropy(model(t.apply(x, p)), y, reduction="none"),
        t.draw,
        len(x),
        steps=steps,
        generator=generator,
    )
    return t.apply(x, chain.parameters)


def _check(X: Tensor, y: Tensor, transformations: Mapping[str, Transformation], **numbers: float) -> None:
    if len(X) == 0 or len(X) != len(y) or y.ndim != 1 or y.dtype != torch.int64:
        raise ValueError(
            f"X and y: expected N examples and N int64 labels, got {tuple(X.shape)}, {tuple(y.shape)} "
            f"of {y.dtype}"
        )
    if not torch.isfinite(X).all():
        raise ValueError("X: expected finite values, got NaN or infinity")
    if not transformations:
        raise ValueError("transformations: expected at least one, got none")
    for name, value in numbers.items():
        if not (value > 0 or (name == "dual_lr" and value == 0)):
            raise ValueError(f"{name}: expected a positive number, got {value}")
