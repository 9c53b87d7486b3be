"""Groups are groups, representations multiply, and bad tables are refused with the axiom that fails."""

import math

import pytest
import torch

from layerlab.equivariance.groups import (
    FiniteGroup,
    Orthogonal,
    Representation,
    SpecialOrthogonal,
    Symplectic,
    alternating,
    cyclic,
    defining,
    dihedral,
    permutation_group,
    regular,
    rotation_irrep,
    symmetric,
    trivial,
)

FINITE = [
    cyclic(1),
    cyclic(4),
    cyclic(8),
    dihedral(1),
    dihedral(4),
    dihedral(5),
    symmetric(3),
    alternating(4),
]
MATRICES = [
    Orthogonal(1),
    Orthogonal(3),
    SpecialOrthogonal(2),
    SpecialOrthogonal(4),
    Symplectic(2),
    Symplectic(4),
]
PLANAR = [cyclic(1), cyclic(8), cyclic(5), dihedral(4), dihedral(5), SpecialOrthogonal(2), Orthogonal(2)]


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("group", FINITE, ids=range(len(FINITE)))
def test_tables_are_groups_by_brute_force(group):
    t, n = group.table, group.order
    triples = torch.cartesian_prod(torch.arange(n), torch.arange(n), torch.arange(n))
    a, b, c = triples.T
    assert torch.equal(t[t[a, b], c], t[a, t[b, c]])
    g = torch.arange(n)
    assert torch.equal(t[group.identity], g)
    assert (t[g, group.inverse] == group.identity).all()
    reached, size = {group.identity}, 0
    while size < len(reached):
        size = len(reached)
        reached |= {group.product(x, s) for x in reached for s in group.generators()}
    assert len(reached) == n


def test_orders():
    assert [symmetric(n).order for n in range(1, 7)] == [math.factorial(n) for n in range(1, 7)]
    assert [alternating(n).order for n in range(2, 7)] == [math.factorial(n) // 2 for n in range(2, 7)]
    assert dihedral(7).order == 14
    assert permutation_group([[1, 2, 0, 3, 4], [0, 1, 2, 4, 3]]).order == 6
    assert permutation_group([[1, 2, 3, 4, 0], [1, 0, 2, 3, 4]]) == symmetric(5)


def test_alternating_permutations_have_determinant_one():
    dets = {round(defining(alternating(4))(g).det().item()) for g in range(12)}
    assert dets == {1}


@pytest.mark.parametrize(
    ("table", "axiom"),
    [
        ([[0, 1], [1, 2]], r"closure fails, 1·1 = 2"),
        ([[0, 1], [1, -1]], "closure"),
        ([[1, 0], [1, 1]], "no identity"),
        ([[0, 1], [0, 1]], "no identity"),  # neutral on the left only
        ([[0, 1, 2], [1, 1, 1], [2, 1, 1]], "no h has 1·h"),
        # a loop: identity, inverses, every row and column a permutation, and no group
        (
            [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]],
            r"associativity fails, \(1·1\)·2",
        ),
        ([[0, 1, 1], [1, 0, 1]], r"shape \(n, n\)"),
        ([], r"shape \(n, n\)"),
    ],
)
def test_a_table_that_is_no_group_names_what_fails(table, axiom):
    with pytest.raises(ValueError, match=axiom):
        FiniteGroup(torch.tensor(table, dtype=torch.int64))


