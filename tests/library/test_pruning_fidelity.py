"""Subset fidelity: against least squares on the data, greedy choices by definition, blocks, bad input."""

import itertools

import pytest
import torch

from layerlab.activations import gram
from layerlab.models import MLP, ConvNet
from layerlab.pruning import channels, fidelity
from layerlab.symmetry import permutation_spec


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mixed(rows=60, columns=12, seed=0):
    """Correlated inputs."""
    return drawn(rows, columns, seed=seed) @ (
        torch.eye(columns, dtype=torch.float64) + 0.4 * drawn(columns, columns, seed=seed + 1)
    )


def by_data(W, X, columns):
    """The share of XWᵀ that a least-squares fit on some columns of the data explains."""
    Y = X @ W.T
    fit = torch.linalg.lstsq(X[:, columns], Y, driver="gelsd").solution
    return (1 - (Y - X[:, columns] @ fit).square().sum() / Y.square().sum()).item(), fit.T


def columns_of(subset, block):
    return [c * block + i for c in subset for i in range(block)]


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("subset", [[0], [2, 1], [0, 1, 3]])
def test_fidelity_is_the_share_that_least_squares_explains(block, subset):
    X, W = mixed(), drawn(5, 12, seed=9)
    G, n = X.T @ X, 12 // block
    share, weights = by_data(W, X, columns_of(subset, block))
    assert fidelity.fidelity(W, G, subset, channels=n) == pytest.approx(share, abs=1e-12)
    new = fidelity.compensate(W, G, subset, channels=n)
    torch.testing.assert_close(new[:, columns_of(subset, block)], weights)
    gone = [c for c in range(12) if c not in columns_of(subset, block)]
    assert (new[:, gone] == 0).all()
    conv = W.view(5, n, block, 1)  # a convolution's weight says itself how many channels there are
    assert fidelity.fidelity(conv, G, subset) == pytest.approx(share, abs=1e-12)
    assert torch.equal(fidelity.compensate(conv, G, subset).flatten(1), new)


def test_all_channels_reconstruct_all_and_more_never_less():
    X, W = mixed(), drawn(5, 12, seed=9)
    G = X.T @ X
    assert fidelity.fidelity(W, G, range(12)) == pytest.approx(1)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    shares = [fidelity.fidelity(W, G, order[:k]) for k in range(1, 13)]
    assert shares == sorted(shares)


def test_singular_inputs():
    X = mixed(6, 12)  # fewer inputs than channels
    X[:, 3] = 0
    X[:, 5] = 2 * X[:, 4]
    W, G = drawn(4, 12, seed=9), X.T @ X
    for subset in ([3], [4, 5], list(range(8)), list(range(12))):
        share, _ = by_data(W, X, subset)
        assert fidelity.fidelity(W, G, subset) == pytest.approx(share, abs=1e-9)
    for method in ("forward", "backward"):
        chosen = fidelity.select(W, G, 6, method=method).tolist()
        assert 3 not in chosen
        assert not {4, 5} <= set(chosen)
        assert fidelity.fidelity(W, G, chosen) > 0.99


@pytest.mark.parametrize("block", [1, 2])
def test_single_scores_are_fidelities_of_one(block):
    X, W = mixed(), drawn(5, 12, seed=9)
    G, n = X.T @ X, 12 // block
    scores = fidelity.singleton_scores(W, G, channels=n)
    expected = [fidelity.fidelity(W, G, [c], channels=n) for c in range(n)]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))


def greedy(W, G, size, n, *, forward):
    """Step by step by the definition."""
    chosen = [] if forward else list(range(n))
    while len(chosen) != size:
        tries = [[*chosen, c] for c in range(n) if c not in chosen]
        if not forward:
            tries = [[d for d in chosen if d != c] for c in chosen]
        chosen = max(tries, key=lambda s: fidelity.fidelity(W, G, s, channels=n))
    return sorted(chosen)


@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_selection_equals_the_greedy_one_by_definition(block, seed):
    X, W = mixed(seed=seed), drawn(5, 12, seed=seed + 20)
    G, n = X.T @ X, 12 // block
    for size in range(1, n + 1):
        for method in ("forward", "backward"):
            found = fidelity.select(W, G, size, channels=n, method=method).tolist()
            assert found == greedy(W, G, size, n, forward=method == "forward")
        single = fidelity.select(W, G, size, channels=n, method="single").tolist()
        assert single == sorted(fidelity.singleton_scores(W, G, channels=n).topk(size).indices.tolist())


