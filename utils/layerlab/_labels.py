"""Labels on the axes of the tensors in a network's graph: which have to be permuted alike, in what blocks.

A label says into how many interchangeable blocks an axis falls. The input's axes have one block: nothing to
permute. A linear map reads the label of its input and writes a new one; an addition declares two labels to be
one; whatever can tell units apart leaves a single block. Weights carry labels too, so that a weight that is
used in two places, or that has two names, is permuted in one way only.
"""

import copy
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


@dataclass(eq=False)
class Label:
    """A union-find node: `size` interchangeable blocks, side by side along every axis that carries it."""

    size: int
    parent: "Label | None" = None

    def root(self) -> "Label":
        """The node that stands for all labels united with this one."""
        return self if self.parent is None else self.parent.root()


Labels = list[Label]


def unite(first: Label, *others: Label) -> Label:
    """Declare axes to be permuted alike; what can be permuted are the blocks that they have in common.

    >>> unite(Label(4), Label(6)).size
    2
    """
    first = first.root()
    for other in (label.root() for label in others):
        first.size = math.gcd(first.size, other.size)
        if other is not first:
            other.parent = first
    return first


def pin(*labels: Label) -> None:
    """Declare that the entries along these axes are told apart, so that nothing can be permuted."""
    for label in labels:
        label.root().size = 1


def fixed(count: int) -> Labels:
    """Labels for `count` axes along which nothing can be permuted."""
    return [Label(1) for _ in range(count)]


_ELEMENTWISE = (
    nn.Identity, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU,
    nn.Dropout, nn.Dropout2d,
)  # fmt: skip
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_ELEMENTWISE_FUNCTIONS = {
    torch.relu, F.relu, F.leaky_relu, F.gelu, F.silu, F.elu, torch.tanh, F.tanh, torch.sigmoid, torch.sin,
    torch.cos, F.dropout, operator.neg,
    "relu", "tanh", "sigmoid", "contiguous", "clone", "sin", "cos",
}  # fmt: skip
_BINARY = {
    operator.add,
    operator.iadd,
    operator.sub,
    operator.mul,
    operator.truediv,
    torch.add,
    torch.mul,
    "add",
}


