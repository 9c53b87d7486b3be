"""The layer of all permutation-equivariant maps: against its matrix, its symmetry and both bases."""

import copy

import pytest
import torch

from layerlab.equivariance.check import assert_equivariant
from layerlab.equivariance.diagrams import on_vectors
from layerlab.equivariance.groups import defining, symmetric
from layerlab.equivariance.partitions import bell, dimension, moebius
from layerlab.equivariance.permutation_layers import PermutationLinear
from layerlab.models import seeded

SHAPES = [(0, 0), (0, 2), (1, 1), (2, 0), (2, 1), (2, 2), (3, 1)]
KINDS = [{}, {"basis": "orbit"}, {"average": True}, {"blocks": 2}, {"blocks": 2, "basis": "orbit"}]


def layer(*arguments, seed=0, **options):
    made = seeded(lambda: PermutationLinear(*arguments, **options), seed).double()
    if made.bias is not None:
        torch.nn.init.normal_(made.bias, generator=torch.Generator().manual_seed(seed))
    return made


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize(("k", "l"), SHAPES)
def test_forward_is_the_product_with_its_matrix(k, l, options):  # noqa: E741
    made = layer(k, l, 2, 3, bias=False, **options)
    for n in (1, 2, 4):
        x = torch.randn((5, 2, *(n,) * k), generator=torch.Generator().manual_seed(n), dtype=torch.float64)
        y = made(x, n)
        assert y.shape == (5, 3, *(n,) * l)
        torch.testing.assert_close(y.flatten(1), x.flatten(1) @ made.matrix(n).T, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize(("k", "l"), [(1, 1), (2, 2), (2, 1), (0, 2)])
def test_equivariant_with_bias_for_every_n_with_the_same_weights(k, l, options):  # noqa: E741
    made = layer(k, l, 1, 1, **options)
    for n in (2, 3, 5):
        permute = defining(symmetric(n))
        f = on_vectors(lambda x, n=n: made(x.unsqueeze(1), n).squeeze(1), n, k, l)
        assert assert_equivariant(f, permute.tensor(k), permute.tensor(l)) <= 1e-12


@pytest.mark.parametrize("k", [1, 2])
def test_both_bases_reach_the_same_maps(k):
    orbit = layer(k, k, 2, 2, basis="orbit")
    diagram = layer(k, k, 2, 2, seed=1)
    state = {
        "weight": torch.tensordot(moebius(2 * k).T.double(), orbit.weight.detach(), 1),
        "bias": moebius(k).T.double() @ orbit.bias.detach(),
    }
    diagram.load_state_dict(state)
    x = torch.randn((3, 2, *(5,) * k), dtype=torch.float64)
    torch.testing.assert_close(orbit(x), diagram(x))


@pytest.mark.parametrize("basis", ["diagram", "orbit"])
def test_bias_is_a_constant_tensor_per_partition(basis):
    made = layer(1, 2, 1, 1, basis)
    with torch.no_grad():
        made.bias[:] = torch.tensor([[3.0], [5.0]])  # of one block: the diagonal; of two
    y = made(torch.zeros(1, 1, 4, dtype=torch.float64))[0, 0]
    off, diagonal = 5 * torch.ones(4, 4), torch.eye(4)
    expected = off + 3 * diagonal if basis == "diagram" else off - 2 * diagonal
    torch.testing.assert_close(y, expected.double())


def test_weights_of_known_layers():
    assert len(PermutationLinear(1, 1, 1, 1).weight) == 2  # Deep Sets
    graphs = PermutationLinear(2, 2, 1, 1)
    assert (len(graphs.weight), len(graphs.bias)) == (15, 2)  # Maron et al. 2019
    few = PermutationLinear(2, 2, 1, 1, blocks=3)
    assert len(few.weight) == dimension(3, 2, 2) == 14 == bell(4) - 1


def test_deep_sets_by_hand():
    made = layer(1, 1, 1, 1, bias=False)
    same, total = made.weight.flatten()  # of one block, of two
    x = torch.randn(4, 1, 6, dtype=torch.float64)
    torch.testing.assert_close(made(x), same * x + total * x.sum(-1, keepdim=True))


def test_blocks_leave_independent_maps_that_reach_all():
    n, every, few = 3, layer(2, 2, 1, 1, bias=False), layer(2, 2, 1, 1, bias=False, blocks=3)

    def reach(made):
        rows = []
        for i in range(len(made.weight)):
            one = copy.deepcopy(made)
            with torch.no_grad():
                one.weight.zero_()[i] = 1
            rows.append(one.matrix(n).flatten().detach())
        return torch.stack(rows)

    assert torch.linalg.matrix_rank(reach(few)) == len(few.weight) == 14
    assert torch.linalg.matrix_rank(torch.cat([reach(few), reach(every)])) == 14


def test_means_do_not_grow_with_n():
    made = layer(2, 2, 1, 1, average=True)
    small, large = (made(torch.ones(1, 1, n, n, dtype=torch.float64)) for n in (4, 16))
    torch.testing.assert_close(small[0, 0, 0, :2], large[0, 0, 0, :2])
    with pytest.raises(ValueError, match="n of at least 1 to take means over"):
        made(torch.ones(1, 1, 0, 0, dtype=torch.float64))
    assert layer(2, 2, 1, 1)(torch.ones(1, 1, 0, 0, dtype=torch.float64)).shape == (1, 1, 0, 0)


def test_gradients_reach_weights_and_input():
    made = layer(2, 2, 1, 2)
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    weight, bias = made.weight.detach().requires_grad_(), made.bias.detach().requires_grad_()
    f = lambda x, w, b: torch.func.functional_call(made, {"weight": w, "bias": b}, (x,))  # noqa: E731
    assert torch.autograd.gradcheck(f, (x, weight, bias))


def test_follows_the_dtype_of_its_input():
    made = PermutationLinear(2, 1, 1, 1, "orbit")
    for dtype in (torch.float32, torch.float64):
        assert made(torch.ones(1, 1, 3, 3, dtype=dtype)).dtype == dtype
    with pytest.raises(TypeError, match=r"x: expected real or complex numbers, got torch\.int64"):
        made(torch.ones(1, 1, 3, 3, dtype=torch.int64))


def test_only_parameters_are_in_the_state():
    assert set(PermutationLinear(2, 2, 1, 1, "orbit").state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((-1, 1, 1, 1), {}, ValueError, "k: expected at least 0, got -1"),
        ((1, 1, 0, 1), {}, ValueError, "channels_in: expected at least 1, got 0"),
        ((1, 1, 1, 2.0), {}, TypeError, "channels_out: expected an integer, got 2.0"),
        ((5, 4, 1, 1), {}, ValueError, r"expected k \+ l of at most 8, got k=5, l=4"),
        ((1, 1, 1, 1), {"basis": "fourier"}, ValueError, "basis: expected 'diagram' or 'orbit'"),
        ((1, 1, 1, 1), {"basis": "orbit", "average": True}, ValueError, "average: expected False"),
        ((1, 1, 1, 1), {"blocks": 0}, ValueError, "blocks: expected at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        PermutationLinear(*arguments, **options)


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 2, 4, 5), (1, 3, 4, 4), (4, 4)])
def test_bad_shapes(shape):
    with pytest.raises(ValueError, match="x: expected shape"):
        PermutationLinear(2, 1, 2, 1)(torch.ones(shape))


def test_without_input_axes_n_is_needed():
    with pytest.raises(ValueError, match="n: expected the number of things"):
        PermutationLinear(0, 1, 1, 1)(torch.ones(1, 1))
