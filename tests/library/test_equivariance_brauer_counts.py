"""Determinant diagrams, and how many maps of O(n), SO(n), Sp(n) there are: against null spaces and ranks."""

import math

import pytest
import torch

from layerlab.equivariance.brauer import brauer_matrix, matchings
from layerlab.equivariance.brauer_counts import (
    gram,
    group_apply,
    group_diagrams,
    group_matrix,
    independent_diagrams,
    rank,
    tableaux,
)
from layerlab.equivariance.check import assert_equivariant, equivariance_error, equivariant_basis
from layerlab.equivariance.determinants import (
    DeterminantDiagram,
    apply_determinant,
    determinant_diagrams,
    determinant_matrix,
    levi_civita,
)
from layerlab.equivariance.groups import Orthogonal, SpecialOrthogonal, Symplectic, cyclic, defining

GROUPS = [
    *[Orthogonal(n) for n in (1, 2, 3, 4)],
    *[SpecialOrthogonal(n) for n in (1, 2, 3, 4)],
    *[Symplectic(n) for n in (2, 4)],
]


def vectors(diagrams, group, k, l):  # noqa: E741
    return torch.stack([group_matrix(diagram, group, k, l).flatten() for diagram in diagrams])


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_levi_civita_takes_determinants(n):
    a = torch.randn(n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    value = levi_civita(n)
    for row in a:
        value = row @ value.reshape(n, -1)
    torch.testing.assert_close(value.squeeze(), a.det())


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_determinants_fast_dense_and_equivariant(n):
    group = SpecialOrthogonal(n)
    rep, generator = defining(group), torch.Generator().manual_seed(0)
    for k, l in ((n, 0), (0, n), (2, n - 1), (n - 1, 1), (2, 2), (3, 2), (1, 3)):  # noqa: E741
        for diagram in determinant_diagrams(k + l, n):
            x = torch.randn((3, *(n,) * k), generator=generator, dtype=torch.float64)
            dense = determinant_matrix(diagram, n, k, l)
            y = apply_determinant(diagram, x, k, l, n)
            assert y.shape == (3, *(n,) * l)
            torch.testing.assert_close(y.reshape(3, -1), x.reshape(3, -1) @ dense.T, atol=1e-12, rtol=0)
            assert assert_equivariant(lambda x, d=dense: x @ d.T, rep.tensor(k), rep.tensor(l)) <= 1e-10


def test_cross_and_triple_product():
    a, b, c = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pair, triple = torch.einsum("i,j->ij", a, b), torch.einsum("i,j,k->ijk", a, b, c)
    free = DeterminantDiagram((), (0, 1, 2))
    torch.testing.assert_close(apply_determinant(free, pair, 2, 1), torch.linalg.cross(a, b))
    torch.testing.assert_close(apply_determinant(free, triple, 3, 0), torch.stack([a, b, c]).det())


def test_a_mirror_negates_determinants():
    rep = defining(Orthogonal(3))
    cross = determinant_matrix(DeterminantDiagram((), (0, 1, 2)), 3, 2, 1)
    assert equivariance_error(lambda x: x @ cross.T, rep.tensor(2), rep) > 0.5
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))
    assert torch.equal(mirror @ cross @ torch.kron(mirror, mirror), -cross)


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_rank_is_the_dimension_of_the_null_space(group):
    rep = defining(group)
    for m in range(9):
        k, l = m // 2, m - m // 2  # noqa: E741
        if group.n**m > 1100:
            continue
        expected = len(equivariant_basis(rep.tensor(k), rep.tensor(l)))
        assert rank(group, k, l) == rank(group, m, 0) == expected
        if expected:
            diagrams = vectors(group_diagrams(group, k, l), group, k, l)
            assert torch.linalg.matrix_rank(diagrams) == expected


