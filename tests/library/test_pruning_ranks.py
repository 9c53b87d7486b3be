"""Ranks for layers: bounds that hold, budgets that are kept, and the minimum against all allocations."""

import itertools

import pytest
import torch

from layerlab.models import ConvNet, seeded
from layerlab.pruning import low_rank, ranks


def drawn(*shape, seed=0, decay=0.0):
    W = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    U, S, V = torch.linalg.svd(W.flatten(1), full_matrices=False)
    return ((U * S * torch.exp(-decay * torch.arange(len(S)))) @ V).view(shape)


WEIGHTS = {
    "flat": drawn(4, 8, seed=1),
    "steep": drawn(6, 4, seed=2, decay=1.0),
    "conv": drawn(5, 2, 2, 2, seed=3, decay=0.3),
}


@pytest.mark.parametrize("key", WEIGHTS)
@pytest.mark.parametrize("k", [1, 2])
def test_the_bound_holds_and_is_met_by_one_slice(key, k):
    W = WEIGHTS[key]
    norm = torch.linalg.matrix_norm(W.flatten(1), 2).item()
    values = ranks.singular_values(W, k)
    for r in range(1, len(values[0]) + 1):
        A, B = low_rank.factors(W, r, slices=k)
        product = torch.cat([a @ b for a, b in zip(A.chunk(k, 1), B, strict=True)], 1)
        error = torch.linalg.matrix_norm(W.flatten(1) - product, 2).item() / norm
        bound = ranks.relative_error(values, r, norm=norm)
        assert error <= bound + 1e-12
        assert k > 1 or error == pytest.approx(bound, abs=1e-12)
        assert bound <= error * k + 1e-12  # ‖E‖ ≥ max‖Eᵢ‖, so the bound is off by √k at most


def test_slices_side_by_side_reach_the_bound():
    """Two equal slices: the error is √2 of each one's, so the factor is needed."""
    W = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64)).repeat(1, 2)
    norm = torch.linalg.matrix_norm(W, 2).item()
    A, B = low_rank.factors(W, 1, slices=2)
    product = torch.cat([a @ b for a, b in zip(A.chunk(2, 1), B, strict=True)], 1)
    error = torch.linalg.matrix_norm(W - product, 2).item() / norm
    assert ranks.relative_error(ranks.singular_values(W, 2), 1, norm=norm) == pytest.approx(error)


def every_option(W, slices):
    found = [(W.numel(), 0.0, None)]
    norm = torch.linalg.matrix_norm(W.flatten(1), 2).item()
    for k in (k for k in slices if W.shape[1] % k == 0):
        values = ranks.singular_values(W, k)
        for r in range(1, len(values[0]) + 1):
            cost = r * (k * len(W) + W[0].numel())
            found.append((cost, ranks.relative_error(values, r, norm=norm), (k, r)))
    return found


def error_of(W, choice):
    if choice is None:
        return 0.0
    norm = torch.linalg.matrix_norm(W.flatten(1), 2).item()
    return ranks.relative_error(ranks.singular_values(W, choice[0]), choice[1], norm=norm)


def cost_of(weights, chosen):
    return sum(
        low_rank.stored(tuple(W.shape), chosen[k][1], chosen[k][0]) if k in chosen else W.numel()
        for k, W in weights.items()
    )


