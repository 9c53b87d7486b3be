"""Attention in one bit: thresholds by hand, the best scale, and the least error against all choices."""

import itertools

import pytest
import torch

from layerlab.quantization import attention as A

WAYS = {"aware": A.softmax_aware, "fixed": A.fixed_threshold, "least": A.least_error}


def attention(*shape, sharp=2.0, seed=0):
    return (sharp * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).softmax(-1)


def error(p, ones, scale):
    return (p - ones * scale).square().sum(-1)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 2, 5, 7)])
def test_shapes_and_values(way, shape):
    p = attention(*shape)
    ones, scale = way(p)
    assert ones.shape == p.shape
    assert scale.shape == (*shape[:-1], 1)
    assert ones.dtype == scale.dtype == p.dtype
    assert set(ones.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_scale_is_best_for_its_ones(way):
    p = attention(50, 9).double()
    ones, scale = way(p)
    for factor in (0.99, 1.01):
        assert (error(p, ones, scale) <= error(p, ones, scale * factor) + 1e-15).all()


@pytest.mark.parametrize("share", [0.1, 0.25, 1.0])
def test_the_threshold_follows_the_row(share):
    p = attention(20, 8)
    ones, _ = A.softmax_aware(p, share)
    for row, found in zip(p, ones, strict=True):
        assert torch.equal(found.bool(), row >= share * row.max())
    scaled, _ = A.softmax_aware(p * torch.linspace(0.1, 3, 20)[:, None], share)
    assert torch.equal(scaled, ones)


def test_one_threshold_does_not():
    p = torch.tensor([[0.9, 0.1], [0.4, 0.3]])
    ones, scale = A.fixed_threshold(p, 0.35)
    assert ones.tolist() == [[1, 0], [1, 0]]
    assert scale.flatten().tolist() == pytest.approx([0.9, 0.4])
    ones, scale = A.fixed_threshold(p)
    assert ones.tolist() == [[1, 0], [0, 0]]
    assert scale.flatten().tolist() == pytest.approx([0.9, 0.0])


@pytest.mark.parametrize("seed", range(3))
def test_least_error_is_least_of_all_choices(seed):
    p = attention(4, 7, sharp=1.0, seed=seed).double()
    found = error(p, *A.least_error(p))
    for row, least in zip(p, found, strict=True):
        tried = []
        for choice in itertools.product([0.0, 1.0], repeat=7):
            ones = torch.tensor(choice, dtype=torch.float64)
            tried.append(error(row, ones, (row * ones).sum() / ones.sum().clamp(min=1)))
        assert least.item() == pytest.approx(min(tried).item(), abs=1e-15)


def test_long_tails_are_met_closely():
    p = attention(200, 16, sharp=2.0)
    aware, fixed, least = (error(p, *way(p)).mean() for way in WAYS.values())
    assert least <= aware < 1.5 * least
    assert fixed > 2 * aware


@pytest.mark.parametrize(
    ("raised", "match", "call"),
    [
        (TypeError, "attention: expected a floating", lambda: A.softmax_aware(torch.ones(2, 2).int())),
        (ValueError, "got -0.5", lambda: A.softmax_aware(torch.tensor([0.5, -0.5]))),
        (ValueError, "expected finite", lambda: A.least_error(torch.tensor([0.5, torch.nan]))),
        (ValueError, "at least one value", lambda: A.least_error(torch.zeros(0, 3))),
        (ValueError, "got a scalar", lambda: A.fixed_threshold(torch.tensor(0.5))),
        (ValueError, "share: expected at most 1", lambda: A.softmax_aware(torch.ones(2), 1.5)),
        (ValueError, "share: expected a finite number above 0", lambda: A.softmax_aware(torch.ones(2), 0.0)),
        (ValueError, "threshold: expected", lambda: A.fixed_threshold(torch.ones(2), -1.0)),
    ],
)
def test_bad_input_is_named(raised, match, call):
    with pytest.raises(raised, match=match):
        call()
