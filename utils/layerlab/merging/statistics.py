"""Merges that look at data first: how much each weight matters, and what each layer reads.

Fisher merging (Matena and Raffel, 2022) takes for every weight the mean over models, weighted by the
diagonal of their Fisher information: a model that does not care about a weight leaves it to the others.
RegMean (Jin et al., 2023) takes for every linear layer the weights whose outputs are closest to those of the
models, each on its own inputs: a least-squares problem that needs of a layer's inputs X only XᵀX.

Chapter: `chapters/merging/03_task_vectors.ipynb`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from layerlab.activations import check_inputs, names_of
from layerlab.merging._states import State, as_weights, check_states, wide
from layerlab.merging.task_vectors import average
from layerlab.train import check_state, evaluating


def fisher(
    model: nn.Module,
    X: Tensor,
    y: Tensor | None = None,
    *,
    state: Mapping[str, Tensor] | None = None,
    labels: Literal["true", "model"] = "model",
    head: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 32,
) -> State:
    """Diagonal of the Fisher information of a classifier, from the gradients of single examples.

    With `labels="model"` the mean over examples of Σ_c p_c (∂ log p_c / ∂θ)², the expectation over labels
    under the model's own predictions, as in Fisher merging (Matena and Raffel, 2022); it needs no labels and
    one backward pass per class. With `labels="true"` the empirical Fisher, (∂ log p_y / ∂θ)² at the given
    labels: cheaper, and close to zero where the model fits them.

    Args:
        model: maps (N, …) to logits (N, classes), or to what `head` reads; run in evaluation mode.
        X: inputs (N, …).
        y: labels (N,), int64; for `labels="true"`.
        state: weights to use in place of the model's own.
        labels: over which labels the squared gradients are averaged.
        head: from the model's outputs (N, …) to logits, for an encoder; its weights count as constants.
        batch_size: examples whose gradients are held at once, each as large as the model.

    Returns:
        For each parameter, under all its names, a tensor of its shape. Buffers have none.

    Raises:
        ValueError: no examples or NaN; labels missing or not int64 (N,); unknown `labels`; `state` that does
            not fit.

    >>> model = nn.Linear(1, 2, bias=False)
    >>> _ = nn.init.zeros_(model.weight)  # p = 1/2: the Fisher information is p (1 − p) x² = x² / 4
    >>> fisher(model, torch.tensor([[2.0], [4.0]]))["weight"].flatten()
    tensor([2.5000, 2.5000])
    """
    check_inputs(X, batch_size)
    if labels not in ("true", "model"):
        raise ValueError(f"labels: expected 'true' or 'model', got {labels!r}")
    if labels == "true" and (y is None or y.shape != (len(X),) or y.dtype != torch.int64):
        got = "none" if y is None else f"{tuple(y.shape)} and {y.dtype}"
        raise ValueError(f"y: expected class numbers, shape ({len(X)},) and int64, got {got}")
    if state is not None:
        check_state(model, state)
    values = model.state_dict() if state is None else state
    names = names_of(model)
    parameters = {name: values[name].detach() for name in names}
    buffers = {k: values.get(k, v) for k, v in model.named_buffers()}

    def log_p(weights: State, x: Tensor, label: Tensor) -> Tensor:
        out = functional_call(model, (weights, buffers), (x[None],))
        return -F.cross_entropy(out if head is None else head(out), label[None])

    gradients = vmap(grad_and_value(log_p), (None, 0, 0))
    total = {name: torch.zeros_like(wide(value)) for name, value in parameters.items()}
    with evaluating(model), sdpa_kernel(SDPBackend.MATH):  # the fused kernels cannot be mapped
        with torch.no_grad():
            out = functional_call(model, (parameters, buffers), (X[:1],))
            classes = (out if head is None else head(out)).shape[-1]
        for start in range(0, len(X), batch_size):
            x = X[start : start + batch_size]
            if labels == "true":
                rounds = [y[start : start + batch_size]]
            else:
                rounds = [torch.full((len(x),), c, device=x.device) for c in range(classes)]
            for label in rounds:
                squares, value = gradients(parameters, x, label)
                weight = value.detach().exp() if labels == "model" else torch.ones_like(value)
                for name, gradient in squares.items():
                    gradient = wide(gradient.detach()).square()
                    total[name] += torch.tensordot(weight.to(gradient), gradient, 1)
    return {alias: total[name] / len(X) for name, aliases in names.items() for alias in aliases}


def fisher_merge(
    models: Sequence[Mapping[str, Tensor]],
    fishers: Sequence[Mapping[str, Tensor]],
    *,
    weights: Sequence[float] | Tensor | None = None,
    eps: float = 1e-6,
    normalize: bool = False,
) -> State:
    """Mean of models weighted by their Fisher information, Σ F_t θ_t / Σ F_t for every weight.

    Entries without Fisher information (buffers) are averaged; integer entries come from the first model.

    Args:
        models: T state dicts.
        fishers: T results of `fisher`.
        weights: one number per model by which its Fisher information is multiplied.
        eps: added to every F, so that weights that matter to no model are averaged; the larger, the closer
            to `average`.
        normalize: divide each model's F by its length ‖F‖, so that none decides because its gradients are
            larger everywhere, as fusion-bench does unless told otherwise.

    Raises:
        ValueError: no models; models that differ in keys, shapes or types; not one Fisher per model; a Fisher
            with an unknown key, of another shape, negative or not finite; weights or eps below 0.
    """
    check_states(models, "models")
    if len(fishers) != len(models):
        raise ValueError(f"fishers: expected one per model, got {len(fishers)} for {len(models)} models")
    given = as_weights(weights, len(models))
    if given is not None and (given < 0).any():
        raise ValueError(f"weights: expected none below 0, got {given.tolist()}")
    if not eps >= 0:
        raise ValueError(f"eps: expected a number of at least 0, got {eps}")
    new = average(models)
    for t, information in enumerate(fishers):
        if information.keys() != fishers[0].keys():
            odd = sorted(information.keys() ^ fishers[0].keys())
            raise ValueError(f"fishers[{t}]: expected the keys of fishers[0], they differ in {odd[:5]}")
        for key, value in information.items():
            if key not in models[0] or value.shape != models[0][key].shape:
                expected = tuple(models[0][key].shape) if key in models[0] else "a key of the models"
                raise ValueError(
                    f"fishers[{t}][{key!r}]: expected {expected}, got a tensor of shape {tuple(value.shape)}"
                )
            if not torch.isfinite(value).all() or (value < 0).any():
                raise ValueError(f"fishers[{t}][{key!r}]: expected finite values of at least 0, got others")
    factors = torch.ones(len(models), dtype=torch.float64) if given is None else given
    if normalize:
        lengths = [sum(v.double().square().sum() for v in f.values()) ** 0.5 for f in fishers]
        factors = factors / (torch.stack(lengths) + eps)
    for key in fishers[0]:
        F_t = torch.stack([c * (f[key].double() + eps) for c, f in zip(factors, fishers, strict=True)])
        theta = torch.stack([m[key].double() for m in models])
        mean = (F_t * theta).sum(0) / F_t.sum(0)
        new[key] = torch.where(F_t.sum(0) > 0, mean.to(new[key].dtype), new[key])
    return new


def regmean(
    models: Sequence[Mapping[str, Tensor]], grams: Sequence[Mapping[str, Tensor]], *, shrink: float = 0.9
) -> State:
    """RegMean (Jin et al., 2023): every layer with a Gram matrix by least squares, everything else averaged.

    Of all weights W (units, d) of a layer, (Σ W_t G_t)(Σ G_t)⁻¹ minimises Σ_t ‖X_t Wᵀ − X_t W_tᵀ‖². Where the
    inputs leave W undetermined (units that are never active) it is the average. Biases are averaged.

    Args:
        models: T state dicts; integer entries come from the first.
        grams: T results of `gram`, each of a model on its own task.
        shrink: factor on the off-diagonal entries of each G; 1 is exact least squares, 0 weighs each input on
            its own. The paper takes 0.9.

    Raises:
        ValueError: no models; models that differ in keys, shapes or types; not one set of Gram matrices per
            model; a Gram matrix with an unknown key, of a wrong shape or not finite; shrink outside [0, 1].
    """
    check_states(models, "models")
    if len(grams) != len(models):
        raise ValueError(f"grams: expected one set per model, got {len(grams)} for {len(models)} models")
    if not 0 <= shrink <= 1:
        raise ValueError(f"shrink: expected a number in [0, 1], got {shrink}")
    for t, matrices in enumerate(grams):
        if matrices.keys() != grams[0].keys():
            odd = sorted(matrices.keys() ^ grams[0].keys())
            raise ValueError(f"grams[{t}]: expected the keys of grams[0], they differ in {odd[:5]}")
        for key, G in matrices.items():
            d = models[0][key][0].numel() if key in models[0] and models[0][key].ndim > 1 else None
            if d is None or G.shape != (d, d):
                expected = "a key of the models with two axes or more" if d is None else (d, d)
                raise ValueError(
                    f"grams[{t}][{key!r}]: expected {expected}, got a tensor of shape {tuple(G.shape)}"
                )
            if not torch.isfinite(G).all():
                raise ValueError(f"grams[{t}][{key!r}]: expected finite values, got NaN or infinity")
    new = average(models)
    for key in grams[0]:
        G = torch.stack([g[key].double() for g in grams])  # (T, d, d)
        G = shrink * G + (1 - shrink) * torch.diag_embed(G.diagonal(dim1=1, dim2=2))
        W = torch.stack([m[key].double().flatten(1) for m in models])  # (T, units, d)
        mean = W.mean(0)
        # around the mean, so that directions which no input takes keep it
        change = ((W - mean) @ G).sum(0) @ torch.linalg.pinv(G.sum(0), hermitian=True)
        new[key] = (mean + change).view_as(new[key]).to(new[key].dtype)
    return new
