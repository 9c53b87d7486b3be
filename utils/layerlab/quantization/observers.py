"""Calibration: the ranges of what a network's layers read, gathered over batches."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from layerlab.activations import watch
from layerlab.layers import layers_of
from layerlab.quantization._values import check_finite
from layerlab.quantization.affine import By, from_range, least_error
from layerlab.quantization.scheme import Parameters, Scheme, check_how, check_scale_dtype, check_scheme

_BINS = 8192


class Observer:
    """Gathers the range and a histogram of values that come in batches; then `parameters` chooses a scale.

    The histogram has 8192 bins over [−L, L], L a power of two. Where a batch exceeds L, it doubles and bins
    are merged in pairs, so nothing but the batch at hand is kept. The range is exact; percentiles and squared
    errors are those of the histogram, in which a bin stands for the mean of its values.

    Args:
        scheme: with `group="tensor"`: a scale per input of a layer does not come out of its sum of products.

    Raises:
        TypeError: `scheme` is no `Scheme`.
        ValueError: another group.

    >>> observer = Observer(Scheme(8, symmetric=False, group="tensor"))
    >>> observer.update(torch.tensor([0.0, 1.0]))
    >>> observer.update(torch.tensor([-1.0, 4.1]))
    >>> observer.parameters()
    Parameters(scale=tensor(0.0200), zero=tensor(50, dtype=torch.int32))
    """

    def __init__(self, scheme: Scheme):
        check_scheme(scheme)
        if scheme.group != "tensor":
            raise ValueError(f"scheme: expected group='tensor' for activations, got {scheme.group!r}")
        self.scheme = scheme
        self.low, self.high = math.inf, -math.inf
        self.limit = 0.0
        self.counts = torch.zeros(_BINS, dtype=torch.float64)
        self.sums = torch.zeros(_BINS, dtype=torch.float64)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take in a batch of values of any shape.

        Raises:
            TypeError: no floating-point tensor.
            ValueError: no values, NaN or infinity. Nothing is taken in then.
        """
        check_finite(x)
        x = x.detach().flatten().to("cpu", torch.float64)
        low, high = (float(v) for v in x.aminmax())
        most = max(-low, high)
        if most > self.limit:
            limit = 2.0 ** math.ceil(math.log2(most))
            if self.limit:
                self._widen(round(math.log2(limit / self.limit)))
            self.limit = limit
        self.low, self.high = min(self.low, low), max(self.high, high)
        bins = ((x / (self.limit or 1.0) + 1) * (_BINS // 2)).long().clamp(max=_BINS - 1)
        self.counts += torch.bincount(bins, minlength=_BINS)
        self.sums += torch.bincount(bins, weights=x, minlength=_BINS)

    def _widen(self, doublings: int) -> None:
        for name in ("counts", "sums"):
            bins = getattr(self, name)
            for _ in range(doublings):
                wide = torch.zeros_like(bins)
                wide[_BINS // 4 : 3 * _BINS // 4] = bins.view(-1, 2).sum(1)
                bins = wide
            setattr(self, name, bins)

    def parameters(
        self, *, by: By = "range", percentile: float = 99.9, scale_dtype: torch.dtype = torch.float32
    ) -> Parameters:
        """Scale and zero point, both of shape (), as `affine.fit` chooses them.

        Raises:
            TypeError: `scale_dtype` is none that scales are kept in.
            ValueError: nothing was taken in; `by` or `percentile` unknown; a range that `scale_dtype` cannot
                hold.
        """
        check_how(by, percentile)
        check_scale_dtype(scale_dtype)
        if self.low > self.high:
            raise ValueError("observer: expected at least one update before, got none")
        low, high = self._percentile(percentile) if by == "percentile" else (self.low, self.high)
        low, high = (torch.tensor([v], dtype=torch.float64) for v in (low, high))
        if by == "mse":
            kept = self.counts > 0
            means = (self.sums[kept] / self.counts[kept])[None]
            found = least_error(means, self.counts[kept], low, high, self.scheme, scale_dtype)
        else:
            found = from_range(low, high, self.scheme, scale_dtype)
        if not torch.isfinite(found.scale).all():
            raise ValueError(
                f"observer: expected a range whose scale {scale_dtype} can hold, got {self.low}..{self.high}"
            )
        return Parameters(*(p.view(()) for p in found))

    def _percentile(self, percentile: float) -> tuple[float, float]:
        def at(counts: Tensor, start: float, share: float) -> float:
            """The edge below which that share of the counts lies, linear within a bin."""
            below = counts.cumsum(0)
            target = share * float(below[-1])
            i = min(int(torch.searchsorted(below, target)), len(counts) - 1)
            inside = (target - float(below[i] - counts[i])) / max(float(counts[i]), 1.0)
            return start + (i + inside) * self.limit / (_BINS // 2)

        half = _BINS // 2
        if self.scheme.symmetric:
            most = max(-self.low, self.high)
            high = min(at(self.counts[half:] + self.counts[:half].flip(0), 0.0, percentile / 100), most)
            return -high, high
        cut = (1 - percentile / 100) / 2
        low, high = (at(self.counts, -self.limit, share) for share in (cut, 1 - cut))
        return max(low, self.low), min(high, self.high)


@torch.no_grad()
def observe(
    model: nn.Module,
    X: Tensor,
    scheme: Scheme,
    *,
    by: By = "range",
    percentile: float = 99.9,
    scale_dtype: torch.dtype = torch.float32,
    state: Mapping[str, Tensor] | None = None,
    batch_size: int = 256,
) -> dict[str, Parameters]:
    """Scale and zero point for the input of every `nn.Linear` and `nn.Conv2d` that is called.

    Layers that share a weight share the parameters of their inputs.

    Args:
        model: run in evaluation mode; not modified.
        X: calibration inputs (N, …).
        scheme: with `group="tensor"`.
        by: as in `affine.fit`.
        percentile: as in `affine.fit`.
        scale_dtype: as in `affine.fit`.
        state: weights to use in place of the model's own.
        batch_size: inputs per forward pass.

    Returns:
        By the first key of each layer's weight, as the state dict names it without parametrizations.

    Raises:
        ValueError: no examples; NaN or infinity in them or, named by key, in what a layer reads; another
            group; `state` does not fit.
    """
    check_how(by, percentile)
    check_scale_dtype(scale_dtype)
    Observer(scheme)
    observers: dict[str, Observer] = {}

    def hook(key: str) -> Callable:
        def record(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            try:
                observers.setdefault(key, Observer(scheme)).update(args[0])
            except ValueError as error:
                raise ValueError(f"input of {key!r}: {error}") from error

        return record

    hooks = [(module, hook(key)) for key, users in layers_of(model).items() for _, module in users]
    watch(model, X, hooks, state=state, batch_size=batch_size)
    return {
        key: each.parameters(by=by, percentile=percentile, scale_dtype=scale_dtype)
        for key, each in observers.items()
    }