def test_any_single_change_of_a_table_is_noticed():
    good = dihedral(3).table
    for g in range(6):
        for h in range(6):
            bad = good.clone()
            bad[g, h] = (bad[g, h] + 1) % 6
            with pytest.raises(ValueError, match=r"table: "):
                FiniteGroup(bad)


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"table: expected integers, got torch.float32"):
        FiniteGroup([[0.0]])
    with pytest.raises(ValueError, match="names: expected 1"):
        FiniteGroup([[0]], ["a", "b"])
    for make, bad in [(cyclic, 0), (dihedral, -1), (symmetric, 7), (alternating, True), (Orthogonal, 0)]:
        with pytest.raises(ValueError, match=r"^n: expected an integer"):
            make(bad)
    with pytest.raises(ValueError, match="n: expected an even number, got 3"):
        Symplectic(3)
    with pytest.raises(ValueError, match=r"generators\[1\]: expected a permutation"):
        permutation_group([[1, 0], [0, 0]])
    with pytest.raises(ValueError, match="more than 100 products"):
        permutation_group([[1, 2, 3, 4, 0], [1, 0, 2, 3, 4]], limit=100)
    with pytest.raises(ValueError, match=r"g: expected an element 0\.\.3, got 4"):
        cyclic(4).product(4, 0)
    with pytest.raises(ValueError, match="g: expected a matrix"):
        Orthogonal(3).product(torch.eye(2), torch.eye(3))


@pytest.mark.parametrize("group", MATRICES, ids=str)
def test_random_matrices_keep_their_form(group):
    form = getattr(group, "form", group.identity)
    generator = draw()
    for g in [*(group.random(generator) for _ in range(4)), *group.components()]:
        assert torch.allclose(g.T @ form @ g, form, atol=1e-12)
        if type(group) is not Orthogonal:
            assert g.det().item() == pytest.approx(1)
    for a in group.algebra():
        assert torch.equal(a.T @ form + form @ a, torch.zeros_like(a))
    assert (
        torch.linalg.matrix_rank(group.algebra().flatten(1)) == len(group.algebra()) if group.n > 1 else True
    )
    assert group.random(draw(), torch.float32).dtype == torch.float32
    assert torch.equal(group.random(draw(3)), group.random(draw(3)))


def test_orthogonal_matrices_are_uniform_and_reach_both_components():
    generator = draw()
    group = Orthogonal(3)
    found = torch.stack([group.random(generator) for _ in range(2000)])
    assert 0.45 < (found.det() > 0).double().mean() < 0.55
    assert found.mean(0).abs().max() < 0.06  # 4.6 standard errors
    assert (found.square().mean(0) - 1 / 3).abs().max() < 0.03
    assert group.components()[0].det() == -1
    assert SpecialOrthogonal(3).components() == []


def representations():
    for group in FINITE:
        yield regular(group)
        if group.permutations is not None or group.planar is not None:
            yield defining(group)
    for group in MATRICES:
        yield defining(group).tensor(2) + defining(group).dual()
    for group in PLANAR:
        for k in range(3):
            with_k = getattr(group, "planar", None) is None or k <= (group.planar.det() > 0).sum() // 2
            if with_k:
                yield rotation_irrep(group, k)
    yield regular(dihedral(4)) @ rotation_irrep(dihedral(4), 2)


@pytest.mark.parametrize("rep", list(representations()), ids=str)
def test_representations_multiply(rep):
    generator = draw(1)
    group = rep.group
    assert torch.allclose(rep(group.identity), torch.eye(rep.dimension, dtype=torch.float64), atol=1e-12)
    for _ in range(6):
        g, h = group.random(generator), group.random(generator)
        assert torch.allclose(rep(group.product(g, h)), rep(g) @ rep(h), atol=1e-10)


def test_act_permutes_sums_and_products():
    group = symmetric(3)
    g = group.permutations.tolist().index([1, 2, 0])
    x = torch.tensor([10.0, 20.0, 30.0])
    permute = defining(group)
    assert permute.act(g, x).tolist() == [30, 10, 20]
    y = torch.arange(6.0).view(2, 3)
    assert torch.equal(permute.act(g, y), y[:, [2, 0, 1]])
    matrix = torch.arange(9.0).view(3, 3)
    moved = permute(g).float() @ matrix @ permute(g).float().T
    assert torch.equal(permute.tensor(2).act(g, matrix.flatten()).view(3, 3), moved)
    mixed = permute @ trivial(group, 2)  # rows permuted: the second factor varies fastest
    rows = torch.arange(6.0).view(3, 2)
    assert torch.equal(mixed.act(g, rows.flatten()).view(3, 2), rows[[2, 0, 1]])
    both = permute + trivial(group, 2)
    assert both.act(g, torch.cat([x, torch.ones(2)])).tolist() == [30, 10, 20, 1, 1]
    assert permute.tensor(0).dimension == 1
    assert permute.tensor(1) is permute
    assert permute.act(g, x.double()).dtype == torch.float64


