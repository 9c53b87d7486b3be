"""The claims of *Where to prune* have to fail when what they are about does not do what it says.

The breaks concern claims that do not rest on each other, so that one run can hold them all.
"""

import pytest

SMALL = """
NETS = dict.fromkeys(NETS, 5)
EPOCHS |= {"MLP": 12, "ConvNet": 4}
SPARSITIES, SPARSE = (0.8,), dict.fromkeys(NETS, (0.9,))
GIVEN, TABLED, DRAWS, LAYERS, PROBES, PROBED, SIDE = 128, 128, 10, 5, 24, 16, 64
BUDGETS, FINE = (0.6, 0.7, 0.8, 0.85), (0.6, 0.7)
figures.show = explore = lambda *_, **__: None  # nobody looks
"""

CLAIMS = {
    "lamp-never-empties-a-layer",
    "lamp-beats-uniform",
    "lamp-beats-one-threshold",
    "distortions-add-up",
    "dynamic-program-is-exact",
    "program-moves-outputs-least",
    "program-reads-more",
    "wanda-sees-unequal-inputs",
    "second-order-sees-correlation",
    "wanda-below-magnitude",
    "second-order-below-wanda",
    "zeroth-order-ranks-layers",
    "coarse-to-fine-beats-uniform",
}

SABOTAGE = {
    "nothing": ("", set()),
    "LAMP by ranks, tables of other layers, equal levels, no inputs, no update, importances shuffled": (
        """

def lamp(w):  # ranks: the same share of each layer, and the first ones first
    ranks = [v.abs().flatten().argsort().argsort().view_as(v).double() for v in w.values()]
    return {k: r / r.numel() / (1 + i / 1000) for i, (k, r) in enumerate(zip(w, ranks))}

scores.lamp = lamp
measure = allocate.distortion_curves

def distortion_curves(*given):
    found = measure(*given)
    return dict(zip(found, reversed(found.values())))

def dynamic_program(curves, sizes, levels, sparsity, **_):
    return dict.fromkeys(curves, min(level for level in levels if level >= sparsity))

def zeroth_order(loss, weights, **_):
    return {key: 1.0 + (7 * i) % 5 for i, key in enumerate(weights)}

allocate.distortion_curves, allocate.dynamic_program = distortion_curves, dynamic_program
allocate.zeroth_order = zeroth_order
allocate.from_importance = lambda importance, w, sparsity, **_: dict.fromkeys(w, sparsity)
scores.wanda = lambda w, grams: scores.magnitude(w)
prune_layer = second_order.sparsegpt

def sparsegpt(weight, gram, mask=None, **how):
    _, mask = prune_layer(weight, gram, mask, **how)
    return weight * mask, mask

second_order.sparsegpt = sparsegpt
""",
        CLAIMS,
    ),
}


@pytest.mark.parametrize(("patch", "caught"), SABOTAGE.values(), ids=SABOTAGE)
def test_the_claims_notice(patch, caught, claims_that_hold):
    held = claims_that_hold("pruning/01_where_to_prune", SMALL + patch, judged=caught)
    assert not held & caught
    if not caught:
        assert held == CLAIMS
