"""Convolutions along edges: turn each edge onto the polar axis, and SO(3) becomes SO(2).

A message along an edge r multiplies features of the sender with the harmonics of the edge: a Clebsch–Gordan
product x ⊗ Y(r) with a weight for each path and pair of channels. Seen in a frame in which r is the polar
axis, Y(r) is zero but for order 0, and what is left to commute with are turns about that axis. They turn the
orders m and -m of each degree by the angle m · φ, as multiplication by a complex number does, so a linear map
that commutes with them mixes equal m only: z = (A + iB) x with x = x[m] + i x[-m], real for m = 0. To mix
channels costs O(L³) for each pair in place of O(L⁴), to turn features O(L³) for each channel in place of
O(L⁵); what the edge itself needs, once for all channels, is O(L⁴) here in place of O(L⁶).

Passaro and Zitnick 2023, "Reducing SO(3) Convolutions to SO(2) for Efficient Equivariant GNNs", ICML, as used
by Liao, Wood, Das and Smidt 2024, "EquiformerV2", ICLR.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerlab.equivariance.irreps import degree_of, paths
from layerlab.equivariance.so3 import check_degree, clebsch_gordan, harmonics_to, wigner_blocks


def to_axis(edges: Tensor) -> Tensor:
    """Rotations R with R r = |r| (0, 1, 0): each edge r onto the polar axis y.

    No continuous choice exists for all directions. Here, edges with y ≥ 0 take the shortest way, and the
    others are first turned by half a turn about x. `EdgeConv` does not depend on the choice.

    Shapes: (…, 3) to (…, 3, 3).

    Raises:
        ValueError: a last axis that is not 3, or an edge whose length is not positive and finite.

    >>> edge = torch.tensor([3.0, -2.0, 6.0])
    >>> torch.allclose(to_axis(edge) @ edge, torch.tensor([0.0, 7.0, 0.0]), atol=1e-5)
    True
    """
    if edges.ndim < 1 or edges.shape[-1] != 3:
        raise ValueError(f"edges: expected (…, 3), got {tuple(edges.shape)}")
    length = edges.norm(dim=-1, keepdim=True)
    if not ((length > 0) & length.isfinite()).all():
        raise ValueError("edges: expected vectors of positive, finite length, got zero, infinity or NaN")
    half_turn = torch.where(edges[..., 1:2] < 0, -1.0, 1.0).to(edges)
    signs = torch.cat([torch.ones_like(half_turn), half_turn, half_turn], -1)  # of diag(1, -1, -1), or 1
    x, y, z = (edges / length * signs).unbind(-1)
    rows = [
        *(1 - x * x / (1 + y), -x, -x * z / (1 + y)),
        *(x, y, z),
        *(-x * z / (1 + y), -z, 1 - z * z / (1 + y)),
    ]
    return torch.stack(rows, -1).unflatten(-1, (3, 3)) * signs[..., None, :]


def edge_frames(edges: Tensor, degree: int) -> list[Tensor]:
    """D(R) of `to_axis(edges)` for each degree: what `EdgeConv` needs, to share among layers.

    Shapes: (E, 3) to one (E, 2l + 1, 2l + 1) for each l = 0 … `degree`.
    """
    return wigner_blocks(degree, to_axis(edges))


class EdgeTensorProduct(nn.Module):
    """The full product of features with the harmonics of an edge, a weight for each path and pair of
    channels.

    z[o, l3] = Σ w[p, o, i] C(l1, l2, l3) x[i, l1] Y(l2) over input channels i and paths p = (l1, l2, l3).

    Args:
        channels_in, channels_out: numbers of channels, each with one feature of each degree.
        degree_in, degree_out: highest degrees of features.
        degree_edge: highest l2; by default degree_in + degree_out, which takes all paths.

    `.paths` lists the (l1, l2, l3); `.weight` is (paths, channels_out, channels_in).

    Shapes: x (E, channels_in, (degree_in + 1)²) and edges (E, 3) to (E, channels_out, (degree_out + 1)²).

    >>> layer = EdgeTensorProduct(2, 3, 1, 2)
    >>> layer(torch.randn(10, 2, 4), torch.randn(10, 3)).shape
    torch.Size([10, 3, 9])
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        degree_in: int,
        degree_out: int,
        degree_edge: int | None = None,
    ):
        super().__init__()
        _check_sizes(channels_in, channels_out, degree_in, degree_out)
        self.degree_in, self.degree_out = degree_in, degree_out
        self.degree_edge = degree_in + degree_out if degree_edge is None else degree_edge
        self.paths = paths(degree_in, self.degree_edge, degree_out)
        self.weight = nn.Parameter(torch.empty(len(self.paths), channels_out, channels_in))
        nn.init.normal_(self.weight, std=1 / math.sqrt(channels_in * (degree_in + 1)))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """(E, channels_in, (degree_in + 1)²), (E, 3) to (E, channels_out, (degree_out + 1)²)."""
        _check_features(x, self.weight.shape[2], self.degree_in)
        harmonics = harmonics_to(self.degree_edge, edges)
        found = []
        for ell in range(self.degree_out + 1):
            terms, chosen = [], []
            for p, (l1, l2, l3) in enumerate(self.paths):
                if l3 == ell:
                    y = harmonics[:, l2**2 : (l2 + 1) ** 2]
                    turn = torch.einsum("eb,abc->eac", y, clebsch_gordan(l1, l2, l3).to(x))
                    terms.append(x[..., l1**2 : (l1 + 1) ** 2] @ turn)  # (E, channels_in, 2 l3 + 1)
                    chosen.append(p)
            mix = self.weight[chosen].permute(1, 0, 2).flatten(1)  # (channels_out, paths · channels_in)
            found.append(mix @ torch.cat(terms, 1))
        return torch.cat(found, -1)


