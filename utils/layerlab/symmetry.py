"""Which axes of which weights can be permuted together without changing a network's function.

A `PermutationSpec` lists groups of interchangeable units (hidden units, channels, attention heads) and every
axis of every weight that has to be permuted when the group is. `permutation_spec` reads it off the module's
own graph: it runs the module on an example under `torch.fx` and carries a label along each axis of each
intermediate tensor. A linear map reads one label and writes a new one; an addition declares two labels to be
one (that is how a residual stream gets a single permutation); whatever can tell units apart pins a label to
the identity.

Chapter: `chapters/merging/02_permutation_matching.ipynb`. The bookkeeping is that of Ainsworth et al. (2023,
section 3 and appendix A); Nasery et al. (2025) derive it from the graph too.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from layerlab._labels import Label, Tracer

State = dict[str, Tensor]
Permutations = dict[str, Tensor]


@dataclass(frozen=True)
class Group:
    """Units that may be permuted among themselves.

    Attributes:
        size: number of units n.
        axes: pairs (key, axis) of the state dict. The length of an axis is n times a block length: the
            entries of one unit stand side by side (a channel that is flattened into several features, a head
            of several dimensions).
        reads: names of the graph's nodes whose output holds the units' activations as the next layer reads
            them, each with the axis along which the units lie.
    """

    size: int
    axes: tuple[tuple[str, int], ...]
    reads: tuple[tuple[str, int], ...] = ()


PermutationSpec = dict[str, Group]


def permutation_spec(model: nn.Module, example: Tensor) -> PermutationSpec:
    """Derive the permutation symmetries of a module from its graph.

    The result is tried before it is returned: a copy of the module with random weights must compute the same
    before and after random permutations. The symmetries are those of the module in evaluation mode.

    Args:
        model: a module that `torch.fx` can trace; not modified.
        example: an input (N, …) of the right shape; its values do not matter.

    Returns:
        The groups of interchangeable units, named after the first weight that writes them.

    Raises:
        ValueError: `torch.fx` cannot trace the module; or its graph holds an operation whose effect on
            permutations is not known, naming it; or the module does something that its graph does not show (a
            hook, chance).

    >>> from layerlab.models import MLP
    >>> spec = permutation_spec(MLP(4, [3], 2), torch.zeros(1, 4))
    >>> spec["layers.0"].size, spec["layers.0"].axes
    (3, (('layers.0.weight', 0), ('layers.0.bias', 0), ('head.weight', 1)))
    """
    tracer = Tracer(model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        tracer.run(example)
    axes: dict[Label, list[tuple[str, int]]] = {}
    for (key, axis), label in tracer.slots.items():
        axes.setdefault(label.root(), []).extend((alias, axis) for alias in tracer.aliases[key])
    reads: dict[Label, list[tuple[str, int]]] = {}
    for label, node, axis in tracer.reads:
        reads.setdefault(label.root(), []).append((node, axis))
    spec: PermutationSpec = {}
    for label, where in axes.items():
        if label.size > 1:
            key, axis = where[0]
            name = key.removesuffix(".weight")
            name = f"{name}[{axis}]" if name in spec else name
            spec[name] = Group(label.size, tuple(where), tuple(dict.fromkeys(reads.get(label, ()))))
    _try(spec, model, example)
    return spec


def _try(spec: PermutationSpec, model: nn.Module, example: Tensor) -> None:
    """Raise unless a float64 copy with random weights keeps its function under random permutations."""
    probe = copy.deepcopy(model).cpu().double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, weight in probe.state_dict().items():
            if weight.is_floating_point():
                fan_in = weight[0].numel() if weight.ndim > 1 else 2
                weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)  # keeps activations near 1
                if key.endswith("running_var"):
                    weight.abs_().add_(0.5)
        x = example.detach().cpu().clone()
        x = x.double().normal_(generator=generator) if x.is_floating_point() else x
        with torch.random.fork_rng(devices=[]):
            before = probe(x)
            probe.load_state_dict(apply_permutation(spec, random_permutations(spec, 0), probe.state_dict()))
            after = probe(x)
    try:
        torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-9, equal_nan=True)
    except AssertionError as error:
        raise ValueError(
            "model: expected the same function after a permutation of what looks alike in its graph, "
            "got another; look for hooks and for chance in evaluation mode, or write the PermutationSpec by "
            f"hand: {error}"
        ) from error


def check_spec(spec: PermutationSpec, state: Mapping[str, Tensor]) -> None:
    """Raise unless every axis of `spec` exists in `state`, a multiple of its group's size long.

    Raises:
        ValueError: naming the group, the key and the axis; also where an axis belongs to two groups.
    """
    owner: dict[tuple[str, int], str] = {}
    for name, group in spec.items():
        if group.size < 1:
            raise ValueError(f"spec[{name!r}]: expected a size of at least 1, got {group.size}")
        for key, axis in group.axes:
            if key not in state:
                raise ValueError(
                    f"spec[{name!r}]: expected {key!r} among the state dict's keys, it is missing"
                )
            if not 0 <= axis < state[key].ndim or state[key].shape[axis] % group.size:
                raise ValueError(
                    f"spec[{name!r}]: expected axis {axis} of {key!r} to be a multiple of {group.size} long, "
                    f"got shape {tuple(state[key].shape)}"
                )
            if (key, axis) in owner:
                raise ValueError(
                    f"spec[{name!r}]: expected axis {axis} of {key!r} in one group, once; "
                    f"it is in {owner[key, axis]!r} already"
                )
            owner[key, axis] = name


def check_permutations(spec: PermutationSpec, permutations: Mapping[str, Tensor], *, name: str) -> None:
    """Raise unless `permutations` (called `name` in the message) are permutations of their groups' units.

    Raises:
        ValueError: an unknown group, or something that is no permutation of 0 … n − 1.
        TypeError: something that is no tensor of int64.
    """
    for group, permutation in permutations.items():
        if group not in spec:
            raise ValueError(f"{name}: expected groups among {sorted(spec)}, got {group!r}")
        if not isinstance(permutation, Tensor) or permutation.dtype != torch.int64:
            what = getattr(permutation, "dtype", type(permutation).__name__)
            raise TypeError(f"{name}[{group!r}]: expected a tensor of int64, got {what}")
        n = spec[group].size
        if permutation.shape != (n,) or not torch.equal(permutation.sort().values, torch.arange(n)):
            raise ValueError(
                f"{name}[{group!r}]: expected a permutation of 0..{n - 1}, got {permutation.tolist()}"
            )


def permute_axis(tensor: Tensor, axis: int, permutation: Tensor) -> Tensor:
    """Permute blocks along an axis: block i of the result is block `permutation[i]` of `tensor`.

    Args:
        tensor: its axis is n times a block length long.
        axis: counted from the front.
        permutation: int64 (n,).

    >>> permute_axis(torch.tensor([10, 11, 20, 21]), 0, torch.tensor([1, 0]))
    tensor([20, 21, 10, 11])
    """
    blocks = tensor.unflatten(axis, (len(permutation), -1))
    return blocks.index_select(axis, permutation).flatten(axis, axis + 1)


def apply_permutation(
    spec: PermutationSpec, permutations: Permutations, state: Mapping[str, Tensor]
) -> State:
    """Permute the units of a network; its function stays the same.

    Args:
        spec: the symmetries.
        permutations: for some or all groups, int64 (n,): unit i of the result is unit
            `permutations[group][i]` of `state`.
        state: the weights; not modified.

    Raises:
        ValueError: an unknown group, something that is no permutation, or a spec that does not fit.
        TypeError: a permutation that is no tensor of int64.
    """
    check_spec(spec, state)
    check_permutations(spec, permutations, name="permutations")
    new = {k: v.clone() for k, v in state.items()}
    for name, permutation in permutations.items():
        for key, axis in spec[name].axes:
            new[key] = permute_axis(new[key], axis, permutation)
    return new


def identity_permutations(spec: PermutationSpec) -> Permutations:
    """The permutation of every group that changes nothing."""
    return {name: torch.arange(group.size) for name, group in spec.items()}


def random_permutations(spec: PermutationSpec, seed: int) -> Permutations:
    """A uniformly random permutation of every group: the control that every matching has to beat."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randperm(group.size, generator=generator) for name, group in spec.items()}


