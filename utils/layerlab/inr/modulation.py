"""A network that many signals share, and a short latent that turns it into each one's.

Shifts: Dupont et al. 2022, "From data to functa". Gates: Schwarz, Tack, et al. 2023, "Modality-Agnostic
Variational Compression of Implicit Neural Representations" (VC-INR). Latents are found by a few
steps of gradient descent from zero, and the shared weights are trained through these steps, as in CAVIA
(Zintgraf et al. 2019).
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..models import _check_sizes
from .fit import _seeded, _undone_on_error
from .meta import _batches, _check
from .siren import Siren

How = Literal["shift", "scale", "gate"]
_PROGRESS_AFTER = 10.0  # seconds of silence before a bar appears


class ModulatedSiren(nn.Module):
    """A `Siren` whose layers a latent z modulates.

    | how | a layer computes | for |
    | --- | --- | --- |
    | "shift" | sin(ω₀ (W h + b + s)) | each hidden layer, s one number per unit |
    | "scale" | sin(ω₀ ((1 + s) ∘ W h + b)) | the same |
    | "gate"  | sin(ω₀ ((G ∘ W) h + b)), G = sigmoid(U Vᵀ) | all but the first; no sine after the last |

    What modulates, s or U and V, is a function of z: linear, or with one hidden layer of ReLUs.

    Args:
        in_features, hidden, out_features, w0, hidden_w0: as of `Siren`.
        latent: numbers in z.
        how: see above. With a linear map and z = 0, shifts and scales leave the network as `Siren` draws it.
            A gate is 1/2 where U Vᵀ is 0, so the gated W are drawn twice as large; and the biases of the map
            that give U and V are drawn from N(0, 1), since at zero they would have no gradient.
        map_width: width of the map's hidden layer; 0 makes the map linear. By default 64 for gates and 0 for
            the others, as published.
        rank: columns of U and V.
        rate: the inner learning rate, from which that of each number in z is trained (`rates`; Meta-SGD,
            Li et al. 2017); by default 30 for gates, which change little with z at first, and 1 for others.

    Shapes: x (N, in_features) and z (latent,) to (N, out_features); z (S, latent) to (S, N, out_features).

    >>> net = ModulatedSiren(2, [32, 32], 1, latent=8)
    >>> net(torch.zeros(5, 2), torch.zeros(3, 8)).shape
    torch.Size([3, 5, 1])
    """

    def __init__(
        self,
        in_features: int,
        hidden: list[int],
        out_features: int,
        *,
        latent: int,
        how: How = "shift",
        map_width: int | None = None,
        rank: int = 4,
        rate: float | None = None,
        w0: float = 30.0,
        hidden_w0: float | None = None,
    ):
        super().__init__()
        if how not in ("shift", "scale", "gate"):
            raise ValueError(f"how: expected 'shift', 'scale' or 'gate', got {how!r}")
        _check_sizes(latent=latent, rank=rank, map_width=1 + (map_width or 0))
        if rate is None:
            rate = 30.0 if how == "gate" else 1.0
        if not 0 < rate < math.inf:
            raise ValueError(f"rate: expected a positive number, got {rate}")
        self.how, self.latent, self.rank = how, latent, rank
        siren = Siren(in_features, hidden, out_features, w0=w0, hidden_w0=hidden_w0)
        self.layers, self.sines = siren.layers, siren.sines
        if how == "gate":
            self._sizes = [rank * (layer.out_features + layer.in_features) for layer in self.layers[1:]]
            with torch.no_grad():
                for layer in self.layers[1:]:
                    layer.weight *= 2
        else:
            self._sizes = list(hidden)
        width = (64 if how == "gate" else 0) if map_width is None else map_width
        last = nn.Linear(width or latent, sum(self._sizes))
        nn.init.zeros_(last.bias) if how != "gate" else nn.init.normal_(last.bias)
        self.map = nn.Sequential(nn.Linear(latent, width), nn.ReLU(), last) if width else last
        self.rates = nn.Parameter(torch.full((latent,), float(rate)))

    def modulations(self, z: Tensor) -> list[Tensor]:
        """What modulates each layer, for z (S, latent): s (S, 1, units), or gates (S, outputs, inputs)."""
        parts = self.map(z).split(self._sizes, -1)
        if self.how != "gate":
            return [part[:, None] for part in parts]
        gates = []
        for part, layer in zip(parts, self.layers[1:], strict=True):
            U, V = part.view(len(z), -1, self.rank).split([layer.out_features, layer.in_features], 1)
            gates.append(torch.sigmoid(U @ V.mT))
        return gates

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """The signals of z at x; see the class for shapes."""
        if z.ndim not in (1, 2) or z.shape[-1] != self.latent:
            raise ValueError(f"z: expected ({self.latent},) or (S, {self.latent}), got {tuple(z.shape)}")
        if z.ndim == 1:
            return self(x, z[None])[0]
        gated = self.how == "gate"
        # Without a gate on the first layer, what it gives is the same for every signal.
        what = [None, *self.modulations(z)] if gated else [*self.modulations(z), None]
        h = x[None]
        for layer, by, sine in zip(self.layers, what, [*self.sines, nn.Identity()], strict=True):
            if by is None:
                h = F.linear(h, layer.weight, layer.bias)
            elif gated:
                h = h @ (by * layer.weight).mT + layer.bias
            elif self.how == "shift":
                h = F.linear(h, layer.weight, layer.bias) + by
            else:
                h = F.linear(h, layer.weight) * (1 + by) + layer.bias
            h = sine(h)
        return h


def fit_latents(
    model: ModulatedSiren,
    signals: Tensor,
    X: Tensor,
    *,
    steps: int = 3,
    mask: Tensor | None = None,
) -> Tensor:
    """The latents of S signals, (S, latent): gradient descent from zero, each number at the rate of `rates`.

    Args:
        model: the shared network, left as it is.
        signals: values (S, N, channels) at X.
        X: coordinates (N, d).
        steps: steps of gradient descent on each signal's mean squared error.
        mask: which values are observed, bool, (N,) or (S, N).

    Raises:
        ValueError: shapes that do not fit together, a signal that holds NaN or infinity (named) or has no
            observed value, or `steps` out of range.
        FloatingPointError: a latent became NaN or infinite.

    >>> from layerlab.inr.fit import coordinates
    >>> net = ModulatedSiren(1, [8], 1, latent=4)
    >>> fit_latents(net, torch.zeros(3, 16, 1), coordinates(16)).shape
    torch.Size([3, 4])
    """
    seen = _check(_AtZero(model), signals, X, mask)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps: expected an integer of at least 1, got {steps!r}")
    z = _descend(model, signals, X, seen, steps, through=False)
    if not torch.isfinite(z).all():
        raise FloatingPointError("a latent became NaN or infinite; smaller rates may help")
    return z


def meta_train(
    model: ModulatedSiren,
    signals: Tensor,
    X: Tensor,
    *,
    steps: int = 500,
    lr: float = 1e-3,
    inner_steps: int = 3,
    batch_size: int = 16,
    noise: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Train the shared network in place, so that `fit_latents` with `inner_steps` steps leaves little error.

    Args:
        model: the shared network.
        signals: (S, N, channels) to learn from.
        X: coordinates (N, d).
        steps: outer steps, of Adam.
        lr: outer learning rate, of the weights, the map and the rates.
        inner_steps: steps of `fit_latents`, through which the gradients go.
        batch_size: signals per outer step.
        noise: width of uniform noise that is added to the latents after the inner steps, in the place of
            rounding them to multiples of that width (as VC-INR does when it learns to compress latents).
        seed: order of the signals, and noise.

    Returns:
        The mean squared error of every step, (steps,).

    Raises:
        ValueError: as `fit_latents`, or another argument out of range.
        FloatingPointError: the error became NaN or infinite, at the step that the message names. After any
            error the model is as it was before.
    """
    _check(_AtZero(model), signals, X, None)
    for name, number in (("steps", steps), ("inner_steps", inner_steps), ("batch_size", batch_size)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {number!r}")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr: expected a positive number, got {lr}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise: expected a number that is not negative, got {noise}")
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    losses = []
    with _undone_on_error(model), _seeded(seed, signals.device):
        bar = tqdm(range(steps), desc="meta", unit="step", delay=_PROGRESS_AFTER, leave=False)
        for step, (batch, seen) in zip(bar, _batches(signals, batch_size, 1.0, seed), strict=False):
            z = _descend(model, batch, X, seen, inner_steps, through=True)
            if noise:
                z = z + noise * (torch.rand_like(z) - 0.5)
            loss = F.mse_loss(model(X, z), batch)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the error became {loss} at step {step}; a smaller lr or rate may help"
                )
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.detach())
    return torch.stack(losses)


def _descend(model: ModulatedSiren, signals, X, seen, steps: int, *, through: bool) -> Tensor:
    z = signals.new_zeros(len(signals), model.latent).requires_grad_()
    with torch.enable_grad():
        for _ in range(steps):
            squares = (model(X, z) - signals).square().mean(-1)
            # Signals have nothing in common but the weights: the gradient of the sum is that of each.
            error = (torch.where(seen, squares, 0).sum(1) / seen.sum(1)).sum()
            (slope,) = torch.autograd.grad(error, z, create_graph=through)
            z = z - model.rates * slope
            if not through:
                z = z.detach().requires_grad_()
    return z if through else z.detach()


class _AtZero(nn.Module):
    """The shared network at z = 0, as a network of coordinates alone."""

    def __init__(self, model: ModulatedSiren):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, x.new_zeros(self.model.latent))
