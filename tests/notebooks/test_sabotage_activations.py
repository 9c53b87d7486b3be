"""The activations chapter's claims have to fail when what they are about does not do what it says.

The breaks of one run concern claims that do not rest on each other, so that a run can hold several.
"""

import pytest

SMALL = """
figures.show = explore = lambda *args, **options: None
STEPS, RATES = 200, (3e-4,)
FEWER = {
    "ReLU": [2, 3], "SIREN": [1, 4], "SPDER": [1, 4], "Gaussian": [2, 4], "WIRE": [1, 2],
    "SL²A": [2, 4], "Poly-INR": [3],
}
GRID = {name: [GRID[name][i] for i in which] for name, which in FEWER.items()}
GRID_1D = {name: tries[:2] if name == "SIREN" else tries[:1] for name, tries in GRID_1D.items()}
"""

CLAIMS = {
    "complex-waves-add-up",
    "wavelets-add-up-blurred",
    "poly-inr-is-a-polynomial",
    "fit-chooses-too-wide",
    "learned-activations-beat-relu",
    "noise-foretells-the-gap",
    "sines-fit-tones",
    "fit-keeps-the-noise",
    "spder-beats-siren-untuned",
    "edges-save-steps",
}

SABOTAGE = {
    "nothing": ("", set()),
    "real waves, one bandwidth, levels that square, straight activations, PyTorch's sines, any place, "
    "noise unlearned": (
        """
def real(self, x, forward=Atoms.forward):
    return torch.complex(wave := forward(self, x).real, torch.zeros_like(wave))

def squared(self, x, forward=PolynomialNet.forward):
    return forward(self, x).square()

Atoms.forward, PolynomialNet.forward = real, squared
activations.init_sine = lambda *args, **options: None
activations.ACTIVATIONS["spder"] = Sine

class CoordinateNet(CoordinateNet):
    def __init__(self, *sizes, **options):
        options |= {name: 5.0 for name in ("w0", "s0") if name in options and "sine" not in sizes}
        super().__init__(*sizes, **options)

class ChebyshevNet(ChebyshevNet):
    def __init__(self, *sizes, degree):
        super().__init__(*sizes, degree=1)

def fit_many(nets, X, Y, fit_many=fit_many, **how):
    if len(Y) != 2:  # two pictures of noise, or two ramps
        return fit_many(nets, X, Y, **how)

def edge_centres(picture, count, seed=0):
    return 2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) - 1
""",
        {
            "complex-waves-add-up",
            "wavelets-add-up-blurred",
            "poly-inr-is-a-polynomial",
            "fit-chooses-too-wide",
            "fit-keeps-the-noise",
            "learned-activations-beat-relu",
            "noise-foretells-the-gap",
            "sines-fit-tones",
            "spder-beats-siren-untuned",
            "edges-save-steps",
        },
    ),
}


@pytest.mark.parametrize(("patch", "caught"), SABOTAGE.values(), ids=SABOTAGE)
def test_the_claims_notice(patch, caught, claims_that_hold):
    held = claims_that_hold("inr/02_activations", SMALL + patch, judged=caught)
    assert not held & caught
    if not caught:
        assert held == CLAIMS
