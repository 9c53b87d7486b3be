"""A sabotaged chapter that breaks before it comes to a claim proves nothing about that claim."""

import json
import re

import nbformat
import pytest

CHAPTER, CLAIM = "equivariance/01_group_convolutions", "group-convolutions-commute"


@pytest.fixture
def executed(tmp_path):
    """In the place of running: the first claim is recorded, and a cell raises."""

    def run(notebook, folder, env, *, allow_errors):
        assert allow_errors
        done = nbformat.from_dict(notebook)
        cells = [cell for cell in done["cells"] if cell["cell_type"] == "code"]
        for cell, name in zip(cells, ("ClaimFailed", "IndexError"), strict=False):
            cell["outputs"] = [nbformat.v4.new_output("error", ename=name, evalue="no such place")]
        folder = tmp_path / "results/equivariance"
        folder.mkdir(parents=True)
        (folder / f"{CLAIM}.json").write_text(json.dumps({"id": CLAIM, "verdict": "failed"}))
        return done

    return run


def test_a_claim_that_was_recorded_was_judged(claims_that_hold):
    assert claims_that_hold(CHAPTER, "pass", judged={CLAIM}) == set()


def test_a_claim_that_was_never_recorded_fails_the_test_and_says_what_raised(claims_that_hold):
    words = re.compile(r"never recorded: right-angles-are-exact\n  IndexError: no such place  in the cell")
    with pytest.raises(pytest.fail.Exception, match=words) as raised:
        claims_that_hold(CHAPTER, "pass", judged={CLAIM, "right-angles-are-exact"})
    assert "ClaimFailed" not in str(raised.value)