def _argument(args: Sequence[Any], kwargs: dict[str, Any], place: int, name: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


class Tracer(fx.Interpreter):
    """Runs a module's graph on an example and carries a label for each axis beside each tensor.

    Attributes:
        slots: the label of each axis of each weight, by (key of the state dict, axis).
        reads: (label, node, axis) wherever a layer with weights reads units.
        aliases: all keys under which the state dict lists a weight, by the first of them.
    """

    def __init__(self, model: nn.Module):
        try:
            graph = fx.symbolic_trace(copy.deepcopy(model).eval())
        except fx.proxy.TraceError as error:
            raise ValueError(f"model: torch.fx cannot record its graph: {error}") from error
        super().__init__(graph, garbage_collect_values=False)
        self.extra_traceback = False  # errors say what is wrong in their own words
        self.labels: dict[fx.Node, Labels] = {}
        self.slots: dict[tuple[str, int], Label] = {}
        self.reads: list[tuple[Label, str, int]] = []
        names: dict[int, list[str]] = {}
        for key, tensor in model.state_dict(keep_vars=True).items():
            names.setdefault(id(tensor), []).append(key)
        self.aliases = {keys[0]: keys for keys in names.values()}
        self._first = {key: keys[0] for keys in names.values() for key in keys}

    def run_node(self, node: fx.Node) -> Any:
        """Execute a node, and label its output."""
        value = super().run_node(node)
        if node.op == "output":
            for source in node.all_input_nodes:
                pin(*self.labels.get(source, ()))
        elif isinstance(value, Tensor):
            self.labels[node] = labels = self._propagate(node, value)
            sizes = [label.root().size for label in labels]
            if len(sizes) != value.ndim or any(n % size for n, size in zip(value.shape, sizes, strict=True)):
                raise self._unknown(node, f"{self._name(node)} with these arguments")
        elif isinstance(value, (tuple, list)) and any(isinstance(part, Tensor) for part in value):
            raise self._unknown(node)
        return value

    def _propagate(self, node: fx.Node, value: Tensor) -> Labels:
        if node.op == "placeholder":
            return fixed(value.ndim)
        if node.op == "get_attr":
            if node.target not in self._first:  # a constant that does not travel with the weights
                return fixed(value.ndim)
            return [self._bind(Label(n), node.target, i) for i, n in enumerate(value.shape)]
        sources = [source for source in node.all_input_nodes if source in self.labels]
        if not sources:
            raise self._unknown(node)
        return (
            self._module(node, sources[0])
            if node.op == "call_module"
            else self._function(node, sources, value)
        )

    def _bind(self, label: Label, key: str, axis: int) -> Label:
        """Let a weight's axis carry `label`, whatever else it carries."""
        slot = (self._first[key], axis)
        self.slots[slot] = unite(self.slots.get(slot, label), label)
        return label

    def _module(self, node: fx.Node, x: fx.Node) -> Labels:
        m, labels, ndim = self.fetch_attr(node.target), list(self.labels[x]), self.env[x].ndim

        def own(label: Label, *suffixes: str, axis: int = 0) -> Label:
            for key in (f"{node.target}.{s}" for s in suffixes if getattr(m, s, None) is not None):
                if key not in self._first:
                    raise self._unknown(node, f"{type(m).__name__} whose {key!r} is not in the state dict")
                self._bind(label, key, axis)
            return label

        if isinstance(m, nn.Linear):
            self.reads.append((labels[-1], x.name, ndim - 1))
            own(labels[-1], "weight", axis=1)
            return [*labels[:-1], own(Label(m.out_features), "weight", "bias")]
        if isinstance(m, (nn.Conv2d, *_POOLS)):
            if ndim != 4:
                raise self._unknown(node, f"{type(m).__name__} on an input that is not (N, C, H, W)")
            pin(*labels[2:])  # neighbouring positions are not interchangeable
        if isinstance(m, nn.Conv2d) and m.groups == 1:
            self.reads.append((labels[1], x.name, 1))
            own(labels[1], "weight", axis=1)
            return [labels[0], own(Label(m.out_channels), "weight", "bias"), *fixed(2)]
        if isinstance(m, nn.Conv2d) and m.groups == m.in_channels == m.out_channels:
            return [labels[0], own(labels[1], "weight", "bias"), *fixed(2)]
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            own(labels[1], "weight", "bias", "running_mean", "running_var")
            return labels
        if isinstance(m, nn.GroupNorm) and m.num_groups in (1, m.num_channels):
            own(labels[1], "weight", "bias")
            return labels
        if isinstance(m, nn.LayerNorm):
            for i, label in enumerate(labels[-len(m.normalized_shape) :]):
                own(label, "weight", "bias", axis=i)
            return labels
        if isinstance(m, nn.Flatten):
            return self._flatten(labels, m.start_dim, m.end_dim)
        if isinstance(m, (*_ELEMENTWISE, *_POOLS)):
            return labels
        raise self._unknown(node, repr(m) if isinstance(m, (nn.Conv2d, nn.GroupNorm)) else None)

    def _function(self, node: fx.Node, sources: list[fx.Node], value: Tensor) -> Labels:
        target, labels = node.target, list(self.labels[sources[0]])
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if target in _ELEMENTWISE_FUNCTIONS:
            return labels
        if target in _BINARY:
            return self._broadcast([(self.labels[s], self.env[s].shape) for s in sources], value.ndim)
        if target in ("flatten", torch.flatten):
            start, end = (_argument(args, kwargs, *a) for a in ((1, "start_dim", 0), (2, "end_dim", -1)))
            return self._flatten(labels, start, end)
        if target in ("unflatten", torch.unflatten):
            axis = _argument(args, kwargs, 1, "dim") % len(labels)
            root = labels[axis].root()
            root.size = math.gcd(root.size, value.shape[axis])  # the outermost new axis holds whole blocks
            return [*labels[: axis + 1], *fixed(value.ndim - len(labels)), *labels[axis + 1 :]]
        if target in ("transpose", torch.transpose):
            i, j = _argument(args, kwargs, 1, "dim0"), _argument(args, kwargs, 2, "dim1")
            labels[i], labels[j] = labels[j], labels[i]
            return labels
        if target in ("permute", torch.permute):
            dims = _argument(args, kwargs, 1, "dims")
            return [labels[i] for i in (args[1:] if isinstance(dims, int) else dims)]
        if target in ("mean", torch.mean, "sum", torch.sum):
            dims, keep = _argument(args, kwargs, 1, "dim"), _argument(args, kwargs, 2, "keepdim", False)
            gone = {
                d % len(labels) for d in ([dims] if isinstance(dims, int) else dims or range(len(labels)))
            }
            return [
                fixed(1)[0] if i in gone else label for i, label in enumerate(labels) if keep or i not in gone
            ]
        if target is F.scaled_dot_product_attention:
            return self._attention(node)
        raise self._unknown(node)

    def _broadcast(self, inputs: list[tuple[Sequence[Label], Sequence[int]]], ndim: int) -> Labels:
        """Axes of equal place are permuted alike; an axis of length 1 is stretched and says nothing."""
        out = []
        for i in range(-ndim, 0):
            wide = [(labels[i], shape[i]) for labels, shape in inputs if len(shape) >= -i and shape[i] > 1]
            label = unite(*(label for label, _ in wide)) if wide else Label(1)
            if len({n for _, n in wide}) > 1:
                pin(label)
            out.append(label)
        return out

    def _flatten(self, labels: Labels, start: int, end: int) -> Labels:
        """Only the outermost of the merged axes keeps its units side by side."""
        start, end = start % len(labels), end % len(labels)
        pin(*labels[start + 1 : end + 1])
        return [*labels[: start + 1], *labels[end + 1 :]]

    def _attention(self, node: fx.Node) -> Labels:
        """Batch axes, heads among them, are independent of each other; tokens and features are told apart."""
        names = ("query", "key", "value", "attn_mask")
        inputs = [_argument(node.args, node.kwargs, i, name) for i, name in enumerate(names)]
        inputs = [source for source in inputs if source is not None]
        for source in inputs:
            pin(*self.labels[source][-2:])
        batch = [(self.labels[source][:-2], self.env[source].shape[:-2]) for source in inputs]
        return [*self._broadcast(batch, max(len(shape) for _, shape in batch)), *fixed(2)]

    def _name(self, node: fx.Node) -> str:
        target = type(self.fetch_attr(node.target)) if node.op == "call_module" else node.target
        return getattr(target, "__name__", str(target))

    def _unknown(self, node: fx.Node, what: str | None = None) -> ValueError:
        return ValueError(
            f"model: no rule for {what or self._name(node)} (node {node.name!r}): cannot tell which of its "
            f"units may be permuted; write the PermutationSpec by hand, or add a rule to {__name__}"
        )
