"""What a network costs: parameters, multiply-adds, and bytes with the price of the indices.

Chapter: `chapters/pruning/03_low_rank.ipynb`. Multiply-adds come from `torch.utils.flop_counter`, which
counts two operations for each.
"""

import math
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from layerlab.train import evaluating


def _weights(model: nn.Module) -> Iterator[Tensor]:
    """Every parameter once, as it takes effect: a masked weight with its zeros."""
    lists = {m for m in model.modules() if isinstance(m, parametrize.ParametrizationList)}
    inside = {child for found in lists for child in found.modules()}
    seen: set[int] = set()
    for module in model.modules():
        if module in inside:
            continue
        if parametrize.is_parametrized(module):
            yield from (getattr(module, name).detach() for name in module.parametrizations)
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter.detach()


def parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones once; zeros count.

    >>> parameters(nn.Linear(3, 2))
    8
    """
    return sum(weight.numel() for weight in _weights(model))


def nonzero(model: nn.Module) -> int:
    """Number of parameters that are not zero; masks count.

    >>> layer = nn.Linear(3, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]]))
    >>> nonzero(layer)
    3
    """
    return sum(int(weight.count_nonzero()) for weight in _weights(model))


@torch.no_grad()
def multiply_adds(model: nn.Module, example: Tensor, *, sparse: bool = False) -> dict[str, int]:
    """Multiply-adds of one input's forward pass, by module, and their "total".

    Matrix products and convolutions count, those inside attention too; biases, norms and nonlinearities do
    not. A convolution counts every weight at every position, those at the padded border too.

    Args:
        model: run in evaluation mode; not modified.
        example: inputs (N, …); the first one is used.
        sparse: count only the non-zero weights of `nn.Linear` and `nn.Conv2d`, as if a kernel skipped the
            others. No dense kernel does.

    Returns:
        For each module that multiplies itself (not through its children), under its name ("" for a model
        that is one layer), and "total".

    Raises:
        ValueError: no example.

    >>> multiply_adds(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3))
    {'0': 12, '2': 8, 'total': 20}
    """
    if len(example) == 0:
        raise ValueError("example: expected at least one input, got none")
    counter, fast = FlopCounterMode(display=False), torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # fused kernels are not counted on a CPU
    try:
        with evaluating(model), sdpa_kernel(SDPBackend.MATH), counter:
            model(example[:1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    root = type(model).__name__
    totals = {
        "" if name == root else name.removeprefix(f"{root}."): sum(found.values())
        for name, found in counter.get_flop_counts().items()
        if name != "Global"
    }
    below = dict.fromkeys(totals, 0)
    for name, total in totals.items():
        while name:  # to the nearest module around it that was called; a ModuleList is not
            name = name.rpartition(".")[0]
            if name in below:
                below[name] += total
                break
    modules = dict(model.named_modules())
    counts = {}
    for name in (name for name in modules if name in totals):
        own = (totals[name] - below[name]) // 2
        if own:
            module = modules[name]
            if sparse and isinstance(module, (nn.Linear, nn.Conv2d)):
                weight = module.weight
                own = own // weight.numel() * int(weight.count_nonzero())
            counts[name] = own
    counts["total"] = sum(counts.values())
    return counts


def index_bits(kept: Tensor, index: str) -> int:
    """Bits that say where the kept values of a matrix lie.

    With n entries in `rows` × `columns`, of which k are kept:

    - "dense": 0; every entry is stored.
    - "bitmap": n, a bit for each entry.
    - "csr": k·⌈log₂ columns⌉ + (rows + 1)·⌈log₂(k + 1)⌉, a column for each value and where each row starts.
    - "coo": k·(⌈log₂ rows⌉ + ⌈log₂ columns⌉).
    - "2:4" or another n:m: n·⌈log₂ m⌉ for each m consecutive entries of a row, a place for each of n values
      (what NVIDIA's sparse tensor cores read for 2:4).

    Args:
        kept: mask, or weight whose zeros are not kept; (out, …), flattened to (out, ∏…).
        index: one of the above.

    Raises:
        ValueError: an unknown index; m does not divide the row; more than n of m are kept.

    >>> mask = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0]], dtype=torch.bool)
    >>> {index: index_bits(mask, index) for index in ("dense", "bitmap", "csr", "coo", "2:4")}
    {'dense': 0, 'bitmap': 8, 'csr': 12, 'coo': 9, '2:4': 8}
    """
    matrix = _matrix(kept)
    rows, columns = matrix.shape
    k = int(matrix.count_nonzero())
    if index == "dense":
        return 0
    if index == "bitmap":
        return matrix.numel()
    if index == "csr":
        return k * _bits(columns) + (rows + 1) * _bits(k + 1)
    if index == "coo":
        return k * (_bits(rows) + _bits(columns))
    n, m = _pattern(matrix, index)
    return matrix.numel() // m * n * _bits(m)


def stored_bytes(
    weight: Tensor | Mapping[str, Tensor], *, value_bits: float = 32, index: str = "bitmap"
) -> float:
    """Bytes of a sparse matrix: (stored values · value_bits + index bits) / 8.

    Stored values are the kept ones; all of them for "dense"; n of each m for "n:m", whether zero or not.

    Args:
        weight: mask, or weight whose zeros are not stored; or a dict of them, whose bytes are summed.
        value_bits: bits of a value; fractions are allowed.
        index: as for `index_bits`.

    Raises:
        ValueError: as `index_bits`; value_bits is not positive.

    >>> mask = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0]], dtype=torch.bool)
    >>> [stored_bytes(mask, value_bits=16, index=index) for index in ("dense", "bitmap", "csr", "2:4")]
    [16.0, 7.0, 7.5, 9.0]
    """
    if not value_bits > 0:
        raise ValueError(f"value_bits: expected a positive number, got {value_bits}")
    if isinstance(weight, Mapping):
        return sum(stored_bytes(w, value_bits=value_bits, index=index) for w in weight.values())
    bits = index_bits(weight, index)
    values = int(weight.count_nonzero())
    if index == "dense":
        values = weight.numel()
    elif ":" in index:
        n, m = _pattern(_matrix(weight), index)
        values = weight.numel() // m * n
    return (values * value_bits + bits) / 8


def _bits(count: int) -> int:
    """Bits that tell `count` things apart: ⌈log₂ count⌉."""
    return math.ceil(math.log2(count)) if count > 1 else 0


def _matrix(kept: Tensor) -> Tensor:
    if kept.ndim < 1 or kept.numel() == 0:
        raise ValueError(f"weight: expected a tensor (out, …) with entries, got shape {tuple(kept.shape)}")
    return kept.detach().reshape(1, -1) if kept.ndim == 1 else kept.detach().flatten(1)


def _pattern(matrix: Tensor, index: str) -> tuple[int, int]:
    """The n and m of "n:m", after a check that the matrix has it."""
    found = re.fullmatch(r"(\d+):(\d+)", index)
    if not found:
        raise ValueError(
            f"index: expected 'dense', 'bitmap', 'csr', 'coo' or a pattern such as '2:4', got {index!r}"
        )
    n, m = map(int, found.groups())
    if not 1 <= n <= m or matrix.shape[1] % m:
        raise ValueError(f"index: expected n:m with 1 ≤ n ≤ m, m dividing {matrix.shape[1]}, got {index!r}")
    most = int(matrix.reshape(-1, m).count_nonzero(dim=1).max())
    if most > n:
        raise ValueError(f"index: expected at most {n} of {m} consecutive entries, got {most}")
    return n, m
