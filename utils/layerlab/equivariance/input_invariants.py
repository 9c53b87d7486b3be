"""Invariance from the input alone: coordinates of points that depend on nothing but their distances.

A network sees no rotation, no reflection and no shift if its input has none. Multidimensional scaling turns
the distances between the points back into coordinates, and those depend on the distances only — up to the
sign of each axis, and up to a rotation of axes along which the points spread equally.

Chapter: `chapters/equivariance/01_group_convolutions.ipynb`.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Signs = Literal["skew", "largest", "none"]


def squared_distances(points: Tensor) -> Tensor:
    """Between every two points: (…, N, D) to (…, N, N).

    >>> squared_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([[ 0., 25.],
            [25.,  0.]])
    """
    if points.ndim < 2 or points.shape[-2] == 0 or not points.is_floating_point():
        raise ValueError(
            f"points: expected floats (…, N, D), N ≥ 1, got {tuple(points.shape)} of {points.dtype}"
        )
    if not torch.isfinite(points).all():
        raise ValueError("points: expected finite values, got NaN or infinity")
    return (points[..., :, None, :] - points[..., None, :, :]).square().sum(-1)


def gram_from_distances(squared: Tensor) -> Tensor:
    """Inner products about the centroid, −½ J D² J with J = 1 − 11ᵀ/N, from squared distances (…, N, N).

    Raises:
        ValueError: the last two axes differ.
    """
    if squared.ndim < 2 or squared.shape[-1] != squared.shape[-2]:
        raise ValueError(f"squared: expected a shape (…, N, N), got {tuple(squared.shape)}")
    rows = squared - squared.mean(-1, keepdim=True)
    return -0.5 * (rows - rows.mean(-2, keepdim=True))


def mds_coordinates(
    points: Tensor,
    dims: int | None = None,
    *,
    scale: bool = False,
    signs: Signs = "skew",
) -> Tensor:
    """Coordinates of the points along the principal axes of the cloud, computed from their distances alone.

    Classical multidimensional scaling: eigenvectors of the matrix of inner products, the largest eigenvalue
    first, each times the root of its eigenvalue. All distances are kept where dims = D. The result does not
    change when the points are shifted, rotated or reflected (nor, with `scale`, enlarged), and reordered
    points give reordered coordinates. That holds under two conditions, which `mds_ambiguity` measures:

    - the eigenvalues are different: for equal ones every rotation of their axes is as good, and the one that
      comes out jumps (a sphere, a cube);
    - each axis has a sign that can be told. "skew" makes the third moment of the coordinates positive, which
      fails for clouds that are symmetric about the centroid; "largest" makes the coordinate with the largest
      absolute value positive, which depends on one point; "none" leaves what the eigensolver returns. That
      too is a function of the distances, so that rotations do not change it (up to rounding), but it depends
      on the order of the points: with "none", reordered points may change the signs.

    Reflections are lost too: a left and a right hand have the same coordinates. For points in a Euclidean
    space these are the principal components up to signs, which cost O(N D²) instead of O(N³).

    Args:
        points: (…, N, D) floats.
        dims: number of coordinates to return; without it D. Beyond min(N − 1, D) they are zero.
        scale: divide by the root mean square distance to the centroid.
        signs: how the sign of each axis is chosen.

    Returns:
        (…, N, dims), type of `points`. No gradient flows well where eigenvalues nearly coincide.

    Raises:
        ValueError: shape, dims or signs; points that are not finite, or all equal with `scale`.

    Source: Zhang et al. (2021), Revisiting Transformation Invariant Geometric Deep Learning,
    arXiv:2112.12345.

    >>> points = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 7.0]])
    >>> mds_coordinates(points, 1).flatten().round()
    tensor([-3., -1.,  4.])
    """
    if signs not in ("skew", "largest", "none"):
        raise ValueError(f"signs: expected 'skew', 'largest' or 'none', got {signs!r}")
    squared = squared_distances(points)
    count = points.shape[-1] if dims is None else dims
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"dims: expected an integer of at least 1, got {count!r}")
    if scale:
        # the mean squared distance to the centroid is half the mean squared distance between points
        size = squared.mean((-1, -2), keepdim=True) / 2
        if not (size > 0).all():
            raise ValueError(
                "points: expected some that differ, got a cloud of equal points, which has no scale"
            )
        squared = squared / size
    values, vectors = torch.linalg.eigh(gram_from_distances(squared))
    kept = min(count, points.shape[-2])  # N points have no more axes
    values, vectors = values[..., -kept:].flip(-1), vectors[..., -kept:].flip(-1)
    values = torch.where(
        values > values[..., :1] * points.shape[-2] * torch.finfo(values.dtype).eps, values, 0
    )
    x = F.pad(vectors * values.sqrt()[..., None, :], (0, count - kept))
    if signs == "skew":
        side = x.pow(3).sum(-2, keepdim=True)
    elif signs == "largest":
        side = x.gather(-2, x.abs().argmax(-2, keepdim=True))
    else:
        return x
    return torch.where(side < 0, -x, x)


class Ambiguity(NamedTuple):
    """How well the axes of a cloud can be told apart, each (…, dims); near zero, coordinates jump."""

    gap: Tensor
    skew: Tensor


def mds_ambiguity(points: Tensor, dims: int | None = None) -> Ambiguity:
    """What makes `mds_coordinates` stable: gaps between eigenvalues, and the skewness of each axis.

    Args:
        points: (…, N, D).
        dims: as in `mds_coordinates`.

    Returns:
        gap: the distance of each eigenvalue to the nearest other, relative to the largest. A perturbation of
            the inner products by ε (relative) turns the axis by up to about ε / gap.
        skew: |Σ x³| / (N σ³) of each axis, with σ its root mean square; 0 for an axis of no extent.

    >>> square = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    >>> bool((mds_ambiguity(square).gap < 1e-6).all()), bool((mds_ambiguity(square).skew < 1e-6).all())
    (True, True)
    """
    x = mds_coordinates(points, dims, signs="none")
    values = torch.linalg.eigvalsh(gram_from_distances(squared_distances(points))).flip(-1)
    values = F.pad(values, (0, max(0, x.shape[-1] - values.shape[-1])))
    top = values[..., :1].clamp_min(torch.finfo(values.dtype).tiny)
    between = (values[..., :-1] - values[..., 1:]) / top
    edge = torch.full_like(top, torch.inf)
    gap = torch.minimum(torch.cat([edge, between], -1), torch.cat([between, edge], -1))
    sigma = x.square().mean(-2).sqrt()
    skew = x.pow(3).mean(-2).abs() / sigma.pow(3).clamp_min(torch.finfo(x.dtype).tiny)
    return Ambiguity(gap[..., : x.shape[-1]], torch.where(sigma > 0, skew, 0))


def mds_frames(points: Tensor, dims: int | None = None, *, scale: bool = False) -> Tensor:
    """The coordinates with every choice of signs: a set that no symmetry of the cloud can change.

    A network averaged over them is invariant without any rule for the signs, at 2^dims times the cost. Equal
    eigenvalues remain a problem.

    Returns:
        (2^dims, …, N, dims).

    Raises:
        ValueError: as in `mds_coordinates`; dims above 8.

    >>> mds_frames(torch.randn(5, 3)).shape
    torch.Size([8, 5, 3])
    """
    x = mds_coordinates(points, dims, scale=scale, signs="none")
    if x.shape[-1] > 8:
        raise ValueError(f"dims: expected at most 8, since there are 2**dims frames, got {x.shape[-1]}")
    choices = torch.cartesian_prod(*[torch.tensor([1.0, -1.0])] * x.shape[-1]).reshape(-1, x.shape[-1]).to(x)
    return x * choices.reshape(-1, *[1] * (x.ndim - 1), x.shape[-1])
