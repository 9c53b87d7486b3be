"""The claims on training from scratch have to fail when what they are about does not do what it says.

The breaks concern claims that do not rest on each other, so that one run can hold them all.
"""

import pytest

SMALL = """
RATES = (0.1,)
EPOCHS, TUNE, LONGEST = 10, 5, 24
TICKETS, MERGED = 8, 6
figures.show = explore = lambda *_, **__: None  # nobody looks
"""

CLAIMS = {
    "removed-is-what-was-masked",
    "scratch-is-no-worse",
    "long-enough-nothing-is-inherited",
    "tickets-win-at-a-small-rate",
    "no-ticket-at-a-large-rate",
    "predicted-masks-beat-static-ones",
    "multiply-adds-are-foretold",
    "merging-keeps-what-half-can-do",
    "merging-beats-removing",
    "local-errors-bound-global-ones",
    "fidelity-prunes-without-data",
    "the-choice-counts-when-little-is-left",
    "a-class-unlearned",
    "unlearned-features-still-know",
    "margin-goes-with-robustness",
}

SABOTAGE = {
    "nothing": ("", set()),
    "wrong channels go, hardly a step from scratch, masks that do not mask, predictions for other filters, "
    "any units merged, no least squares, any channels chosen, retraining with the class, angles reversed": (
        """
remove = channels.remove
channels.remove = lambda net, keep, x: remove(net, {g: k.flip(0) - k.min() for g, k in keep.items()}, x)
LONGEST, TICKETS, TICKET_EPOCHS, MERGED = 1, 5, 8, 5
masks.apply = lambda net, _: net

def fit_predictor(seen, mask, fit=dynamic.fit_predictor):
    predictor = fit(seen, mask).shuffled(0)
    predictor.bias += 1.0
    return predictor

dynamic.fit_predictor = fit_predictor
merge_units.cluster = lambda units, size, threshold=None: [[*range(i, len(units), size)] for i in range(size)]

def compensate(weight, gram, subset, channels=None):
    kept = torch.zeros(weight.shape[1], dtype=torch.bool)
    kept[subset] = True
    return weight * kept.view(1, -1, *[1] * (weight.ndim - 2))

fidelity.compensate = compensate
whole = fidelity.fidelity
fidelity.fidelity = lambda *arguments: 1 - (1 - whole(*arguments)) ** 2
fidelity.select = lambda weight, gram, size: torch.arange(size)
fidelity.singleton_scores = lambda weight, gram: torch.arange(weight.shape[1])
fit = fit_many
fit_many = lambda *arguments, subsets=None, **how: fit(*arguments, **how)
arccos = torch.arccos
torch.arccos = lambda cosine: -arccos(cosine)
""",
        CLAIMS,
    ),
}


@pytest.mark.parametrize(("patch", "caught"), SABOTAGE.values(), ids=SABOTAGE)
def test_the_claims_notice(patch, caught, claims_that_hold):
    held = claims_that_hold("pruning/02_is_it_the_weights", SMALL + patch, judged=caught)
    assert not held & caught
    if not caught:
        assert held == CLAIMS
