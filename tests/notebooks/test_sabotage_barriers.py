"""The loss-barrier chapter's claims have to fail when what they are about does not do what it says.

The breaks concern claims that do not rest on each other, so that one run can hold them all.
"""

import pytest

SMALL = """
DEEP, EPOCHS = (128,) * 6, 15
TRUNKS, HOT = 5, HOT | {"steps": 300}
WIDTHS = (16, 256)
GRID_WIDTHS, BATCHES = (4, 6, 8, 64), (16, 128)
BEND_STEPS = 100
figures.show = explore = lambda *_, **__: None  # nobody looks
"""

CLAIMS = {
    "one-layer-makes-no-barrier",
    "layers-together-make-it",
    "later-forks-stay-together",
    "curvature-ranks-layers",
    "half-is-enough-when-wide",
    "path-through-halves",
    "a-curve-goes-around",
    "soups-need-a-basin",
    "trajectories-need-heat",
}

SABOTAGE = {
    "nothing": ("", set()),
    "averaged layers hardly move, predictions upside down, copies of other trunks, halves not rescaled, "
    "no bend, test labels of other pictures": (
        """
from dataclasses import replace

def lerp_some(a, b, keys, lam, some=lerp_some):
    return some(a, b, keys, lam / 20)

landscape.lerp_some = lerp_some
predict_rise = lambda *arguments, predict=predict_rise: -predict(*arguments)

def repeat_interleave(self, times, dim, repeat=torch.Tensor.repeat_interleave):
    return self[torch.arange(len(self) * times) % len(self)]

torch.Tensor.repeat_interleave = repeat_interleave

def drop_units(state, reader, keep, *, rescale=True, drop=paths.drop_units):
    return drop(state, reader, keep, rescale=False)

paths.drop_units = drop_units
paths.bezier = lambda a, bend, b, lam: lerp(a, b, lam)

def digits(read=digits):
    data = read()
    return replace(data, test=replace(data.test, y=data.test.y.roll(1)))
""",
        CLAIMS,
    ),
}


@pytest.mark.parametrize(("patch", "caught"), SABOTAGE.values(), ids=SABOTAGE)
def test_the_claims_notice(patch, caught, claims_that_hold):
    held = claims_that_hold("merging/01_loss_barriers", SMALL + patch, judged=caught)
    assert not held & caught
    if not caught:
        assert held == CLAIMS
