"""Random architectures: whatever the rules of `permutation_spec` find in them keeps the function."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layerlab import symmetry

TOKENS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).double()  # (N, T, D)


class Program(nn.Module):
    """A network on tokens made from triples of numbers: which step comes next, on which two earlier results.

    A step is a function (network, x, y) -> tensor of three axes; one that does not fit is left out.
    """

    def __init__(self, triples: list[tuple[int, int, int]]):
        super().__init__()
        self.layers, self.weights = nn.ModuleList(), nn.ParameterList()
        self.steps, values = [], [TOKENS.float()]
        for kind, i, j in triples:
            places = i % len(values), (i + j) % len(values)
            step = KINDS[kind % len(KINDS)](self, *(values[place] for place in places), j)
            if step is not None:
                values.append(step(self, *(values[place] for place in places)).detach())
                self.steps.append((step, *places))
        self.head = nn.Linear(values[-1].shape[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step, i, j in self.steps:
            values.append(step(self, values[i], values[j]))
        return self.head(values[-1]).sum(1)

    def layer(self, made: nn.Module, j: int):
        """A step through a new layer or, for odd j, an old one of the same make."""
        old = [k for k, layer in enumerate(self.layers) if repr(layer) == repr(made)]
        if not (old and j % 2):
            old = [len(self.layers)]
            self.layers.append(made)
        place = old[j % len(old)]
        return lambda s, x, y: s.layers[place](x)


def linear(net, x, y, j):
    return net.layer(nn.Linear(x.shape[2], (1, 2, 3, 4, 6)[j % 5]), j)


def tied(net, x, y, j):
    twins = [m for m in net.layers if isinstance(m, nn.Linear) and m.in_features == x.shape[2]]
    if twins:
        twin = twins[j % len(twins)]
        made = nn.Linear(twin.in_features, twin.out_features)
        made.weight = twin.weight
        return net.layer(made, 0)


def parameter(net, x, y, j):
    k, shapes = len(net.weights), [(x.shape[2],), (x.shape[1], 1), tuple(x.shape[1:])]
    net.weights.append(nn.Parameter(torch.ones(shapes[j % 3])))
    return (lambda s, x, y: x + s.weights[k]) if j % 2 else (lambda s, x, y: s.weights[k] * x)


def add(net, x, y, j):
    if all(m == n or 1 in (m, n) for m, n in zip(x.shape, y.shape, strict=True)):
        return (lambda s, x, y: x + y) if j % 2 else (lambda s, x, y: torch.tanh(x) * y)


def attend(net, x, y, j):
    def step(s, x, y):
        q, k = (z.unflatten(-1, (2, -1)).transpose(1, 2) for z in (x, y))
        return F.scaled_dot_product_attention(q, k, q).transpose(1, 2).flatten(2)

    return step if x.shape == y.shape and x.shape[2] % 2 == 0 else None


def regroup(net, x, y, j):
    blocks = max(d for d in (1, 2, 3) if x[0].numel() % d == 0 and d <= 1 + j)
    return lambda s, x, y: x.flatten(1).unflatten(1, (blocks, -1))


def swap_blocks(net, x, y, j):
    blocks = max(d for d in (1, 2, 3) if x.shape[2] % d == 0 and d <= 1 + j)
    return lambda s, x, y: x.unflatten(2, (blocks, -1)).transpose(1, 2).flatten(2)


KINDS = [
    linear,
    linear,
    linear,
    tied,
    parameter,
    add,
    add,
    attend,
    regroup,
    swap_blocks,
    lambda net, x, y, j: net.layer(nn.LayerNorm(x.shape[2]), j),
    lambda net, x, y, j: net.layer(nn.BatchNorm1d(x.shape[1]).eval(), j),
    lambda net, x, y, j: lambda s, x, y: F.relu(x),
    lambda net, x, y, j: lambda s, x, y: x.transpose(1, 2),
    lambda net, x, y, j: lambda s, x, y: x.mean(1 + j % 2, keepdim=True),
]


def test_whatever_is_found_keeps_the_function(monkeypatch, assert_preserved):
    monkeypatch.setattr(symmetry, "_try", lambda *_: None)  # the rules stand alone
    found = []

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.tuples(*[st.integers(0, 59)] * 3), min_size=3, max_size=14))
    def check(triples):
        found.append(len(assert_preserved(Program(triples), TOKENS, draws=1)))

    check()
    assert sum(count > 0 for count in found) > len(found) / 4  # and not because nothing was ever free
    assert max(found) >= 3


@pytest.mark.parametrize("seed", range(3))
def test_long_programs(monkeypatch, assert_preserved, seed):
    monkeypatch.setattr(symmetry, "_try", lambda *_: None)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(20):
        triples = torch.randint(60, (25, 3), generator=generator).tolist()
        assert_preserved(Program(triples), TOKENS, draws=1)
