"""Brauer diagrams: which there are, that fast and dense products agree, and how they compose."""

import itertools

import pytest
import torch

from layerlab.equivariance.brauer import (
    apply_brauer,
    brauer_cost,
    brauer_matrix,
    compose_brauer,
    matchings,
    symplectic_matrix,
)
from layerlab.equivariance.check import assert_equivariant, equivariance_error
from layerlab.equivariance.diagrams import Diagram, apply_diagram, compose, on_vectors
from layerlab.equivariance.groups import Orthogonal, Symplectic, defining
from layerlab.equivariance.partitions import diagram_matrix, set_partitions

SHAPES = [(k, l) for k in range(4) for l in range(4) if (k + l) % 2 == 0]  # noqa: E741


def test_matchings_are_the_partitions_into_pairs():
    for m in range(9):
        pairs = {p for p in set_partitions(m) if all(len(block) == 2 for block in p)}
        found = matchings(m)
        assert set(found) == pairs
        assert len(found) == len(pairs)
        assert found == sorted(found)


def test_matchings_of_given_points():
    assert matchings([7, 2, 5, 3]) == [((2, 3), (5, 7)), ((2, 5), (3, 7)), ((2, 7), (3, 5))]
    assert len(matchings(10)) == 945


@pytest.mark.parametrize("points", [-1, 14, [1, 1], range(20)])
def test_matchings_refuse(points):
    with pytest.raises(ValueError, match="points"):
        matchings(points)


@pytest.mark.parametrize(("k", "l"), SHAPES)
def test_without_a_form_a_matching_is_a_partition_diagram(k, l):  # noqa: E741
    for n in (1, 2, 3):
        for matching in matchings(k + l):
            assert torch.equal(brauer_matrix(matching, n, k, l), diagram_matrix(matching, n, k, l))


@pytest.mark.parametrize(("k", "l"), SHAPES)
@pytest.mark.parametrize("symplectic", [False, True])
def test_fast_product_is_the_dense_one(k, l, symplectic):  # noqa: E741
    generator = torch.Generator().manual_seed(0)
    for n in (2, 4) if symplectic else (1, 2, 3):
        form = Symplectic(n).form if symplectic else None
        x = torch.randn((2, 2, *(n,) * k), generator=generator, dtype=torch.float64)
        for matching in matchings(k + l):
            y = apply_brauer(matching, x, k, l, n, form=form)
            assert y.shape == (2, 2, *(n,) * l)
            dense = symplectic_matrix(matching, n, k, l) if symplectic else brauer_matrix(matching, n, k, l)
            torch.testing.assert_close(y.reshape(4, -1), x.reshape(4, -1) @ dense.T, atol=1e-12, rtol=0)


def test_fast_product_agrees_with_that_of_partitions():
    x = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    for matching in matchings(6):
        torch.testing.assert_close(apply_brauer(matching, x, 3, 3), apply_diagram(matching, x, 3, 3))


@pytest.mark.parametrize("group", [Orthogonal(2), Orthogonal(3), Symplectic(2), Symplectic(4)], ids=str)
def test_diagrams_are_equivariant(group):
    rep, n = defining(group), group.n
    form = group.form if isinstance(group, Symplectic) else None
    for k, l in ((2, 2), (1, 3), (0, 2), (4, 0)):  # noqa: E741
        for matching in matchings(k + l):
            f = on_vectors(
                lambda x, m=matching, k=k, l=l: apply_brauer(m, x, k, l, n, form=form),  # noqa: E741
                n,
                k,
                l,
            )
            assert assert_equivariant(f, rep.tensor(k), rep.tensor(l)) <= 1e-10


def test_the_trace_is_no_symplectic_invariant_and_the_form_no_orthogonal_one():
    trace, form = brauer_matrix(((0, 1),), 2, 2, 0), symplectic_matrix(((0, 1),), 2, 2, 0)
    for matrix, group in ((trace, Symplectic(2)), (form, Orthogonal(2))):
        rep = defining(group)
        assert equivariance_error(lambda x, m=matrix: x @ m.T, rep.tensor(2), rep.tensor(0)) > 0.1


@pytest.mark.parametrize("symplectic", [False, True])
def test_matrices_multiply_as_diagrams(symplectic):
    form = Symplectic(2).form if symplectic else None
    negative = 0
    for k, m, l in itertools.product(range(4), repeat=3):  # noqa: E741
        for later, earlier in itertools.product(matchings(m + l), matchings(k + m)):
            diagram, loops, sign = compose_brauer(
                Diagram(later, m, l), Diagram(earlier, k, m), symplectic=symplectic
            )
            negative += sign < 0
            product = brauer_matrix(later, 2, m, l, form=form) @ brauer_matrix(earlier, 2, k, m, form=form)
            alone = brauer_matrix(diagram.partition, 2, k, l, form=form)
            assert torch.equal(product, sign * 2**loops * alone)
            if not symplectic:
                assert (diagram, loops) == compose(Diagram(later, m, l), Diagram(earlier, k, m))
    assert (negative > 50) == symplectic


def test_gradients_dtypes_and_vmap():
    form = Symplectic(2).form
    for matching in matchings(4):
        x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, m=matching: apply_brauer(m, x, 2, 2, form=form), x)
    assert apply_brauer(((0, 1), (2, 3)), torch.ones(2, 2, dtype=torch.float32), 2, 2, form=form).dtype == (
        torch.float32
    )
    batched = torch.func.vmap(lambda x: apply_brauer(((0, 1), (2, 3)), x, 2, 2))(torch.ones(5, 3, 3))
    assert torch.equal(batched, 3 * torch.eye(3).expand(5, 3, 3))


def test_cost_counts_sums_and_copies():
    # three traces of 5 × 5 × 5 × 5 × 5 × 5: 5⁵ terms, then 5³, then 5
    assert brauer_cost(((0, 1), (2, 3), (4, 5)), 5, 6, 0) == {
        "additions": 5**5 + 5**3 + 5,
        "copies": 1,
        "dense": 5**6,
    }
    for matching in matchings(6):
        entries = int(brauer_matrix(matching, 4, 3, 3).any(1).sum())  # outputs that are not always zero
        assert brauer_cost(matching, 4, 3, 3)["copies"] == entries


@pytest.mark.parametrize(
    ("matching", "message"),
    [
        (((0, 1),), "each of the 4 points"),
        (((0, 1), (2, 2)), "each of the 4 points"),
        (((0, 1, 2, 3),), "pairs of points"),
    ],
)
def test_bad_matchings(matching, message):
    with pytest.raises(ValueError, match=message):
        apply_brauer(matching, torch.zeros(3, 3), 2, 2)
    with pytest.raises(ValueError, match=message):
        brauer_matrix(matching, 3, 2, 2)


def test_bad_input():
    with pytest.raises(ValueError, match=r"x: .*\(3, 4\)"):
        apply_brauer(((0, 1), (2, 3)), torch.zeros(3, 4), 2, 2)
    with pytest.raises(ValueError, match="k=0"):
        apply_brauer(((0, 1),), torch.zeros(5), 0, 2)
    with pytest.raises(ValueError, match="even"):
        symplectic_matrix(((0, 1),), 3, 1, 1)
    with pytest.raises(ValueError, match="d1"):
        compose_brauer(Diagram(((0, 1),), 1, 1), Diagram(((0, 1),), 0, 2))
    with pytest.raises(ValueError, match="form"):
        apply_brauer(((0, 1),), torch.zeros(3, 3), 2, 0, form=torch.eye(2))
