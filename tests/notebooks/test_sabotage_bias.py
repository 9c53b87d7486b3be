"""The spectral-bias chapter's claims have to fail when what they are about does not do what it says.

The breaks of one run concern claims that do not rest on each other, so that a run can hold several.
"""

import pytest

SMALL = """
WAVE_STEPS, SLOPE_STEPS = 500, 150
RATES, W0S = (3e-3, 1e-2), (15.0,)
"""

CLAIMS = {
    "low-frequencies-first",
    "kernel-predicts-what-is-fast",
    "siren-keeps-activations",
    "siren-keeps-gradients",
    "fourier-features-beat-relu",
    "sine-beats-relu",
    "bandwidth-has-a-best-value",
    "rank-orders-memory",
    "bumps-match-fourier",
    "slopes-are-enough",
    "sape-beats-both-ends",
    "sape-opens-where-busy",
}

SABOTAGE = {
    "nothing": ("", set()),
    "hardly any frequency, a kernel of other places, ranks upside down, no stopping": (
        """
class FourierFeatures(FourierFeatures):
    def __init__(self, in_features, count, sigma):
        super().__init__(in_features, count, 1e-5 * sigma)  # with 0 there were no order of ranks

def stable_rank(features, rank=stable_rank):
    return 1 / rank(features)

def tangent_kernel(net, X, kernel=tangent_kernel):
    return kernel(net, X[torch.randperm(len(X), generator=torch.Generator().manual_seed(0))])

Sape.update = lambda self, X, error, threshold, rate: self.progress.add_(rate).clamp_(max=self.groups)
""",
        {
            "kernel-predicts-what-is-fast",
            "fourier-features-beat-relu",
            "bandwidth-has-a-best-value",
            "rank-orders-memory",
            "bumps-match-fourier",
            "sape-beats-both-ends",
            "sape-opens-where-busy",
        },
    ),
    "PyTorch's initialization, one band for all, bumps without places, a mask that never opens": (
        """
class Siren(Siren):
    def __init__(self, *sizes, init="siren", **frequencies):
        super().__init__(*sizes, init="default", **frequencies)

class FourierFeatures(FourierFeatures):
    def __init__(self, in_features, count, sigma):
        super().__init__(in_features, count, 4.0 + 1e-3 * sigma)  # and not all of one rank

class GaussianBumps(GaussianBumps):
    def forward(self, x):
        return super().forward(x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))])

Sape.update = lambda self, X, error, threshold, rate: None
""",
        {
            "siren-keeps-gradients",
            "sine-beats-relu",
            "fourier-features-beat-relu",  # its control
            "bandwidth-has-a-best-value",
            "rank-orders-memory",
            "bumps-match-fourier",
            "slopes-are-enough",
            "sape-beats-both-ends",
            "sape-opens-where-busy",
        },
    ),
    "samples, slopes and weights out of order": (
        """
def gradient(net, X, gradient=gradient):
    return gradient(net, X).flip(-1)

def fit(net, X, y, fit=fit, **how):
    return fit(net, X, y.flip(0) if len(X) == 256 or how.get("lr") == 3e-3 else y, **how)

class Siren(Siren):
    def __init__(self, *sizes, **how):
        super().__init__(*sizes, **how)
        for layer in self.layers[1:]:
            layer.weight.data /= 2
""",
        {
            "low-frequencies-first",
            "fourier-features-beat-relu",
            "siren-keeps-activations",
            "slopes-are-enough",
            "sape-beats-both-ends",
        },
    ),
}


@pytest.mark.parametrize(("patch", "caught"), SABOTAGE.values(), ids=SABOTAGE)
def test_the_claims_notice(patch, caught, claims_that_hold):
    held = claims_that_hold("inr/01_spectral_bias", SMALL + patch, judged=caught)
    assert not held & caught
    if not caught:
        assert held == CLAIMS
