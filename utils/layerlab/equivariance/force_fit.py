"""Training on energies and forces, with or without random rotations, and the error of the forces."""

import torch
from torch import Tensor

from layerlab.equivariance.force_field import Clusters
from layerlab.equivariance.point_nets import PointNet
from layerlab.equivariance.so3 import random_rotation


def fit_forces(
    model: PointNet,
    clusters: Clusters,
    *,
    steps: int = 500,
    lr: float = 3e-3,
    batch_size: int = 32,
    augment: bool = False,
    seed: int = 0,
) -> Tensor:
    """Train on energies (per point) and forces, in place, by Adam with a cosine schedule; the losses,
    (steps,).

    Both errors are squared and in units of the root mean square force of the data, which the model keeps,
    with the mean energy, as buffers.

    Args:
        model: a `PointNetwork` or `PlainNetwork`; left in evaluation mode. Its dtype is that of the training.
        clusters: positions, energies and forces.
        steps, lr, batch_size: of the training.
        augment: turn each cluster of each batch at random.
        seed: order of batches, and rotations.
    """
    if steps < 1 or batch_size < 1 or not lr > 0:
        raise ValueError(f"steps, batch_size, lr: expected positive, got {steps}, {batch_size}, {lr}")
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    positions, energies, forces = (value.to(dtype) for value in clusters)
    model.energy_mean.copy_(energies.mean())
    model.scale.copy_(forces.square().mean().sqrt())
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    losses = []
    model.train()
    for _ in range(steps):
        batch = torch.randint(len(positions), (batch_size,), generator=generator)
        X, target = positions[batch], forces[batch]
        if augment:
            turns = random_rotation(generator, batch_size, dtype).mT
            X, target = X @ turns, target @ turns
        found, pushed = model(X)
        error = (found - energies[batch]) / X.shape[1]
        loss = (error.square().mean() + (pushed - target).square().mean()) / model.scale.square()
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
        losses.append(loss.detach())
    model.eval()
    return torch.stack(losses)


@torch.no_grad()
def force_error(model: PointNet, clusters: Clusters) -> float:
    """Root mean square error of the forces over the root mean square force; zero forces have 1."""
    dtype = next(model.parameters()).dtype
    forces = model(clusters.positions.to(dtype))[1]
    return ((forces - clusters.forces).square().mean() / clusters.forces.square().mean()).sqrt().item()
