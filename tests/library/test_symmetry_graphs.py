"""What `permutation_spec` reads off a module's graph keeps its function, or it says why it cannot."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from layerlab.data._torchvision import torchvision
from layerlab.models import ConvNet
from layerlab.symmetry import permutation_spec

VECTORS, PICTURES, TOKENS = (3, 4), (3, 2, 6, 6), (3, 5, 4)  # shapes of example inputs


def data(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net(nn.Module):
    """A module from its forward function and the sizes of its linear layers a, b, …; other parts by name."""

    def __init__(self, function, *sizes, bias=True, **parts):
        super().__init__()
        self.function = function
        parts = {
            n: nn.Linear(i, o, bias=bias) for n, (i, o) in zip("abcd", pairwise(sizes), strict=False)
        } | parts
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


# Modules written by hand: the groups that must be found


def squeeze_and_excite(s, x):
    y = s.conv(x)
    gate = torch.sigmoid(s.b(F.relu(s.a(y.mean((2, 3))))))
    return s.c((y * gate.unflatten(1, (8, 1)).unflatten(-1, (1, 1))).mean((2, 3)))


def heads(x):
    return x.unflatten(-1, (3, -1)).transpose(1, 2)


def attend(s, x):
    y = F.scaled_dot_product_attention(heads(s.a(x)), heads(s.k(x)), heads(s.v(x)), getattr(s, "mask", None))
    return s.b(y.transpose(1, 2).flatten(2))


def attend_by_name(s, x):
    parts = {"value": heads(s.v(x)), "key": heads(s.k(x)), "query": heads(s.a(x)), "attn_mask": s.mask}
    return s.b(F.scaled_dot_product_attention(**parts).transpose(1, 2).flatten(2))


def attend_in_five_axes(s, x):
    q, k, v = (f(x).unflatten(-1, (3, 2, 1)).permute(0, 2, 3, 1, 4) for f in (s.a, s.k, s.v))
    return s.b(F.scaled_dot_product_attention(q, k, v).permute(0, 3, 1, 2, 4).flatten(2))


def attend_to_fewer_keys(s, x):
    q, k, v = s.a(x).unflatten(-1, (6, 1)), s.k(x).unflatten(-1, (3, 1)), s.v(x).unflatten(-1, (3, 1))
    q, k, v = (z.transpose(1, 2) for z in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return s.b(y.transpose(1, 2).flatten(2))


def attend_to_itself(s, x):
    q = s.a(x)
    return s.b(F.scaled_dot_product_attention(q, q, s.v(x)))


def in_place(s, x):
    y = s.a(x)
    z = F.relu(y, inplace=True)
    y += s.b(z)
    return s.c(y * z)


def blocks_of_different_length(s, x):
    return s.b(s.a(x).unflatten(-1, (4, 3)).flatten(-2) + s.c(x).unflatten(-1, (6, 2)).flatten(-2))


def mixer(s, x):
    x = x + s.b(F.gelu(s.a(x.transpose(1, 2)))).transpose(1, 2)  # across tokens
    x = x + s.d(F.gelu(s.c(s.norm(x))))  # across features
    return s.head(x.mean(1))


def qkv():
    return {"k": nn.Linear(4, 6), "v": nn.Linear(4, 6)}


ON_VECTORS = {
    "sequential": (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(), nn.Linear(5, 2)), {"0": 5}),
    "without biases": (Net(lambda s, x: s.b(F.relu(s.a(x))), 4, 6, 2, bias=False), {"a": 6}),
    "norm without weights": (
        nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 2)), {"0": 6},
    ),
    "residual": (Net(lambda s, x: s.c(s.a(x) + F.relu(s.b(s.a(x)))), 4, 6, 6, 2), {"a": 6}),
    "mean of everything": (Net(lambda s, x: F.relu(s.a(x)).mean(), 4, 6), {"a": 6}),
    "sum of units": (Net(lambda s, x: F.relu(s.a(x)).sum(-1), 4, 6), {"a": 6}),
    "parameter added": (
        Net(lambda s, x: s.b(F.relu(s.a(x) + s.p)), 4, 6, 2, p=nn.Parameter(torch.ones(6))), {"a": 6},
    ),
    "buffer added": (Net(lambda s, x: s.b(F.relu(s.a(x) + s.p)), 4, 6, 2, p=torch.arange(6.0)), {"a": 6}),
    "constant added": (Net(lambda s, x: s.b(F.relu(s.a(x) + torch.arange(6.0))), 4, 6, 2), {}),
    "input added": (Net(lambda s, x: s.b(F.relu(s.a(x)) + x), 4, 4, 2), {}),
    "number added": (Net(lambda s, x: s.b((2 - s.a(x)) / 3), 4, 6, 2), {"a": 6}),
    "layer used twice": (Net(lambda s, x: s.c(F.relu(s.b(F.relu(s.b(s.a(x)))))), 4, 6, 6, 2), {"a": 6}),
    "layer used on the input too": (Net(lambda s, x: s.b(s.a(F.relu(s.a(x)))), 4, 4, 2), {}),
    "norm used twice": (
        Net(lambda s, x: s.c(s.n(s.b(s.n(s.a(x))))), 4, 6, 6, 2, n=nn.LayerNorm(6)), {"a": 6},
    ),
    "in place": (Net(in_place, 4, 6, 6, 2), {"a": 6}),
    "blocks of different length": (
        Net(blocks_of_different_length, a=nn.Linear(4, 12), c=nn.Linear(4, 12), b=nn.Linear(12, 2)), {"a": 2},
    ),
    "outer product": (
        Net(lambda s, x: s.b((s.a(x).unflatten(1, (6, 1)) * s.c(x).unflatten(1, (1, 5))).flatten(1)),
            a=nn.Linear(4, 6), c=nn.Linear(4, 5), b=nn.Linear(30, 2)),
        {"a": 6},
    ),
}  # fmt: skip
ON_PICTURES = {
    "channels flattened into blocks": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                      nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 2)),
        {"0": 4, "5": 5},
    ),
    "depthwise": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 3, 1),
                      nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(3, 2)),
        {"0": 4, "3": 3},
    ),
    "norm per channel": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(4, 4), nn.Flatten(), nn.Linear(64, 2)), {"0": 4},
    ),
    "columns before a convolution": (
        Net(lambda s, x: s.conv(s.a(x)).mean((1, 2, 3)), 6, 6, conv=nn.Conv2d(2, 3, 3)), {"conv": 3},
    ),
    "squeeze and excite": (
        Net(squeeze_and_excite, 8, 3, 8, 2, conv=nn.Conv2d(2, 8, 3)), {"conv": 8, "a": 3},
    ),
}  # fmt: skip
ON_TOKENS = {
    "mean of tokens": (Net(lambda s, x: s.b(F.relu(s.a(x)).mean(dim=1, keepdim=True)), 4, 6, 2), {"a": 6}),
    "permute with a tuple": (Net(lambda s, x: s.b(s.a(x).permute((1, 0, 2))), 4, 6, 2), {"a": 6}),
    "permute by name": (Net(lambda s, x: s.b(s.a(x).permute(dims=(1, 0, 2))), 4, 6, 2), {"a": 6}),
    "transpose by name": (Net(lambda s, x: s.b(s.a(x).transpose(dim0=1, dim1=0)), 4, 6, 2), {"a": 6}),
    "flattened with the batch": (Net(lambda s, x: s.b(s.a(x).flatten(0, 1)), 4, 6, 2), {"a": 6}),
    "BatchNorm on units by tokens": (
        Net(lambda s, x: s.b(s.n(s.a(x).transpose(1, 2)).transpose(1, 2)), 4, 6, 2, n=nn.BatchNorm1d(6)),
        {"a": 6},
    ),
    "BatchNorm on tokens": (Net(lambda s, x: s.b(s.n(s.a(x))), 4, 6, 2, n=nn.BatchNorm1d(5)), {"a": 6}),
    "averages inside blocks": (
        Net(lambda s, x: s.b(s.a(x).unflatten(-1, (2, 3)).mean(-1)), a=nn.Linear(4, 6), b=nn.Linear(2, 2)),
        {"a": 2},
    ),
    "average of blocks": (
        Net(lambda s, x: s.b(s.a(x).unflatten(-1, (2, 3)).mean(-2)), a=nn.Linear(4, 6), b=nn.Linear(3, 2)),
        {"a": 2},
    ),
    "units interleaved": (
        Net(lambda s, x: s.b(s.a(x).unflatten(-1, (2, 3)).transpose(-1, -2).flatten(-2)), 4, 6, 2), {},
    ),
    "tokens by units": (  # a weight with two groups, one on each axis
        Net(lambda s, x: F.relu(s.p * s.t(s.a(x).transpose(1, 2))).sum((1, 2)), 4, 6,
            p=nn.Parameter(torch.ones(6, 7)), t=nn.Linear(5, 7)),
        {"p": 6, "p[1]": 7},
    ),
    "mixer": (
        Net(mixer, a=nn.Linear(5, 7), b=nn.Linear(7, 5), c=nn.Linear(4, 6), d=nn.Linear(6, 4),
            norm=nn.LayerNorm(4), head=nn.Linear(4, 2)),
        {"a": 7, "c": 6},
    ),
    "heads": (Net(attend, 4, 6, 2, **qkv()), {"a": 3}),
    "heads with a mask each": (Net(attend, 4, 6, 2, mask=torch.randn(3, 5, 5), **qkv()), {"a": 3}),
    "heads by name": (Net(attend_by_name, 4, 6, 2, mask=torch.randn(3, 5, 5), **qkv()), {"v": 3}),
    "heads in groups": (Net(attend_in_five_axes, 4, 6, 2, **qkv()), {"a": 3}),
    "heads that share keys": (
        Net(attend_to_fewer_keys, 4, 6, 2, k=nn.Linear(4, 3), v=nn.Linear(4, 3)), {},
    ),
    "attention to itself": (Net(attend_to_itself, 4, 6, 2, v=nn.Linear(4, 6)), {}),
}  # fmt: skip
WRITTEN = [
    pytest.param(model, shape, sizes, id=name)
    for table, shape in ((ON_VECTORS, VECTORS), (ON_PICTURES, PICTURES), (ON_TOKENS, TOKENS))
    for name, (model, sizes) in table.items()
]


@pytest.mark.parametrize(("model", "shape", "sizes"), WRITTEN)
def test_written_by_hand(model, shape, sizes, assert_preserved):
    assert assert_preserved(model, data(shape)) == sizes


def test_several_outputs_are_all_pinned():
    model = Net(lambda s, x: {"units": s.a(x), "rest": [s.b(s.a(x))]}, 4, 6, 2)
    assert permutation_spec(model, data(VECTORS).float()) == {}


def test_tied_weights_are_permuted_alike(assert_preserved):
    model = Net(lambda s, x: s.d(F.relu(s.c(F.relu(s.b(F.relu(s.a(x))))))), 4, 6, 6, 6, 2)
    assert assert_preserved(model, data(VECTORS)) == {"a": 6, "b": 6, "c": 6}
    model.c.weight = model.b.weight
    assert assert_preserved(model, data(VECTORS)) == {"a": 6}
    spec = permutation_spec(model, data(VECTORS).float())
    assert {("b.weight", 0), ("c.weight", 0), ("b.weight", 1), ("c.weight", 1)} <= set(spec["a"].axes)


def test_a_tied_autoencoder(assert_preserved):
    model = Net(lambda s, x: s.c(s.b(F.relu(s.a(x)))), 4, 4, 4, 2)
    model.b.weight = model.a.weight  # its input is pinned, hence its output too
    assert assert_preserved(model, data(VECTORS)) == {}


def test_a_module_under_two_names(assert_preserved):
    model = Net(lambda s, x: s.b(F.relu(s.inner.again(s.inner.a(x)))), b=nn.Linear(6, 2), inner=nn.Module())
    model.inner.a, model.inner.norm = nn.Linear(4, 6), nn.LayerNorm(6)
    model.inner.again = model.inner.norm
    spec = permutation_spec(model, data(VECTORS).float())
    assert {("inner.norm.weight", 0), ("inner.again.weight", 0)} <= set(spec["inner.a"].axes)
    assert assert_preserved(model, data(VECTORS)) == {"inner.a": 6}


def test_a_buffer_that_is_not_saved_pins(assert_preserved):
    model = Net(lambda s, x: s.b(F.relu(s.a(x) + s.p)), 4, 6, 2)
    model.register_buffer("p", torch.arange(6.0), persistent=False)
    assert assert_preserved(model, data(VECTORS)) == {}


def test_torchvision_resnet(assert_preserved):
    try:
        resnet18 = torchvision().models.resnet18
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision does not load: {error}")
    sizes = assert_preserved(resnet18(num_classes=3), data((1, 3, 32, 32)), draws=1)
    assert len(sizes) == 12  # a stream per stage, an inside per block
    assert sizes["conv1"] == 64
    assert sizes["layer4.1.conv1"] == 512


# What is refused

REFUSED = {
    "view": (Net(lambda s, x: s.b(s.a(x).view(-1, 6)), 4, 6, 2), VECTORS),
    "softmax": (Net(lambda s, x: s.b(F.softmax(s.a(x), -1)), 4, 6, 2), VECTORS),
    "Softmax": (nn.Sequential(nn.Linear(4, 6), nn.Softmax(-1), nn.Linear(6, 2)), VECTORS),
    "PReLU": (nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 2)), VECTORS),
    "cat": (Net(lambda s, x: s.b(torch.cat([s.a(x), x], 1)), a=nn.Linear(4, 6), b=nn.Linear(10, 2)), VECTORS),
    "stack": (Net(lambda s, x: s.b(torch.stack([s.a(x), s.a(x)])), 4, 6, 2), VECTORS),
    "getitem": (Net(lambda s, x: s.b(s.a(x)[:, :3]), a=nn.Linear(4, 6), b=nn.Linear(3, 2)), VECTORS),
    "chunk": (Net(lambda s, x: s.b(s.a(x).chunk(2, -1)[0]), a=nn.Linear(4, 6), b=nn.Linear(3, 2)), VECTORS),
    "max": (Net(lambda s, x: s.a(x).max(-1).values, 4, 6), VECTORS),
    "matmul": (Net(lambda s, x: s.a(x) @ s.a(x).transpose(0, 1), 4, 6), VECTORS),
    "linear": (Net(lambda s, x: F.linear(s.a(x), s.w), 4, 6, w=nn.Parameter(torch.ones(2, 6))), VECTORS),
    "add_": (Net(lambda s, x: s.b(s.a(x).add_(1)), 4, 6, 2), VECTORS),
    "arange": (Net(lambda s, x: s.b(s.a(x) + torch.arange(x.size(0) + 3)), 4, 6, 2), VECTORS),
    r"GroupNorm\(2, 6": (nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.Linear(6, 2)), VECTORS),
    "Conv2d.*groups=2": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=2)), PICTURES),
    "Conv2d.*groups=4": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 8, 3, groups=4)), PICTURES),
    r"Conv2d on an input that is not \(N, C": (nn.Sequential(nn.Conv2d(2, 4, 3)), (2, 6, 6)),
    "MaxPool2d on an input": (Net(lambda s, x: s.b(s.p(s.a(x))), 4, 6, 2, p=nn.MaxPool2d(3, 1, 1)), TOKENS),
    "MultiheadAttention": (Net(lambda s, x: s.m(x, x, x)[0], m=nn.MultiheadAttention(4, 2)), TOKENS),
    "'0.weight' is not in the state": (nn.Sequential(weight_norm(nn.Linear(4, 6)), nn.Linear(6, 2)), VECTORS),
    "mean with these arguments": (Net(lambda s, x: torch.mean(s.a(x), axis=1), 4, 6), VECTORS),
    "torch.fx cannot record": (Net(lambda s, x: s.a(x) if x.sum() > 0 else x, 4, 4), VECTORS),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_the_name_of_what_is_unknown(what):
    model, shape = REFUSED[what]
    with pytest.raises(ValueError, match=rf"^model: .*{what}"):
        permutation_spec(model, data(shape).float())


def test_a_hook_is_noticed():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    handle = model[0].register_forward_hook(lambda module, inputs, output: output + torch.arange(6.0))
    with pytest.raises(ValueError, match="expected the same function after a permutation"):
        permutation_spec(model, data(VECTORS).float())
    handle.remove()
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)  # does no harm
    assert permutation_spec(model, data(VECTORS).float())["0"].size == 6


def test_chance_in_evaluation_mode_is_noticed(assert_preserved):
    with pytest.raises(ValueError, match="chance in evaluation mode"):
        permutation_spec(Net(lambda s, x: s.b(F.dropout(s.a(x))), 4, 6, 2), data(VECTORS).float())
    model = Net(lambda s, x: s.b(F.dropout(s.a(x), training=s.training)), 4, 6, 2)
    assert assert_preserved(model, data(VECTORS)) == {"a": 6}


def test_model_example_and_generator_are_left_as_they_were():
    model, x = ConvNet(2, 3, (4,)), data(PICTURES).float()
    model.train()
    state, again = copy.deepcopy(model.state_dict()), x.clone()
    permutation_spec(model, x)
    assert model.training
    assert all(module.training for module in model.modules())
    assert torch.equal(x, again)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    model = Net(lambda s, x: s.b(F.dropout(s.a(x))), 4, 6, 2)
    generator = torch.get_rng_state()
    with pytest.raises(ValueError, match="chance"):
        permutation_spec(model, data(VECTORS).float())
    assert torch.equal(generator, torch.get_rng_state())