def test_uncorrelated_channels_make_single_scores_optimal():
    W, G = drawn(4, 7, seed=1), torch.diag(drawn(7, seed=2).abs())
    for size in (1, 3, 5):
        best = max(itertools.combinations(range(7), size), key=lambda s: fidelity.fidelity(W, G, list(s)))
        for method in ("single", "forward", "backward"):
            assert fidelity.select(W, G, size, method=method).tolist() == list(best)


def test_copies_deceive_single_scores_only():
    X = drawn(40, 4)
    X = torch.cat([3 * X[:, :1], 3 * X[:, :1], X[:, 1:]], 1)
    W, G = torch.ones(1, 5, dtype=torch.float64), X.T @ X
    assert fidelity.select(W, G, 2, method="single").tolist() == [0, 1]
    for method in ("forward", "backward"):
        assert not {0, 1} <= set(fidelity.select(W, G, 4, method=method).tolist())


@pytest.mark.parametrize("pool", [1, 2])
def test_compensation_keeps_more_of_a_networks_output(pool, randomised):
    """Channels of a ConvNet go for real, the reader is compensated: nearer than without."""
    model, X = randomised(ConvNet(1, 4, (8,), skip=False, norm=None, pool=pool)), drawn(40, 1, 8, 8)
    group, reader = "features.3.conv2", "head.weight"
    spec, G = permutation_spec(model, X), gram(model, X)[reader]
    assert channels.readers(spec, group, model.state_dict()) == [reader]
    weight, before = model.state_dict()[reader].clone(), model(X)
    keep = fidelity.select(weight, G, 4, channels=8)
    share = fidelity.fidelity(weight, G, keep, channels=8)
    plain = channels.remove(model, {group: keep}, X, spec=spec)
    model.state_dict()[reader].copy_(fidelity.compensate(weight, G, keep, channels=8))
    better = channels.remove(model, {group: keep}, X, spec=spec)

    def lost(m):
        return ((m(X) - before).square().sum() / (before - model.head.bias).square().sum()).item()

    assert lost(better) == pytest.approx(1 - share, abs=1e-9)
    assert lost(better) < 0.7 * lost(plain)


def test_a_hidden_layer_by_noise_alone(randomised):
    model, noise, X = randomised(MLP(64, [16], 4)), drawn(500, 64), drawn(200, 64, seed=3)
    G = gram(model, noise)["head.weight"]
    weight = model.state_dict()["head.weight"]
    keep = fidelity.select(weight, G, 8)
    order = weight.abs().sum(0).argsort()
    on_data = gram(model, X)["head.weight"]
    best, worst = (fidelity.fidelity(weight, on_data, s) for s in (keep, order[:8]))
    assert best > worst


def test_bad_input():
    W, G = torch.ones(2, 4), torch.eye(4)
    for subset, message in (
        ([], r"subset: expected channels in 0..3, at least one, got \[\]"),
        ([4], r"got \[4\]"),
        ([-1], r"got \[-1\]"),
        ([1, 1], r"subset: expected each channel once, got \[1, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            fidelity.compensate(W, G, subset)
    for kwargs, message in (
        ({"size": 0}, "size: expected an integer in 1..4, got 0"),
        ({"size": 5}, "got 5"),
        ({"size": 1, "method": "best"}, "method: expected 'backward', 'forward' or 'single', got 'best'"),
        ({"size": 1, "channels": 3}, "channels: expected a divisor of 4 inputs, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            fidelity.select(W, G, **kwargs)
    with pytest.raises(ValueError, match=r"gram: expected shape \(4, 4\), got \(3, 3\)"):
        fidelity.fidelity(W, torch.eye(3), [0])
    with pytest.raises(ValueError, match="got zero on all inputs"):
        fidelity.fidelity(W, 0 * G, [0])
    with pytest.raises(ValueError, match="weight: expected finite"):
        fidelity.fidelity(W * torch.nan, G, [0])