def unit_activations(
    model: nn.Module, spec: PermutationSpec, X: Tensor, *, state: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """What each unit answers to each input, as the next layer reads it (after norm and nonlinearity).

    Args:
        model: the module from which `spec` was derived; not modified.
        spec: the symmetries.
        X: inputs (N, …).
        state: weights to use in place of the module's own.

    Returns:
        For each group a matrix (samples, n); positions, tokens and entries of a block count as samples too.

    Raises:
        ValueError: the spec names no place where a group's activations are read.
    """
    wanted: dict[str, list[tuple[str, int, int]]] = {}
    for name, group in spec.items():
        if not group.reads:
            raise ValueError(f"spec[{name!r}]: expected at least one node in reads, got none")
        for node, axis in group.reads:
            wanted.setdefault(node, []).append((name, axis, group.size))
    found: dict[str, list[Tensor]] = {name: [] for name in spec}

    class Recorder(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            value = super().run_node(node)
            for name, axis, n in wanted.get(node.name, []):
                units = value.unflatten(axis, (n, -1)).movedim(axis, -1).reshape(-1, n)
                found[name].append(units.clone())  # a later layer may work in place
            return value

    probe = copy.deepcopy(model).eval()
    if state is not None:
        probe.load_state_dict(dict(state))
    with torch.no_grad():
        Recorder(fx.symbolic_trace(probe)).run(X)
    return {name: torch.cat(parts) for name, parts in found.items()}
