"""The claims of *Using the Hessian* have to fail when what they are about does not do what it says.

The breaks concern claims that do not rest on each other, so that one run can hold them all.
"""

import pytest

SMALL = """
NETS, ROUNDED = {"MLP": 6, "ConvNet": 3, "TinyViT": 6}, 3
EPOCHS = {"MLP": 18, "ConvNet": 4, "TinyViT": 12}
GIVEN, SEARCHED, PROBES, POWER, TRIED_ALL = 128, 192, 6, 5, 5
LAYERS, TINY, SHUFFLES, BUDGETS, FINE = 5, 24, 4, (2.5, 3), (3,)
figures.show = explore = lambda *_, **__: None  # nobody looks
"""

CLAIMS = {
    "gptq-is-obq-in-order",
    "gptq-near-the-best-codes",
    "fixed-order-is-enough",
    "gptq-below-nearest",
    "gptq-needs-correlation",
    "act-order-with-few-directions",
    "comq-below-nearest",
    "comq-never-rises",
    "comq-below-gptq",
    "trace-ranks-better-than-eigenvalue",
    "hawq-order-matters",
    "relevance-beats-chance",
    "pareto-beats-uniform",
    "pareto-near-the-best-choice",
    "pairs-know-what-a-layer-saves",
    "an-order-guides-the-search",
}

SABOTAGE = {
    "nothing": ("", set()),
    "nobody makes up for anything, scales that grow, traces and orders turned round, no pairs": (
        """
whole = gptq

def gptq(weight, gram, scheme, *, act_order=False, **how):  # nobody makes up for anything
    how.pop("block", None)
    return whole(weight, torch.diag(gram.diagonal()), scheme, **how)

def comq(weight, gram, scheme, sweeps=3, **how):  # scales that grow with each sweep
    how = {k: v for k, v in how.items() if k == "by"}
    found = whole(weight, torch.diag(gram.diagonal()), scheme, **how)
    return found._replace(w_hat=found.w_hat * (1 + 0.02 * sweeps))

exactly = hessian.trace

def trace(loss, params, **how):  # flat where the loss is steep, and steep where it is flat
    size = sum(p.numel() for p in params.values())
    return hessian.Trace(size**2 / max(exactly(loss, params, **how).mean, 1e-3), 0.0)

hessian.trace = trace
along = allocate.by_order
allocate.by_order = lambda order, *rest: along(order[::-1], *rest)
pairs.augmented = lambda sensitivity, losses: dict(sensitivity)
""",
        CLAIMS,
    ),
}


@pytest.mark.parametrize(("patch", "caught"), SABOTAGE.values(), ids=SABOTAGE)
def test_the_claims_notice(patch, caught, claims_that_hold):
    held = claims_that_hold("quantization/02_using_the_hessian", SMALL + patch, judged=caught)
    assert not held & caught
    if not caught:
        assert held == CLAIMS
