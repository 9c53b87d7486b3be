"""Smoothing: divide a layer's inputs by a scale per channel, multiply its weight's columns, and round then.

x Wᵀ = (x / s) (W s)ᵀ for any positive s. A channel with outliers asks for a wide range, which all others
share; divided, it asks for less, and its weights for more (SmoothQuant, Xiao et al., 2023). Of a denoiser,
which reads other inputs at each step, the largest values of all steps are taken, and the exponent is searched
layer by layer (DiTAS, Dong and Zhang, 2025).
"""

from collections.abc import Callable, Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor, nn

from layerlab.activations import watch
from layerlab.layers import layers_of, original
from layerlab.quantization._values import check_values
from layerlab.quantization.affine import Scheme, round_trip

ALPHAS = tuple(i / 20 for i in range(21))


def channel_maxima(
    model: nn.Module, X: Tensor, *, state: Mapping[str, Tensor] | None = None, batch_size: int = 256
) -> dict[str, Tensor]:
    """The largest magnitude of each input channel of every `nn.Linear`, over examples and tokens.

    Args:
        model: run in evaluation mode; not modified.
        X: calibration inputs (N, …).
        state: weights to use in place of the model's own.
        batch_size: inputs per forward pass.

    Returns:
        By the first key of each layer's weight, (in,).

    Raises:
        ValueError: no examples; NaN in them or in what a layer reads, named by key; `state` does not fit.

    >>> channel_maxima(nn.Linear(2, 3), torch.tensor([[1.0, -4.0], [-2.0, 3.0]]))
    {'weight': tensor([2., 4.])}
    """
    found: dict[str, Tensor] = {}

    def hook(key: str) -> Callable:
        def record(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            most = args[0].detach().flatten(0, -2).abs().amax(0)
            if not torch.isfinite(most).all():
                raise ValueError(f"input of {key!r}: expected finite values, got NaN or infinity")
            found[key] = torch.maximum(found[key], most) if key in found else most

        return record

    hooks = [
        (module, hook(key))
        for key, users in layers_of(model).items()
        for _, module in users
        if isinstance(module, nn.Linear)
    ]
    watch(model, X, hooks, state=state, batch_size=batch_size)
    return found


def smoothing_scales(maxima: Tensor, weight: Tensor, alpha: float = 0.5) -> Tensor:
    """s_j = a_j^α / w_j^(1 − α), with a_j and w_j the largest magnitudes of channel j in inputs and weight.

    SmoothQuant's formula. With α = 1 all channels of the inputs get the same range, with α = 0 all columns
    of the weight; between, both are worse off than they could be. Channels that are zero in either get 1.

    Args:
        maxima: a, (in,), not negative.
        weight: (out, in).
        alpha: in [0, 1].

    Returns:
        s (in,), positive, of the weight's type; inputs are divided by it.

    Raises:
        TypeError: not floating point; `alpha` is no number.
        ValueError: `alpha` out of range; shapes that do not fit; negative, NaN or infinite values; a
            scale that the weight's type cannot hold.

    >>> smoothing_scales(torch.tensor([16.0, 1.0]), torch.tensor([[1.0, -1.0], [0.5, 0.25]]))
    tensor([4., 1.])
    """
    if isinstance(alpha, bool) or not isinstance(alpha, Real):
        raise TypeError(f"alpha: expected a number in [0, 1], got {alpha!r}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a number in [0, 1], got {alpha!r}")
    wide, a = check_values(weight, "weight"), check_values(maxima, "maxima")
    if wide.ndim != 2 or a.shape != wide.shape[1:]:
        raise ValueError(f"maxima: expected (in,) for {tuple(weight.shape)}, got {tuple(maxima.shape)}")
    if (a < 0).any():
        raise ValueError(f"maxima: expected magnitudes, got {float(a.min())}")
    w = wide.abs().amax(0)
    there = (a > 0) & (w > 0)
    one = torch.ones_like(a)
    s = torch.where(there, a, one) ** alpha / torch.where(there, w, one) ** (1 - alpha)
    held = s.to(weight.dtype)
    if not ((held > 0) & held.isfinite()).all():
        raise ValueError(
            f"maxima: expected scales that {weight.dtype} can hold, got {float(s.min())} to {float(s.max())}"
        )
    return held


def output_error(
    inputs: Sequence[Tensor],
    weight: Tensor,
    scales: Tensor | None,
    weight_scheme: Scheme | None,
    input_scheme: Scheme | None,
) -> float:
    """Squared error of a layer's outputs over their square, with inputs and weight smoothed and rounded.

    Args:
        inputs: tensors (…, in), each rounded under a range of its own, such as those of a denoiser's steps.
        weight: (out, in).
        scales: (in,), or None for none.
        weight_scheme: how the weight is rounded, or None for not.
        input_scheme: how inputs are rounded, one scale for each tensor, or None for not.

    Raises:
        ValueError: no inputs; another group for inputs; as `affine.fit`; outputs that are all zero.

    >>> x, w = torch.tensor([[1.0, 100.0]]), torch.tensor([[1.0, 0.01]])
    >>> s = torch.tensor([1.0, 100.0])
    >>> eight = Scheme(4, group="tensor")
    >>> output_error([x], w, None, eight, eight) > output_error([x], w, s, eight, eight)
    True
    """
    if not inputs:
        raise ValueError("inputs: expected at least one tensor, got none")
    if input_scheme is not None and input_scheme.group != "tensor":
        raise ValueError(f"input_scheme: expected group='tensor', got {input_scheme.group!r}")
    if scales is not None:
        _check_scales(scales, weight.shape[1])
    smooth = weight if scales is None else weight * scales
    rounded = smooth if weight_scheme is None else round_trip(smooth, weight_scheme)
    wrong = total = 0.0
    for x in inputs:
        divided = x if scales is None else x / scales
        x_hat = divided if input_scheme is None else round_trip(divided, input_scheme)
        y = (x @ weight.T).double()
        wrong += float((y - (x_hat @ rounded.T).double()).square().sum())
        total += float(y.square().sum())
    if not total:
        raise ValueError("inputs: expected outputs that are not all zero")
    return wrong / total


def search_alpha(
    inputs: Sequence[Tensor],
    weight: Tensor,
    weight_scheme: Scheme | None,
    input_scheme: Scheme | None,
    *,
    maxima: Tensor | None = None,
    alphas: Sequence[float] = ALPHAS,
) -> tuple[float, Tensor]:
    """The exponent of a grid whose smoothing gives the least `output_error`, and the scales (in,).

    Args:
        inputs, weight, weight_scheme, input_scheme: as in `output_error`.
        maxima: (in,) in place of the largest magnitudes over all inputs.
        alphas: the grid, as DiTAS has 0, 0.05, … 1.

    Raises:
        ValueError: an empty grid; as `output_error` and `smoothing_scales`.
    """
    if not alphas:
        raise ValueError("alphas: expected at least one, got none")
    if maxima is None:
        if not inputs:
            raise ValueError("inputs: expected at least one tensor, got none")
        maxima = torch.stack([x.reshape(-1, x.shape[-1]).abs().amax(0) for x in inputs]).amax(0)
    tried = [(alpha, smoothing_scales(maxima, weight, alpha)) for alpha in alphas]
    return min(tried, key=lambda t: output_error(inputs, weight, t[1], weight_scheme, input_scheme))


@torch.no_grad()
def fold(model: nn.Module, before: str, after: str | Sequence[str], scales: Tensor) -> nn.Module:
    """Divide what one module gives out by a scale per channel, multiply what the next ones read; in place.

    The function stays as it was, up to rounding, if nothing stands between the modules but what commutes with
    positive scales of single channels: nothing, a ReLU, dropout in evaluation mode.

    Args:
        model: any module.
        before: name of an `nn.LayerNorm` with weights over one axis, or of an `nn.Linear`.
        after: name, or names, of all `nn.Linear` that read its outputs.
        scales: (channels,), positive.

    Returns:
        The model.

    Raises:
        TypeError: a module of another kind.
        ValueError: an unknown name, or one twice; channels that do not fit; scales that are not finite and
            positive; a layer norm without weights; a weight with a parametrization. The model is unchanged
            then.

    >>> net = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 1))
    >>> x = torch.tensor([[1.0, 3.0]])
    >>> y = net(x)
    >>> torch.allclose(fold(net, "0", "1", torch.tensor([8.0, 0.5]))(x), y)
    True
    """
    names = [after] if isinstance(after, str) else list(after)
    known = dict(model.named_modules())
    if len({before, *names}) < 1 + len(names) or not names:
        raise ValueError(f"after: expected names that differ from each other and {before!r}, got {names}")
    for name in [before, *names]:
        if name not in known:
            raise ValueError(f"model: expected a module {name!r}, found {[n for n in known if n]}")
    first, readers = known[before], [known[name] for name in names]
    if not isinstance(first, (nn.LayerNorm, nn.Linear)):
        raise TypeError(f"{before!r}: expected nn.LayerNorm or nn.Linear, got {type(first).__name__}")
    for name, module in zip(names, readers, strict=True):
        if not isinstance(module, nn.Linear):
            raise TypeError(f"{name!r}: expected nn.Linear, got {type(module).__name__}")
    if isinstance(first, nn.LayerNorm) and (first.weight is None or first.weight.ndim != 1):
        raise ValueError(f"{before!r}: expected a layer norm with weights over one axis")
    count = first.weight.shape[0]
    for name, module in zip([before, *names], [first, *readers], strict=True):
        if original(module) is not module.weight:
            raise ValueError(f"{name!r}: expected a weight without parametrization")
        if module is not first and module.in_features != count:
            raise ValueError(
                f"{name!r}: expected {count} inputs, as {before!r} gives, got {module.in_features}"
            )
    _check_scales(scales, count)
    first.weight.div_(scales if first.weight.ndim == 1 else scales[:, None])
    if first.bias is not None:
        first.bias.div_(scales)
    for module in readers:
        module.weight.mul_(scales)
    return model


def _check_scales(scales: Tensor, count: int) -> None:
    check_values(scales, "scales")
    if tuple(scales.shape) != (count,):
        raise ValueError(f"scales: expected shape ({count},), got {tuple(scales.shape)}")
    if (scales <= 0).any():
        raise ValueError(f"scales: expected positive numbers, got {float(scales.min())}")
