"""A weight as a small dense matrix times a sparse one: each input uses a few of r shared columns.

Truncated SVD lets every input mix the same r directions. With s of r directions for each input, chosen for
it, the same number of values spans more (Chand et al., 2023, "DSFormer"). What has to be stored besides is
which s: index bits.

Chapter: `chapters/pruning/03_low_rank.ipynb`. The codes are found by orthogonal matching pursuit, the
dictionary by least squares (the method of optimal directions).
"""

import math

import torch
from torch import Tensor

from layerlab.pruning._matrices import check_rank


def pursue(D: Tensor, W: Tensor, nonzeros: int) -> Tensor:
    """Orthogonal matching pursuit for all columns at once: S with few non-zeros per column, DS near W.

    Each column takes the column of D that is most aligned with what is left of it, and solves anew for all
    that it has.

    Args:
        D: dictionary (out, r).
        W: (out, in).
        nonzeros: s, 1 … min(out, r).

    Returns:
        S (r, in) with at most s non-zeros in each column.

    Raises:
        ValueError: D and W differ in height, or nonzeros is out of range.

    >>> pursue(torch.eye(3), torch.tensor([[1.0], [5.0], [-2.0]]), 2).T
    tensor([[ 0.,  5., -2.]])
    """
    out, r = D.shape
    if W.ndim != 2 or len(W) != out:
        raise ValueError(f"W: expected {out} rows, as D has, got shape {tuple(W.shape)}")
    if not 1 <= nonzeros <= min(out, r):
        raise ValueError(f"nonzeros: expected an integer in 1..{min(out, r)}, got {nonzeros}")
    norms = D.norm(dim=0)
    norms = norms.where(norms > 0, 1.0)
    atoms = (D / norms).double()
    products, alike = W.double().T @ atoms, atoms.T @ atoms  # (in, r), (r, r)
    alike += 1e-12 * torch.eye(r, dtype=alike.dtype)  # two equal atoms must not stop the solver
    fit, chosen = products, torch.zeros(len(products), 0, dtype=torch.long)
    for _ in range(nonzeros):
        free = fit.abs().scatter(1, chosen, -1.0)  # an atom is taken once
        chosen = torch.cat([chosen, free.argmax(1, keepdim=True)], 1)
        support = alike[chosen[:, :, None], chosen[:, None, :]]  # (in, taken, taken)
        codes = torch.linalg.solve(support, products.gather(1, chosen))
        S = torch.zeros_like(products).scatter(1, chosen, codes)
        fit = products - S @ alike
    return (S.to(W.dtype) / norms).T


def dense_sparse(
    weight: Tensor,
    rank: int,
    nonzeros_per_column: int,
    *,
    steps: int = 20,
    init: str = "svd",
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Factors D (out, r) and S (r, in), with s non-zeros in each column of S, near a weight.

    Alternates between the codes (matching pursuit) and the dictionary (least squares), and returns the best
    pair that it meets. Started from the SVD with s = r it is the truncated SVD.

    Args:
        weight: (out, in) or (out, in, kh, kw), flattened.
        rank: r, columns of the dictionary; may exceed `out` with init="columns".
        nonzeros_per_column: s, 1 … min(out, r).
        steps: rounds of the two.
        init: "svd", the leading left singular vectors; "columns", random columns of the weight.
        seed: for "columns".

    Returns:
        D and S in the weight's type; D's columns have length 1 (or 0, where unused).

    Raises:
        ValueError: an argument out of range, an unknown init, a weight that is not finite.

    >>> D, S = dense_sparse(torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]), 2, 1)
    >>> (S != 0).sum(0).tolist(), (D @ S - torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])).norm() < 1e-5
    ([1, 1, 1], tensor(True))
    """
    W = check_rank(weight, 1)
    if steps < 0:
        raise ValueError(f"steps: expected at least 0, got {steps}")
    if init == "svd":
        check_rank(weight, rank)
        D = torch.linalg.svd(W, full_matrices=False).U[:, :rank]
    elif init == "columns":
        if not 1 <= rank <= W.shape[1]:
            raise ValueError(f"rank: expected an integer in 1..{W.shape[1]}, got {rank}")
        order = torch.randperm(W.shape[1], generator=torch.Generator().manual_seed(seed))
        D = W[:, order[:rank]]
    else:
        raise ValueError(f"init: expected 'svd' or 'columns', got {init!r}")
    S = pursue(D, W, nonzeros_per_column)
    best, error = (D, S), (W - D @ S).norm().item()
    for _ in range(steps):
        D = torch.linalg.lstsq(S.T, W.T, driver="gelsd").solution.T
        if (new := (W - D @ S).norm().item()) < error:
            best, error = (D, S), new
        S = pursue(D, W, nonzeros_per_column)
        if (new := (W - D @ S).norm().item()) < error:
            best, error = (D, S), new
    D, S = best
    norms = D.norm(dim=0)
    scale = norms.where(norms > 0, 1.0)
    return (D / scale).to(weight.dtype), (S * scale[:, None]).to(weight.dtype)


def stored_bits(
    shape: tuple[int, ...], rank: int, nonzeros_per_column: int, *, value_bits: float = 32
) -> float:
    """Bits of a dense-sparse pair: (out·r + in·s) values, and in·s·⌈log₂ r⌉ for which rows they lie in.

    >>> stored_bits((10, 20), 4, 2, value_bits=32)
    2640.0
    """
    out, columns = shape[0], torch.Size(shape[1:]).numel()
    values = columns * nonzeros_per_column
    return float((out * rank + values) * value_bits + values * math.ceil(math.log2(max(rank, 1))))
