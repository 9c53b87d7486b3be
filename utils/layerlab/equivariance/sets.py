"""Networks on sets: a sum over the elements, and how many numbers it has to keep.

A sum of φ(x) over the elements of a set forgets their order. Whether it forgets more depends on φ and on its
width: powers of the coordinates remember each coordinate's values but not which of them belong together, and
powers along mixed directions remember that too.

Chapter: `chapters/equivariance/02_permutation_layers.ipynb`.
"""

from collections.abc import Sequence
from itertools import combinations_with_replacement, product
from typing import Literal

import torch
from torch import Tensor, nn

from layerlab.models import MLP

_LARGEST = 2**62  # sums of powers have to stay below it to be exact in int64


def _check_count(name: str, value: int, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")


def mixed_directions(dimension: int, mixed: int, *, bound: int = 3, seed: int = 0) -> Tensor:
    """The coordinate axes and, after them, `mixed` different integer directions of no axis.

    A mixed direction w reads w·x, a number that depends on which coordinates stand together in one element.
    It is drawn from the integers −bound … bound with at least two entries other than 0; of w and its
    multiples only one is taken, since their powers say the same.

    Args:
        dimension: D, coordinates of an element.
        mixed: number of directions besides the axes.
        bound: largest entry, in absolute value.
        seed: of the draw.

    Returns:
        int64 (D + mixed, D); the first D rows are the identity.

    Raises:
        ValueError: an argument is out of range, or there are fewer than `mixed` such directions.

    >>> mixed_directions(2, 1, bound=1).tolist()
    [[1, 0], [0, 1], [1, 1]]
    """
    _check_count("dimension", dimension)
    _check_count("mixed", mixed, 0)
    _check_count("bound", bound)
    axes = torch.eye(dimension, dtype=torch.int64)
    if mixed == 0:
        return axes
    if (2 * bound + 1) ** dimension > 1_000_000:
        raise ValueError(
            f"bound: expected at most a million integer vectors, got {bound} in {dimension} dimensions"
        )
    values = torch.arange(-bound, bound + 1)
    vectors = torch.cartesian_prod(*[values] * dimension).reshape(-1, dimension)
    vectors = vectors[(vectors != 0).sum(1) > 1]
    if len(vectors):
        first = vectors[torch.arange(len(vectors)), (vectors != 0).int().argmax(1)]
        divisor = vectors[:, 0].clone()
        for column in vectors.T:
            divisor = torch.gcd(divisor, column)
        vectors = vectors[(first > 0) & (divisor.abs() == 1)]
    if len(vectors) < mixed:
        raise ValueError(f"mixed: expected at most {len(vectors)} with bound={bound}, got {mixed}")
    # the sum of the coordinates first: the plainest direction that mixes them all
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))
    ones = (vectors[order] == 1).all(1)
    order = torch.cat([order[ones], order[~ones]])
    return torch.cat([axes, vectors[order[:mixed]]])


