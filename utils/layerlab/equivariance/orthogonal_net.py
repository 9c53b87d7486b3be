"""A network of numbers, vectors and tensors that turn with its input, and two tasks from mechanics.

Layers hold fields: channels of tensors with 0, 1 and 2 axes. A step mixes channels and contracts axes with
`BrauerLinear`, multiplies fields of one point with each other, and scales each channel by a function of its
invariants. All three commute with the group, so the network does, before and after training.

Sources: Pearce-Crump, "Brauer's Group Equivariant Neural Networks" (2023, ICML, arXiv:2212.08630), for the
linear maps; Finzi, Welling and Wilson, "A Practical Method for Constructing Equivariant Multilayer
Perceptrons for Arbitrary Matrix Groups" (2021, ICML), for the moment of inertia of five masses as a task, for
products as bilinear layers and for gates. Chapter: `chapters/equivariance/03_orthogonal_groups.ipynb`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from layerlab.equivariance.brauer_counts import group_diagrams
from layerlab.equivariance.brauer_linear import BrauerLinear
from layerlab.equivariance.force_field import moment_of_inertia
from layerlab.equivariance.groups import MatrixGroup, Representation, defining, trivial

Fields = list[Tensor]  # fields[k]: (…, channels, n, …, n) with k axes


class FieldLinear(nn.Module):
    """All linear maps between lists of fields: a `BrauerLinear` from each order k to each order l, summed.

    Args:
        channels_in: channels of order 0, 1, …; 0 where there is no such field.
        channels_out: the same of the output.
        group: `Orthogonal(n)`, `SpecialOrthogonal(n)` or `Symplectic(n)`.

    Raises:
        ValueError: a field of the output that no map reaches: the group allows none from the fields of the
            input (as from numbers alone to vectors).

    >>> from layerlab.equivariance.groups import Orthogonal
    >>> layer = FieldLinear([2, 3], [4, 0, 5], Orthogonal(3))
    >>> [tuple(y.shape) for y in layer([torch.zeros(7, 2), torch.zeros(7, 3, 3)])]
    [(7, 4), (7, 0, 3), (7, 5, 3, 3)]
    """

    def __init__(self, channels_in: Sequence[int], channels_out: Sequence[int], group: MatrixGroup):
        super().__init__()
        self.channels_in, self.channels_out, self.n = tuple(channels_in), tuple(channels_out), group.n
        self.maps = nn.ModuleDict()
        for l, outputs in enumerate(self.channels_out):  # noqa: E741
            used = [
                k for k, c in enumerate(self.channels_in) if c and outputs and group_diagrams(group, k, l)
            ]
            if outputs and not used:
                raise ValueError(
                    f"channels_out: expected 0 channels of order {l}, which {group} reaches by no linear map "
                    f"from fields with channels {list(self.channels_in)}, got {outputs}"
                )
            for k in used:
                layer = BrauerLinear(k, l, self.channels_in[k], outputs, group, bias=k == used[0])
                with torch.no_grad():  # the sum is as large as each
                    layer.weight /= len(used) ** 0.5
                self.maps[f"{k}_{l}"] = layer

    def forward(self, fields: Fields) -> Fields:
        """Fields with `channels_in` to fields with `channels_out`."""
        outputs = []
        for l, channels in enumerate(self.channels_out):  # noqa: E741
            keys = [(k, f"{k}_{l}") for k in range(len(fields)) if f"{k}_{l}" in self.maps]
            found = [self.maps[key](fields[k]) for k, key in keys]
            zero = fields[0].new_zeros((*fields[0].shape[:-1], channels, *(self.n,) * l))
            outputs.append(sum(found) if found else zero)
        return outputs


def products(fields: Fields) -> Fields:
    """Products of each channel with the next: order l holds x_j ⊗ x_(l − j) for each j ≤ l / 2, side by side.

    Channel c of x_j meets channel c + 1 of x_(l − j), and the last meets the first. With itself a vector
    would make symmetric tensors alone, from which no cross product can be read off.

    Each field has as many channels; order l gets ⌊l / 2⌋ + 1 times as many.

    >>> [tuple(y.shape) for y in products([torch.ones(7, 4), torch.ones(7, 4, 3), torch.ones(7, 4, 3, 3)])]
    [(7, 4), (7, 4, 3), (7, 8, 3, 3)]
    """
    found = []
    for l in range(len(fields)):  # noqa: E741
        terms = []
        for j in range(l // 2 + 1):
            left, right = fields[j], fields[l - j].roll(-1, dims=j - l - 1)
            for _ in range(l - j):
                left = left.unsqueeze(-1)
            for _ in range(j):
                right = right.unsqueeze(-1 - (l - j))
            terms.append(left * right)
        found.append(torch.cat(terms, -1 - l))
    return found


class FieldBlock(nn.Module):
    """fields + gated(linear([fields, products(fields)])): numbers pass SiLU, tensors are scaled.

    A channel of order 1 or 2 is multiplied by the sigmoid of a number that the same layer makes.

    Args:
        width: channels of each order, 0 to 2.
        group: as in `FieldLinear`.
    """

    def __init__(self, width: int, group: MatrixGroup):
        super().__init__()
        inner = [width * (2 + l // 2) for l in range(3)]  # noqa: E741
        self.mix = FieldLinear(inner, [3 * width, width, width], group)

    def forward(self, fields: Fields) -> Fields:
        """Fields of `width` channels of each order to the same."""
        paired = zip(fields, products(fields), strict=True)
        both = [torch.cat(pair, -1 - order) for order, pair in enumerate(paired)]
        numbers, vectors, tensors = self.mix(both)
        numbers, *gates = numbers.chunk(3, -1)
        out = [
            nn.functional.silu(numbers),
            vectors * gates[0].sigmoid()[..., None],
            tensors * gates[1].sigmoid()[..., None, None],
        ]
        return [x + y for x, y in zip(fields, out, strict=True)]


class OrthogonalNet(nn.Module):
    """From points that carry numbers and vectors to one tensor, for any number of points, in any order.

    A linear map and blocks at each point, a sum over points, and a linear map to the output.

    Attributes:
        rep_in: how the group acts on the last axis of the input.
        rep_out: how it acts on the output flattened to (N, n^order).

    Args:
        group: `Orthogonal(n)`, `SpecialOrthogonal(n)` or `Symplectic(n)`.
        order: axes of the output, 0 to 2.
        scalars: numbers at each point.
        vectors: vectors at each point, at least one.
        width: channels of each order inside.
        depth: blocks before the sum.

    Shapes: input (N, points, scalars + n · vectors), the numbers first;
    output (N, n, …, n) with `order` axes.

    >>> from layerlab.equivariance.check import assert_equivariant
    >>> from layerlab.equivariance.groups import Orthogonal
    >>> net = OrthogonalNet(Orthogonal(3), width=8)
    >>> x = torch.randn(4, 5, 1 + 3, dtype=torch.float64)
    >>> net(x).shape
    torch.Size([4, 3, 3])
    >>> assert_equivariant(lambda x: net(x).flatten(1), net.rep_in, net.rep_out, x) < 1e-10
    True
    """

    def __init__(
        self,
        group: MatrixGroup,
        order: int = 2,
        *,
        scalars: int = 1,
        vectors: int = 1,
        width: int = 16,
        depth: int = 2,
    ):
        super().__init__()
        for name, value, least, most in (
            ("order", order, 0, 2),
            ("scalars", scalars, 0, None),
            ("vectors", vectors, 1, None),
            ("width", width, 1, None),
            ("depth", depth, 0, None),
        ):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value < least or (most is not None and value > most):
                limit = "" if most is None else f" and at most {most}"
                raise ValueError(f"{name}: expected an integer of at least {least}{limit}, got {value!r}")
        self.group, self.scalars, self.vectors = group, scalars, vectors
        rep: Representation = trivial(group, scalars) if scalars else defining(group)
        for _ in range(vectors if scalars else vectors - 1):
            rep = rep + defining(group)
        self.rep_in, self.rep_out = rep, defining(group).tensor(order)
        # One number is 1 at each point, so that products reach every degree up to theirs.
        self.embed = FieldLinear([scalars + 1, vectors], [width] * 3, group)
        self.blocks = nn.ModuleList(FieldBlock(width, group) for _ in range(depth))
        self.head = FieldLinear([width] * 3, [int(l == order) for l in range(order + 1)], group)  # noqa: E741
        with (
            torch.no_grad()
        ):  # products grow with a power of their inputs: small weights tame the first steps
            for part, scale in ((self.blocks, 0.3), (self.head, 0.1)):
                for weight in part.parameters():
                    weight *= scale

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, points, scalars + n · vectors) to (N, n, …, n).

        Raises:
            ValueError: x has another shape.
        """
        n = self.group.n
        if x.ndim != 3 or x.shape[-1] != self.rep_in.dimension:
            raise ValueError(
                f"x: expected shape (N, points, {self.rep_in.dimension}), {self.scalars} numbers and "
                f"{self.vectors} vectors of {n}, got {tuple(x.shape)}"
            )
        numbers = torch.cat([x[..., : self.scalars], torch.ones_like(x[..., :1])], -1)
        vectors = x[..., self.scalars :].unflatten(-1, (self.vectors, n))
        fields = self.embed([numbers, vectors])
        for block in self.blocks:
            fields = block(fields)
        fields = [field.sum(1) for field in fields]
        return self.head(fields)[-1].squeeze(1)