class EdgeConv(nn.Module):
    """The same maps as `EdgeTensorProduct` with all its paths, in a frame along the edge.

    Args:
        channels_in, channels_out, degree_in, degree_out: as there.
        max_order: leave out orders |m| above this one; by default none. Stays equivariant, is cheaper, and is
            no longer every product.

    One weight for each order m = 0 … min(degree_in, degree_out, max_order): `.real[m]` of shape (channels_out
    · degrees of output, channels_in · degrees of input), those degrees that have order m, and `.imaginary[m -
    1]` of the same shape for m ≥ 1. Without `max_order`, as many numbers as `EdgeTensorProduct` has, one to
    one (`from_tensor_product`).

    Shapes: x (E, channels_in, (degree_in + 1)²) and edges (E, 3) to (E, channels_out, (degree_out + 1)²).

    >>> layer = EdgeConv(2, 3, 1, 2)
    >>> layer(torch.randn(10, 2, 4), torch.randn(10, 3)).shape
    torch.Size([10, 3, 9])
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        degree_in: int,
        degree_out: int,
        max_order: int | None = None,
    ):
        super().__init__()
        _check_sizes(channels_in, channels_out, degree_in, degree_out)
        self.channels_in, self.channels_out = channels_in, channels_out
        self.degree_in, self.degree_out = degree_in, degree_out
        top = min(degree_in, degree_out)
        if max_order is not None:
            check_degree(max_order, "max_order")
        self.max_order = top if max_order is None else min(top, max_order)

        self.register_buffer("places_in", _by_order(degree_in), persistent=False)
        self.register_buffer("places_out", _by_order(degree_out), persistent=False)

        def weight(m: int) -> nn.Parameter:
            rows, columns = channels_out * (degree_out + 1 - m), channels_in * (degree_in + 1 - m)
            scale = math.sqrt(columns * (2 if m else 1))
            return nn.Parameter(torch.randn(rows, columns) / scale)

        self.real = nn.ParameterList(weight(m) for m in range(self.max_order + 1))
        self.imaginary = nn.ParameterList(weight(m) for m in range(1, self.max_order + 1))

    def forward(self, x: Tensor, edges: Tensor | None, frames: list[Tensor] | None = None) -> Tensor:
        """(E, channels_in, (degree_in + 1)²), (E, 3) to (E, channels_out, (degree_out + 1)²).

        `frames`: `edge_frames(edges, degree)` of at least both degrees, where other layers use them too;
        then `edges` is not read and may be None.
        """
        _check_features(x, self.channels_in, self.degree_in)
        frames = edge_frames(edges, max(self.degree_in, self.degree_out)) if frames is None else frames
        orders = [0, *(sign * m for m in range(1, self.max_order + 1) for sign in (1, -1))]
        sizes = [self.degree_in + 1 - abs(m) for m in orders]
        parts = turn_blocks(x, frames).index_select(-1, self.places_in)[..., : sum(sizes)].split(sizes, -1)
        parts = [part.flatten(1) for part in parts]  # each (E, channels_in · degrees)
        found = [parts[0] @ self.real[0].mT]
        for m in range(1, self.max_order + 1):
            ahead, back, real, imaginary = *parts[2 * m - 1 : 2 * m + 1], self.real[m], self.imaginary[m - 1]
            found += [ahead @ real.mT - back @ imaginary.mT, back @ real.mT + ahead @ imaginary.mT]
        z = torch.cat([part.unflatten(1, (self.channels_out, -1)) for part in found], -1)
        z = F.pad(z, (0, (self.degree_out + 1) ** 2 - z.shape[-1]))  # orders that are left out
        return turn_blocks(z.index_select(-1, self.places_out.argsort()), frames, back=True)

    @classmethod
    @torch.no_grad()
    def from_tensor_product(cls, product: EdgeTensorProduct) -> "EdgeConv":
        """The layer that computes what `product` does.

        On the axis Y(l2) is √((2 l2 + 1) / 4π) in order 0. So the path (l1, l2, l3) adds to A the
        coefficients C[m, 0, m] where l1 + l2 + l3 is even, and to B the C[m, 0, -m] where it is odd.
        """
        _, channels_out, channels_in = product.weight.shape
        layer = cls(channels_in, channels_out, product.degree_in, product.degree_out).to(product.weight)
        for weight in layer.parameters():
            weight.zero_()
        for p, (l1, l2, l3) in enumerate(product.paths):
            table = clebsch_gordan(l1, l2, l3)[:, l2].to(product.weight) * math.sqrt(
                (2 * l2 + 1) / (4 * math.pi)
            )
            for m in range(min(l1, l3) + 1):
                odd = (l1 + l2 + l3) % 2
                if odd and m == 0:
                    continue
                target = layer.imaginary[m - 1] if odd else layer.real[m]
                block = target.view(channels_out, product.degree_out + 1 - m, channels_in, -1)
                entry = table[l1 + m, l3 - m] if odd else table[l1 + m, l3 + m]
                block[:, l3 - m, :, l1 - m] += entry * product.weight[p]
        return layer


def turn_blocks(x: Tensor, blocks: list[Tensor], *, back: bool = False) -> Tensor:
    """D x for features x (E, channels, (L + 1)²) and blocks D_l (E, 2l + 1, 2l + 1); `back`: Dᵀ x."""
    degree = degree_of(x)
    if len(blocks) <= degree:
        raise ValueError(f"blocks: expected degrees 0 to {degree}, got {len(blocks)} of them")
    return torch.cat(
        [
            x[..., ell**2 : (ell + 1) ** 2] @ (blocks[ell] if back else blocks[ell].mT)
            for ell in range(degree + 1)
        ],
        -1,
    )


def _by_order(degree: int) -> Tensor:
    """Where orders 0, 1, -1, 2, -2, … stand, each for all degrees that have it: a permutation of (L + 1)²."""
    orders = [0, *(sign * m for m in range(1, degree + 1) for sign in (1, -1))]
    return torch.tensor([ell * ell + ell + m for m in orders for ell in range(abs(m), degree + 1)])


def _check_sizes(channels_in: int, channels_out: int, degree_in: int, degree_out: int) -> None:
    for name, value in (("channels_in", channels_in), ("channels_out", channels_out)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
    check_degree(degree_in, "degree_in")
    check_degree(degree_out, "degree_out")


def _check_features(x: Tensor, channels: int, degree: int) -> None:
    if x.ndim != 3 or x.shape[1:] != (channels, (degree + 1) ** 2):
        raise ValueError(f"x: expected (edges, {channels}, {(degree + 1) ** 2}), got {tuple(x.shape)}")
