"""Networks on point clouds: one whose features turn with the points, and a plain one to compare it with.

Both pass messages between all pairs of points, see the same distances, and give an energy and a force on each
point. Both keep translations and renumberings of the points; only the first keeps rotations.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from layerlab.equivariance.gaunt import gaunt_table
from layerlab.equivariance.irreps import paths, scale_degrees
from layerlab.equivariance.so2 import EdgeConv, edge_frames
from layerlab.equivariance.so3 import check_degree, clebsch_gordan, harmonics_to

Product = Literal["full", "gaunt", "edge"]
_WAVES = 8  # functions of the distance


class PointNet(nn.Module):
    """What both networks share: pairs, distances, units, and forces as a gradient where wished."""

    def __init__(self, cutoff: float, conservative: bool):
        super().__init__()
        if not cutoff > 0:
            raise ValueError(f"cutoff: expected a positive distance, got {cutoff}")
        self.cutoff, self.conservative = cutoff, conservative
        self.register_buffer("energy_mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, 3) to energies (B,) and forces (B, n, 3)."""
        if positions.ndim != 3 or positions.shape[-1] != 3 or positions.shape[1] < 2:
            raise ValueError(f"positions: expected (B, n, 3) with n at least 2, got {tuple(positions.shape)}")
        if not self.conservative:
            energies, forces = self._heads(positions)
            return self.energy_mean + self.scale * energies, self.scale * forces
        with torch.enable_grad():
            positions = positions if positions.requires_grad else positions.detach().requires_grad_()
            energies = self._heads(positions)[0]
            (slope,) = torch.autograd.grad(energies.sum(), positions, create_graph=self.training)
        return self.energy_mean + self.scale * energies, -self.scale * slope

    def _heads(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _pairs(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Senders (n, n - 1), edges (E, 3) from receiver to sender, functions of their length, envelope."""
        n = positions.shape[1]
        senders = torch.tensor([[j for j in range(n) if j != i] for i in range(n)], device=positions.device)
        edges = (positions[:, senders] - positions[:, :, None]).flatten(0, 2)
        length = edges.norm(dim=-1, keepdim=True)
        k = torch.arange(1, _WAVES + 1, device=positions.device)
        inside = length < self.cutoff
        envelope = torch.where(inside, (1 + torch.cos(math.pi * length / self.cutoff)) / 2, 0.0)
        return senders, edges, torch.sin(math.pi * k * length / self.cutoff) / length, envelope


class PointNetwork(PointNet):
    """Messages are products of the sender's features with the harmonics of the edge; features turn with the
    points.

    Args:
        channels: features of each degree 0 … `degree` at each point.
        degree: highest degree, at least 1.
        layers: rounds of messages.
        product: "full", Clebsch–Gordan with a weight for each path, a function of the distance; "gaunt", the
            product of functions on the sphere with a weight for each degree; "edge", `EdgeConv`, with a
            weight for each degree, which mixes channels too.
        cutoff: distance beyond which points do not see each other.
        conservative: forces are minus the gradient of the energy, at about three times the cost of a step.
            Otherwise the energy is read from degree 0 and the forces from degree 1, which turn as they must
            but need not be a gradient.

    `forward(positions)` gives energies and forces, in the units that `force_fit.fit_forces` found in its
    data.

    >>> energies, forces = PointNetwork(channels=4)(torch.randn(7, 5, 3))
    >>> energies.shape, forces.shape
    (torch.Size([7]), torch.Size([7, 5, 3]))
    """

    def __init__(
        self,
        channels: int = 8,
        degree: int = 2,
        layers: int = 2,
        *,
        product: Product = "full",
        cutoff: float = 3.0,
        conservative: bool = False,
    ):
        super().__init__(cutoff, conservative)
        check_degree(degree)
        if degree < 1:
            raise ValueError(f"degree: expected at least 1, for the forces, got {degree}")
        for name, value in (("channels", channels), ("layers", layers)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        self.channels, self.degree = channels, degree
        self.embedding = nn.Parameter(torch.ones(channels))
        self.layers = nn.ModuleList(_Layer(channels, degree, product) for _ in range(layers))
        self.energy = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 1))
        self.force = nn.Linear(channels, 1, bias=False)

    def _heads(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        senders, edges, waves, envelope = self._pairs(positions)
        geometry = self.layers[0].geometry(edges)  # depends on the edges alone: the same for all layers
        x = positions.new_zeros(*positions.shape[:2], self.channels, (self.degree + 1) ** 2)
        x[..., 0] = self.embedding
        for layer in self.layers:
            x = layer(x, senders, geometry, waves, envelope)
        forces = self.force(x[..., 1:4].mT)[..., 0]  # degree 1 is a vector, (x, y, z)
        return self.energy(x[..., 0]).sum((1, 2)), forces


class _Layer(nn.Module):
    """x + gate(mix(Σ over senders of a product of features and harmonics))."""

    def __init__(self, channels: int, degree: int, product: Product):
        super().__init__()
        self.degree, self.product = degree, product
        self.paths = paths(degree, degree, degree)
        if product not in ("full", "gaunt", "edge"):
            raise ValueError(f'product: expected "full", "gaunt" or "edge", got {product!r}')
        owner = [p for p, (_, _, l3) in enumerate(self.paths) for _ in range(2 * l3 + 1)]
        place = [l3 * l3 + m for _, _, l3 in self.paths for m in range(2 * l3 + 1)]
        # sums and copies as products with 0s and 1s, whose gradients are faster than those of indexing
        self.register_buffer("spread", torch.eye(len(self.paths))[:, owner], persistent=False)
        self.register_buffer("gather", torch.eye((degree + 1) ** 2)[place], persistent=False)
        numbers = len(self.paths) if product == "full" else degree + 1
        self.radial = nn.Sequential(nn.Linear(_WAVES, 16), nn.SiLU(), nn.Linear(16, channels * numbers))
        self.edge = EdgeConv(channels, channels, degree, degree) if product == "edge" else None
        self.mix = nn.Parameter(torch.randn(degree + 1, channels, channels) / math.sqrt(channels))
        self.gate = nn.Sequential(
            nn.Linear(channels * (degree + 1), 2 * channels),
            nn.SiLU(),
            nn.Linear(2 * channels, channels * (degree + 1)),
        )

    def geometry(self, edges: Tensor) -> list[Tensor]:
        """The product with the harmonics of each edge, as matrices; for "edge" the turns of each degree."""
        if self.product == "edge":
            return edge_frames(edges, self.degree)
        harmonics = math.sqrt(4 * math.pi) * harmonics_to(self.degree, edges)
        if self.product == "gaunt":
            table = gaunt_table(self.degree, self.degree, self.degree).to(edges)
            return [torch.einsum("eb,abc->eac", harmonics, table)]
        parts = [[] for _ in range(self.degree + 1)]  # by the degree of the sender's features
        for l1, l2, l3 in self.paths:
            y, table = harmonics[:, l2**2 : (l2 + 1) ** 2], clebsch_gordan(l1, l2, l3).to(edges)
            parts[l1].append(torch.einsum("eb,abc->eac", y, table))
        return [torch.cat(part, -1) for part in parts]

    def message(self, x: Tensor, geometry: list[Tensor], weights: Tensor) -> Tensor:
        """(E, channels, (L + 1)²), with weights (E, channels, paths or degrees), to the same shape as x."""
        if self.product == "edge":
            # the frames hold all that the layer reads of the edges
            return self.edge(scale_degrees(x, weights), None, geometry)
        if self.product == "gaunt":
            return scale_degrees(x, weights) @ geometry[0]
        terms = [x[..., l1**2 : (l1 + 1) ** 2] @ turn for l1, turn in enumerate(geometry)]
        return (torch.cat(terms, -1) * (weights @ self.spread)) @ self.gather  # all paths, then sums by l3

    def forward(
        self, x: Tensor, senders: Tensor, geometry: list[Tensor], waves: Tensor, envelope: Tensor
    ) -> Tensor:
        """x (B, n, channels, (L + 1)²) to the same shape."""
        batch, n, channels, _ = x.shape
        weights = (envelope * self.radial(waves)).unflatten(-1, (channels, -1))
        messages = self.message(x[:, senders].flatten(0, 2), geometry, weights)
        total = messages.unflatten(0, (batch, n, n - 1)).sum(2)
        slices = [slice(ell**2, (ell + 1) ** 2) for ell in range(self.degree + 1)]
        mixed = torch.cat([self.mix[ell] @ total[..., part] for ell, part in enumerate(slices)], -1)
        sizes = [(1 + mixed[..., part].square().sum(-1)).sqrt() - 1 for part in slices[1:]]  # grows slowly
        gates = self.gate(torch.cat([mixed[..., 0], *sizes], -1)).unflatten(-1, (channels, -1))
        gated = scale_degrees(mixed, torch.cat([torch.ones_like(gates[..., :1]), gates[..., 1:]], -1))
        return x + torch.cat([gated[..., :1] + gates[..., :1], gated[..., 1:]], -1)


class PlainNetwork(PointNet):
    """Messages between all pairs by an MLP that sees the edge as three coordinates; nothing turns.

    Args:
        width: numbers at each point.
        layers: rounds of messages.
        cutoff, conservative: as `PointNetwork`.

    >>> energies, forces = PlainNetwork(16)(torch.randn(7, 5, 3))
    >>> forces.shape
    torch.Size([7, 5, 3])
    """

    def __init__(self, width: int, layers: int = 2, *, cutoff: float = 3.0, conservative: bool = False):
        super().__init__(cutoff, conservative)
        self.embedding = nn.Parameter(torch.ones(width))
        self.messages = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width + 3 + _WAVES, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(layers)
        )
        self.updates = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(layers)
        )
        self.energy = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self.force = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3))

    def _heads(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        senders, edges, waves, envelope = self._pairs(positions)
        seen = torch.cat([edges / edges.norm(dim=-1, keepdim=True), waves], -1)
        batch, n = positions.shape[:2]
        x = self.embedding.to(positions).expand(batch, n, -1)
        for message, update in zip(self.messages, self.updates, strict=True):
            ours = x[:, :, None].expand(-1, -1, n - 1, -1).flatten(0, 2)
            pairs = torch.cat([ours, x[:, senders].flatten(0, 2), seen], -1)
            total = (envelope * message(pairs)).unflatten(0, (batch, n, n - 1)).sum(2)
            x = x + update(torch.cat([x, total], -1))
        return self.energy(x).sum((1, 2)), self.force(x)


def count_parameters(model: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def plain_like(model: PointNetwork, layers: int | None = None) -> PlainNetwork:
    """A `PlainNetwork` of the width whose number of parameters comes closest to that of `model`.

    Same cutoff, same kind of forces, and by default as many layers.

    >>> model = PointNetwork(channels=8)
    >>> plain = plain_like(model)
    >>> abs(count_parameters(plain) / count_parameters(model) - 1) < 0.05
    True
    """
    layers = len(model.layers) if layers is None else layers
    settings = {"cutoff": model.cutoff, "conservative": model.conservative}
    target = count_parameters(model)
    width = 1
    while count_parameters(PlainNetwork(width + 1, layers, **settings)) <= target:
        width += 1
    both = [PlainNetwork(w, layers, **settings) for w in (width, width + 1)]
    return min(both, key=lambda plain: abs(count_parameters(plain) - target))
