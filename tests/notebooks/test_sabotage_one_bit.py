"""The claims on networks of signs have to fail when what they are about does not do what it says.

The breaks concern claims that do not rest on each other, so that one run can hold them all.
"""

import pytest

SMALL = """
SEEDS, EPOCHS, RATES, EXPONENTS = 8, 20, (0.02,), (1.0, 2.0, 10.0)
TREES, VITS, VIT_EPOCHS, WOBBLES = 10, 5, 12, 8
figures.show = explore = lambda *_, **__: None  # nobody looks
"""

CLAIMS = {
    "the-cut-matters",
    "counting-equals-floats",
    "signs-beat-floats",
    "gradients-scatter-as-the-error-falls",
    "frequency-sets-the-error",
    "rank-one-beats-row-scales",
    "softmax-aware-errs-less",
    "softmax-aware-reads-more",
    "the-tree-is-exact",
    "trained-units-share-work",
    "the-loss-shortens-the-tree",
    "short-trees-cost-little",
    "learned-steps-flip-more",
}
OTHERS = {"twn-is-near-the-best", "onebit-keeps-most"}

SABOTAGE = {
    "nothing": ("", set()),
    "signs without a gradient, a power that is the identity, frequencies that do not differ, counts of half "
    "the bits, scales for rows only, thresholds at the row's mean, a loss without a pull, steps that stay": (
        """
FREQUENCIES = (2.0, 2.0, 20.0)
binary.sign_ste = lambda x, clip=1.0: binary.bipolar(x) + 0 * x
reste = binary.reste
binary.reste = lambda x, o, **how: reste(x, 1.0, **how)
product = binary.xnor_matmul
binary.xnor_matmul = lambda x, w, n: (product(x, w, n) + n) // 2
binarize = binary.binarize
binary.onebit = lambda w: (*binarize(w), torch.ones(1, w.shape[1]))

def softmax_aware(p, share=0.25):  # looks at the row's mean
    ones = (p >= p.mean(-1, keepdim=True)).float()
    return ones, (p * ones).sum(-1, keepdim=True) / ones.sum(-1, keepdim=True)

attention.softmax_aware = softmax_aware
tree.tree_length = lambda weight, plan: 0 * weight.sum()
oscillation.learned = lambda step, weight, bits: step.detach()
""",
        CLAIMS,
    ),
}


@pytest.mark.parametrize(("patch", "caught"), SABOTAGE.values(), ids=SABOTAGE)
def test_the_claims_notice(patch, caught, claims_that_hold):
    held = claims_that_hold("quantization/03_one_bit", SMALL + patch, judged=caught)
    assert not held & caught
    if not caught:
        assert held == CLAIMS | OTHERS
