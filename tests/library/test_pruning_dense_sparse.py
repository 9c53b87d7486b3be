"""Dense times sparse: pursuit against all supports, factors against the SVD, budgets, bad input."""

import itertools

import pytest
import torch

from layerlab.pruning import low_rank
from layerlab.pruning.dense_sparse import dense_sparse, pursue, stored_bits


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_pursuit_recovers_sparse_codes():
    """Fewer atoms than dimensions, nearly orthogonal: the support is found and the codes are exact."""
    D = drawn(200, 12)
    S = torch.zeros(12, 30, dtype=torch.float64)
    for j in range(30):
        S[torch.randperm(12, generator=torch.Generator().manual_seed(j))[:3], j] = drawn(3, seed=j).sign() * (
            1 + drawn(3, seed=j + 99).abs()
        )
    torch.testing.assert_close(pursue(D, D @ S, 3), S, rtol=1e-8, atol=1e-8)


def test_codes_are_the_least_squares_solution_on_their_support():
    D, W = drawn(8, 6), drawn(8, 10, seed=1)
    S = pursue(D, W, 3)
    assert ((S != 0).sum(0) == 3).all()
    for j in range(10):
        support = S[:, j].nonzero().flatten()
        exact = torch.linalg.lstsq(D[:, support], W[:, j : j + 1]).solution.flatten()
        torch.testing.assert_close(S[support, j], exact, rtol=1e-8, atol=1e-9)


def test_one_atom_for_each_column_is_the_best_one():
    D, W = drawn(5, 7), drawn(5, 9, seed=1)
    S = pursue(D, W, 1)
    for j in range(9):
        best = min(
            (W[:, j] - D[:, i] * (D[:, i] @ W[:, j]) / D[:, i].square().sum()).norm() for i in range(7)
        )
        torch.testing.assert_close((W[:, j] - D @ S[:, j]).norm(), best)


def test_pursuit_stays_near_the_best_support():
    D, W = drawn(6, 8), drawn(6, 12, seed=1)
    S = pursue(D, W, 2)
    for j in range(12):
        best = min(
            (W[:, j] - D[:, s] @ torch.linalg.lstsq(D[:, s], W[:, j : j + 1]).solution.flatten()).norm()
            for s in map(list, itertools.combinations(range(8), 2))
        )
        assert best - 1e-9 <= (W[:, j] - D @ S[:, j]).norm() <= 1.6 * best


def test_equal_and_empty_atoms_do_not_stop_it():
    D = torch.stack([torch.ones(3), torch.ones(3), torch.zeros(3)], 1).double()
    S = pursue(D, torch.ones(3, 2).double() * 4, 3)
    assert torch.isfinite(S).all()
    torch.testing.assert_close(D @ S, torch.full((3, 2), 4.0).double())


@pytest.mark.parametrize("shape", [(10, 14), (14, 10), (6, 3, 2, 2)])
@pytest.mark.parametrize("rank", [2, 5])
def test_all_non_zeros_from_the_svd_is_the_truncated_svd(shape, rank):
    W = drawn(*shape)
    D, S = dense_sparse(W, rank, rank, steps=3)
    torch.testing.assert_close(D @ S, torch.mm(*low_rank.svd(W, rank)), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("init", ["svd", "columns"])
def test_rounds_only_improve_and_keep_the_sparsity(init):
    W = drawn(16, 24)
    errors = []
    for steps in (0, 1, 5, 30):
        D, S = dense_sparse(W, 8, 3, steps=steps, init=init)
        assert (D.shape, S.shape) == ((16, 8), (8, 24))
        assert ((S != 0).sum(0) <= 3).all()
        torch.testing.assert_close(D.norm(dim=0), torch.ones(8, dtype=torch.float64))
        errors.append((W - D @ S).norm().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 * errors[0]


def test_columns_that_share_few_directions_are_found():
    """A weight that is dense × sparse and of full rank: the SVD of the same number of values loses most."""
    D, S = drawn(20, 20, seed=1), torch.zeros(20, 120, dtype=torch.float64)
    for j in range(120):
        S[torch.randperm(20, generator=torch.Generator().manual_seed(j))[0], j] = 1 + j % 3
    W = D @ S
    found = torch.mm(*dense_sparse(W, 20, 1, init="columns", steps=40, seed=1))
    values = 20 * 20 + 120
    rank = values // (20 + 120)
    by_svd = torch.mm(*low_rank.svd(W, rank))
    assert (W - found).norm() < 0.5 * (W - by_svd).norm()


def test_a_dictionary_may_be_wider_than_the_outputs():
    W = drawn(4, 40)
    D, S = dense_sparse(W, 12, 2, init="columns", steps=10)
    assert D.shape == (4, 12)
    narrow = torch.mm(*dense_sparse(W, 4, 2, init="columns", steps=10))
    assert (W - D @ S).norm() < (W - narrow).norm()


def test_seeds_and_types():
    W = drawn(8, 12).float()
    one, two, other = (dense_sparse(W, 4, 2, init="columns", steps=1, seed=s) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])
    assert one[0].dtype == one[1].dtype == torch.float32


def test_bits():
    assert stored_bits((10, 20), 4, 2) == (40 + 40) * 32 + 40 * 2
    assert stored_bits((8, 3, 3, 3), 5, 1, value_bits=16) == (40 + 27) * 16 + 27 * 3
    assert stored_bits((10, 20), 1, 1) == 30 * 32


def test_bad_input():
    W = torch.ones(4, 6)
    for kwargs, message in (
        ({"rank": 5, "nonzeros_per_column": 1}, "rank: expected an integer in 1..4, got 5"),
        (
            {"rank": 7, "nonzeros_per_column": 1, "init": "columns"},
            "rank: expected an integer in 1..6, got 7",
        ),
        ({"rank": 2, "nonzeros_per_column": 3}, "nonzeros: expected an integer in 1..2, got 3"),
        ({"rank": 2, "nonzeros_per_column": 0}, "got 0"),
        ({"rank": 2, "nonzeros_per_column": 1, "init": "random"}, "init: expected 'svd' or 'columns'"),
        ({"rank": 2, "nonzeros_per_column": 1, "steps": -1}, "steps: expected at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            dense_sparse(W, **kwargs)
    with pytest.raises(ValueError, match="weight: expected finite values"):
        dense_sparse(W * torch.nan, 2, 1)
    with pytest.raises(ValueError, match=r"W: expected 4 rows, as D has, got shape \(3, 2\)"):
        pursue(W, torch.ones(3, 2), 1)
