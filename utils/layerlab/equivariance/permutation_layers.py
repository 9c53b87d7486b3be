"""A layer of all linear S_n-equivariant maps between tensors of k and l axes, with channels.

One weight per partition of k + l points and pair of channels, whatever n is: k = l = 1 is the layer of Deep
Sets (2 maps), k = l = 2 that of a graph's adjacency matrix (15 maps). Diagrams that read their input in the
same way, or write their output in the same way, share that work.

Sources: Pearce-Crump, "Connecting Permutation Equivariant Neural Networks and Partition Diagrams" (2022,
arXiv:2212.08648); the 15 maps of graphs first in Maron, Ben-Hamu, Shamir and Lipman, "Invariant and
Equivariant Graph Networks" (ICLR 2019). Chapter: `chapters/equivariance/02_permutation_layers.ipynb`.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from layerlab.equivariance.diagrams import check_axes, diagonals, plan
from layerlab.equivariance.partitions import (
    MOST_TRANSFORMED,
    diagram_matrix,
    moebius,
    orbit_matrix,
    set_partitions,
)

Basis = Literal["diagram", "orbit"]


class PermutationLinear(nn.Module):
    """All linear S_n-equivariant maps from (N, channels_in, n, …, n) to (N, channels_out, n, …, n).

    The same weights serve every n. Where n is less than k + l they are more than the maps are independent;
    `blocks=n` leaves just as many as there are (`dimension(n, k, l)`), for that n.

    Attributes:
        partitions: the maps, in the order of `set_partitions(k + l, blocks)`.
        weight: (maps, channels_out, channels_in), normal with variance 1 / (maps · channels_in).
        bias: (maps from 0 to l axes, channels_out), zero at first; None without bias.

    Args:
        k: axes of the input, beside batch and channels.
        l: axes of the output.
        channels_in: channels of the input.
        channels_out: channels of the output.
        basis: what a weight multiplies: "diagram", or "orbit" (its weights are carried over to diagrams by
            the Möbius transform, so that both cost the same). Both reach the same maps.
        average: take means in place of sums over blocks that have inputs alone, so that outputs stay of one
            size as n grows; diagram basis only.
        bias: add the equivariant constant tensors.
        blocks: keep only partitions of at most so many blocks.

    Raises:
        TypeError: a count is no integer.
        ValueError: a count is out of range (k + l at most 8), basis is unknown, or average is asked for of
            the orbit basis.

    >>> layer = PermutationLinear(2, 2, 3, 4)
    >>> layer.weight.shape, layer(torch.zeros(5, 3, 6, 6)).shape
    (torch.Size([15, 4, 3]), torch.Size([5, 4, 6, 6]))
    """

    def __init__(
        self,
        k: int,
        l: int,  # noqa: E741
        channels_in: int,
        channels_out: int,
        basis: Basis = "diagram",
        *,
        average: bool = False,
        bias: bool = True,
        blocks: int | None = None,
    ):
        super().__init__()
        counts = {"k": k, "l": l, "channels_in": channels_in, "channels_out": channels_out}
        if blocks is not None:
            counts["blocks"] = blocks
        for name, count in counts.items():
            least = 0 if name in "kl" else 1
            if isinstance(count, bool) or not isinstance(count, int):
                raise TypeError(f"{name}: expected an integer, got {count!r}")
            if count < least:
                raise ValueError(f"{name}: expected at least {least}, got {count}")
        if k + l > MOST_TRANSFORMED:
            raise ValueError(f"k, l: expected k + l of at most {MOST_TRANSFORMED}, got k={k}, l={l}")
        if basis not in ("diagram", "orbit"):
            raise ValueError(f"basis: expected 'diagram' or 'orbit', got {basis!r}")
        if average and basis == "orbit":
            raise ValueError("average: expected False with basis='orbit', whose maps have no sums to average")
        self.k, self.l, self.basis, self.average = k, l, basis, average
        self.channels_in, self.channels_out = channels_in, channels_out
        self.partitions = set_partitions(k + l, blocks)
        self.constants = set_partitions(l, blocks)
        self.weight = nn.Parameter(torch.empty(len(self.partitions), channels_out, channels_in))
        self.bias = nn.Parameter(torch.zeros(len(self.constants), channels_out)) if bias else None
        if basis == "orbit":
            self.register_buffer("_to_diagrams", _transform(k + l, blocks), persistent=False)
            self.register_buffer("_constants_to_diagrams", _transform(l, blocks), persistent=False)
        # Which outputs are equal → which of their blocks have inputs → a diagram's number, and how it reads.
        self._writes: dict[tuple[int, ...], dict[tuple[bool, ...], list[tuple[int, tuple]]]] = {}
        for i, partition in enumerate(self.partitions):
            ins, _, _, summed, _ = plan(partition, k, l)
            upper = [block for block in partition if block[0] < l]
            pattern = tuple(next(j for j, block in enumerate(upper) if p in block) for p in range(l))
            through = tuple(block[-1] >= l for block in upper)
            self._writes.setdefault(pattern, {}).setdefault(through, []).append((i, (ins, summed)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew from torch's global generator; the bias is zero."""
        nn.init.normal_(self.weight, std=(self.weight.shape[0] * self.channels_in) ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, n: int | None = None) -> Tensor:
        """(N, channels_in, n, …, n) with k axes to (N, channels_out, n, …, n) with l axes.

        Args:
            x: the input; weights follow its dtype.
            n: number of things; needed only where k is 0.

        Raises:
            TypeError: x holds integers.
            ValueError: x has another shape, or n is 0 where means are taken.
        """
        if x.ndim != self.k + 2 or x.shape[1] != self.channels_in:
            raise ValueError(
                f"x: expected shape (N, {self.channels_in}, n, …, n) with {self.k} axes of length n, got "
                f"{tuple(x.shape)}"
            )
        n = check_axes(x, self.k, n)
        if not (x.is_floating_point() or x.is_complex()):
            raise TypeError(f"x: expected real or complex numbers, got {x.dtype}")
        if self.average and n == 0:
            raise ValueError(f"x: expected n of at least 1 to take means over, got shape {tuple(x.shape)}")
        weight, bias = (None if tensor is None else tensor.to(x.dtype) for tensor in self._coefficients())
        patterns = [plan(partition, 0, self.l)[1] for partition in self.constants]
        constants = {} if bias is None else dict(zip(patterns, bias, strict=True))
        shape, free = (len(x), self.channels_out, *(n,) * self.l), tuple(range(self.l))
        read: dict[tuple, Tensor] = {}
        out = None if free in self._writes else x.new_zeros(shape)
        for pattern in sorted(self._writes, reverse=True):  # from all outputs free to all equal
            total = 0 if bias is None else constants[pattern].reshape((-1, *(1,) * len(set(pattern))))
            for through, members in self._writes[pattern].items():
                for _, key in members:
                    if key not in read:
                        read[key] = self._read(x, *key)
                parts = torch.cat([read[key] for _, key in members], 1)
                mix = weight[[i for i, _ in members]].permute(1, 0, 2).flatten(1)
                value = mix @ parts.reshape(len(x), mix.shape[1], n ** sum(through))
                total = total + value.reshape((*shape[:2], *(n if reaches else 1 for reaches in through)))
            if out is None:
                out = total.expand(shape).contiguous()
            else:
                diagonals(out, pattern).add_(total)
        return out

    def matrix(self, n: int) -> Tensor:
        """The layer without its bias as a matrix (channels_out · n^l, channels_in · n^k), from its basis."""
        k, l, shape = self.k, self.l, (self.channels_out * n**self.l, self.channels_in * n**self.k)  # noqa: E741
        dense = diagram_matrix if self.basis == "diagram" else orbit_matrix
        total = self.weight.new_zeros(shape)
        for weight, partition in zip(self.weight, self.partitions, strict=True):
            summed = plan(partition, k, l)[3] if self.average else 0
            total = total + torch.kron(weight, dense(partition, n, k, l, weight.dtype)) / n**summed
        return total

    def extra_repr(self) -> str:
        """The arguments, as `repr` shows them."""
        return f"{self.k}, {self.l}, {self.channels_in}, {self.channels_out}, basis={self.basis!r}"

    def _coefficients(self) -> tuple[Tensor, Tensor | None]:
        """Weights and bias of the diagrams."""
        if self.basis == "diagram":
            return self.weight, self.bias
        weight = torch.tensordot(self._to_diagrams.to(self.weight.dtype), self.weight, 1)
        if self.bias is None:
            return weight, None
        return weight, self._constants_to_diagrams.to(self.bias.dtype) @ self.bias

    def _read(self, x: Tensor, ins: tuple[int, ...], summed: int) -> Tensor:
        y, last = diagonals(x, ins), tuple(range(-summed, 0))
        if not summed:
            return y
        return y.mean(last) if self.average else y.sum(last)


def _transform(m: int, blocks: int | None) -> Tensor:
    """Weights of orbits to weights of diagrams, for partitions of at most `blocks` blocks."""
    few = [i for i, partition in enumerate(set_partitions(m)) if blocks is None or len(partition) <= blocks]
    return moebius(m)[few][:, few].T.contiguous()
