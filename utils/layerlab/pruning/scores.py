"""Scores: how much each weight is worth; higher = keep.

Every function takes weights by key, as `layerlab.pruning.masks.prunable` lists them, and returns tensors of
the same keys and shapes for `unstructured`, `n_of_m` or `allocate.from_scores`.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from layerlab.activations import check_inputs
from layerlab.layers import layers_of
from layerlab.pruning._checks import check_gram, check_weights
from layerlab.pruning.second_order import inverse_hessian
from layerlab.train import evaluating

Scores = dict[str, Tensor]


def magnitude(weights: Mapping[str, Tensor]) -> Scores:
    """|w| (Han et al., 2015).

    >>> magnitude({"a": torch.tensor([[-2.0, 1.0]])})
    {'a': tensor([[2., 1.]])}
    """
    check_weights(weights)
    return {key: weight.abs() for key, weight in weights.items()}


def lamp(weights: Mapping[str, Tensor]) -> Scores:
    """w² / (sum of squares of the layer's weights that are no smaller), float64 (LAMP; Lee et al., 2021).

    The largest weight of each layer scores exactly 1, so one threshold over all layers never empties one. Of
    equal weights the first counts as the larger. A layer of zeros scores 0.

    >>> lamp({"a": torch.tensor([[1.0, -3.0, 2.0]])})["a"]
    tensor([[0.0714, 1.0000, 0.3077]], dtype=torch.float64)
    """
    check_weights(weights)
    out = {}
    for key, weight in weights.items():
        size = weight.double().abs().flatten()
        squares, order = (
            (size / size.max().clamp(min=torch.finfo(torch.float64).tiny))
            .square()
            .sort(descending=True, stable=True)
        )
        score = torch.empty_like(squares)
        score[order] = squares / squares.cumsum(0).clamp(min=torch.finfo(torch.float64).tiny)
        out[key] = score.view(weight.shape)
    return out


def wanda(weights: Mapping[str, Tensor], grams: Mapping[str, Tensor]) -> Scores:
    """|w_ij| · ‖x_j‖, float64: a weight times the norm of the input that it reads (Sun et al., 2024, eq. 1).

    The paper compares within each output unit: `unstructured(…, per="row")`.

    Args:
        weights: (out, in, …) by key.
        grams: XᵀX of each layer's inputs, (d, d) with d = in · height · width of the kernel, as
            `layerlab.activations.gram` gives them; of it the diagonal is used.

    Raises:
        ValueError: a Gram matrix is missing, has another shape, or is not finite.

    >>> wanda({"a": torch.tensor([[-2.0, 1.0]])}, {"a": torch.diag(torch.tensor([1.0, 9.0]))})["a"]
    tensor([[2., 3.]], dtype=torch.float64)
    """
    _check_grams(weights, grams)
    return {
        key: (w.double().abs().flatten(1) * grams[key].double().diagonal().clamp(min=0).sqrt()).view(w.shape)
        for key, w in weights.items()
    }


def obs(weights: Mapping[str, Tensor], grams: Mapping[str, Tensor], damp: float = 0.01) -> Scores:
    """w_ij² / [H⁻¹]_jj with H = XᵀX + damping, float64: optimal brain surgeon (Hassibi & Stork, 1992).

    What removing this one weight adds to the layer's squared error ‖XWᵀ − XW'ᵀ‖² after the best update of the
    others. An input that is always zero scores 0.

    Args:
        weights: (out, in, …) by key.
        grams: as for `wanda`.
        damp: added to the diagonal, as a share of its mean.

    Raises:
        ValueError: as `wanda`; `damp` is negative; H is singular.
    """
    _check_grams(weights, grams)
    out = {}
    for key, weight in weights.items():
        scale = 1 / inverse_hessian(grams[key], damp).diagonal()
        scale = torch.where(grams[key].diagonal() > 0, scale, 0)
        out[key] = (weight.double().flatten(1).square() * scale).view(weight.shape)
    return out


def gradient(weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Scores:
    """|w · ∂L/∂w|: the first-order change of the loss when the weight goes (Molchanov et al., 2019).

    Args:
        weights: by key.
        gradients: of the same keys and shapes, from `gradients`.

    Raises:
        ValueError: a gradient is missing, has another shape, or is not finite.
    """
    check_weights(weights)
    for key, weight in weights.items():
        if key not in gradients or gradients[key].shape != weight.shape:
            found = tuple(gradients[key].shape) if key in gradients else "none"
            raise ValueError(f"gradients[{key!r}]: expected shape {tuple(weight.shape)}, got {found}")
        if not torch.isfinite(gradients[key]).all():
            raise ValueError(f"gradients[{key!r}]: expected finite values, got NaN or infinity")
    return {key: (weight * gradients[key]).abs() for key, weight in weights.items()}


def gradients(model: nn.Module, X: Tensor, y: Tensor, *, batch_size: int = 256) -> dict[str, Tensor]:
    """Gradient of the mean cross-entropy in evaluation mode, by key of the prunable weights.

    Args:
        model: maps (N, …) to logits (N, classes); not modified, its `.grad` neither.
        X: inputs (N, …).
        y: labels (N,), int64.
        batch_size: inputs per backward pass.

    Raises:
        ValueError: no examples, NaN, or X and y differ in length; the model has no prunable weights.
    """
    check_inputs(X, batch_size)
    if len(X) != len(y):
        raise ValueError(f"X and y: expected equal lengths, got {len(X)} and {len(y)}")
    names = {id(p): name for name, p in model.named_parameters()}
    own = {}
    for key, users in layers_of(model).items():
        module = users[0][1]
        steps = getattr(module, "parametrizations", {})
        own[key] = steps["weight"].original if "weight" in steps else module.weight
    state = {names[id(p)]: p.detach().requires_grad_() for p in own.values()}
    total = [torch.zeros_like(p) for p in state.values()]
    with evaluating(model), torch.enable_grad():
        for x, labels in zip(X.split(batch_size), y.split(batch_size), strict=True):
            loss = F.cross_entropy(functional_call(model, state, (x,)), labels, reduction="sum") / len(X)
            found = torch.autograd.grad(loss, list(state.values()), materialize_grads=True)
            total = [t + g for t, g in zip(total, found, strict=True)]
    return dict(zip(own, total, strict=True))


def random(weights: Mapping[str, Tensor], seed: int) -> Scores:
    """Uniform numbers in [0, 1), float32: the control without which no other score says much."""
    check_weights(weights)
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.rand(w.shape, generator=generator).to(w.device) for key, w in weights.items()}


def _check_grams(weights: Mapping[str, Tensor], grams: Mapping[str, Tensor]) -> None:
    check_weights(weights)
    for key, weight in weights.items():
        if key not in grams:
            raise ValueError(f"grams: expected the keys {list(weights)}, got none for {key!r}")
        check_gram(grams[key], weight[0].numel(), f"grams[{key!r}]")
