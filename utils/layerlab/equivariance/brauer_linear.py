"""A layer of all linear maps between tensors of k and l axes that O(n), SO(n) or Sp(n) keeps, with channels.

One weight per diagram and pair of channels: for O(n), k = l = 1 leaves one map, the identity, so that
channels of vectors mix and their coordinates do not; k = l = 2 has three, the identity, the transpose and the
trace. Diagrams that read their input in the same way, or write their output in the same way, share that work;
where n is small enough, one small matrix is faster still.

Source: Pearce-Crump, "Brauer's Group Equivariant Neural Networks" (2023, ICML, arXiv:2212.08630). Chapter:
`chapters/equivariance/03_orthogonal_groups.ipynb`.
"""

import math

import torch
from torch import Tensor, nn

from layerlab.equivariance.brauer import contract, permute_last, rows, spread
from layerlab.equivariance.brauer_counts import (
    AnyDiagram,
    form_of,
    group_apply,
    group_diagrams,
    group_matrix,
    independent_diagrams,
)
from layerlab.equivariance.determinants import DeterminantDiagram, against_symbol, order_of
from layerlab.equivariance.diagrams import check_axes
from layerlab.equivariance.groups import MatrixGroup

MOST_DENSE = 4096  # entries of a diagram's matrix


class BrauerLinear(nn.Module):
    """All linear maps from (…, channels_in, n, …, n) to (…, channels_out, n, …, n) that the group keeps.

    Attributes:
        diagrams: the maps, as `brauer_counts.group_diagrams(group, k, l)` lists them. There may be none, as
            for
            O(n) and odd k + l: then the output is zero.
        weight: (maps, channels_out, channels_in), normal; its scale makes outputs as large as inputs on
            average
            where the numbers of an input are independent.
        constants: the maps from 0 to l axes.
        bias: (constants, channels_out), zero at first; None without bias.

    Args:
        k: axes of the input, beside batch and channels.
        l: axes of the output.
        channels_in: channels of the input.
        channels_out: channels of the output.
        group: `Orthogonal(n)`, `SpecialOrthogonal(n)` or `Symplectic(n)`.
        bias: add the constant tensors that the group keeps.
        dense: multiply by the matrix, made of the weights each time, instead of by diagrams; by default where
            n^(k + l) is at most 4096. Both give the same numbers; a small matrix is faster.
        independent: leave out diagrams that are combinations of others, so that there are just as many
            weights
            per pair of channels as independent maps (`brauer_counts.rank`); k + l of at most 8.

    Raises:
        TypeError: another group.
        ValueError: a count is out of range.

    >>> from layerlab.equivariance.check import assert_equivariant
    >>> from layerlab.equivariance.diagrams import on_vectors
    >>> from layerlab.equivariance.groups import Orthogonal, defining
    >>> group = Orthogonal(3)
    >>> layer = BrauerLinear(2, 2, 4, 5, group)
    >>> layer.weight.shape, layer(torch.zeros(7, 4, 3, 3)).shape
    (torch.Size([3, 5, 4]), torch.Size([7, 5, 3, 3]))
    >>> rep, x = defining(group).tensor(2), torch.randn(7, 4, 9, dtype=torch.float64)
    >>> assert_equivariant(on_vectors(layer, 3, 2, 2), rep, rep, x) < 1e-10
    True
    """

    def __init__(
        self,
        k: int,
        l: int,  # noqa: E741
        channels_in: int,
        channels_out: int,
        group: MatrixGroup,
        *,
        bias: bool = True,
        independent: bool = False,
        dense: bool | None = None,
    ):
        super().__init__()
        for name, count, least in (
            ("k", k, 0),
            ("l", l, 0),
            ("channels_in", channels_in, 1),
            ("channels_out", channels_out, 1),
        ):
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise ValueError(f"{name}: expected an integer of at least {least}, got {count!r}")
        self.k, self.l, self.group = k, l, group
        self.channels_in, self.channels_out = channels_in, channels_out
        listed = independent_diagrams if independent else group_diagrams
        self.diagrams, self.constants = listed(group, k, l), listed(group, 0, l)
        self.weight = nn.Parameter(torch.empty(len(self.diagrams), channels_out, channels_in))
        self.bias = nn.Parameter(torch.zeros(len(self.constants), channels_out)) if bias else None
        self._form = form_of(group)
        stack = None
        if dense or (dense is None and group.n ** (k + l) <= MOST_DENSE):
            stack = torch.zeros(len(self.diagrams), group.n**l, group.n**k)
            for i, diagram in enumerate(self.diagrams):
                stack[i] = group_matrix(diagram, group, k, l)
        self.register_buffer("_stack", stack, persistent=False)
        # Diagrams by the pairs of outputs that they set equal: number, how it reads, how its axes lie.
        self._writes: dict[tuple, list[tuple[int, tuple, list[int]]]] = {}
        for i, diagram in enumerate(self.diagrams):
            write, read, order = _plan(diagram, l)
            self._writes.setdefault(write, []).append((i, read, order))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew from torch's global generator; the bias is zero."""
        n, maps = self.group.n, max(1, len(self.diagrams))
        with torch.no_grad():
            for i, diagram in enumerate(self.diagrams):
                free = n if isinstance(diagram, DeterminantDiagram) else 0
                ones = n ** ((self.k + self.l - free) / 2)  # of entries that are not zero
                ones *= math.factorial(free)
                self.weight[i].normal_(std=(maps * self.channels_in * ones / n**self.l) ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, channels_in, n, …, n) with k axes to (…, channels_out, n, …, n) with l axes, in x's dtype.

        Raises:
            TypeError: x holds integers.
            ValueError: x has another shape.
        """
        k, l, n = self.k, self.l, self.group.n  # noqa: E741
        if x.ndim < k + 1 or x.shape[x.ndim - k - 1] != self.channels_in:
            raise ValueError(
                f"x: expected shape (…, {self.channels_in}, {', '.join([str(n)] * k)}) with {k} axes after "
                f"the channels, got {tuple(x.shape)}"
            )
        check_axes(x, k, n)
        if not (x.is_floating_point() or x.is_complex()):
            raise TypeError(f"x: expected real or complex numbers, got {x.dtype}")
        batch = x.shape[: x.ndim - k - 1]
        x = x.reshape((math.prod(batch), *x.shape[len(batch) :]))
        if self._stack is not None:
            flat = x.flatten(1) @ self.matrix(x.dtype).T
            terms = [flat.reshape((len(x), self.channels_out, *(n,) * l))]
        else:
            terms = self._by_diagrams(x)
        if self.bias is not None:
            for diagram, value in zip(self.constants, self.bias.to(x.dtype), strict=True):
                terms.append(group_apply(diagram, value, self.group, 0, l))
        out = sum(terms) if terms else x.new_zeros(())
        shape = (self.channels_out, *(n,) * l)
        return out.expand((len(x), *shape)).reshape((*batch, *shape))

    def _by_diagrams(self, x: Tensor) -> list[Tensor]:
        """What the diagrams make of x, in one part for each way to write the output."""
        weight, terms = self.weight.to(x.dtype), []
        read: dict[tuple, Tensor] = {}
        for above, members in self._writes.items():
            parts = []
            for _, key, order in members:
                if key not in read:
                    read[key] = self._read(x, *key)
                parts.append(permute_last(read[key], order))
            shape = parts[0].shape[2:]
            stacked = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
            stacked = stacked.flatten(2) if shape else stacked[..., None]
            mix = weight[[i for i, _, _ in members]].permute(1, 0, 2).flatten(1)
            core = (mix @ stacked).reshape(len(x), self.channels_out, *shape)
            terms.append(spread(core, self.l, above, self.group.n, self._form))
        return terms

    def matrix(self, dtype: torch.dtype | None = None) -> Tensor:
        """The layer without its bias as a matrix (channels_out · n^l, channels_in · n^k).

        In `dtype`, by default that of the weights. It is as equivariant as its sums of weights are exact, so
        a matrix for float64 inputs is one that was summed in float64.
        """
        n, k, l = self.group.n, self.k, self.l  # noqa: E741
        shape = (self.channels_out * n**l, self.channels_in * n**k)
        weights = self.weight.to(self.weight.dtype if dtype is None else dtype)
        if self._stack is not None:
            return torch.einsum("moi,mab->oaib", weights, self._stack.to(weights.dtype)).reshape(shape)
        total = weights.new_zeros(shape)
        for weight, diagram in zip(weights, self.diagrams, strict=True):
            total = total + torch.kron(weight, group_matrix(diagram, self.group, k, l).to(weight))
        return total

    def extra_repr(self) -> str:
        """The arguments, as `repr` shows them."""
        return f"{self.k}, {self.l}, {self.channels_in}, {self.channels_out}, {self.group}"

    def _read(self, x: Tensor, below: tuple, free_in: tuple[int, ...] | None) -> Tensor:
        """Sum joined inputs; for a determinant, then the free inputs against ε, whose outputs come last."""
        core = contract(x, self.k, below, self._form)
        if free_in is None:
            return core
        left = [i for i in range(self.k) if all(i not in pair for pair in below)]
        order = [j for j, i in enumerate(left) if i not in free_in] + [left.index(i) for i in free_in]
        return against_symbol(permute_last(core, order), len(free_in), self.group.n)


def _plan(diagram: AnyDiagram, l: int) -> tuple[tuple, tuple, list[int]]:  # noqa: E741
    """Pairs of outputs; pairs of inputs with the free inputs, if any; how what was read becomes outputs."""
    determinant = isinstance(diagram, DeterminantDiagram)
    below, through, above = rows(diagram.pairs if determinant else diagram, l)
    free = diagram.free if determinant else ()
    outputs = [o for o, _ in sorted(through, key=lambda pair: pair[1])] + [p for p in free if p < l]
    free_in = tuple(p - l for p in free if p >= l) if determinant else None
    return tuple(above), (tuple(below), free_in), order_of(outputs)
