"""The claims about signals as weights have to fail when what they are about does not do what it says.

The breaks of one run concern claims that do not rest on each other, so that a run can hold several.
"""

import pytest

SMALL = """
STEPS, MORE, CODE_STEPS, GRID_STEPS, LATENT_STEPS = 250, 200, 200, 3, 3
OUTER, BASE_STEPS = 40, 200
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
    "no checksum, no rounding in the loss, numbers of unequal weight, nothing learned, gates that stay": (
        """
from types import SimpleNamespace
import layerlab.inr.architectures as architectures

codec.zlib = SimpleNamespace(**(vars(zlib) | {"crc32": lambda data: 0}))

def rounded_error(bits):
    return lambda model, X, y: (model(X) - y).square().mean()

class RandomHypernet(RandomHypernet):
    def __init__(self, *how, **free):
        super().__init__(*how, **free)
        self.projection *= torch.logspace(-1, 1, self.latent)

architectures.RandomHypernet = RandomHypernet

def maml(make, signals, X, *, seed, **how):
    return seeded(make, seed).state_dict()

class ModulatedSiren(ModulatedSiren):
    def modulations(self, z):
        return super().modulations(z * (self.how != "gate"))
""",
        CLAIMS,
    ),
}


@pytest.mark.parametrize(("patch", "caught"), SABOTAGE.values(), ids=SABOTAGE)
def test_the_claims_notice(patch, caught, claims_that_hold):
    held = claims_that_hold("inr/03_signals_as_weights", SMALL + patch, judged=caught)
    assert not held & caught
    if not caught:
        assert held == CLAIMS
