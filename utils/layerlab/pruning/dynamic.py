"""Dynamic pruning: for every input other filters, chosen before they are computed.

A gate after a stage says which of the stage's channels an input needs. The oracle looks at what the channels
answer; a predictor sees only the pooled input of the stage, and learns the oracle's masks as labels. How many
channels an input gets is settled by the mass of its heat, so what the gates will save is known before
anything is trained (Elkerdawy et al., 2022, "Fire together wire together", section 3).

Chapter: `chapters/pruning/02_is_it_the_weights.ipynb`.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def heat(x: Tensor) -> Tensor:
    """How much each channel answers: the mean over positions, (N, C, H, W) to (N, C)."""
    return x.flatten(2).mean(2)


def top_mass(heat: Tensor, mass: float | Tensor) -> Tensor:
    """For each input the fewest channels, hottest first, that hold at least `mass` of its heat.

    Args:
        heat: (N, C), not negative.
        mass: share in (0, 1].

    Returns:
        bool (N, C), at least one channel True in each row.

    Raises:
        ValueError: a mass out of range; heat of another shape.

    >>> top_mass(torch.tensor([[5.0, 1.0, 4.0], [1.0, 8.0, 1.0]]), 0.8)
    tensor([[ True, False,  True],
            [False,  True, False]])
    """
    if heat.ndim != 2:
        raise ValueError(f"heat: expected shape (N, C), got {tuple(heat.shape)}")
    if not isinstance(mass, Tensor) and not 0 < mass <= 1:
        raise ValueError(f"mass: expected a share in (0, 1], got {mass}")
    hottest, order = heat.sort(dim=1, descending=True, stable=True)
    before = hottest.cumsum(1) - hottest  # the heat of all hotter channels
    needed = before < mass * hottest.sum(1, keepdim=True)
    needed = needed | (torch.arange(heat.shape[1]) == 0)  # an input without heat keeps one
    return needed.gather(1, order.argsort(1))


class Oracle(nn.Module):
    """Looks at the answers and keeps the hottest channels: it saves nothing, for it has to compute all."""

    def __init__(self, mass: float):
        super().__init__()
        if not 0 < mass <= 1:
            raise ValueError(f"mass: expected a share in (0, 1], got {mass}")
        self.register_buffer("mass", torch.tensor(float(mass)))

    def forward(self, seen: Tensor, answers: Tensor) -> Tensor:
        """Masks (N, C) from what the stage answers, (N, C); what it has seen does not count."""
        return top_mass(answers, self.mass)


class Static(nn.Module):
    """The same channels for every input.

    Args:
        mask: bool (C,), at least one True.
    """

    def __init__(self, mask: Tensor):
        super().__init__()
        if mask.dtype != torch.bool or mask.ndim != 1 or not mask.any():
            raise ValueError(f"mask: expected bool (C,) with a True, got {mask.dtype} {tuple(mask.shape)}")
        self.register_buffer("mask", mask.clone())

    def forward(self, seen: Tensor, answers: Tensor) -> Tensor:
        """The mask, repeated: (N, C)."""
        return self.mask.expand(len(answers), -1)


class Predictor(nn.Module):
    """A linear map of the stage's pooled input; a channel is on where it is positive.

    Args:
        weight: (C, channels in).
        bias: (C,).
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"bias: expected ({weight.shape[0]},), got {tuple(bias.shape)}; weight {tuple(weight.shape)}"
            )
        self.register_buffer("weight", weight.detach().clone())  # no gradient of the task reaches it
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, seen: Tensor, answers: Tensor) -> Tensor:
        """Masks (N, C) from what the stage has seen, (N, channels in)."""
        return seen @ self.weight.T + self.bias > 0

    def shuffled(self, seed: int) -> "Predictor":
        """The same predictions for other channels: the control."""
        order = torch.randperm(len(self.bias), generator=torch.Generator().manual_seed(seed))
        return Predictor(self.weight[order], self.bias[order])


def fit_predictor(seen: Tensor, masks: Tensor, *, decay: float = 1e-3, steps: int = 40) -> Predictor:
    """Logistic regression of the oracle's masks on the stage's pooled input: no label of the task is used.

    The threshold is then set so that on these inputs as many channels are on as the oracle keeps: what the
    gates cost is what the oracle has foretold.

    Args:
        seen: (N, channels in).
        masks: bool (N, C), what the oracle kept.
        decay: weight of the squared norm, on standardized inputs, per channel.
        steps: iterations of L-BFGS.

    Raises:
        ValueError: different numbers of inputs; masks that are not bool.
    """
    if masks.dtype != torch.bool or len(seen) != len(masks):
        raise ValueError(
            f"masks: expected bool ({len(seen)}, C), got {masks.dtype} of shape {tuple(masks.shape)}"
        )
    mean, std = seen.mean(0), seen.std(0).clamp_min(1e-6)
    x, y = (seen - mean) / std, masks.to(seen.dtype)
    weight = torch.zeros(masks.shape[1], seen.shape[1], dtype=seen.dtype, requires_grad=True)
    bias = torch.zeros(masks.shape[1], dtype=seen.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x @ weight.T + bias, y)
        loss = loss + decay * weight.square().sum() / len(weight)
        loss.backward()
        return loss

    optimizer.step(closure)
    scaled = (weight / std).detach()
    shift = (bias - scaled @ mean).detach()
    logits = (seen @ scaled.T + shift).flatten().sort().values
    off = len(logits) - int(masks.sum())  # this many, the lowest, are to be off
    level = (logits[max(off - 1, 0)] + logits[min(off, len(logits) - 1)]) / 2
    return Predictor(scaled, shift - level)


class Gated(nn.Module):
    """A chain of stages and a head, with gates behind some of the stages.

    Args:
        stages: modules that map (N, C, H, W) to the same form, run one after the other.
        head: reads what the last stage leaves.
        gates: by the stage's number, a module that maps (seen, answers) to masks (N, C).

    Raises:
        ValueError: a gate for a stage that is not there.
    """

    def __init__(self, stages: Sequence[nn.Module], head: nn.Module, gates: Mapping[int, nn.Module]):
        super().__init__()
        self.stages, self.head = nn.ModuleList(stages), head
        for i in gates:
            if i not in range(len(self.stages)):
                raise ValueError(f"gates: expected stages in 0..{len(self.stages) - 1}, got {i!r}")
        self.gates = nn.ModuleDict({str(i): gate for i, gate in gates.items()})

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the head's output."""
        for i in range(len(self.stages)):
            x = self._stage(i, x)[0]
        return self.head(x)

    def _stage(self, i: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Output, what the stage has seen, what it answers, and its mask."""
        seen = heat(x).detach()
        x = self.stages[i](x)
        answers = heat(x).detach()
        if str(i) not in self.gates:
            return x, seen, answers, None
        mask = self.gates[str(i)](seen, answers)
        return x * mask[:, :, None, None], seen, answers, mask

    @torch.no_grad()
    def watch(self, x: Tensor) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        """By gated stage: what it has seen (N, channels in), what it answers (N, C), its masks (N, C)."""
        found = {}
        for i in range(len(self.stages)):
            x, *rest = self._stage(i, x)
            if rest[-1] is not None:
                found[i] = tuple(rest)
        return found
