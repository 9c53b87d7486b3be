"""Weights as products of two thin matrices: the best by weights, the best by what the layer does to its data.

The truncated SVD is the best rank-r approximation of a matrix (Eckart–Young–Mirsky). What matters to a
layer is not its matrix but XWᵀ: with the Gram matrix G = XᵀX of its inputs, the squared change is
tr((W − AB) G (W − AB)ᵀ), and the best A and B follow from the SVD of W G^½.

Chapter: `chapters/pruning/03_low_rank.ipynb`.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from layerlab.pruning._matrices import check_gram, check_rank
from layerlab.pruning.utilized import project as project
from layerlab.pruning.utilized import subspace as subspace
from layerlab.pruning.utilized import utilized_rank as utilized_rank

Ranks = Mapping[str, int | tuple[int, int]]


def root(gram: Tensor) -> Tensor:
    """The symmetric square root S of a Gram matrix, G = SS; eigenvalues below zero by rounding count as zero.

    >>> root(torch.diag(torch.tensor([4.0, 9.0, 0.0])))
    tensor([[2., 0., 0.],
            [0., 3., 0.],
            [0., 0., 0.]], dtype=torch.float64)
    """
    values, vectors = torch.linalg.eigh(check_gram(gram, len(gram)))
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def svd(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation AB of a weight by rank: its truncated SVD, the singular values shared evenly.

    The spectral norm of the error is singular value r + 1, its squared Frobenius norm the sum of the squares
    of all further ones (Eckart and Young).

    Args:
        weight: (out, in) or (out, in, kh, kw), which is flattened to (out, in·kh·kw).
        rank: r, 1 … min(out, in).

    Returns:
        A (out, r) and B (r, in), in the weight's type.

    Raises:
        ValueError: a rank out of range, a weight that is not finite or has one axis.

    >>> A, B = svd(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 1)
    >>> (A @ B).abs()
    tensor([[3., 0.],
            [0., 0.]])
    """
    U, S, V = torch.linalg.svd(check_rank(weight, rank), full_matrices=False)
    half = S[:rank].sqrt()
    return (U[:, :rank] * half).to(weight.dtype), (half[:, None] * V[:rank]).to(weight.dtype)


def activation_svd(weight: Tensor, gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The factors that change what a layer does to its data the least: minimise ‖X(W − AB)ᵀ‖².

    With S the symmetric root of G = XᵀX the squared change is ‖(W − AB)S‖², so AB·S has to be the truncated
    SVD of WS. Its left singular vectors U give AB = U Uᵀ W, with no inverse of S: inputs that never occur
    (G singular) need no care. The change equals the sum of the squares of the further singular values of WS.

    Args:
        weight: (out, in) or (out, in, kh, kw).
        gram: XᵀX, (in, in) or (in·kh·kw, in·kh·kw).
        rank: r, 1 … min(out, in).

    Returns:
        A (out, r), with orthonormal columns, and B (r, in), in the weight's type.

    Raises:
        ValueError: as `svd`; a Gram matrix of another shape or not finite.

    >>> W = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> A, B = activation_svd(W, torch.diag(torch.tensor([0.0, 5.0])), 1)  # the first input is always zero
    >>> (A @ B).abs()
    tensor([[0., 0.],
            [0., 1.]])
    """
    W = check_rank(weight, rank)
    S = root(check_gram(gram, W.shape[1]))
    U = torch.linalg.svd(W @ S, full_matrices=False).U[:, :rank]
    return U.to(weight.dtype), (U.T @ W).to(weight.dtype)


def change(weight: Tensor, approximation: Tensor, gram: Tensor) -> float:
    """‖X(W − Ŵ)ᵀ‖² / ‖XWᵀ‖² from the Gram matrix of the inputs: how much of the output is lost.

    >>> change(torch.eye(2), torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([3.0, 1.0])))
    0.25
    """
    W = weight.detach().double().flatten(1)
    G = check_gram(gram, W.shape[1])
    E = W - approximation.detach().double().flatten(1)
    return (((E @ G) * E).sum() / ((W @ G) * W).sum()).item()


def stored(shape: tuple[int, ...], rank: int, slices: int = 1) -> int:
    """Numbers in a pair of factors: r·(slices·out + in·kh·kw), where each slice of the inputs has rank r.

    >>> stored((10, 20), 3)
    90
    """
    return rank * (slices * shape[0] + _columns(shape))


def rank_for(shape: tuple[int, ...], share: float) -> int:
    """The largest rank whose factors hold at most a share of the weight's numbers.

    Raises:
        ValueError: a share outside (0, 1], or too small for rank 1.

    >>> rank_for((10, 20), 0.5)  # 100 numbers, 30 for each rank
    3
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: expected a number in (0, 1], got {share}")
    total = shape[0] * _columns(shape)
    rank = int(share * total + 1e-9) // stored(shape, 1)
    if rank < 1:
        raise ValueError(f"share: expected at least {stored(shape, 1) / total:.4f} for {shape}, got {share}")
    return rank


def _columns(shape: tuple[int, ...]) -> int:
    return torch.Size(shape[1:]).numel()