def moments_of_inertia(count: int, points: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sets of masses in space, and the moment of inertia of each about the origin, Σ m (|r|² 1 − r rᵀ).

    Masses are uniform between 0.5 and 1.5, positions r normal with variance 1, all independent.

    Args:
        count: number of sets.
        points: masses in a set.
        seed: of the draws; sets of equal seed begin alike, however many are drawn.

    Returns:
        X (count, points, 4), a mass and a position in each row, and y (count, 3, 3), float32.

    Raises:
        ValueError: count or points is below 1.

    >>> X, y = moments_of_inertia(2, points=5)
    >>> X.shape, y.shape, bool((y == y.mT).all())
    (torch.Size([2, 5, 4]), torch.Size([2, 3, 3]), True)
    """
    mass, position = _masses(count, points, 1, seed)
    return torch.cat([mass, position], -1), moment_of_inertia(position, mass[..., 0])


def angular_momenta(count: int, points: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sets of moving masses, and the angular momentum of each about the origin, Σ m r × v.

    A cross product turns with its factors, and does not flip in a mirror: SO(3) allows it, O(3) does not.
    Masses are uniform between 0.5 and 1.5, positions r and velocities v normal with variance 1.

    Returns:
        X (count, points, 7), a mass, a position and a velocity in each row, and y (count, 3), float32.

    Raises:
        ValueError: count or points is below 1.

    >>> X, y = angular_momenta(2, points=5)
    >>> X.shape, y.shape
    (torch.Size([2, 5, 7]), torch.Size([2, 3]))
    """
    mass, both = _masses(count, points, 2, seed)
    position, velocity = both.chunk(2, -1)
    return torch.cat([mass, both], -1), (mass * torch.linalg.cross(position, velocity)).sum(1)


def _masses(count: int, points: int, vectors: int, seed: int) -> tuple[Tensor, Tensor]:
    """Masses (count, points, 1), and vectors (count, points, 3 · vectors)."""
    for name, value in (("count", count), ("points", points)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        (torch.rand(points, 1, generator=generator), torch.randn(points, 3 * vectors, generator=generator))
        for _ in range(count)
    ]
    return 0.5 + torch.stack([m for m, _ in drawn]), torch.stack([v for _, v in drawn])
