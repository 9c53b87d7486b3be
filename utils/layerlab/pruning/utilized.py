"""Utilized rank: how many dimensions of a weight the data reach.

A weight can be of full rank and yet meet only a few directions: those in which its inputs vary. Projecting it
onto these (and onto those in which its outputs vary) leaves what the layer does to its data as it was, and
shows the rank that is in use (Garg et al., 2024, "Revealing the utilized rank of subspaces of learning in
neural networks").

Chapter: `chapters/pruning/03_low_rank.ipynb`.
"""

import torch
from torch import Tensor

from layerlab.pruning._matrices import check_gram, check_rank


def subspace(gram: Tensor, *, energy: float = 0.999) -> Tensor:
    """Orthonormal directions that hold a share of the energy: the fewest leading eigenvectors of XᵀX.

    The energy that is lost is the squared error of the projection, ‖X − XVVᵀ‖² ≤ (1 − energy)·‖X‖².
    Activations are not centred, since a weight acts on their mean too.

    Args:
        gram: XᵀX, (d, d).
        energy: in (0, 1].

    Returns:
        V (d, r), float64, r ≥ 1; at energy 1 the numerical range of the Gram matrix.

    Raises:
        ValueError: an energy outside (0, 1], a Gram matrix that is zero, not square or not finite.

    >>> subspace(torch.diag(torch.tensor([0.5, 99.5])), energy=0.99).abs()
    tensor([[0.],
            [1.]], dtype=torch.float64)
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy: expected a number in (0, 1], got {energy}")
    values, vectors = torch.linalg.eigh(check_gram(gram, len(gram)))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    if values[0] == 0:
        raise ValueError("gram: expected some activation that is not zero, got a Gram matrix of zeros")
    values = values.where(values > values[0] * len(gram) * torch.finfo(torch.float64).eps, 0.0)
    share = values.cumsum(0) / values.sum()
    count = int((share < energy * (1 - 1e-12)).sum()) + 1
    return vectors[:, : min(count, int((values > 0).sum()))]


def project(weight: Tensor, U: Tensor | None, V: Tensor) -> Tensor:
    """U Uᵀ W V Vᵀ: the part of a weight that reads the directions V and writes the directions U.

    Args:
        weight: (out, in) or (out, in, kh, kw).
        U: orthonormal columns (out, r), or None to leave the outputs as they are.
        V: orthonormal columns (in·kh·kw, r).

    Raises:
        ValueError: U or V of another height.

    >>> project(torch.ones(2, 2), None, torch.tensor([[1.0], [0.0]]))
    tensor([[1., 0.],
            [1., 0.]])
    """
    W = check_rank(weight, 1)
    for name, basis, size in (("U", U, W.shape[0]), ("V", V, W.shape[1])):
        if basis is not None and (basis.ndim != 2 or len(basis) != size):
            raise ValueError(f"{name}: expected shape ({size}, r), got {tuple(basis.shape)}")
    W = W @ V.double() @ V.double().T
    if U is not None:
        W = U.double() @ (U.double().T @ W)
    return W.to(weight.dtype).view_as(weight)


def utilized_rank(
    weight: Tensor, gram_in: Tensor, *, energy: float = 0.999, gram_out: Tensor | None = None
) -> int:
    """Rank of the weight after its projection onto what its data use.

    Args:
        weight: (out, in) or (out, in, kh, kw).
        gram_in: XᵀX of the layer's inputs.
        energy: share of the energy that each subspace holds.
        gram_out: YᵀY of the outputs (out, out); W·gram_in·Wᵀ, the outputs without bias, by default.

    Raises:
        ValueError: as `subspace` and `project`.

    >>> gram = torch.diag(torch.tensor([1.0, 1.0, 0.0]))  # the third input is never used
    >>> utilized_rank(torch.eye(3), gram), int(torch.linalg.matrix_rank(torch.eye(3)))
    (2, 3)
    """
    W = check_rank(weight, 1)
    V = subspace(check_gram(gram_in, W.shape[1], "gram_in"), energy=energy)
    out = W @ gram_in.double() @ W.T if gram_out is None else check_gram(gram_out, len(W), "gram_out")
    U = subspace(out, energy=energy)
    return int(torch.linalg.matrix_rank(U.T @ W @ V))