class SlicedLinear(nn.Module):
    """Each of k slices of the inputs gets r outputs of its own: (…, in) to (…, k·r); a grouped convolution
    for vectors.

    Args:
        weight: (k, r, in / k).
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in) to (…, k·r)."""
        k, r, width = self.weight.shape
        rows = x.reshape(-1, k, width).transpose(0, 1)  # (k, rows, in / k)
        y = torch.bmm(rows, self.weight.transpose(1, 2))  # (k, rows, r)
        return y.transpose(0, 1).reshape(*x.shape[:-1], k * r)


def factors(
    weight: Tensor, rank: int, *, slices: int = 1, gram: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The factors of each slice of the inputs: A (out, k·r) side by side, and k matrices B (r, in / k).

    Raises:
        ValueError: as `svd` and `activation_svd`; slices that do not divide the input channels.
    """
    if slices < 1 or weight.shape[1] % slices:
        raise ValueError(f"slices: expected a divisor of {weight.shape[1]} input channels, got {slices}")
    parts = weight.detach().flatten(1).chunk(slices, dim=1)
    if gram is None:
        pairs = [svd(part, rank) for part in parts]
    else:
        if gram.shape != (n := weight[0].numel(), n):
            raise ValueError(f"gram: expected shape {(n, n)}, got {tuple(gram.shape)}")
        width = n // slices
        blocks = [gram[i : i + width, i : i + width] for i in range(0, n, width)]
        pairs = [activation_svd(part, block, rank) for part, block in zip(parts, blocks, strict=True)]
    return torch.cat([A for A, _ in pairs], 1), [B for _, B in pairs]


def factorize(model: nn.Module, ranks: Ranks, *, grams: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A copy in which layers are pairs of layers: the first to r numbers, the second from them.

    `nn.Linear` becomes `Sequential(Linear(in, r, no bias), Linear(r, out))`, `nn.Conv2d` a k×k convolution to
    r channels and a 1×1 convolution. With slices (k, r) the first is grouped into k.

    Args:
        model: not modified; masks are taken as zeros.
        ranks: by key of a weight a rank, or (slices, rank) as `ranks.alds` gives; other layers stay.
        grams: from `layerlab.activations.gram`: factors by activations in place of weights. With slices, each
            slice by its own block.

    Raises:
        ValueError: an unknown key, a layer that is shared or is no plain `nn.Linear` or `nn.Conv2d`, a Gram
            matrix missing; as `svd`.

    >>> factorize(nn.Sequential(nn.Linear(6, 4)), {"0.weight": 2})[0]
    Sequential(
      (0): Linear(in_features=6, out_features=2, bias=False)
      (1): Linear(in_features=2, out_features=4, bias=True)
    )
    """
    small = copy.deepcopy(model)
    modules = dict(small.named_modules(remove_duplicate=False))
    pairs: dict[str, nn.Module] = {}
    for key, rank in ranks.items():
        path, _, last = key.rpartition(".")
        layer = modules.get(path)
        plain = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        if last != "weight" or not plain:
            raise ValueError(f"ranks: expected keys of nn.Linear and ungrouped nn.Conv2d, got {key!r}")
        shared = [n for n, m in modules.items() if n != path and getattr(m, "weight", None) is layer.weight]
        if shared and not parametrize.is_parametrized(layer):
            raise ValueError(f"ranks[{key!r}]: expected a weight of its own, it is shared with {shared}")
        if grams is not None and key not in grams:
            raise ValueError(f"grams: expected a Gram matrix for {key!r}, got {sorted(grams)}")
        slices, r = rank if isinstance(rank, tuple) else (1, rank)
        try:
            A, B = factors(layer.weight, r, slices=slices, gram=None if grams is None else grams[key])
        except ValueError as error:
            raise ValueError(f"ranks[{key!r}]: {error}") from error
        pairs[path] = _pair(layer, A, B)
    for path, pair in pairs.items():
        if not path:
            return pair
        parent, _, name = path.rpartition(".")
        setattr(modules[parent], name, pair)
    return small


def _pair(layer: nn.Linear | nn.Conv2d, A: Tensor, B: list[Tensor]) -> nn.Sequential:
    """The two layers that hold the factors."""
    inner, bias = A.shape[1], layer.bias is not None
    like = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        first = SlicedLinear(torch.stack(B))
        if len(B) == 1:
            first = nn.utils.skip_init(nn.Linear, layer.in_features, inner, bias=False, **like)
            first.weight.data.copy_(B[0])
        second = nn.utils.skip_init(nn.Linear, inner, layer.out_features, bias=bias, **like)
    else:
        same = {
            n: getattr(layer, n) for n in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        }
        first = nn.utils.skip_init(
            nn.Conv2d, layer.in_channels, inner, groups=len(B), bias=False, **same, **like
        )
        first.weight.data.copy_(torch.cat(B).view_as(first.weight))
        second = nn.utils.skip_init(nn.Conv2d, inner, layer.out_channels, 1, bias=bias, **like)
    second.weight.data.copy_(A.view_as(second.weight))
    if bias:
        second.bias.data.copy_(layer.bias.detach())
    return nn.Sequential(first, second).train(layer.training)
