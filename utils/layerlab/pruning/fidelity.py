"""Subset fidelity: how well a layer is reconstructed from some of the channels that it reads.

A layer that reads channels x_c computes Σ_c W_c x_c. From a subset C alone, with the weights solved anew, the
best reconstruction is a least-squares problem, and all that it needs of the data is the Gram matrix
G = XᵀX of what the layer reads: no labels, no loss, no gradients (Kashyap et al., 2025, "ModHiFi").

Chapter: `chapters/pruning/02_is_it_the_weights.ipynb`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from layerlab.pruning._matrices import check_gram


def _prepare(weight: Tensor, gram: Tensor, channels: int | None) -> tuple[Tensor, Tensor, int, int]:
    """Matrix, Gram matrix, number of channels and entries per channel, after a check."""
    if weight.ndim < 2 or not torch.isfinite(weight).all():
        raise ValueError(f"weight: expected finite (out, in, …), got shape {tuple(weight.shape)}")
    W = weight.detach().double().flatten(1)
    n = weight.shape[1] if channels is None else channels
    if n < 1 or W.shape[1] % n:
        raise ValueError(f"channels: expected a divisor of {W.shape[1]} inputs, got {n}")
    return W, check_gram(gram, W.shape[1]), n, W.shape[1] // n


def _columns(subset: Sequence[int] | Tensor, n: int, block: int) -> Tensor:
    index = torch.as_tensor(subset).long()
    if index.ndim != 1 or len(index) == 0 or index.min() < 0 or index.max() >= n:
        raise ValueError(f"subset: expected channels in 0..{n - 1}, at least one, got {index.tolist()}")
    if len(index.unique()) < len(index):
        raise ValueError(f"subset: expected each channel once, got {index.tolist()}")
    return (index[:, None] * block + torch.arange(block)).flatten()


def compensate(
    weight: Tensor, gram: Tensor, subset: Sequence[int] | Tensor, *, channels: int | None = None
) -> Tensor:
    """The weights on a subset of channels that reconstruct the layer best: minimise ‖XWᵀ − X_C W_Cᵀ‖².

    Args:
        weight: the reader's, (out, in) or (out, in, kh, kw).
        gram: XᵀX of what it reads; may be singular (the smallest weights are taken).
        subset: the channels that stay.
        channels: number of channels, where it is not `in` (a flattened picture, attention heads): each owns a
            block of consecutive inputs.

    Returns:
        A weight of the same shape and type, zero on the other channels.

    Raises:
        ValueError: a subset that is empty, out of range or repeats; shapes that do not fit.

    >>> W, G = torch.tensor([[1.0, 1.0]]), torch.tensor([[4.0, 2.0], [2.0, 4.0]])
    >>> compensate(W, G, [0])
    tensor([[1.5000, 0.0000]])
    """
    W, G, n, block = _prepare(weight, gram, channels)
    C = _columns(subset, n, block)
    new = torch.zeros_like(W)
    new[:, C] = torch.linalg.lstsq(G[C][:, C], G[C] @ W.T, driver="gelsd").solution.T
    return new.to(weight.dtype).view_as(weight)


def fidelity(
    weight: Tensor, gram: Tensor, subset: Sequence[int] | Tensor, *, channels: int | None = None
) -> float:
    """Share of the layer's output that a subset of channels reconstructs, in [0, 1].

    1 − min ‖XWᵀ − X_C W_Cᵀ‖² / ‖XWᵀ‖², the minimum over all weights on the subset.

    Args and raises as `compensate`; ValueError too where the layer's output is zero.

    >>> fidelity(torch.tensor([[1.0, 1.0]]), torch.tensor([[4.0, 2.0], [2.0, 4.0]]), [0])
    0.75
    """
    W, G, _, _ = _prepare(weight, gram, channels)
    E = W - compensate(weight.double(), gram, subset, channels=channels).flatten(1)
    return 1 - ((E @ G * E).sum() / _energy(W, G)).item()


def _energy(W: Tensor, G: Tensor) -> Tensor:
    energy = (W @ G * W).sum()
    if not energy > 0:
        raise ValueError("weight: expected an output that is not zero, got zero on all inputs")
    return energy


def singleton_scores(weight: Tensor, gram: Tensor, *, channels: int | None = None) -> Tensor:
    """Fidelity of each channel alone, (channels,): the score that is optimal where channels are uncorrelated.

    >>> singleton_scores(torch.tensor([[3.0, 1.0]]), torch.eye(2))
    tensor([0.9000, 0.1000], dtype=torch.float64)
    """
    W, G, n, block = _prepare(weight, gram, channels)
    return _gains(W @ G, G, n, block) / _energy(W, G)


def _blocks(G: Tensor, n: int, block: int) -> Tensor:
    """The blocks on the diagonal, (n, block, block)."""
    return G.view(n, block, n, block).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def _gains(M: Tensor, G: Tensor, n: int, block: int) -> Tensor:
    """tr(M_c G_cc⁺ M_cᵀ) for each channel c: what of the output it alone explains."""
    M = M.view(-1, n, block)
    inverse = torch.linalg.pinv(_blocks(G, n, block), hermitian=True)
    return torch.einsum("onb,nbc,onc->n", M, inverse, M)


def select(
    weight: Tensor, gram: Tensor, size: int, *, channels: int | None = None, method: str = "backward"
) -> Tensor:
    """A subset of channels of high fidelity, chosen step by step.

    Args:
        weight: the reader's, (out, in) or (out, in, kh, kw).
        gram: XᵀX of what it reads.
        size: channels to keep.
        channels: as in `compensate`.
        method: "forward" adds the channel that helps most beside those chosen; "backward" drops the one that
            is missed least, from all; "single" takes the best by `singleton_scores`.

    Returns:
        Sorted channels, int64 (size,).

    Raises:
        ValueError: a size out of range, an unknown method, shapes that do not fit.

    >>> G = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.5]])  # channels 0 and 1 are copies
    >>> select(torch.ones(1, 3), G, 2), select(torch.ones(1, 3), G, 2, method="single")
    (tensor([1, 2]), tensor([0, 1]))
    """
    W, G, n, block = _prepare(weight, gram, channels)
    if not 1 <= size <= n:
        raise ValueError(f"size: expected an integer in 1..{n}, got {size}")
    if method == "single":
        order = singleton_scores(weight, gram, channels=channels).argsort(descending=True, stable=True)
        return order[:size].sort().values
    if method == "forward":
        return _forward(W, G, size, n, block)
    if method == "backward":
        return _backward(W, G, size, n, block)
    raise ValueError(f"method: expected 'backward', 'forward' or 'single', got {method!r}")


def _forward(W: Tensor, G: Tensor, size: int, n: int, block: int) -> Tensor:
    """Each step works on what the chosen channels leave: the Schur complement R of the Gram matrix."""
    R, chosen = G.clone(), []
    tiny = G.diagonal().max() * len(G) * 1e-12  # what is left of a channel that others explain is rounding
    for _ in range(size):
        usable = R.where(R.diagonal()[:, None] > tiny, 0.0).where(R.diagonal() > tiny, 0.0)
        gains = _gains(W @ usable, usable, n, block)
        gains[chosen] = -1.0
        best = int(gains.argmax())
        chosen.append(best)
        own = slice(best * block, (best + 1) * block)
        inverse = torch.linalg.pinv(usable[own, own], hermitian=True)
        R = usable - usable[:, own] @ inverse @ usable[own]
    return torch.tensor(sorted(chosen))


def _backward(W: Tensor, G: Tensor, size: int, n: int, block: int) -> Tensor:
    """Dropping channel c from the least-squares solution costs tr(W_c [H_cc]⁻¹ W_cᵀ), H = G⁻¹.

    As in the optimal brain surgeon, the weights and the inverse of the rest follow from those before.
    """
    damp = G.diagonal().mean() * 1e-9  # a singular Gram matrix has no inverse
    H = torch.linalg.inv(G + damp * torch.eye(len(G), dtype=G.dtype))
    W, left = W.clone(), torch.ones(n, dtype=torch.bool)
    for _ in range(n - size):
        columns = W.view(-1, n, block)[:, left]  # (out, left, block)
        blocks = _blocks(H, n, block)[left]
        losses = torch.einsum("onb,nbo->n", columns, torch.linalg.solve(blocks, columns.permute(1, 2, 0)))
        worst = int(left.nonzero()[losses.argmin()])
        left[worst] = False
        own = slice(worst * block, (worst + 1) * block)
        step = torch.linalg.solve(H[own, own], H[own])  # (block, d)
        W = W - W[:, own] @ step
        H = H - H[:, own] @ step
    return left.nonzero().flatten()
