"""The claims on group convolutions have to fail when what they are about does not do what it says.

The breaks of one run concern claims that do not rest on each other, so that a run can hold several.
"""

import pytest

SMALL = """
figures.show = explore = lambda *args, **options: None
SIZES = {"digits": (64, 192), "glyphs": (192, 576), "textures": (192,)}
RATES, LAYERS, WAVELENGTHS, STARTS, SEARCH = (1e-2,), 5, (8,), 1, 60
CLOUDS, CLOUD_STEPS, UNDER = 120, 60, 90
"""

CLAIMS = {
    "group-convolutions-commute",
    "group-convolutions-are-all",
    "no-basis-saves-rotations",
    "permutations-allow-all",
    "right-angles-are-exact",
    "steered-filters-lose-less",
    "turned-weights-beat-plain",
    "turned-weights-beat-equal-work",
    "a-third-of-the-examples",
    "turned-weights-beat-augmentation",
    "duals-tell-the-symmetry",
    "constraint-teaches-the-symmetry",
    "distances-make-any-network-invariant",
    "distances-lose-nothing-by-turning",
}

BROKEN = """
from layerlab.equivariance import check, group_conv, pointwise, steerable
from layerlab.equivariance.groups import FiniteGroup

def turn(self, g, x):
    return x.rot90(int(g) % 4, (-2, -1))

def still(self, size):
    return torch.arange(size * size).expand(self.order, -1)

def stay(self):
    return torch.arange(self.fibre).expand(self.plane.order, -1)

group_conv.PlaneGroup.turn, group_conv.PlaneGroup.index = turn, still
group_conv.GroupConv2d._from_h = stay
elements = check._elements
check._elements = lambda group: elements(group)[:1]
FiniteGroup.random = lambda self, generator: self.generators()[0]  # or the check of a basis would raise
pointwise._error = lambda activation, M, x: 0 * M.sum()
steerable.Harmonics.steer = lambda self, planar: torch.eye(len(self.basis), dtype=torch.float64)

def fit_constrained(net, X, y, transformations, fit=fit_constrained, **options):
    still = {"turns": transformations["turns"]._replace(apply=lambda X, turns: X)}
    return fit(net, X, y, still, **options | {"dual_lr": 0.0, "duals": [1.0]})

def mds_coordinates(points):
    return points
"""

SABOTAGE = {
    "nothing": ("", set()),
    "no turns of filters, one generator, commutators of zero, no turns of waves, fixed prices, raw points": (
        BROKEN,
        CLAIMS,
    ),
}


@pytest.mark.parametrize(("patch", "caught"), SABOTAGE.values(), ids=SABOTAGE)
def test_the_claims_notice(patch, caught, claims_that_hold):
    held = claims_that_hold("equivariance/01_group_convolutions", SMALL + patch, judged=caught)
    assert not held & caught
    if not caught:
        assert held == CLAIMS
