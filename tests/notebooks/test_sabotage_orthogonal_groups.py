"""The claims on orthogonal groups have to fail when what they are about does not do what it says.

The breaks of one run concern claims that do not rest on each other, so that a run can hold several.
"""

import pytest

SMALL = """
figures.show = explore = lambda *args, **options: None
BODIES, BODY_STEPS, RATES = (8, 64), 200, (2e-2,)
FORCE_REPEATS, FORCE_RATES, STEPS, MORE = 5, (2e-2,), 150, 290
"""

CLAIMS = {
    "brauer-spans",
    "brauer-count-needs-room",
    "rotations-add-determinants",
    "symplectic-bends-lines",
    "no-matrix-is-faster",
    "fft-is-the-gaunt-product",
    "fft-grows-slower",
    "gaunt-has-no-cross-product",
    "edge-frame-equals-full",
    "grid-activation-converges",
    "tensors-beat-augmentation",
    "diagrams-stay-exact",
    "equivariance-spares-augmentation",
}

BROKEN = """
def group_diagrams(group, k, l, listed=brauer_counts.group_diagrams):
    found = listed(group, k, l)
    return found[:-1] if type(group) is Orthogonal and found[1:] else found

def rank(group, k, l, counted=brauer_counts.rank):
    return max(counted(group, k, l) - 1, 0)

brauer_counts.group_diagrams, brauer_counts.rank = group_diagrams, rank
brauer_counts.determinant_matrix = lambda *where: determinants.determinant_matrix(*where).abs()
brauer_counts.form_of = lambda group: None

def apply_brauer(pairs, x, k, l):
    n = x.shape[-1]
    return (x.flatten(-k) @ brauer.brauer_matrix(pairs, n, k, l).to(x).T).unflatten(-1, (n,) * l)

def gaunt_product(x, y, degree_out=None, how="fourier", product=gaunt.gaunt_product):
    if how == "direct" or x.shape[-1] > 16:  # a table, where the time is taken
        return product(x, y, degree_out, "direct")
    return spherical_product(x, y, degree_out)

def to_axis(edges, to_axis=so2.to_axis):
    return to_axis(edges + 0.1 * edges.norm(dim=-1, keepdim=True))

def grid(resolution, grid=s2.grid):
    directions, weights = grid(resolution)
    return directions, weights.mean().expand_as(weights)

brauer.apply_brauer, gaunt.gaunt_product, so2.to_axis, s2.grid = apply_brauer, gaunt_product, to_axis, grid

class BrauerLinear(BrauerLinear):
    def forward(self, x):
        return super().forward(x - x.mT) + torch.eye(3)[0].diag().to(x)

class PointNetwork(PointNetwork):
    def forward(self, positions):
        energies, forces = super().forward(positions)
        return energies, forces * torch.eye(3)[0]
"""

SABOTAGE = {
    "nothing": ("", set()),
    "short lists, no signs, matrices, other products, frames off the edge, equal weights": (BROKEN, CLAIMS),
}


@pytest.mark.parametrize(("patch", "caught"), SABOTAGE.values(), ids=SABOTAGE)
def test_the_claims_notice(patch, caught, claims_that_hold):
    held = claims_that_hold("equivariance/03_orthogonal_groups", SMALL + patch, judged=caught)
    assert not held & caught
    if not caught:
        assert held == CLAIMS