@pytest.mark.parametrize("slices", [(1,), (1, 2), (1, 2, 4)])
@pytest.mark.parametrize("share", [0.4, 0.5, 0.65, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_alds_finds_the_minimum_of_all_allocations(slices, share, seed):
    weights = {
        k: drawn(*W.shape, seed=seed + 10 * i, decay=i / 3) for i, (k, W) in enumerate(WEIGHTS.items())
    }
    budget = share * sum(W.numel() for W in weights.values())
    every = itertools.product(*(every_option(W, slices) for W in weights.values()))
    best = min(max(e for _, e, _ in c) for c in every if sum(cost for cost, _, _ in c) <= budget + 1e-6)
    chosen = ranks.alds(weights, share, slices=slices)
    assert cost_of(weights, chosen) <= budget + 1e-6
    assert max(error_of(W, chosen.get(k)) for k, W in weights.items()) == pytest.approx(best, abs=1e-12)


def test_what_is_left_serves_the_other_layers():
    """No single layer can be improved within what is left of the budget."""
    for share in (0.45, 0.6, 0.75):
        chosen = ranks.alds(WEIGHTS, share, slices=(1, 2))
        left = share * sum(W.numel() for W in WEIGHTS.values()) + 1e-6 - cost_of(WEIGHTS, chosen)
        for key, W in WEIGHTS.items():
            now = error_of(W, chosen.get(key))
            cost = cost_of({key: W}, chosen)
            assert not [o for o in every_option(W, (1, 2)) if o[1] < now - 1e-12 and o[0] <= cost + left]


def test_factors_that_save_nothing_are_not_taken():
    chosen = ranks.alds(WEIGHTS, 1.0)
    assert chosen == {}  # dense has no error and fits
    for share in (0.5, 0.9):
        for key, (k, r) in ranks.alds(WEIGHTS, share).items():
            assert low_rank.stored(tuple(WEIGHTS[key].shape), r, k) < WEIGHTS[key].numel()


def test_a_factored_network_keeps_the_budget():
    model = seeded(lambda: ConvNet(2, 4, (8, 16)), 0)
    keys = [k for k, v in model.state_dict().items() if k.endswith("weight") and v.ndim > 1]
    weights = {k: model.state_dict()[k] for k in keys}
    rest = sum(p.numel() for p in model.parameters()) - sum(w.numel() for w in weights.values())
    for share in (0.25, 0.5):
        for allocate in (ranks.alds, ranks.uniform_ranks, ranks.energy_ranks):
            small = low_rank.factorize(model, allocate(weights, share))
            numbers = sum(p.numel() for p in small.parameters()) - rest
            dense = sum(w.numel() for w in weights.values())
            assert 0.75 * share * dense < numbers <= share * dense


def test_uniform_ranks_share_and_give_rank_one_to_the_small():
    weights = {"big": torch.ones(40, 40), "tiny": torch.ones(2, 40)}
    assert ranks.uniform_ranks(weights, 0.5) == {"big": 9, "tiny": 1} == ranks.uniform_ranks(weights, 0.48)
    for share in (0.1, 0.2, 0.33, 0.5, 0.8, 1.0):
        found = ranks.uniform_ranks(weights, share)
        numbers = sum(low_rank.stored(tuple(weights[k].shape), r) for k, r in found.items())
        assert numbers <= share * 1680
        assert numbers + 80 > share * 1680 - 40
    with pytest.raises(
        ValueError, match="share: expected room for rank 1 of every layer, 122 numbers, got 67"
    ):
        ranks.uniform_ranks(weights, 0.04)


def test_energy_ranks_lose_the_least_largest_share():
    def lost(W, r):
        values = torch.linalg.svdvals(W.flatten(1)).square()
        return (values[r:].sum() / values.sum()).item()

    for share in (0.4, 0.6, 0.8):
        found = ranks.energy_ranks(WEIGHTS, share)
        budget = share * sum(W.numel() for W in WEIGHTS.values())
        tables = []
        for W in WEIGHTS.values():
            n = len(torch.linalg.svdvals(W.flatten(1)))
            table = [(low_rank.stored(tuple(W.shape), r), lost(W, r)) for r in range(1, n + 1)]
            tables.append([*table, (W.numel(), 0.0)])
        best = min(
            max(e for _, e in c) for c in itertools.product(*tables) if sum(n for n, _ in c) <= budget + 1e-6
        )
        worst = max(lost(W, found[k]) if k in found else 0.0 for k, W in WEIGHTS.items())
        assert worst == pytest.approx(best, abs=1e-12)


def test_bad_input():
    for allocate in (ranks.alds, ranks.uniform_ranks, ranks.energy_ranks):
        for share in (0.0, 1.2):
            with pytest.raises(ValueError, match=r"share: expected a number in \(0, 1\]"):
                allocate(WEIGHTS, share)
        with pytest.raises(ValueError, match="weights: expected at least one"):
            allocate({}, 0.5)
        with pytest.raises(ValueError, match="share: expected"):
            allocate(WEIGHTS, 0.05)
    with pytest.raises(ValueError, match="slices: expected a divisor of 8 input channels, got 3"):
        ranks.singular_values(WEIGHTS["flat"], 3)
    with pytest.raises(ValueError, match=r"weights\['a'\]: expected some value that is not zero"):
        ranks.alds({"a": torch.zeros(2, 2)}, 0.5)
    with pytest.raises(ValueError, match=r"weights\['a'\]: expected some value that is not zero"):
        ranks.energy_ranks({"a": torch.zeros(2, 2)}, 0.5)
    values = ranks.singular_values(WEIGHTS["flat"], 2)
    with pytest.raises(ValueError, match="norm: expected the spectral norm"):
        ranks.relative_error(values, 1)
    with pytest.raises(ValueError, match="rank: expected at least 0, got -1"):
        ranks.relative_error(values[0], -1)
    with pytest.raises(ValueError, match="norm: expected a positive number"):
        ranks.relative_error(torch.zeros(2), 1)
    assert ranks.relative_error(values[0], 0) == 1.0
    assert ranks.relative_error(values[0], 99) == 0.0