def test_known_dimensions():
    assert [rank(Orthogonal(n), 3, 3) for n in range(1, 5)] == [1, 10, 15, 15]
    assert rank(Orthogonal(3), 2, 2) == rank(Orthogonal(2), 2, 2) == 3
    assert (rank(SpecialOrthogonal(3), 2, 1), rank(Orthogonal(3), 2, 1)) == (1, 0)
    # tensor powers of spin 1/2 and 1: Catalan and Riordan numbers
    assert [rank(Symplectic(2), m, m) for m in range(8)] == [math.comb(2 * m, m) // (m + 1) for m in range(8)]
    assert [rank(SpecialOrthogonal(3), 0, m) for m in range(11)] == [1, 0, 1, 1, 3, 6, 15, 36, 91, 232, 603]


@pytest.mark.parametrize("m", [2, 4, 6, 8, 10])
def test_all_are_independent_exactly_from_the_threshold_on(m):
    most = math.prod(range(1, m, 2))
    for n in range(1, 12):
        assert (rank(Orthogonal(n), m, 0) == most) == (n >= m / 2)
        if n % 2 == 0:
            assert (rank(Symplectic(n), m, 0) == most) == (n >= m)


def test_determinant_diagrams_with_a_pair_are_dependent():
    for n in (1, 2, 3, 4, 5):
        m = n + 2
        assert len(determinant_diagrams(m, n)) == math.comb(m, 2)
        assert rank(SpecialOrthogonal(n), m, 0) - rank(Orthogonal(n), m, 0) == math.comb(n + 1, 2)


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_inner_products_and_independent_diagrams(group):
    for m in range(7):
        diagrams = group_diagrams(group, 0, m)
        if not diagrams or group.n**m > 5000:
            continue
        dense = vectors(diagrams, group, 0, m)
        assert torch.equal(dense @ dense.T, gram(group, m).double())
        kept = independent_diagrams(group, m - 1, 1) if m else diagrams
        assert len(kept) == rank(group, 0, m)
        if m:
            assert torch.linalg.matrix_rank(vectors(kept, group, m - 1, 1)) == len(kept)


def test_independent_diagrams_are_the_first_ones():
    kept, count = independent_diagrams(Orthogonal(2), 3, 3), 0
    listed = group_diagrams(Orthogonal(2), 3, 3)
    for i, diagram in enumerate(listed):
        grows = torch.linalg.matrix_rank(vectors(listed[: i + 1], Orthogonal(2), 3, 3)) > count
        assert grows == (diagram in kept)
        count += int(grows)


def test_tableaux():
    assert tableaux([]) == 1
    assert sum(tableaux(list(shape)) ** 2 for shape in ([4], [3, 1], [2, 2], [2, 1, 1], [1] * 4)) == 24


def test_group_apply_chooses_the_product():
    x = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for group in (Orthogonal(2), SpecialOrthogonal(2), Symplectic(2)):
        for diagram in group_diagrams(group, 2, 2):
            dense = group_matrix(diagram, group, 2, 2)
            y = group_apply(diagram, x, group, 2, 2)
            torch.testing.assert_close(y.flatten(1), x.flatten(1) @ dense.T)
    assert torch.equal(
        group_matrix(matchings(4)[0], Orthogonal(2), 2, 2), brauer_matrix(matchings(4)[0], 2, 2, 2)
    )


def test_bad_input():
    with pytest.raises(TypeError, match="group"):
        rank(cyclic(3), 1, 1)
    with pytest.raises(ValueError, match="k=-1"):
        rank(Orthogonal(3), -1, 1)
    for k, l in ((-1, 1), (1, -1)):  # noqa: E741
        with pytest.raises(ValueError, match=f"k, l: expected at least 0, got k={k}, l={l}"):
            group_diagrams(Orthogonal(3), k, l)
    with pytest.raises(ValueError, match=r"m: .*9"):
        gram(Orthogonal(3), 9)
    with pytest.raises(ValueError, match=r"n: .*8"):
        levi_civita(8)
    with pytest.raises(ValueError, match="3 free points"):
        determinant_matrix(DeterminantDiagram((), (0, 1)), 3, 1, 1)
    with pytest.raises(ValueError, match="rising"):
        determinant_matrix(DeterminantDiagram((), (1, 0)), 2, 1, 1)
    with pytest.raises(ValueError, match="each of the 3 points"):
        apply_determinant(DeterminantDiagram((), (0, 1, 3)), torch.zeros(3, 3), 2, 1)
