"""Layer-wise relevance propagation: how much of a network's answer passes through each layer.

The logit of the target class is dealt out backwards, layer by layer, to what it was computed from, in
proportion to the contributions; nothing is lost but what biases contribute. Where layers are linear and what
bends them is held fixed (the gate of a GELU, the scale of a normalization, the weights of attention), the
relevance of a value a is a · ∂logit/∂a, so one backward pass computes it all.

Chapter: `chapters/quantization/02_using_the_hessian.ipynb`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from layerlab.activations import check_inputs
from layerlab.layers import layers_of
from layerlab.train import evaluating


class Relevance(NamedTuple):
    """Relevance of each input value (N, …), and of each value that a layer puts out, by the weight's key."""

    inputs: Tensor
    outputs: dict[str, Tensor]


def propagate(
    model: nn.Module, X: Tensor, y: Tensor, *, gamma: float = 0.0, epsilon: float = 0.0
) -> Relevance:
    """Deal the logit of each example's class out to what it was computed from.

    Of a linear layer z_k = Σ_j a_j w_jk + b_k, the input j gets Σ_k a_j w_jk / z_k · R_k: the rule LRP-0.
    With `gamma`, the contributions that have the sign of z_k count 1 + γ times, which calms what cancels;
    with `epsilon`, the denominator is z_k + ε · sign(z_k), and weak outputs pass less on. ReLU, max and mean
    pooling, BatchNorm in evaluation mode and sums pass on what they get; GELU by its gate Φ(a), LayerNorm and
    GroupNorm by their scale, attention by its weights, all held fixed; so queries and keys get none.

    Args:
        model: maps (N, …) to logits (N, classes); run in evaluation mode, not modified. Linear or of the
            operations above: with others, relevance is a · ∂logit/∂a and may not add up.
        X: inputs (N, …).
        y: classes (N,), int64.
        gamma, epsilon: of the rules, at least 0.

    Returns:
        Relevances. Without biases and `epsilon`, those of the inputs add up to the logits, and so do those of
        each layer that all paths lead through. Layers that share a weight are summed under its first key if
        their outputs have one shape; a layer that is not called has no key.

    Raises:
        ValueError: no examples or NaN; a number out of range; labels that do not fit.

    Source: Bach et al. (2015), eq. 56; γ: Montavon et al. (2019), with its signed form for inputs below zero;
    gates held fixed: Ali et al. (2022).

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, -1.0]]))
    >>> propagate(model, torch.tensor([[1.0, 2.0]]), torch.tensor([0])).inputs
    tensor([[ 3., -2.]])
    """
    check_inputs(X, 1)
    for name, value in (("gamma", gamma), ("epsilon", epsilon)):
        if not value >= 0:
            raise ValueError(f"{name}: expected a number of at least 0, got {value}")
    if y.shape != (len(X),) or y.dtype != torch.int64:
        raise ValueError(f"y: expected {len(X)} classes, int64, got {tuple(y.shape)} and {y.dtype}")
    found: dict[str, list[Tensor]] = {}
    handles = []
    for key, users in layers_of(model).items():
        for _, module in users:
            hook = _keep(found.setdefault(key, []))
            handles.append(module.register_forward_hook(hook))
    x = X.detach().clone().requires_grad_()
    try:
        with evaluating(model), torch.enable_grad(), _Linear(gamma, epsilon):
            logits = model(x)
    finally:
        for handle in handles:
            handle.remove()
    if logits.ndim != 2 or y.min() < 0 or y.max() >= logits.shape[1]:
        raise ValueError(f"y: expected classes of logits of shape {tuple(logits.shape)}, got up to {y.max()}")
    flat = [z for outputs in found.values() for z in outputs]
    answer = logits.gather(1, y[:, None]).sum()
    gradients = iter(torch.autograd.grad(answer, [x, *flat], allow_unused=True, materialize_grads=True))
    inputs = (x * next(gradients)).detach()
    each = {key: [(z * next(gradients)).detach() for z in zs] for key, zs in found.items() if zs}
    return Relevance(inputs, {key: torch.stack(rs).sum(0) if rs[1:] else rs[0] for key, rs in each.items()})


def contributions(
    model: nn.Module, X: Tensor, y: Tensor, *, gamma: float = 0.0, epsilon: float = 0.0
) -> dict[str, float]:
    """Of each layer, the sum of the absolute relevances of its outputs, mean over the examples.

    The plain sum is the logit itself for every layer that all paths lead through, so it cannot rank them.

    Args:
        model, X, y, gamma, epsilon: as in `propagate`.

    Raises:
        ValueError: as `propagate`.

    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, -1.0], [1.0, 1.0]]))
    >>> contributions(model, torch.tensor([[1.0, 2.0], [0.0, 2.0]]), torch.tensor([0, 1]))
    {'weight': 1.5}
    """
    outputs = propagate(model, X, y, gamma=gamma, epsilon=epsilon).outputs
    return {key: R.abs().flatten(1).sum(1).mean().item() for key, R in outputs.items()}


def _keep(outputs: list[Tensor]) -> Callable:
    return lambda module, args, z: outputs.append(z)


class _Linear(TorchFunctionMode):
    """While it is on, each operation has its usual value, and the gradient of one that is linear."""

    def __init__(self, gamma: float, epsilon: float):
        super().__init__()
        self.gamma, self.epsilon = gamma, epsilon

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (F.linear, F.conv2d) and (self.gamma or self.epsilon):
            return self._weighted(func, *args, **kwargs)
        rule = {
            F.gelu: _gelu,
            F.layer_norm: _layer_norm,
            F.group_norm: _group_norm,
            F.scaled_dot_product_attention: _attention,
        }.get(func, func)
        return rule(*args, **kwargs)

    def _weighted(self, func, x: Tensor, weight: Tensor, bias: Tensor | None = None, *args, **kwargs):
        def part(x, w, b):
            return func(x, w, b, *args, **kwargs)

        z = part(x, weight, bias)
        amplified = z
        if self.gamma:
            up, down = weight.clamp(min=0), weight.clamp(max=0)
            b_up, b_down = (None, None) if bias is None else (bias.clamp(min=0), bias.clamp(max=0))
            plus, minus = x.clamp(min=0), x.clamp(max=0)
            helps = part(plus, up, b_up) + part(minus, down, None)
            hinders = part(plus, down, b_down) + part(minus, up, None)
            amplified = z + self.gamma * torch.where(z > 0, helps, hinders)
        below = amplified + self.epsilon * torch.where(z < 0, -1.0, 1.0)
        share = torch.where(below == 0, 0, z / below).detach()
        passed = amplified * share
        return z.detach() + (passed - passed.detach())


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    with torch.no_grad():
        gate = torch.where(x == 0, 0.5, F.gelu(x, approximate=approximate) / x)
    return x * gate


def _layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    scale = (x.var(axes, unbiased=False, keepdim=True) + eps).rsqrt().detach()
    y = (x - x.mean(axes, keepdim=True)) * scale
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _group_norm(x, num_groups, weight=None, bias=None, eps=1e-5) -> Tensor:
    y = x.reshape(len(x), num_groups, -1)
    y = _layer_norm(y, y.shape[2:], eps=eps).view_as(x)
    shape = (1, -1, *[1] * (x.ndim - 2))
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


def _attention(query, key, value, *args, **kwargs) -> Tensor:
    """What is linear in the values is kept; the weights, which depend on the rest, are held fixed."""
    return F.scaled_dot_product_attention(query.detach(), key.detach(), value, *args, **kwargs)
