"""Coordinates from distances: what they keep, what they ignore, and where they jump."""

import pytest
import torch

from layerlab.equivariance.input_invariants import (
    gram_from_distances,
    mds_ambiguity,
    mds_coordinates,
    mds_frames,
    squared_distances,
)


def cloud(seed=0, n=12, d=3, batch=()):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, n, d, generator=generator, dtype=torch.float64).exp()  # skewed along each axis
    return x * torch.tensor([3.0, 2.0, 1.0])[:d].double()


def orthogonal(seed, det=1.0, d=3):
    q = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed)).double())[0]
    q[:, 0] *= det * q.det().sign()
    return q


@pytest.mark.parametrize("signs", ["skew", "largest", "none"])
def test_distances_are_kept_and_axes_are_principal(signs):
    x = cloud(batch=(4,))
    y = mds_coordinates(x, signs=signs)
    torch.testing.assert_close(squared_distances(y), squared_distances(x))
    centered = x - x.mean(-2, keepdim=True)
    u, s, _ = torch.linalg.svd(centered, full_matrices=False)
    torch.testing.assert_close(y.abs(), (u * s[:, None, :]).abs())


@pytest.mark.parametrize("det", [1.0, -1.0])
@pytest.mark.parametrize("signs", ["skew", "largest"])
def test_nothing_changes_when_the_points_are_moved(det, signs):
    for seed in range(5):
        x = cloud(seed)
        moved = x @ orthogonal(seed, det).T + torch.tensor([5.0, -1.0, 2.0])
        torch.testing.assert_close(
            mds_coordinates(moved, signs=signs), mds_coordinates(x, signs=signs), rtol=0, atol=1e-9
        )


def test_reordered_points_have_reordered_coordinates():
    x, p = cloud(), torch.randperm(12)
    torch.testing.assert_close(mds_coordinates(x[p]), mds_coordinates(x)[p])


def test_the_eigensolvers_own_signs_follow_rotations_but_not_reorderings():
    changed = 0
    for seed in range(10):
        x = cloud(seed)
        y = mds_coordinates(x, signs="none")
        turned = mds_coordinates(x @ orthogonal(seed).T, signs="none")
        torch.testing.assert_close(turned, y, rtol=0, atol=1e-9)
        p = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        changed += not torch.allclose(mds_coordinates(x[p], signs="none"), y[p])
    assert changed > 0


def test_scale():
    x = cloud()
    torch.testing.assert_close(mds_coordinates(3 * x, scale=True), mds_coordinates(x, scale=True))
    assert mds_coordinates(x, scale=True).square().sum(-1).mean() == pytest.approx(1)
    assert not torch.allclose(mds_coordinates(3 * x), mds_coordinates(x))


def test_signs():
    y = mds_coordinates(cloud(3))
    assert (y.pow(3).sum(-2) > 0).all()
    y = mds_coordinates(cloud(3), signs="largest")
    assert (y.gather(0, y.abs().argmax(0, keepdim=True)) > 0).all()


def test_fewer_and_more_dimensions():
    x = cloud()
    torch.testing.assert_close(mds_coordinates(x, 2), mds_coordinates(x)[:, :2])
    wide = mds_coordinates(x, 5)
    torch.testing.assert_close(wide[:, :3], mds_coordinates(x))
    assert (wide[:, 3:] == 0).all()


def test_fewer_points_than_dimensions_leave_zeros():
    pair = cloud(5)[:2]
    y = mds_coordinates(pair)
    assert y.shape == (2, 3)
    assert (y[:, 1:].abs() < 1e-12).all()
    torch.testing.assert_close(squared_distances(y), squared_distances(pair))
    torch.testing.assert_close(mds_coordinates(pair, 1), y[:, :1])
    assert (mds_coordinates(pair[:1]) == 0).all()
    assert mds_coordinates(torch.randn(4, 2, 3)).shape == (4, 2, 3)
    found = mds_ambiguity(pair)
    assert found.gap.shape == found.skew.shape == (3,)
    assert (found.gap[1:] < 1e-12).all()  # both axes have no extent, and are as good as each other
    assert mds_frames(pair).shape == (8, 2, 3)


def test_gram_is_of_inner_products_about_the_centroid():
    x = cloud(batch=(2,))
    centered = x - x.mean(-2, keepdim=True)
    torch.testing.assert_close(gram_from_distances(squared_distances(x)), centered @ centered.mT)


def test_ambiguity_tells_a_good_cloud_from_a_ring_and_from_a_symmetric_one():
    good = mds_ambiguity(cloud())
    assert (good.gap > 0.01).all()
    assert (good.skew > 0.05).all()
    values = torch.linalg.svdvals(cloud() - cloud().mean(0)) ** 2
    expected = torch.stack([values[0] - values[1], values[0] - values[1], values[1] - values[2]])
    expected[1] = torch.minimum(expected[1], expected[2])
    expected[2] = torch.minimum(expected[2], values[2])  # the next eigenvalue is zero
    torch.testing.assert_close(good.gap, expected / values[0])
    angle = torch.arange(12, dtype=torch.float64) * torch.pi / 6
    assert (mds_ambiguity(torch.stack([angle.cos(), angle.sin()], 1)).gap[:2] < 1e-12).all()
    mirrored = torch.cat([cloud(), -cloud()])
    assert (mds_ambiguity(mirrored).skew < 1e-10).all()
    assert (mds_ambiguity(mirrored).gap > 0.01).all()


def test_a_ring_jumps_when_it_is_turned_and_frames_do_not_mind_symmetry():
    angle = torch.arange(12, dtype=torch.float64) * torch.pi / 6
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    nudged = ring + 1e-9 * torch.randn(12, 2, generator=torch.Generator().manual_seed(0)).double()
    assert (mds_coordinates(ring) - mds_coordinates(nudged)).abs().max() > 0.01
    x = torch.cat([cloud(1, 6), -cloud(1, 6)])
    moved = x @ orthogonal(4, -1).T
    p = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    here, there, other = mds_frames(x), mds_frames(moved), mds_frames(x[p])
    assert here.shape == (8, 12, 3)
    assert torch.cdist(here.flatten(1), here.flatten(1)).add(torch.eye(8)).min() > 0.1
    for frames, order in ((there, slice(None)), (other, p)):
        nearest = (here[:, None, order] - frames).abs().amax((-1, -2)).amin(1)
        assert nearest.max() < 1e-9


def test_mirror_images_have_the_same_coordinates():
    x = cloud()
    torch.testing.assert_close(mds_coordinates(x * torch.tensor([-1.0, 1, 1])), mds_coordinates(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mds_coordinates(torch.zeros(3)), "points: expected floats"),
        (lambda: mds_coordinates(torch.ones(3, 2).long()), "points: expected floats"),
        (lambda: mds_coordinates(torch.full((3, 2), torch.nan)), "points: expected finite values"),
        (lambda: mds_coordinates(torch.zeros(3, 2), scale=True), "points: expected some that differ"),
        (lambda: mds_coordinates(torch.zeros(3, 2), 0), "dims: expected an integer of at least 1, got 0"),
        (lambda: mds_coordinates(torch.zeros(3, 2), signs="left"), "signs: expected"),
        (lambda: mds_frames(torch.randn(12, 9)), "dims: expected at most 8"),
        (lambda: gram_from_distances(torch.zeros(3, 2)), "squared: expected a shape"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
