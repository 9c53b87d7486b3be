"""Merge similar units instead of removing them: average what they read, sum what reads them.

Two hidden units with equal incoming weights answer alike to every input, so one that is read by the sum of
both weights does their work. Iterative feature merging takes the most similar pair, merges it, and goes on
(Chen, Zhou and Yan, "Going beyond neural network feature similarity: the network feature complexity and its
interpretation using category theory", 2023). It needs no data.

Chapter: `chapters/pruning/02_is_it_the_weights.ipynb`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from layerlab.pruning.channels import readers
from layerlab.symmetry import PermutationSpec, State, check_spec


def unit_features(state: Mapping[str, Tensor], spec: PermutationSpec, group: str) -> Tensor:
    """What defines each unit: weights that write it, bias, its norm's parameters; (size, d), float64.

    >>> from layerlab.symmetry import Group
    >>> spec = {"a": Group(2, (("a.weight", 0), ("a.bias", 0), ("b.weight", 1)))}
    >>> state = {"a.weight": torch.eye(2), "a.bias": torch.tensor([5.0, 6.0]), "b.weight": torch.ones(3, 2)}
    >>> unit_features(state, spec, "a")
    tensor([[1., 0., 5.],
            [0., 1., 6.]], dtype=torch.float64)
    """
    read = set(readers(spec, group, state))
    n = spec[group].size
    parts = [
        state[key].detach().double().movedim(axis, 0).reshape(n, -1)
        for key, axis in spec[group].axes
        if not (key in read and axis == 1)
    ]
    return torch.cat(parts, 1)


def cluster(features: Tensor, *, size: int | None = None, threshold: float | None = None) -> list[list[int]]:
    """Merge the two most similar rows, again and again, down to `size` rows or until none pass `threshold`.

    Similarity is the cosine; a merged row is the mean of all rows in it.

    Args:
        features: (n, d).
        size: stop at this many.
        threshold: stop when the largest cosine is below it.

    Returns:
        The rows in each cluster, sorted, the clusters by their first row.

    Raises:
        ValueError: neither size nor threshold is given, or one is out of range.

    >>> cluster(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]), size=2)
    [[0, 2], [1]]
    """
    n = len(features)
    if size is None and threshold is None:
        raise ValueError("size: expected a size or a threshold, got neither")
    if size is not None and not 1 <= size <= n:
        raise ValueError(f"size: expected an integer in 1..{n}, got {size}")
    if threshold is not None and not -1 <= threshold <= 1:
        raise ValueError(f"threshold: expected a cosine in [-1, 1], got {threshold}")
    mean = features.detach().double().clone()
    unit = torch.nn.functional.normalize(mean, dim=1)
    cosine = unit @ unit.T
    cosine.fill_diagonal_(-2.0)  # below every cosine
    members = [[i] for i in range(n)]
    for _ in range(n - (size or 1)):
        top = int(cosine.argmax())
        i, j = sorted((top // n, top % n))
        if threshold is not None and cosine[i, j] < threshold:
            break
        a, b = len(members[i]), len(members[j])
        mean[i] = (a * mean[i] + b * mean[j]) / (a + b)
        members[i], members[j] = members[i] + members[j], []
        row = torch.nn.functional.normalize(mean[i], dim=0)
        unit[i] = row
        alive = torch.tensor([bool(m) for m in members])
        alive[i] = False
        new = (unit @ row).where(alive, -2.0)
        cosine[i], cosine[:, i] = new, new
        cosine[j], cosine[:, j] = -2.0, -2.0
    return sorted(sorted(m) for m in members if m)


def merge_similar(
    state: Mapping[str, Tensor],
    spec: PermutationSpec,
    group: str,
    *,
    size: int | None = None,
    threshold: float | None = None,
) -> tuple[State, list[list[int]]]:
    """Merge the most similar units of a group: what writes them is averaged, what reads them is summed.

    Exact where merged units are equal in all that writes them. `channels.resize(model, state, example)` makes
    the smaller module.

    Args:
        state: the weights; not modified.
        spec: from `layerlab.symmetry.permutation_spec`.
        group: whose units.
        size: merge down to this many units.
        threshold: merge while the largest cosine of two units' features is at least this.

    Returns:
        The state dict of the smaller network, and which units went into each of its units.

    Raises:
        ValueError: an unknown group, a spec that does not fit, size and threshold as in `cluster`.

    >>> from layerlab.symmetry import Group
    >>> spec = {"a": Group(2, (("a.weight", 0), ("b.weight", 1)))}
    >>> state = {"a.weight": torch.tensor([[1.0, 0.0], [3.0, 0.0]]), "b.weight": torch.tensor([[5.0, 6.0]])}
    >>> merge_similar(state, spec, "a", size=1)
    ({'a.weight': tensor([[2., 0.]]), 'b.weight': tensor([[11.]])}, [[0, 1]])
    """
    if group not in spec:
        raise ValueError(f"group: expected one of {sorted(spec)}, got {group!r}")
    check_spec(spec, state)
    clusters = cluster(unit_features(state, spec, group), size=size, threshold=threshold)
    n, read = spec[group].size, set(readers(spec, group, state))
    total = torch.zeros(len(clusters), n, dtype=torch.float64)
    for row, members in enumerate(clusters):
        total[row, members] = 1.0
    mean = total / total.sum(1, keepdim=True)
    new = {key: value.detach().clone() for key, value in state.items()}
    for key, axis in spec[group].axes:
        mix = total if key in read and axis == 1 else mean
        blocks = new[key].double().unflatten(axis, (n, -1)).movedim(axis, 0)
        merged = torch.tensordot(mix.to(blocks.device), blocks, dims=1).movedim(0, axis)
        new[key] = merged.flatten(axis, axis + 1).to(state[key].dtype)
    return new, clusters