def power_sums(X: Tensor, width: int, directions: Tensor | None = None) -> Tensor:
    """Sums of powers over the elements of a set: Σₙ (w·xₙ)ᵖ for the directions w and p = 1, 2, …

    The features come power by power: with K directions, feature i is along direction i mod K, to the power
    1 + i // K. So K·N of them hold, for each direction, the first N power sums, which determine the N
    numbers w·xₙ (Newton's identities), but for one direction at a time: along the coordinate axes alone, the
    sets {(0, 1), (1, 0)} and {(0, 0), (1, 1)} agree in all of them. Directions that mix coordinates set them
    apart.

    Args:
        X: (…, N, D), N elements with D coordinates. Integers are summed exactly.
        width: L, number of features.
        directions: (K, D); without it the coordinate axes, K = D.

    Returns:
        (…, width), of the type of X.

    Raises:
        ValueError: a shape does not fit, or a sum of integers might not fit into int64.

    Source: Wang et al. (2024), Polynomial Width is Sufficient for Set Representation with High-dimensional
    Features, the embedding "linear + power". They prove that some L between N(D + 1) and N⁵D² suffices.

    >>> power_sums(torch.tensor([[0, 1], [1, 0]]), 4).tolist()
    [1, 1, 1, 1]
    >>> power_sums(torch.tensor([[0, 0], [1, 1]]), 4).tolist()
    [1, 1, 1, 1]
    >>> power_sums(torch.tensor([[0, 0], [1, 1]]), 6, mixed_directions(2, 1, bound=1)).tolist()
    [1, 1, 2, 1, 1, 4]
    """
    _check_count("width", width)
    if X.ndim < 2:
        raise ValueError(f"X: expected a shape (…, N, D), got {tuple(X.shape)}")
    if directions is None:
        directions = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
    if directions.ndim != 2 or directions.shape[1] != X.shape[-1] or len(directions) == 0:
        raise ValueError(f"directions: expected a shape (K, {X.shape[-1]}), got {tuple(directions.shape)}")
    if not X.is_floating_point() and directions.is_floating_point():
        raise ValueError(f"directions: expected integers as in X ({X.dtype}), got {directions.dtype}")
    count = len(directions)
    powers = -(-width // count)
    if X.is_floating_point():
        projected = X @ directions.to(X).T
    else:
        X, directions = X.to(torch.int64), directions.to(torch.int64)
        projected = (X[..., None, :] * directions).sum(-1)  # matmul of integers is slow
        largest = int(projected.abs().max()) if projected.numel() else 0
        if X.shape[-2] * largest**powers > _LARGEST:
            raise ValueError(
                f"width: expected sums below 2**62, got up to {X.shape[-2]}·{largest}**{powers}; "
                "use a smaller width or smaller integers"
            )
    features, power = [], torch.ones_like(projected)
    for _ in range(powers):
        power = power * projected
        features.append(power.sum(-2))
    return torch.cat(features, -1)[..., :width]


def canonical(multisets: Tensor) -> Tensor:
    """Each multiset with its elements in lexicographic order, so that equal multisets are equal tensors.

    Args:
        multisets: (M, N, D).

    >>> canonical(torch.tensor([[[1, 0], [0, 1]]])).tolist()
    [[[0, 1], [1, 0]]]
    """
    if multisets.ndim != 3:
        raise ValueError(f"multisets: expected a shape (M, N, D), got {tuple(multisets.shape)}")
    for column in reversed(
        range(multisets.shape[-1])
    ):  # a stable sort by each coordinate, the last one first
        order = multisets[..., column].argsort(dim=1, stable=True)
        multisets = multisets.gather(1, order[..., None].expand_as(multisets))
    return multisets


def lattice_multisets(
    size: int, dimension: int, side: int, count: int | None = None, *, seed: int = 0
) -> Tensor:
    """Different multisets of `size` points of the lattice {0, …, side − 1}ᴰ: all of them, or a random choice.

    Args:
        size: N, points in a multiset, counted with multiplicity.
        dimension: D.
        side: lattice points along each axis.
        count: how many at most; the draw is of N independent points each, and repeated multisets go, so that
            a few less may come. None: all, C(sideᴰ + N − 1, N) of them.
        seed: of the draw.

    Returns:
        int64 (M, N, D), in lexicographic order.

    Raises:
        ValueError: an argument is out of range, or all of them would be more than a million.

    >>> lattice_multisets(2, 2, 2).shape
    torch.Size([10, 2, 2])
    """
    for name, value in {"size": size, "dimension": dimension, "side": side}.items():
        _check_count(name, value)
    if count is None:
        total, points = 1, side**dimension
        for i in range(size):
            total = total * (points + i) // (i + 1)
        if total > 1_000_000:
            raise ValueError(f"count: expected a number where there are over a million ({total}), got None")
        everything = list(combinations_with_replacement(product(range(side), repeat=dimension), size))
        return torch.tensor(everything, dtype=torch.int64)
    _check_count("count", count)
    generator = torch.Generator().manual_seed(seed)
    return canonical(torch.randint(side, (count, size, dimension), generator=generator)).unique(dim=0)


def collisions(multisets: Tensor, width: int, directions: Tensor | None = None) -> Tensor:
    """Pairs of different multisets with the same power sums, in exact integer arithmetic.

    Args:
        multisets: int64 (M, N, D); what is in there twice, in whatever order, counts once.
        width: number of power sums, as in `power_sums`.
        directions: int64 (K, D), as in `power_sums`.

    Returns:
        int64 (pairs, 2), indices i < j into `multisets`.

    Raises:
        TypeError: the multisets are no integers.
        ValueError: as in `power_sums`.

    >>> pairs = collisions(lattice_multisets(2, 2, 2), 4)
    >>> lattice_multisets(2, 2, 2)[pairs[0]].tolist()
    [[[0, 0], [1, 1]], [[0, 1], [1, 0]]]
    >>> len(collisions(lattice_multisets(2, 2, 2), 6, mixed_directions(2, 1, bound=1)))
    0
    """
    if multisets.is_floating_point():
        raise TypeError(f"multisets: expected integers, which sum exactly, got {multisets.dtype}")
    unique, where = canonical(multisets).unique(dim=0, return_inverse=True)
    first = torch.full((len(unique),), len(multisets)).scatter_reduce(
        0, where, torch.arange(len(multisets)), "amin"
    )
    _, group = power_sums(unique, width, directions).unique(dim=0, return_inverse=True)
    sizes = group.bincount()
    members = group.argsort(stable=True).split(sizes.tolist())
    pairs = [torch.combinations(first[m].sort().values) for m in members if len(m) > 1]
    return torch.cat(pairs) if pairs else torch.empty(0, 2, dtype=torch.int64)


class SetLinear(nn.Module):
    """The linear maps between sets that commute with every reordering: x ↦ A xₙ + B · mean(x) + b.

    These are all of them; A and B are the two parameters of Deep Sets' layer (Zaheer et al. 2017), here for
    several channels.

    Shapes: input (…, N, in_features), output (…, N, out_features), for any N.

    >>> SetLinear(3, 5)(torch.zeros(2, 7, 3)).shape
    torch.Size([2, 7, 5])
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.each = nn.Linear(in_features, out_features)
        self.all = nn.Linear(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, N, in_features) to (…, N, out_features)."""
        return self.each(x) + self.all(x.mean(-2, keepdim=True))


class DeepSets(nn.Module):
    """An invariant network on sets: ρ of the mean of φ(x) over the elements.

    Args:
        in_features: D, coordinates of an element.
        width: L, the numbers that are kept of a set.
        out_features: number of outputs.
        embedding: φ. "mlp": a perceptron with the layers `hidden`; "power": a linear map to width / powers
            directions and their powers 1 … `powers`; "exponential": a linear map to `width` directions and
            exp. The last two are those of Wang et al. (2024).
        hidden: widths of the hidden layers of ρ, and of φ where that is a perceptron.
        powers: for "power" only; has to divide `width`.

    Shapes: input (…, N, in_features) for any N ≥ 1, output (…, out_features).

    The mean instead of the sum keeps the numbers in range; with N fixed the one determines the other. Powers
    grow fast all the same: inputs should be of the order of 1.

    Raises:
        ValueError: an unknown embedding, or `powers` that does not divide `width`.

    Source: Zaheer et al. (2017), Deep Sets.

    >>> DeepSets(2, 16, 1)(torch.zeros(4, 7, 2)).shape
    torch.Size([4, 1])
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        out_features: int,
        *,
        embedding: Literal["mlp", "power", "exponential"] = "mlp",
        hidden: Sequence[int] = (64,),
        powers: int = 4,
    ):
        super().__init__()
        _check_count("width", width)
        _check_count("powers", powers)
        if embedding == "mlp":
            self.phi = MLP(in_features, hidden, width)
        elif embedding == "exponential":
            self.phi = nn.Linear(in_features, width)
        elif embedding == "power":
            if width % powers:
                raise ValueError(f"powers: expected a divisor of width={width}, got {powers}")
            self.phi = nn.Linear(in_features, width // powers, bias=False)
        else:
            raise ValueError(f"embedding: expected 'mlp', 'power' or 'exponential', got {embedding!r}")
        self.embedding, self.powers = embedding, powers
        self.rho = MLP(width, hidden, out_features)

    def embed(self, x: Tensor) -> Tensor:
        """The mean of φ over the elements: (…, N, in_features) to (…, width)."""
        z = self.phi(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
        if self.embedding == "exponential":
            z = z.exp()
        elif self.embedding == "power":
            z = torch.cat([z**p for p in range(1, self.powers + 1)], -1)
        return z.mean(-2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, N, in_features) to (…, out_features)."""
        if x.ndim < 2 or x.shape[-2] == 0:
            raise ValueError(f"x: expected a shape (…, N, D) with N ≥ 1, got {tuple(x.shape)}")
        z = self.embed(x)
        return self.rho(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:-1], -1)
