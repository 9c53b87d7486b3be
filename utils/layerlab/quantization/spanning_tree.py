"""A binary layer along a spanning tree: each unit from a similar one, corrected where their signs differ.

The product of an input with a unit's signs is that with another unit's, plus twice the products at the places
where the two differ. So a layer costs one unit in full and, for each other, its distance to the unit it is
computed from; a minimum spanning tree of the distances makes that least (MST-compression, Vo et al., 2023).

Chapter: `chapters/quantization/03_one_bit.ipynb`.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree, shortest_path
from torch import Tensor

from layerlab.quantization._values import check_floating
from layerlab.quantization.binary import sign_ste, unpack_signs, xnor_matmul


class Tree(NamedTuple):
    """From which unit each unit is computed.

    Args:
        order: units, each after its parent; the root is first.
        parent: by unit (out,); −1 for the root.
        flip: by unit (out,), whether it is computed from its parent's negative.
        cost: by unit (out,), the places where it differs from that; all n places for the root.
    """

    order: Tensor
    parent: Tensor
    flip: Tensor
    cost: Tensor


def distances(packed: Tensor, n: int) -> Tensor:
    """Hamming distances between packed filters: the number of places where their signs differ.

    Args:
        packed: (out, ⌈n / 64⌉) int64, from `binary.pack_signs`.
        n: signs in a row.

    Returns:
        (out, out) int64.

    Raises:
        TypeError, ValueError: as `binary.xnor_matmul`.

    >>> distances(torch.tensor([[0b101], [0b100], [0b010]]), 3)
    tensor([[0, 1, 3],
            [1, 0, 2],
            [3, 2, 0]])
    """
    return (n - xnor_matmul(packed, packed, n).long()) // 2


def spanning_tree(packed: Tensor, n: int, *, flips: bool = True) -> Tree:
    """The order of least total distance in which to compute a layer's units from each other.

    Of the tree's units the root is one from which the deepest is reached in the fewest steps.

    Args:
        packed: (out, ⌈n / 64⌉) int64, from `binary.pack_signs`.
        n: signs in a row.
        flips: whether a unit may be computed from another's negative, which costs n less their distance.

    Raises:
        TypeError, ValueError: as `binary.xnor_matmul`; there is no unit.

    >>> tree = spanning_tree(torch.tensor([[0b101], [0b100], [0b010]]), 3)
    >>> tree.parent.tolist(), tree.flip.tolist(), tree.cost.tolist()
    ([-1, 0, 0], [False, False, True], [3, 1, 0])
    """
    apart = distances(packed, n)
    if not len(apart):
        raise ValueError("packed: expected at least one unit, got none")
    least = torch.minimum(apart, n - apart) if flips else apart
    # Every spanning tree has as many edges, so one more for each changes no choice; it keeps edges between
    # equal units, which scipy would take for missing ones.
    tree = minimum_spanning_tree(np.triu(least.cpu().numpy() + 1, 1))
    deepest = shortest_path(tree, directed=False, unweighted=True).max(1)
    order, parent = breadth_first_order(tree, int(deepest.argmin()), directed=False)
    order, parent = torch.from_numpy(order).long(), torch.from_numpy(parent).long().clamp(min=-1)
    unit = torch.arange(len(parent))
    flip = (apart.cpu() > least.cpu())[unit, parent] & (parent >= 0)
    cost = least.cpu()[unit, parent].where(parent >= 0, n)
    return Tree(order, parent, flip, cost)


def operations(tree: Tree) -> int:
    """Bit operations of one input: an XNOR, and its count, at each place that is computed.

    The direct product has out · n. Additions along the tree, one for each unit, are not counted, nor are the
    additions of counts in the direct product.

    >>> operations(spanning_tree(torch.tensor([[0b101], [0b100], [0b010]]), 3))
    4
    """
    return int(tree.cost.sum())


def tree_matmul(packed_x: Tensor, packed_w: Tensor, n: int, tree: Tree) -> Tensor:
    """What `binary.xnor_matmul` computes, along a tree: only where a unit differs from its parent.

    It touches `operations(tree)` places of each input and shows that these are enough; its speed is that of
    Python's loop over the units.

    Args:
        packed_x: (batch, ⌈n / 64⌉) int64, from `binary.pack_signs`.
        packed_w: (out, ⌈n / 64⌉) int64.
        n: signs in a row.
        tree: of `packed_w`.

    Returns:
        (batch, out) int32.

    Raises:
        TypeError, ValueError: as `binary.unpack_signs`; the tree is of other filters.

    >>> w = torch.tensor([[0b101], [0b100], [0b010]])
    >>> tree_matmul(torch.tensor([[0b111]]), w, 3, spanning_tree(w, 3))
    tensor([[ 1, -1, -1]], dtype=torch.int32)
    """
    x, w = unpack_signs(packed_x, n, torch.int32), unpack_signs(packed_w, n, torch.int32)
    if len(tree.parent) != len(w):
        raise ValueError(f"tree: expected one of {len(w)} units, got {len(tree.parent)}")
    out = torch.zeros(len(x), len(w), dtype=torch.int32, device=x.device)
    for unit in tree.order.tolist():
        parent, sign = int(tree.parent[unit]), -1 if tree.flip[unit] else 1
        places = (w[unit] != sign * w[parent]).nonzero()[:, 0] if parent >= 0 else torch.arange(n)
        if len(places) != tree.cost[unit]:
            raise ValueError(
                f"tree: expected unit {unit} to differ from its parent at {int(tree.cost[unit])} places, "
                f"got {len(places)}"
            )
        here = (x[:, places] * w[unit, places]).sum(1, dtype=torch.int32)
        out[:, unit] = sign * out[:, parent] + 2 * here if parent >= 0 else here
    return out


def tree_length(weight: Tensor, tree: Tree) -> Tensor:
    """The share of places that differ along the tree's edges, with a gradient that makes them agree.

    To be added to a training loss; the tree is drawn anew now and then. The gradient passes the signs
    straight through (`binary.sign_ste`). It pulls each unit toward the signs of its neighbours in the tree,
    and most easily where a latent weight is close to zero.

    Args:
        weight: latent weights (out, in, …).
        tree: of their signs.

    Returns:
        A scalar: the costs of all units but the root, divided by (out − 1) · n; 0 for a single unit.

    Raises:
        TypeError: the weight is not floating point.
        ValueError: the tree has another number of units.

    >>> w = torch.tensor([[0.5, -0.5, 0.5], [-0.1, -0.5, 0.5]], requires_grad=True)
    >>> length = tree_length(w, Tree(*(torch.tensor(v) for v in ([0, 1], [-1, 0], [False, False], [3, 1]))))
    >>> length.backward(); round(length.item(), 3), (6 * w.grad[1]).round().tolist()
    (0.333, [-1.0, 1.0, -1.0])
    """
    check_floating(weight, "weight")
    if weight.ndim < 2 or len(weight) != len(tree.parent):
        raise ValueError(f"weight: expected ({len(tree.parent)}, in, …), got shape {tuple(weight.shape)}")
    signs = sign_ste(weight.flatten(1))
    child = tree.order[1:]
    if not len(child):
        return signs.sum() * 0.0
    sign = 1.0 - 2.0 * tree.flip[child, None].to(signs.dtype)
    return (1 - sign * signs[child] * signs[tree.parent[child]]).mean() / 2
