"""Brauer diagrams: all linear maps between tensor powers of ℝⁿ that commute with O(n), or with Sp(n).

A diagram from k to l axes has l points in an upper row and k points in a lower one, joined in pairs by lines:
a partition of l + k points into blocks of two (`partitions`), numbered from left to right, outputs 0 to l − 1
first. A line from below to above carries an index through; a line between two inputs sums over equal indices;
a line between two outputs sets them equal. For Sp(n) a line within a row, read from left to right, carries
the form J of `groups.Symplectic` in place of the identity.

Sources: Pearce-Crump, "Brauer's Group Equivariant Neural Networks" (2023, ICML, arXiv:2212.08630), for the
maps; Pearce-Crump, "An Algorithm for Computing with Brauer's Group Equivariant Neural Network Layers" (2023,
arXiv:2304.14165), for the product without a matrix. What SO(n) adds: `determinants`. How many maps are
independent: `brauer_counts`. A layer: `brauer_linear`.
Chapter: `chapters/equivariance/03_orthogonal_groups.ipynb`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from layerlab.equivariance.diagrams import Diagram, check_axes
from layerlab.equivariance.groups import Symplectic
from layerlab.equivariance.partitions import check_partition

Matching = tuple[tuple[int, int], ...]

MOST_POINTS = 12  # matchings(12) lists 10 395


def matchings(points: int | Sequence[int]) -> list[Matching]:
    """All ways to join points in pairs: (m − 1)!! = (m − 1)(m − 3)⋯1 for even m, none for odd m.

    A matching is a tuple of pairs, points rising within a pair and from pair to pair, in lexicographic order.
    No points have one matching, the empty one.

    Args:
        points: a number m, for the points 0 to m − 1; or the points themselves, all different.

    Raises:
        ValueError: a negative number, more than 12 points, or points that repeat.

    >>> matchings(4)
    [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    >>> len(matchings(8)), len(matchings(3))
    (105, 0)
    """
    if isinstance(points, int) and not isinstance(points, bool):
        if points < 0:
            raise ValueError(f"points: expected at least 0, got {points}")
        points = range(points)
    if len(points) > MOST_POINTS:
        raise ValueError(f"points: expected at most {MOST_POINTS}, got {len(points)}")
    if len(set(points)) < len(points):
        raise ValueError(f"points: expected different ones, got {list(points)}")
    return _matchings(tuple(sorted(points)))


def _matchings(points: tuple[int, ...]) -> list[Matching]:
    if not points:
        return [()]
    first, rest = points[0], points[1:]
    return [
        ((first, other), *others)
        for i, other in enumerate(rest)
        for others in _matchings(rest[:i] + rest[i + 1 :])
    ]


def brauer_matrix(matching: Matching, n: int, k: int, l: int, *, form: Tensor | None = None) -> Tensor:  # noqa: E741
    """Matrix (n^l, n^k) of a diagram, float64: 1 where joined points have equal indices, 0 elsewhere.

    Row and column numbers are index tuples read as numbers to base n, as `reshape` reads a tensor.

    Args:
        matching: of l + k points, the outputs 0 to l − 1 first.
        n: dimension of the space.
        k: axes of the input.
        l: axes of the output.
        form: (n, n); what lines within a row carry in place of the identity (see `symplectic_matrix`).

    Raises:
        ValueError: the pairs do not join each of the l + k points once, or form is not (n, n).

    >>> brauer_matrix(((0, 1),), 2, 1, 1)  # a line through: the identity
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    >>> brauer_matrix(((0, 1),), 2, 2, 0)  # a line below: the trace
    tensor([[1., 0., 0., 1.]], dtype=torch.float64)
    """
    matching = check_matching(matching, k, l)
    identity = torch.eye(n, dtype=torch.float64)
    bent = identity if _check_form(form, n) is None else form.double()
    if not matching:
        return torch.ones(1, 1, dtype=torch.float64)
    operands = [part for a, b in matching for part in (identity if a < l <= b else bent, [a, b])]
    return torch.einsum(*operands, list(range(k + l))).reshape(n**l, n**k)


def symplectic_matrix(matching: Matching, n: int, k: int, l: int) -> Tensor:  # noqa: E741
    """Matrix (n^l, n^k) of a diagram for Sp(n): `brauer_matrix` with the form J within the rows; n even.

    The paper numbers the axes so that J has blocks [[0, 1], [−1, 0]] along its diagonal; here, as in
    `groups.Symplectic`, J = [[0, I], [−I, 0]]. One is the other with the axes of ℝⁿ renumbered.

    >>> symplectic_matrix(((0, 1),), 2, 2, 0)  # x ⊗ y ↦ xᵀ J y
    tensor([[ 0.,  1., -1.,  0.]], dtype=torch.float64)
    """
    return brauer_matrix(matching, n, k, l, form=Symplectic(n).form)


def apply_brauer(
    matching: Matching,
    x: Tensor,
    k: int,
    l: int,  # noqa: E741
    n: int | None = None,
    *,
    form: Tensor | None = None,
) -> Tensor:
    """Product of a diagram's matrix with x, without the matrix: sum joined inputs, permute, copy to outputs.

    Reads at most n^k numbers of each example and writes n^l, where the matrix takes n^(k + l) multiplications
    (`brauer_cost` counts). Differentiable, also under `torch.func`; any dtype.

    Args:
        matching: of l + k points, the outputs 0 to l − 1 first.
        x: (…, n, …, n) with k axes of length n.
        k: axes of the input.
        l: axes of the output.
        n: dimension of the space; needed only where k is 0.
        form: (n, n); what lines within a row carry in place of the identity.

    Returns:
        (…, n, …, n) with l axes.

    Raises:
        ValueError: the pairs do not join each of the l + k points once, or x has not k last axes of one
            length.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> apply_brauer(((0, 3), (1, 2)), x, 2, 2)  # both lines through, crossed: the transpose
    tensor([[1., 3.],
            [2., 4.]])
    >>> apply_brauer(((0, 1), (2, 3)), x, 2, 2)  # the trace, times the identity
    tensor([[5., 0.],
            [0., 5.]])
    """
    matching = check_matching(matching, k, l)
    n = check_axes(x, k, n)
    _check_form(form, n)
    below, through, above = rows(matching, l)
    core = contract(x, k, below, form)
    inputs = sorted(i for _, i in through)
    core = permute_last(core, [inputs.index(i) for _, i in through])
    return spread(core, l, above, n, form)


def brauer_cost(matching: Matching, n: int, k: int, l: int) -> dict[str, int]:  # noqa: E741
    """Operations on one example: `additions` and `copies` of `apply_brauer`, `dense` multiply-adds.

    A pair of inputs sums n terms for each of the indices that are left; a number is copied once for each way
    to set the indices that joined outputs share.

    >>> brauer_cost(((0, 1), (2, 3)), 10, 2, 2)
    {'additions': 10, 'copies': 10, 'dense': 10000}
    """
    below, through, above = rows(check_matching(matching, k, l), l)
    additions = sum(n ** (k - 2 * i - 1) for i in range(len(below)))
    return {"additions": additions, "copies": n ** (len(through) + len(above)), "dense": n ** (k + l)}


def compose_brauer(d1: Diagram, d2: Diagram, *, symplectic: bool = False) -> tuple[Diagram, int, int]:
    """The diagram of d1 after d2, how many loops closed in the middle, and a sign.

    The matrices multiply as D(d1) D(d2) = sign · n^loops · D(diagram), for every n. The sign is 1 for O(n).
    For Sp(n), walk each line of the product (from its lower-numbered end; a loop either way) and take a
    factor −1 for each line within a row that is walked against its direction, and −1 for every two lines
    within a row, because J² = −1.

    Args:
        d1: from m to l, of pairs, drawn above.
        d2: from k to m, of pairs, drawn below.
        symplectic: signs for `symplectic_matrix` rather than `brauer_matrix`.

    Raises:
        ValueError: d1 has not as many inputs as d2 has outputs, or a block is no pair.

    >>> hook = Diagram(((0, 1), (2, 3)), 2, 2)
    >>> compose_brauer(hook, hook)
    (Diagram(partition=((0, 1), (2, 3)), k=2, l=2), 1, 1)
    >>> right, left = Diagram(((0, 3), (1, 2)), 3, 1), Diagram(((0, 3), (1, 2)), 1, 3)
    >>> compose_brauer(right, left, symplectic=True)  # a zigzag, pulled straight
    (Diagram(partition=((0, 1),), k=1, l=1), 0, -1)
    """
    if d1.k != d2.l:
        raise ValueError(f"d1, d2: expected d1.k == d2.l, got {d1.k} inputs of d1 and {d2.l} outputs of d2")
    upper, lower = check_matching(d1.partition, d1.k, d1.l), check_matching(d2.partition, d2.k, d2.l)
    middle = range(d1.l, d1.l + d1.k)  # points: upper row, middle row, lower row
    steps = [_steps(upper, d1.l, 0), _steps(lower, d2.l, d1.l)]
    seen: set[int] = set()

    def walk(point: int, side: int) -> tuple[int, int]:
        """The end of a line that starts here on that side, or of a loop; and its sign."""
        start, bends, sign = point, 0, 1
        while True:
            step, bent = steps[side][point]
            seen.update((point, step))
            bends, sign = bends + bent, -sign if bent and step < point else sign
            point, side = step, 1 - side
            if point not in middle or point == start:
                return point, sign * (-1) ** (bends // 2)

    outer = [(p, 0) for p in range(d1.l)] + [(p, 1) for p in range(middle.stop, middle.stop + d2.k)]
    pairs, loops, sign = [], 0, 1
    for point, side in outer:
        if point not in seen:
            end, factor = walk(point, side)
            pairs.append(tuple(p if p < d1.l else p - d1.k for p in (point, end)))
            sign *= factor
    for point in middle:
        if point not in seen:
            sign *= walk(point, 0)[1]
            loops += 1
    return Diagram(tuple(pairs), d2.k, d1.l), loops, sign if symplectic else 1


def _steps(matching: Matching, cut: int, shift: int) -> dict[int, tuple[int, bool]]:
    """Where the line at each point leads, and whether it stays in its row."""
    found = {}
    for a, b in matching:
        bent = not a < cut <= b
        found[a + shift], found[b + shift] = (b + shift, bent), (a + shift, bent)
    return found


# The parts of the product, also used by `determinants` and `brauer_linear`


def check_matching(matching: Matching, k: int, l: int) -> Matching:  # noqa: E741
    """The matching in canonical order; ValueError where the pairs do not join each of the points once."""
    blocks = check_partition(matching, k, l)
    wrong = [block for block in blocks if len(block) != 2]
    if wrong:
        raise ValueError(f"matching: expected pairs of points, got the block {wrong[0]}")
    return blocks


def _check_form(form: Tensor | None, n: int) -> Tensor | None:
    if form is not None and form.shape != (n, n):
        raise ValueError(f"form: expected shape {(n, n)}, got {tuple(form.shape)}")
    return form


def rows(
    pairs: Matching,
    l: int,  # noqa: E741
) -> tuple[list[tuple[int, int]], list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs of inputs, pairs (output, input) in order of the outputs, pairs of outputs; inputs from 0."""
    below = [(a - l, b - l) for a, b in pairs if a >= l]
    through = sorted((a, b - l) for a, b in pairs if a < l <= b)
    return below, through, [(a, b) for a, b in pairs if b < l]


def contract(x: Tensor, k: int, pairs: Sequence[tuple[int, int]], form: Tensor | None = None) -> Tensor:
    """Sum over pairs (a, b) of the last k axes: (…, k axes) to (…, k − 2 · pairs axes), the others in order.

    Σ_i x[…, i, …, i, …], or with a form Σ_ij form[i, j] x[…, i, …, j, …] over its entries that are not 0.
    """
    left = list(range(k))
    for a, b in pairs:
        dims = left.index(a) - len(left), left.index(b) - len(left)
        if form is None:
            x = x.diagonal(dim1=dims[0], dim2=dims[1]).sum(-1)
        else:
            i, j = form.nonzero(as_tuple=True)
            x = x.movedim(dims, (-2, -1))[..., i, j] @ form[i, j].to(x)
        left = [axis for axis in left if axis not in (a, b)]
    return x


def spread(
    core: Tensor,
    l: int,  # noqa: E741
    pairs: Sequence[tuple[int, int]],
    n: int,
    form: Tensor | None = None,
) -> Tensor:
    """Copy onto pairs (a, b) of outputs: (…, l − 2 · pairs axes) to (…, l axes), 0 where indices differ.

    The axes of `core` become the outputs in no pair, in order. With a form, times form[i, j].
    """
    at = [axis for axis in range(l) if all(axis not in pair for pair in pairs)]
    for a, b in pairs:
        if form is None:
            core = torch.diag_embed(core[..., None].expand(*core.shape, n))
        else:
            core = core[..., None, None] * form.to(core)
        at += [a, b]
    return permute_last(core, [at.index(axis) for axis in range(l)])


def permute_last(x: Tensor, order: Sequence[int]) -> Tensor:
    """Permute the last axes: new axis i is old axis order[i] of the last len(order)."""
    lead = x.ndim - len(order)
    return x.permute([*range(lead), *(lead + i for i in order)])
