"""The permutation chapter's claims have to fail when weight matching does not do what it says."""

import json

import pytest

SMALL = """
WIDTHS, EARLY = (32, 64, 128), (1,)
SPLIT_PAIRS, SPLIT_SHAPES = 5, {1: (512,), 3: (32,)}
CHANNELS, CONV_RECIPE = (8, 16), {"lr": 3e-3, "epochs": 1}
"""

MATCHING = {
    "matching-removes-the-barrier",
    "barrier-falls-with-width",
    "straight-through-is-best",
    "merge-beats-both-parents-on-split-data",
    "matching-fails-early-in-training",  # its control: trained networks have to match
    "counterexample-has-no-connected-permutation",  # its control: a shuffled copy has to be laid back
}
FUNCTION = {"permuted-network-is-the-same-function"}

SABOTAGE = {
    "nothing": ("", set()),
    "the identity": (
        "matching.weight_matching = lambda spec, *_, **__: "
        "matching.Match(symmetry.identity_permutations(spec), [0.0, 0.0])",
        MATCHING,
    ),
    "a random permutation": (
        "matching.weight_matching = lambda spec, *_, seed=0, **__: "
        "matching.Match(symmetry.random_permutations(spec, 100 + seed), [0.0, 0.0])",
        MATCHING,
    ),
    "not carried to the next layer's input": (
        """
def permutation_spec(*args, derive=permutation_spec):
    spec = derive(*args)
    first = next(iter(spec))
    return spec | {first: symmetry.Group(spec[first].size, spec[first].axes[:-1], spec[first].reads)}
""",
        FUNCTION | {"matching-removes-the-barrier", "merge-beats-both-parents-on-split-data"},
    ),
}


@pytest.mark.parametrize(("patch", "caught"), SABOTAGE.values(), ids=SABOTAGE)
def test_the_claims_notice(patch, caught, claims_that_hold, tmp_path):
    held = claims_that_hold("merging/02_permutation_matching", SMALL + patch, judged=caught)
    assert not held & caught
    # Its measurement notices too, whatever its control says: a broken end is no level path.
    [file] = (tmp_path / "results").glob("*/matching-removes-the-barrier.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    measured = found["limit_upper"] <= found["accept"]["upper"]
    assert measured == ("matching-removes-the-barrier" not in caught)
    if not caught:
        assert held >= MATCHING | FUNCTION
