"""Learned transforms: turn and scale a layer's inputs, undo it in its weight, and round both.

x Wᵀ = (x T) (T⁻¹ Wᵀ) for any T with an inverse. With T = D R, a positive diagonal and a rotation, T⁻¹ is free
of any solving: Rᵀ D⁻¹. D is smoothing, R spreads what is left over all channels; OSTQuant (Hu et al., 2025)
learns both so that a quantized network's predictions stay.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from layerlab.quantization._values import check_integer, check_positive, check_values
from layerlab.quantization.fake import FakeQuant
from layerlab.quantization.scheme import Scheme


def utilization(x: Tensor) -> float:
    """How much of its cube the data fill: log₂ of the quantization space utilization rate, per dimension.

    OSTQuant's QSUR is the volume of the ellipsoid that holds the data over that of the cube that the largest
    entry spans. Its logarithm is divided by the dimension here, and the ellipsoid measured by the root of its
    covariance's determinant alone: (½ log det Σ) / d − log max |x|. What is left out depends on d only, so
    that values compare between transforms of the same data. Dimensions in which nothing varies are left out.
    A rotation leaves the first term as it is and can raise the second; scales of single channels change both.

    Args:
        x: (…, d), more rows than d.

    Returns:
        At most 0; 0 where all entries have the same magnitude, and rows differ in all directions alike.

    Raises:
        TypeError: x is not floating point.
        ValueError: too few rows; rows that are all the same; NaN or infinity.

    >>> utilization(torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]))
    0.0
    """
    wide = check_values(x).reshape(-1, x.shape[-1])
    rows, d = wide.shape
    if rows <= d:
        raise ValueError(f"x: expected more than {d} rows, got {rows}")
    most = float(wide.abs().max())
    if most == 0:
        raise ValueError("x: expected some value that is not zero, got only zeros")
    centred = wide - wide.mean(0)
    values = torch.linalg.eigvalsh(centred.T @ centred / rows)
    values = values[values > values.max() * 1e-12]
    if not len(values):
        raise ValueError("x: expected rows that differ")
    return 0.5 * float(values.log2().mean()) - math.log2(most)


def top_kl(logits: Tensor, target: Tensor, k: int = 10) -> Tensor:
    """Mean Kullback–Leibler divergence over the k classes that the target holds most probable.

    OSTQuant's KL-Top loss: over the other classes, which are many and of which little data say little, no
    gradient comes. Both distributions are normalized over the k classes.

    Args:
        logits: (N, classes), of the quantized network.
        target: (N, classes), of the network that it stands for.
        k: how many; all where there are fewer.

    Raises:
        TypeError, ValueError: `k` is no positive integer; shapes differ.

    >>> top_kl(torch.tensor([[2.0, 0.0, -9.0]]), torch.tensor([[2.0, 0.0, 1.0]]), 1).item()
    0.0
    """
    if logits.ndim != 2 or logits.shape != target.shape:
        raise ValueError(f"target: expected shape {tuple(logits.shape)}, got {tuple(target.shape)}")
    check_integer(k, "k", 1, None)
    values, places = target.topk(min(k, target.shape[1]), dim=1)
    return F.kl_div(
        logits.gather(1, places).log_softmax(1), values.log_softmax(1), log_target=True, reduction="batchmean"
    )


class TransformedLinear(nn.Module):
    """A linear layer that scales and turns its inputs, and rounds them and its weight.

    y = Q(x D R) Q(W D⁻¹ R)ᵀ + b: with rounding left out, the layer's own function for any D and R. In a
    network that ships, D goes into what comes before (`smoothing.fold`), and R with it where that is a linear
    map; otherwise R is applied to the inputs while the network runs.

    Args:
        layer: gives weight and bias, which do not train.
        weight_scheme: how the weight is rounded, or None for not.
        input_scheme: how inputs are rounded, or None for not: with `group="channel"` under a scale for each
            row (an example, a token), with "tensor" under one for the batch.
        scale: D (in,), positive; by default ones.
        rotation: R (in, in), orthogonal; by default the identity.
        learn: let D and R train, D by its logarithm and R by the Cayley map, which keeps it orthogonal.

    Raises:
        ValueError: shapes that do not fit; a scale that is not positive; a rotation that is not orthogonal;
            a group for inputs.
    """

    def __init__(
        self,
        layer: nn.Linear,
        weight_scheme: Scheme | None,
        input_scheme: Scheme | None,
        *,
        scale: Tensor | None = None,
        rotation: Tensor | None = None,
        learn: bool = False,
    ):
        super().__init__()
        d, dtype = layer.in_features, layer.weight.dtype
        scale = torch.ones(d) if scale is None else scale.detach()
        if tuple(scale.shape) != (d,) or not ((scale > 0) & (scale < math.inf)).all():
            raise ValueError(f"scale: expected {d} positive numbers, got shape {tuple(scale.shape)}")
        if rotation is not None:
            _check_rotation(rotation, d)
        if input_scheme is not None and input_scheme.group not in ("tensor", "channel"):
            raise ValueError(
                f"input_scheme: expected group='tensor' or 'channel', got {input_scheme.group!r}"
            )
        self.register_buffer("weight", layer.weight.detach().clone())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        self.log_scale = nn.Parameter(scale.to(dtype).log(), requires_grad=learn)
        self.turn = nn.Linear(d, d, bias=False, dtype=dtype)
        start = torch.eye(d) if rotation is None else rotation.detach().T  # nn.Linear multiplies by Wᵀ
        if learn:
            # Exact at its start: the parametrization takes a matrix that is orthogonal to its base.
            self.turn = parametrizations.orthogonal(
                self.turn, orthogonal_map="cayley", use_trivialization=True
            )
            self.turn.weight = start.to(dtype)
        else:
            self.turn.weight = nn.Parameter(start.to(dtype).clone(), requires_grad=False)
        self.round_weight = nn.Identity() if weight_scheme is None else FakeQuant(weight_scheme)
        self.round_input = nn.Identity() if input_scheme is None else FakeQuant(input_scheme)

    def inputs(self, x: Tensor) -> Tensor:
        """x D R: what is rounded, (…, in)."""
        return self.turn(x * self.log_scale.exp())

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in) to (…, out)."""
        weight = self.round_weight(self.turn(self.weight / self.log_scale.exp()))
        turned = self.inputs(x)
        rounded = self.round_input(turned.reshape(-1, turned.shape[-1])).view(turned.shape)
        return F.linear(rounded, weight, self.bias)