def test_dual_keeps_pairings():
    rep = defining(Symplectic(4))
    g = rep.group.random(draw())
    x, y = torch.randn(2, 4, dtype=torch.float64, generator=draw())
    assert (rep.dual().act(g, x) @ rep.act(g, y)).item() == pytest.approx((x @ y).item())
    assert not torch.allclose(rep.dual()(g), rep(g))


def test_frequencies_turn_by_multiples():
    turn = rotation_irrep(SpecialOrthogonal(2), 3)(defining(cyclic(12))(1))  # 30° → 90°
    assert torch.allclose(turn, torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64), atol=1e-15)
    assert rotation_irrep(cyclic(8), 4)(3).item() == -1
    assert rotation_irrep(dihedral(4), 1)(4).tolist() == [[1, 0], [0, -1]]
    for group, k in [(cyclic(8), 5), (dihedral(5), 3), (SpecialOrthogonal(2), -1)]:
        with pytest.raises(ValueError, match="k: expected an integer of at least 0"):
            rotation_irrep(group, k)
    with pytest.raises(ValueError, match="group: expected cyclic, dihedral"):
        rotation_irrep(symmetric(3), 1)


def test_different_groups_and_shapes_do_not_mix():
    a, b = regular(cyclic(4)), regular(dihedral(2))
    for mix in (lambda: a + b, lambda: a @ b):
        with pytest.raises(ValueError, match="representations of different groups"):
            mix()
    with pytest.raises(ValueError, match=r"x: expected a last axis of 4, got shape \(2, 3\)"):
        a.act(1, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"matrix: expected shape \(2, 2\), got \(3, 3\)"):
        Representation(cyclic(1), 2, lambda g: torch.eye(3))(0)
    with pytest.raises(ValueError, match="dimension: expected"):
        trivial(cyclic(2), 0)
    with pytest.raises(ValueError, match="k: expected an integer of at least 0, got -1"):
        a.tensor(-1)
    with pytest.raises(ValueError, match="finite group"):
        regular(Orthogonal(2))
    with pytest.raises(ValueError, match="table alone"):
        defining(FiniteGroup([[0]]))
    assert Orthogonal(2) != SpecialOrthogonal(2)
    assert cyclic(2) == symmetric(2)


def test_integers_are_permuted_exactly_and_never_rotated():
    permute = defining(symmetric(3))
    x = torch.tensor([10, 20, 30])
    assert torch.equal(permute.act(3, x), permute.act(3, x.double()).long())
    signed = rotation_irrep(cyclic(4), 1)  # cosines of 90 degrees are not quite zero
    assert signed.act(1, torch.tensor([3, 4])).tolist() == [-4, 3]
    turn = defining(SpecialOrthogonal(2))
    angle = torch.tensor(0.5).double()
    g = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    with pytest.raises(TypeError, match=r"x: expected real or complex numbers, .*got .* torch\.int64"):
        turn.act(g, torch.tensor([3, 4]))
    for unfit in (torch.uint8, torch.bool):  # neither holds -1
        with pytest.raises(TypeError, match=f"x: expected .*{unfit}"):
            signed.act(1, torch.ones(2).to(unfit))
    assert turn.act(g, torch.tensor([3.0, 4.0])).dtype == torch.float32
    assert turn.act(g, torch.ones(2).cdouble()).is_complex()
