"""Low rank: the bounds, the optimum by activations, the factored modules, the utilized rank."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from layerlab.activations import gram
from layerlab.models import MLP, ConvNet, TinyViT
from layerlab.pruning import count, low_rank


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loss(X, W, A, B):
    return (X @ (W.flatten(1) - A @ B).T).square().sum()


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 2, 3, 3)])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_svd_meets_both_bounds(shape, rank):
    W = drawn(*shape)
    A, B = low_rank.svd(W, rank)
    assert A.shape == (shape[0], rank)
    assert B.shape == (rank, W[0].numel())
    E, values = W.flatten(1) - A @ B, torch.linalg.svdvals(W.flatten(1))
    torch.testing.assert_close(
        torch.linalg.matrix_norm(E, 2), values[rank] if rank < len(values) else torch.zeros_like(values[0])
    )
    torch.testing.assert_close(E.square().sum(), values[rank:].square().sum())
    torch.testing.assert_close(A.norm(dim=0), B.norm(dim=1))  # the singular values are shared evenly


@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize("kind", ["full", "singular", "few"])
def test_activation_svd_is_the_tail_of_the_whitened_singular_values(rank, kind):
    X, W = drawn(50, 8, seed=1), drawn(6, 8, seed=2)
    if kind == "singular":
        X[:, 2], X[:, 5] = 0, 2 * X[:, 4]
    if kind == "few":
        X = X[:4]
    G = X.T @ X
    A, B = low_rank.activation_svd(W, G, rank)
    E = W - A @ B
    tail = torch.linalg.svdvals(X @ W.T)[rank:].square().sum()  # those of XWᵀ and of W G^½ agree
    scale = (X @ W.T).square().sum()
    assert abs(loss(X, W, A, B) - torch.trace(E @ G @ E.T)) < 1e-10 * scale
    assert abs(loss(X, W, A, B) - tail) < 1e-10 * scale
    assert low_rank.change(W, A @ B, G) == pytest.approx((tail / scale).item(), abs=1e-10)
    torch.testing.assert_close(A.T @ A, torch.eye(rank, dtype=torch.float64))
    assert loss(X, W, A, B) <= loss(X, W, *low_rank.svd(W, rank)) + 1e-10 * scale


def test_activations_see_what_weights_do_not():
    """A weight of flat spectrum, inputs of three directions: weights lose half, activations nothing."""
    W = torch.linalg.qr(drawn(12, 12)).Q
    X = drawn(40, 3, seed=1) @ drawn(3, 12, seed=2)
    G = X.T @ X
    assert low_rank.change(W, torch.mm(*low_rank.svd(W, 3)), G) > 0.4
    assert low_rank.change(W, torch.mm(*low_rank.activation_svd(W, G, 3)), G) < 1e-12


def test_no_pair_of_factors_beats_it():
    """Gradient steps from the optimum and from elsewhere end no lower."""
    X, W = drawn(30, 6, seed=3), drawn(5, 6, seed=4)
    best = loss(X, W, *low_rank.activation_svd(W, X.T @ X, 2))
    for seed in range(3):
        A, B = (drawn(*s, seed=seed + 9).requires_grad_() for s in ((5, 2), (2, 6)))
        opt = torch.optim.LBFGS([A, B], max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-14)

        def closure(A=A, B=B, opt=opt):
            opt.zero_grad()
            found = loss(X, W, A, B)
            found.backward()
            return found

        opt.step(closure)
        assert loss(X, W, A, B) >= best - 1e-8
    torch.testing.assert_close(loss(X, W, A, B).detach(), best, rtol=1e-3, atol=0)  # and one comes near


def test_float32_in_float32_out():
    W = drawn(4, 5).float()
    for A, B in (low_rank.svd(W, 2), low_rank.activation_svd(W, torch.eye(5), 2)):
        assert A.dtype == B.dtype == torch.float32


def test_numbers_in_factors():
    assert low_rank.stored((10, 20), 3) == 3 * 10 + 3 * 20
    assert low_rank.stored((8, 4, 3, 3), 2, slices=2) == 2 * (2 * 8 + 36)
    for shape in ((10, 20), (8, 4, 3, 3), (7, 7)):
        for share in (0.3, 0.5, 0.77, 1.0):
            r = low_rank.rank_for(shape, share)
            budget = share * torch.Size(shape).numel()
            assert low_rank.stored(shape, r) <= budget + 1e-9 < low_rank.stored(shape, r + 1)
    assert low_rank.rank_for((4, 25), 0.58) == 2  # 0.58 · 100 is a little less than 58 in binary
    for shape in ((7, 9), (11, 4, 3, 3), (13, 29)):  # a share made from a rank gives that rank back
        numbers = torch.Size(shape).numel()
        for r in range(1, numbers // low_rank.stored(shape, 1) + 1):
            assert low_rank.rank_for(shape, low_rank.stored(shape, r) / numbers) == r
    with pytest.raises(ValueError, match=r"share: expected at least 0\.2000"):
        low_rank.rank_for((10, 10), 0.1)
    for share in (0, 1.1):
        with pytest.raises(ValueError, match=r"share: expected a number in \(0, 1\]"):
            low_rank.rank_for((10, 10), share)


CASES = {
    "mlp": (lambda: MLP(64, [8, 6], 3, norm="batch"), ["layers.0.weight", "head.weight"]),
    "convnet": (
        lambda: ConvNet(2, 3, (4, 6), pool=2),
        ["features.0.weight", "features.4.weight", "head.weight"],
    ),
    "vit": (
        lambda: TinyViT(8, 4, 4, 3, dim=8),
        ["embed.weight", "blocks.0.fc1.weight", "blocks.1.attention.v.weight"],
    ),
}


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("by", ["weights", "activations"])
@pytest.mark.parametrize(("make", "keys"), CASES.values(), ids=CASES)
def test_a_factored_module_computes_with_the_product(make, keys, by, slices, randomised):
    model = randomised(make())
    shape = {"mlp": (5, 64), "convnet": (5, 2, 8, 8), "vit": (5, 4, 8, 8)}
    X = drawn(*shape[next(k for k, v in CASES.items() if v[0] is make)])
    G = gram(model, X) if by == "activations" else None
    state, before = model.state_dict(), copy.deepcopy(model.state_dict())
    small = low_rank.factorize(model, dict.fromkeys(keys, (slices, 2)), grams=G)
    stored = sum(low_rank.stored(tuple(state[key].shape), 2, slices) - state[key].numel() for key in keys)
    assert count.parameters(small) == count.parameters(model) + stored
    product = copy.deepcopy(model)
    for key in keys:
        A, B = low_rank.factors(state[key], 2, slices=slices, gram=None if G is None else G[key])
        part = A.shape[1] // slices
        W = torch.cat([A[:, i * part : (i + 1) * part] @ b for i, b in enumerate(B)], 1)
        product.state_dict()[key].copy_(W.view_as(state[key]))
    assert (model(X) - product(X)).abs().max() > 1e-3
    torch.testing.assert_close(small(X), product(X))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    small(X).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_each_slice_is_best_for_its_own_inputs():
    X, W = drawn(50, 8, seed=1), drawn(6, 8, seed=2)
    X[:, 4:] *= torch.tensor([3.0, 0.1, 0.1, 2.0])
    A, B = low_rank.factors(W, 2, slices=2, gram=X.T @ X)
    for part, columns in enumerate((slice(4), slice(4, 8))):
        left = torch.linalg.svdvals(X[:, columns] @ W[:, columns].T)[2:].square().sum()
        found = loss(X[:, columns], W[:, columns], A[:, 2 * part : 2 * part + 2], B[part])
        torch.testing.assert_close(found, left)


def test_full_rank_changes_nothing(randomised):
    model, X = randomised(ConvNet(2, 3, (4, 6))), drawn(3, 2, 8, 8)
    ranks = {
        k: min(v.flatten(1).shape)
        for k, v in model.state_dict().items()
        if k.endswith("weight") and v.ndim > 1
    }
    for G in (None, gram(model, X)):
        torch.testing.assert_close(low_rank.factorize(model, ranks, grams=G)(X), model(X))


def test_a_convolutions_geometry_is_kept():
    layer = nn.Conv2d(
        2, 5, (3, 2), stride=2, padding=(2, 1), dilation=(1, 2), padding_mode="reflect", bias=False
    )
    model, X = nn.Sequential(layer.double()), drawn(2, 2, 9, 9)
    small = low_rank.factorize(model, {"0.weight": 5})
    torch.testing.assert_close(small(X), model(X))
    assert small[0][1].bias is None


def test_one_layer_alone_and_masks():
    layer, X = nn.Linear(6, 4).double().eval(), drawn(3, 6)
    small = low_rank.factorize(layer, {"weight": 4})
    torch.testing.assert_close(small(X), layer(X))
    assert not small.training

    class Half(nn.Module):
        def forward(self, weight):
            return weight * torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)

    masked = nn.Sequential(copy.deepcopy(layer))
    parametrize.register_parametrization(masked[0], "weight", Half())
    torch.testing.assert_close(low_rank.factorize(masked, {"0.weight": 4})(X), masked(X))


def test_bad_ranks_are_named():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[3].weight = model[2].weight
    cases = [
        ({"9.weight": 1}, "ranks: expected keys of nn.Linear and ungrouped nn.Conv2d, got '9.weight'"),
        ({"1.weight": 1}, "got '1.weight'"),
        ({"0.bias": 1}, "got '0.bias'"),
        ({"2.weight": 1}, r"ranks\['2.weight'\]: expected a weight of its own, it is shared with \['3'\]"),
        ({"0.weight": 5}, r"ranks\['0.weight'\]: rank: expected an integer in 1..4, got 5"),
        ({"0.weight": 0}, "got 0"),
        ({"0.weight": 1.5}, "got 1.5"),
        ({"0.weight": (4, 1)}, r"slices: expected a divisor of 6 input channels, got 4"),
    ]
    before = copy.deepcopy(model.state_dict())
    for ranks, message in cases:
        with pytest.raises(ValueError, match=message):
            low_rank.factorize(model, ranks)
    with pytest.raises(ValueError, match=r"grams: expected a Gram matrix for '0.weight'"):
        low_rank.factorize(model, {"0.weight": 1}, grams={})
    with pytest.raises(ValueError, match=r"gram: expected shape \(6, 6\), got \(5, 5\)"):
        low_rank.factorize(model, {"0.weight": 1}, grams={"0.weight": torch.eye(5)})
    with pytest.raises(ValueError, match="gram: expected finite values"):
        low_rank.activation_svd(torch.ones(2, 2), torch.full((2, 2), torch.nan), 1)
    with pytest.raises(ValueError, match="weight: expected finite values"):
        low_rank.svd(torch.full((2, 2), torch.inf), 1)
    with pytest.raises(ValueError, match="weight: expected shape"):
        low_rank.svd(torch.ones(3), 1)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def few_directions(rank, rows=80, columns=10, noise=0.0):
    return drawn(rows, rank, seed=5) @ drawn(rank, columns, seed=6) + noise * drawn(rows, columns, seed=7)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_utilized_rank_counts_what_the_data_reach(rank):
    X, W = few_directions(rank), drawn(8, 10)
    G = X.T @ X
    assert torch.linalg.matrix_rank(W) == 8
    assert low_rank.subspace(G, energy=1.0).shape == (10, rank)
    assert low_rank.utilized_rank(W, G, energy=1.0) == rank
    Y = X @ W.T
    assert low_rank.utilized_rank(W, G, energy=1.0, gram_out=Y.T @ Y) == rank
    assert low_rank.utilized_rank(W[:2], G, energy=1.0) == min(2, rank)  # the outputs bound it too
    narrow = torch.zeros(8, 8, dtype=torch.float64)
    narrow[0, 0] = 1.0
    assert low_rank.utilized_rank(W, G, energy=1.0, gram_out=narrow) == 1


@pytest.mark.parametrize("energy", [0.9, 0.99, 0.999])
def test_projection_keeps_the_function_on_the_data(energy):
    X, W = few_directions(4, noise=0.05), drawn(8, 10)
    G = X.T @ X
    V = low_rank.subspace(G, energy=energy)
    lost = (X - X @ V @ V.T).square().sum() / X.square().sum()
    assert lost <= 1 - energy
    wider = torch.linalg.eigh(G).eigenvectors[:, -V.shape[1] + 1 :] if V.shape[1] > 1 else None
    if wider is not None:  # one direction fewer holds too little
        assert (X @ wider).square().sum() / X.square().sum() < energy
    Y = X @ W.T
    U = low_rank.subspace(Y.T @ Y, energy=energy)
    projected = low_rank.project(W, U, V)
    error = (X @ projected.T - Y).norm() / Y.norm()
    bound = (1 - energy) ** 0.5 * (1 + torch.linalg.matrix_norm(W, 2) * X.norm() / Y.norm())
    assert error <= bound
    assert torch.linalg.matrix_rank(projected) == low_rank.utilized_rank(W, G, energy=energy)
    conv = W.view(8, 2, 5, 1)
    assert torch.equal(low_rank.project(conv, U, V).flatten(1), projected)


def test_projection_of_a_network_keeps_its_outputs(randomised):
    model = randomised(MLP(20, [16], 4))
    X = few_directions(5, rows=200, columns=20, noise=0.01)
    G, state = gram(model, X), model.state_dict()
    key = "layers.0.weight"
    V = low_rank.subspace(G[key], energy=0.999)
    assert V.shape[1] == 5
    before = model(X)
    state[key].copy_(low_rank.project(state[key], None, V))
    assert (model(X) - before).norm() / before.norm() < 0.03
    assert torch.linalg.matrix_rank(state[key]) == 5


def test_bad_subspaces():
    with pytest.raises(ValueError, match=r"energy: expected a number in \(0, 1\], got 0"):
        low_rank.subspace(torch.eye(2), energy=0)
    with pytest.raises(ValueError, match="got a Gram matrix of zeros"):
        low_rank.subspace(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"U: expected shape \(3, r\), got \(2, 1\)"):
        low_rank.project(torch.ones(3, 2), torch.ones(2, 1), torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"V: expected shape \(2, r\)"):
        low_rank.project(torch.ones(3, 2), None, torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"gram_in: expected shape \(2, 2\)"):
        low_rank.utilized_rank(torch.ones(3, 2), torch.eye(3))
    with pytest.raises(ValueError, match=r"gram_out: expected shape \(3, 3\)"):
        low_rank.utilized_rank(torch.ones(3, 2), torch.eye(2), gram_out=torch.eye(2))
