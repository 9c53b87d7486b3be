"""Is it equivariant? A check by random elements, and all equivariant linear maps by a null space."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from layerlab.equivariance.groups import FiniteGroup, Group, Representation

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def _inputs(reps: Sequence[Any], x: Any, generator: torch.Generator) -> list[Tensor]:
    if x is None:
        for i, rep in enumerate(reps):
            if not hasattr(rep, "dimension"):
                raise ValueError(
                    f"x: expected an input, since rep_in[{i}] = {rep!r} does not tell its dimension"
                )
        return [torch.randn(4, rep.dimension, generator=generator, dtype=torch.float64) for rep in reps]
    found = list(x) if isinstance(x, tuple | list) else [x]
    if len(found) != len(reps):
        raise ValueError(f"x: expected {len(reps)} tensors, one per representation, got {len(found)}")
    for v in found:
        if v.numel() == 0:
            raise ValueError(f"x: expected at least one example, got an empty tensor {tuple(v.shape)}")
    return found


def _worst(
    f: Callable[..., Tensor], rep_in: Any, rep_out: Any, x: Any, elements: int, seed: int
) -> tuple[float, str, torch.dtype]:
    """The largest error, the element where it occurs, and the dtype of the output."""
    reps = list(rep_in) if isinstance(rep_in, tuple | list) else [rep_in]
    group = rep_out.group
    for rep in reps:
        if rep.group != group:
            raise ValueError(
                f"representations of different groups: rep_in of {rep.group}, rep_out of {group}"
            )
    if isinstance(elements, bool) or not isinstance(elements, int) or elements < 1:
        raise ValueError(f"elements: expected an integer of at least 1, got {elements!r}")
    generator = torch.Generator().manual_seed(seed)
    xs = _inputs(reps, x, generator)
    few = isinstance(group, FiniteGroup) and group.order <= elements
    drawn = range(group.order) if few else [group.random(generator) for _ in range(elements)]
    with torch.no_grad():
        y = f(*xs)
        worst, name = -1.0, ""
        for g in drawn:
            moved = f(*(rep.act(g, v) for rep, v in zip(reps, xs, strict=True)))
            expected = rep_out.act(g, y)
            if moved.shape != expected.shape:
                raise ValueError(
                    f"f: shape {tuple(moved.shape)} after {group.name(g)}, expected {tuple(expected.shape)}"
                )
            scale = max(moved.abs().max().item(), expected.abs().max().item())
            error = (moved - expected).abs().max().item() / scale if scale else 0.0
            if error != error:  # NaN: no comparison would notice it
                error = float("inf")
            if error > worst:
                worst, name = error, group.name(g)
    return worst, name, y.dtype


def equivariance_error(
    f: Callable[..., Tensor], rep_in: Any, rep_out: Any, x: Any = None, *, elements: int = 8, seed: int = 0
) -> float:
    """The largest |f(g x) − g f(x)| over elements g, relative to the largest output (`assert_equivariant`).

    It is 0 for an output that is zero throughout, and infinite for NaN.

    >>> from layerlab.equivariance.groups import SpecialOrthogonal, cyclic, defining, regular
    >>> equivariance_error(torch.relu, regular(cyclic(4)), regular(cyclic(4)))
    0.0
    >>> rotate = defining(SpecialOrthogonal(3))
    >>> equivariance_error(torch.relu, rotate, rotate) > 0.1
    True
    """
    return _worst(f, rep_in, rep_out, x, elements, seed)[0]


def assert_equivariant(
    f: Callable[..., Tensor],
    rep_in: Any,
    rep_out: Any,
    x: Any = None,
    *,
    elements: int = 8,
    seed: int = 0,
    tolerance: float | None = None,
) -> float:
    """Check f(g x) = g f(x), and return the largest error relative to the largest output.

    Args:
        f: the map; called without gradients. Where it has several inputs, `rep_in` is a tuple.
        rep_in, rep_out: anything with a `group` and `act(g, x)`: a `Representation` (acts on the last axis),
            a `PictureRep`, a `FieldRep`, …; a tuple of them for several inputs.
        x: the input, or a tuple of inputs; by default four random vectors in float64.
        elements: how many random elements; all of them where a finite group has no more.
        seed: of the elements and inputs.
        tolerance: largest error; by default 1e-10 for float64 outputs, 1e-4 for float32.

    Raises:
        AssertionError: the error exceeds the tolerance; the message names the element and the error.
        ValueError: the representations are of different groups; shapes do not match; x is empty.

    >>> from layerlab.equivariance.groups import defining, symmetric, trivial
    >>> group = symmetric(4)
    >>> assert_equivariant(lambda x: x.sum(-1, keepdim=True), defining(group), trivial(group)) < 1e-10
    True
    """
    error, name, dtype = _worst(f, rep_in, rep_out, x, elements, seed)
    limit = TOLERANCE.get(dtype, 1e-4) if tolerance is None else tolerance
    if not error <= limit:
        raise AssertionError(
            f"not equivariant: f(g x) and g f(x) differ by {error:.3g} of the largest output, "
            f"tolerance {limit:.3g}, for g = {name}"
        )
    return error


def _elements(group: Group) -> list[Any]:
    """Elements such that what commutes with these commutes with all."""
    if isinstance(group, FiniteGroup):
        return list(group.generators())
    # One step along each direction stands for its one-parameter subgroup: a step of one radian is no rational
    # part of a turn, so its multiples come as close as one likes to every rotation of that plane.
    return [*torch.linalg.matrix_exp(group.algebra()), *group.components()]


def equivariant_basis(rep_in: Representation, rep_out: Representation, *, seed: int = 0) -> Tensor:
    """All linear maps W with ρ_out(g) W = W ρ_in(g) for all g: a basis, orthonormal as vectors of entries.

    The null space of the stacked constraints of the generators, or of one step along each direction of the
    Lie algebra and of the extra components, by singular values in float64. Its length is the dimension of the
    space, whatever a formula says. The cost is that of an SVD of size d_in·d_out: seconds at 1000.

    Args:
        rep_in, rep_out: representations of the same group.
        seed: of the random elements that the result is checked with.

    Returns:
        (dimension, d_out, d_in) float64; the dimension can be 0.

    Raises:
        ValueError: the representations are of different groups.
        ArithmeticError: the singular values show no clear gap between zero and not zero (10⁻⁹ to 10⁻⁵ of the
            largest entry of the constraints), or a map found is not equivariant under random elements.

    >>> from layerlab.equivariance.groups import defining, symmetric
    >>> permute = defining(symmetric(4))
    >>> equivariant_basis(permute, permute).shape  # the identity and the sum: Deep Sets
    torch.Size([2, 4, 4])
    """
    rep_in._same_group(rep_out)
    d_in, d_out = rep_in.dimension, rep_out.dimension
    basis = torch.eye(d_in * d_out, dtype=torch.float64).view(-1, d_out, d_in)
    for g in _elements(rep_in.group):
        a, b = rep_out(g), rep_in(g)
        residual = (a @ basis - basis @ b).flatten(1)  # one row per candidate
        scale = max(1.0, a.abs().max().item(), b.abs().max().item())
        vectors, values, _ = torch.linalg.svd(residual, full_matrices=False)
        values = values / scale
        unclear = values[(values > 1e-9) & (values < 1e-5)]
        if len(unclear):
            raise ArithmeticError(
                f"no clear gap between zero and not zero: singular values {unclear.tolist()[:3]} lie between"
            )
        basis = torch.einsum("kr,koi->roi", vectors[:, values <= 1e-9], basis)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(2 if len(basis) else 0):
        g = rep_in.group.random(generator)
        a, b = rep_out(g), rep_in(g)
        error = (a @ basis - basis @ b).abs().max().item()
        if not error <= 1e-8 * max(1.0, a.abs().max().item(), b.abs().max().item()):
            raise ArithmeticError(f"not equivariant under {rep_in.group.name(g)}: error {error:.3g}")
    return basis
