"""Groups of permutations of more points than a 64-bit code of all images could hold."""

import torch

from layerlab.equivariance.groups import defining, permutation_group


def torus(n):
    place = torch.arange(n * n).view(n, n)
    return permutation_group(torch.stack([place.roll(1, 0), place.roll(1, 1), place.rot90()]).flatten(1))


def test_shifts_and_turns_of_a_torus_of_25_points():
    group = torus(5)
    assert group.order == 100
    p = group.permutations
    generator = torch.Generator().manual_seed(0)
    for g, h in torch.randint(100, (50, 2), generator=generator).tolist():
        assert torch.equal(p[group.product(g, h)], p[g][p[h]])


def test_a_point_that_never_moves_comes_first():
    group = permutation_group([[0, *range(2, 31), 1]])
    assert group.order == 30
    rep = defining(group)
    g, h = 7, 11
    assert torch.equal(rep(g) @ rep(h), rep(group.product(g, h)))