def learn(
    model: nn.Module,
    X: Tensor,
    target: Tensor,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = top_kl,
    steps: int = 100,
    lr: float = 0.01,
    seed: int = 0,
) -> Tensor:
    """Train the transforms of a model's `TransformedLinear` layers, in place, so that its outputs stay.

    Adam, with rounding passed straight through, on batches of 256.

    Args:
        model: maps (B, …) to outputs; parameters that do not require a gradient stay.
        X: calibration inputs (N, …), without labels.
        target: (N, …), the outputs that the model is to keep.
        loss: of outputs and targets of a batch; by default `top_kl`, of logits.
        steps: of Adam, with a rate that falls to zero.
        lr: the first rate.
        seed: order of the batches.

    Returns:
        The loss of every step, (steps,).

    Raises:
        ValueError: nothing to train; X and target differ in length; NaN; `steps` or `lr` out of range.
    """
    check_integer(steps, "steps", 1, None)
    check_positive(lr, "lr")
    check_values(X, "X")
    if len(X) != len(target):
        raise ValueError(f"target: expected {len(X)} rows, got {len(target)}")
    layers = [m for m in model.modules() if isinstance(m, TransformedLinear)]
    free = [p for layer in layers for p in layer.parameters() if p.requires_grad]
    if not free:
        raise ValueError("model: expected a TransformedLinear with learn=True, found none")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(free, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        batch = torch.randint(len(X), (min(256, len(X)),), generator=generator)
        found = loss(model(X[batch]), target[batch])
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        schedule.step()
        losses.append(found.detach())
    return torch.stack(losses)


def _check_rotation(rotation: Tensor, d: int) -> None:
    wide = check_values(rotation, "rotation")
    if tuple(rotation.shape) != (d, d):
        raise ValueError(f"rotation: expected shape {(d, d)}, got {tuple(rotation.shape)}")
    off = float((wide @ wide.T - torch.eye(d, dtype=torch.float64)).abs().max())
    if off > 1e-3:
        raise ValueError(f"rotation: expected an orthogonal matrix, got R Rᵀ off the identity by {off:.2g}")
