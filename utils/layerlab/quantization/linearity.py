"""The linearity theorem: small errors of several layers add up, each with a slope of its own.

If layer l is disturbed at random by the relative squared error t_l = ‖Ŵ_l − W_l‖² / ‖W_l‖², the loss rises
in the mean by about Σ_l α_l t_l (HIGGS, Malinovskii et al., 2025): the gradient's share is zero in
the mean, and so is that of pairs of layers. The slopes are measured with noise in one layer at a time.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from layerlab.quantization._values import check_integer, check_positive

Loss = Callable[[dict[str, Tensor]], float]


def relative_error(weight: Tensor, w_hat: Tensor) -> float:
    """t = ‖ŵ − w‖² / ‖w‖².

    Raises:
        ValueError: shapes differ; the weight is zero.

    >>> relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5]))
    0.01
    """
    if weight.shape != w_hat.shape:
        raise ValueError(f"w_hat: expected shape {tuple(weight.shape)}, got {tuple(w_hat.shape)}")
    size = float(weight.double().square().sum())
    if not size:
        raise ValueError("weight: expected some value that is not zero, got only zeros")
    return float((weight.double() - w_hat.double()).square().sum()) / size


def noisy(weight: Tensor, t: float, generator: torch.Generator) -> Tensor:
    """The weight plus Gaussian noise whose expected relative squared error is t.

    Raises:
        ValueError: t is negative.
    """
    if not t >= 0:
        raise ValueError(f"t: expected a number of at least 0, got {t}")
    noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return weight + noise * (t / weight.numel()) ** 0.5 * weight.norm()


def slopes(
    loss: Loss,
    state: Mapping[str, Tensor],
    keys: Iterable[str],
    *,
    t: float = 0.01,
    draws: int = 16,
    seed: int = 0,
) -> dict[str, float]:
    """α of each layer: the mean rise of the loss with noise of the relative squared error t in it, over t.

    Noise is drawn in pairs of opposite signs, which cancels the gradient's share exactly.

    Args:
        loss: of a state dict; called 1 + 2 · draws · layers times.
        state: the model's; not modified.
        keys: the weights.
        t: relative squared error, small.
        draws: pairs per layer.
        seed: of the noise.

    Raises:
        TypeError, ValueError: no keys, or an unknown one; `t` or `draws` out of range.
    """
    check_positive(t, "t")
    check_integer(draws, "draws", 1, None)
    keys = list(keys)
    unknown = [key for key in keys if key not in state]
    if not keys or unknown:
        raise ValueError(f"keys: expected some of {list(state)}, got {unknown or 'none'}")
    generator = torch.Generator().manual_seed(seed)
    state = dict(state)
    base, found = loss(state), {}
    for key in keys:
        rises = []
        for _ in range(draws):
            noise = noisy(state[key], t, generator) - state[key]
            rises += [loss(state | {key: state[key] + sign * noise}) - base for sign in (1, -1)]
        found[key] = sum(rises) / len(rises) / t
    return found


def predict(alphas: Mapping[str, float], errors: Mapping[str, float]) -> float:
    """The rise of the loss that Σ α_l t_l says.

    Raises:
        ValueError: an error of a layer without slope.

    >>> predict({"a": 2.0, "b": 10.0}, {"a": 0.5, "b": 0.25})
    3.5
    """
    for key in errors:
        if key not in alphas:
            raise ValueError(f"errors: expected keys among {list(alphas)}, got {key!r}")
    return sum(alphas[key] * t for key, t in errors.items())
