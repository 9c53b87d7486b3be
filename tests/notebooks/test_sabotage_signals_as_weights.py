"""The claims about signals as weights have to fail when what they are about does not do what it says.

The breaks of one run concern claims that do not rest on each other, so that a run can hold several.
"""

import pytest

SMALL = """
STEPS, MORE, CODE_STEPS, GRID_STEPS, LATENT_STEPS = 250, 200, 250, 3, 3
PRICES = (0.0, 1e-3, 1e-2)
OUTER, BASE_STEPS = 40, 160
"""

CLAIMS = {
    "altered-files-are-refused",
    "trained-for-four-bits",
    "random-code-survives-rounding",
    "learned-start-is-quick",
    "learned-start-knows",
    "gates-beat-shifts",
}

SABOTAGE = {
    "nothing": ("", set()),
    "no checksum, no rounding in the loss, nothing learned from signals, gates without a hidden layer": (
        """
codec.zlib.crc32 = lambda *data: 0

def rounded_error(bits):
    return lambda model, X, y: (model(X) - y).square().mean()

def maml(make, signals, X, *, seed, **how):
    return seeded(make, seed).state_dict()

class ModulatedSiren(ModulatedSiren):
    def __init__(self, *sizes, how="shift", map_width=None, **options):
        super().__init__(*sizes, how=how, map_width=0 if how == "gate" else map_width, **options)
""",
        {
            "altered-files-are-refused",
            "trained-for-four-bits",
            "learned-start-is-quick",
            "learned-start-knows",
            "gates-beat-shifts",
        },
    ),
    "a code whose numbers weigh unequally, starts that see shuffled signals": (
        """
import layerlab.inr.architectures as architectures

class RandomHypernet(RandomHypernet):
    def __init__(self, *how, **free):
        super().__init__(*how, **free)
        self.projection *= torch.logspace(-1, 1, self.latent)

architectures.RandomHypernet = RandomHypernet

def maml(make, signals, X, maml=maml, **how):
    g = torch.Generator().manual_seed(0)
    order = torch.rand(signals.shape, generator=g).argsort(1)
    return maml(make, signals.gather(1, order), X, **how)
""",
        {"random-code-survives-rounding", "learned-start-knows"},
    ),
}


@pytest.mark.parametrize(("patch", "caught"), SABOTAGE.values(), ids=SABOTAGE)
def test_the_claims_notice(patch, caught, claims_that_hold):
    held = claims_that_hold("inr/03_signals_as_weights", SMALL + patch)
    assert not held & caught
    if not caught:
        assert held == CLAIMS
