"""The claims of *Rounding* have to fail when the library does not do what they are about.

Powers are left out: the chapter writes them out itself.
"""

import pytest

SMALL = """
BITS, EPOCHS, TRAINING, LEARNING, FP8_EPOCHS, DILUTE, SPEED = (4, 8), 10, 250, 100, 2, (64,), (32, 8)
figures.show = explore = lambda *_, **__: None  # nobody looks
"""

CLAIMS = {
    "six-decibels-a-bit",
    "higgs-beats-nf4-at-equal-bits",
    "higgs-does-not-see-outliers",
    "errors-of-layers-add-up",
    "program-is-the-optimum",
    "program-saves-loss",
    "smoothing-takes-outliers",
    "all-steps-beat-one",
    "learned-transform-changes-less",
    "fp8-with-scales-trains",
    "gradients-vanish-without-scales",
}

SABOTAGE = {
    "nothing": ("", set()),
    "three bits, even grids, no rotation, equal slopes and bits, no smoothing, no learning, no scales": (
        """

def round_trip(x, scheme, honest=affine.round_trip, **how):
    return honest(x, Scheme(3, scheme.symmetric, scheme.group), **how)

def learn(model, *_, **__):
    for layer in model.modules():
        if isinstance(layer, transforms.TransformedLinear):
            layer.log_scale.data.copy_(torch.linspace(-2, 2, len(layer.log_scale)))

affine.round_trip, transforms.learn = round_trip, learn
grids.gaussian_lloyd_max = lambda levels: torch.linspace(-4, 4, levels, dtype=torch.float64)
grids.rotate = grids.unrotate = lambda x, seed: x
linearity.slopes = lambda loss, state, keys, **_: dict.fromkeys(keys, 1.0)
allocate.dynamic_program = lambda costs, sizes, budget: dict.fromkeys(costs, 2)
smoothing.smoothing_scales = lambda maxima, weight, alpha=0.5: torch.ones_like(maxima)
fp8.dynamic_scale = lambda x, kind, **_: 1.0
""",
        CLAIMS,
    ),
}


@pytest.mark.parametrize(("patch", "caught"), SABOTAGE.values(), ids=["nothing", "everything"])
def test_the_claims_notice(patch, caught, claims_that_hold):
    held = claims_that_hold("quantization/01_rounding", SMALL + patch, judged=CLAIMS)
    assert not held & caught
    if not caught:
        assert held >= CLAIMS
