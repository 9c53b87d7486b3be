"""The claims on permutation layers have to fail when what they are about does not do what it says.

The breaks of one run concern claims that do not rest on each other, so that a run can hold several.
"""

import pytest

SMALL = """
figures.show = explore = lambda *args, **options: None
CASES, ALTERNATING, DIAGRAMS, RATES = CASES[:3], ALTERNATING[:2], 5, (1e-2,)
SET_SIZES, TRAIN, TEST, DEGREES, MIXED = (100,), 300, 300, (3, 4), MIXED[:3]
AROUND_EPOCHS, STEPS = 15, 180
"""

CLAIMS = {
    "bell-overcounts",
    "moebius-between-bases",
    "diagrams-multiply",
    "diagrams-are-fast",
    "jellyfish-are-all",
    "orientation-needs-jellyfish",
    "patterns-span",
    "deep-sets-need-fewer",
    "mixed-directions-separate",
    "mixed-directions-teach",
    "polynomials-are-independent",
    "polynomials-see-more",
    "polynomial-features-mix",
}

SABOTAGE = {
    "nothing": ("", set()),
    "all partitions, no signs, loops twice, dense products, no jellyfish, patterns without edges": (
        """
dimension = lambda n, k, l: bell(k + l)
moebius = lambda m, table=moebius: table(m).abs()
compose = lambda d1, d2, both=compose: (both(d1, d2)[0], 2 * both(d1, d2)[1])
apply_diagram = lambda p, x, k, l: x.flatten(1) @ diagram_matrix(p, x.shape[-1], k, l, x.dtype).T
alternating_dimension = lambda n, k, l: bell(k + l, n)
AlternatingLinear = lambda n, *sizes: PermutationLinear(*sizes)
graphs.homomorphism_rank = lambda graph, k, l, degree, rank=graphs.homomorphism_rank: rank(graph, k, l, 0)
""",
        {
            "bell-overcounts",
            "moebius-between-bases",
            "diagrams-multiply",
            "diagrams-are-fast",
            "jellyfish-are-all",
            "orientation-needs-jellyfish",
            "patterns-span",
        },
    ),
    "sets with an order, coordinates alone, polynomials of two edges": (
        """
from layerlab.equivariance.polynomials import evaluate as contract

sets.DeepSets = lambda D, width, out, hidden: MLP(POINTS * D, [64, 32], out)
sets.power_sums = lambda X, width, directions=None, sums=sets.power_sums: sums(X, width)
polynomial = lambda H, X: contract(H._replace(edges=H.edges[:2]), X)
""",
        {
            "deep-sets-need-fewer",
            "mixed-directions-separate",
            "mixed-directions-teach",
            "polynomials-are-independent",
            "polynomials-see-more",
            "polynomial-features-mix",
        },
    ),
}


@pytest.mark.parametrize(("patch", "caught"), SABOTAGE.values(), ids=SABOTAGE)
def test_the_claims_notice(patch, caught, claims_that_hold):
    held = claims_that_hold("equivariance/02_permutation_layers", SMALL + patch, judged=caught)
    assert held == CLAIMS - caught
