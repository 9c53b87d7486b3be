import json
import os

import numpy as np
import pytest
import scipy.stats
import torch
import yaml

from bookkit import claims
from bookkit.claimcard import beside, number
from bookkit.claimrule import summarize

ENTRY = {
    "id": "matching-helps",
    "paper": "doe2020matching",
    "where": "Figure 2",
    "statement": "Matching lowers\n  the barrier.",
    "reported": {"value": "about 0", "setting": "MLP"},
    "measure": "barrier ratio",
    "accept": {"upper": 0.2},
}
GOOD = [0.04, 0.05, 0.03, 0.06, 0.10]
BAD = [0.4, 0.5, 0.3, 0.6, 0.5]


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A repository with one part; returns a function that writes its claims."""
    for name in ("BOOK_STATIC", "BOOK_BUILD_DIR", "BOOK_SEED"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "_config.yml").touch()
    (tmp_path / "chapters" / "demo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(claims, "_recorded", set())

    def declare(*changes, part="demo"):
        file = tmp_path / "chapters" / part / "claims.yaml"
        file.parent.mkdir(exist_ok=True)
        entries = [{k: v for k, v in (ENTRY | change).items() if v is not ...} for change in changes]
        file.write_text(yaml.safe_dump(entries, allow_unicode=True))
        return file

    declare({})
    return declare


@pytest.fixture
def outputs(monkeypatch):
    shown = []
    monkeypatch.setattr(claims, "emit", lambda bundle, metadata=None: shown.append((bundle, metadata or {})))
    return shown


def stored(tmp_path, id="matching-helps", part="demo"):
    return json.loads((tmp_path / "build" / "results" / part / f"{id}.json").read_text())


# The acceptance rule on synthetic samples


def pass_rate(rule, mean, n, rng, repetitions=3000):
    samples = rng.normal(mean, 1.0, (repetitions, n))
    return np.mean([summarize(sample).keeps(rule) for sample in samples])


@pytest.mark.parametrize("n", [5, 20])
@pytest.mark.parametrize("side", ["upper", "lower"])
def test_rule_passes_at_the_stated_rate(n, side):
    rng = np.random.default_rng([n, side == "upper"])
    sign = 1 if side == "upper" else -1
    rule = claims.Rule(**{"lower": None, "upper": None, side: 10.0}, on="limit")
    at_bound = pass_rate(rule, 10.0, n, rng)
    assert 0.035 < at_bound < 0.065
    for distance in (1.0, 3.0):  # in standard deviations inside the bound
        quantile = scipy.stats.t.ppf(0.95, n - 1)
        stated = 1 - scipy.stats.nct.cdf(quantile, n - 1, distance * np.sqrt(n))
        assert abs(pass_rate(rule, 10.0 - sign * distance, n, rng) - stated) < 0.03
    assert pass_rate(rule, 10.0 - sign * 4.0, n, rng) > 0.99
    assert pass_rate(rule, 10.0 + sign * 1.0, n, rng) < 0.005


def test_rule_with_two_bounds_needs_both_sides():
    rng = np.random.default_rng(0)
    rule = claims.Rule(lower=-3.0, upper=3.0, on="limit")
    assert pass_rate(rule, 0.0, 5, rng) > 0.9
    for edge in (-3.0, 3.0):
        assert pass_rate(rule, edge, 5, rng) < 0.065


def test_interval_is_students():
    rng = np.random.default_rng(1)
    x = rng.normal(size=7)
    found = summarize(x)
    error = scipy.stats.sem(x)
    assert np.allclose([found.low, found.high], scipy.stats.t.interval(0.95, 6, x.mean(), error))
    assert np.allclose(
        [found.limit_lower, found.limit_upper], scipy.stats.t.interval(0.90, 6, x.mean(), error)
    )
    assert (found.n, found.min, found.max) == (7, x.min(), x.max())


def test_equal_values_have_no_spread_at_all():
    found = summarize([0.1] * 7)  # a naive mean is 0.09999999999999999
    assert found.mean == found.low == found.high == found.limit_lower == found.limit_upper == 0.1
    assert found.keeps(claims.Rule(0.1, 0.1, "limit"))
    assert not found.keeps(claims.Rule(0.2, None, "limit"))


def test_every_value_counts_where_the_rule_says_so():
    rule = claims.Rule(lower=None, upper=1e-10, on="every")
    assert summarize([1e-12] * 99).keeps(rule)
    assert not summarize([1e-12] * 99 + [2e-10]).keeps(rule)
    assert summarize(3e-16).keeps(rule)
    assert not summarize([0.5, 2.0]).keeps(claims.Rule(lower=1.0, upper=None, on="every"))


# record


def test_result_is_written_with_every_digit(book, tmp_path, monkeypatch):
    book({"control": {"measure": "random", "accept": {"lower": 0.8}}, "differs": "smaller"})
    monkeypatch.setenv("BOOK_SEED", "30")
    values = [x + 1 / 3e9 for x in GOOD]
    result = claims.record("matching-helps", values, control=[0.98, 1.0, 0.97, 1.02, 0.95])
    found = stored(tmp_path)
    assert found["values"] == values
    assert found["mean"] == result.summary.mean
    assert found["verdict"] == result.verdict == "reproduced"
    assert found["seed"] == 30
    assert found["statement"] == "Matching lowers the barrier."
    assert found["paper"] == ["doe2020matching"]
    assert found["control"]["measure"] == "random"
    assert found["control"]["accept"] == {"lower": 0.8, "upper": None, "on": "limit"}
    assert found["control"]["mean"] == pytest.approx(0.984)
    assert found["claim_key"] == claims.load("demo")["matching-helps"].key
    assert list(found) == sorted(found)
    assert {
        "low",
        "high",
        "limit_lower",
        "limit_upper",
        "where",
        "measure",
        "reported",
        "differs",
        "expect",
    } <= set(found)
    assert os.listdir(tmp_path / "build" / "results" / "demo") == ["matching-helps.json"]


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda x: torch.tensor(x, dtype=torch.float64)])
def test_values_may_be_any_flat_sequence(book, kind):
    values = kind(GOOD)
    assert claims.record("matching-helps", values).summary.values == tuple(GOOD)


def test_failure_says_what_was_measured_and_expected_and_what_to_do(book, tmp_path, outputs):
    (tmp_path / "chapters" / "demo" / "01_intro.ipynb").write_text(
        '{"source": "record(\\"matching-helps\\")"}'
    )
    (tmp_path / "chapters" / "demo" / "02_other.ipynb").write_text("{}")
    with pytest.raises(claims.ClaimFailed) as caught:
        claims.record("matching-helps", BAD)
    message = str(caught.value)
    for part in (
        "'matching-helps'",
        os.path.join("chapters", "demo", "claims.yaml"),
        "01_intro.ipynb",
        "n = 5",
        "0.46",  # mean
        "0.57",  # upper limit
        "is not at most 0.2",
        str(BAD),
        "not-reproduced",
    ):
        assert part in message
    assert "02_other" not in message
    assert isinstance(caught.value, AssertionError)
    assert stored(tmp_path)["verdict"] == "failed"
    assert "Failed" in outputs[0][0]["text/markdown"]


def test_not_reproduced_works_both_ways(book, tmp_path, outputs):
    book({"expect": "not-reproduced", "reason": "Too small here."})
    assert claims.record("matching-helps", BAD).verdict == "not-reproduced"
    assert stored(tmp_path)["reason"] == "Too small here."
    assert "Not reproduced" in outputs[0][0]["text/markdown"]
    assert "Too small here." in outputs[0][0]["text/markdown"]
    with pytest.raises(claims.ClaimFailed, match=r"(?s)now it does.*`expect` and `reason` out of.*rewrite"):
        claims.record("matching-helps", GOOD)
    assert stored(tmp_path)["verdict"] == "failed"


def test_control_is_judged_by_its_own_rule(book, tmp_path):
    book({"control": {"measure": "random matching", "accept": {"lower": 0.8}}})
    with pytest.raises(claims.ClaimFailed, match=r"The control \(random matching\) does not behave"):
        claims.record("matching-helps", GOOD, control=GOOD)
    assert stored(tmp_path)["verdict"] == "failed"
    book({"control": {"measure": "random matching", "accept": {"lower": 0.8, "on": "every"}}})
    with pytest.raises(claims.ClaimFailed):
        claims.record("matching-helps", GOOD, control=[0.9, 0.9, 0.79])
    assert claims.record("matching-helps", GOOD, control=[0.9]).verdict == "reproduced"


def test_control_without_a_rule_is_shown(book, outputs):
    book({"control": {"measure": "random matching"}})
    claims.record("matching-helps", GOOD, control=BAD)
    assert "**Control**: random matching: 0.46" in outputs[0][0]["text/markdown"]


def test_failing_control_fails_a_claim_that_is_not_reproduced(book):
    book(
        {
            "control": {"measure": "random", "accept": {"lower": 0.8}},
            "expect": "not-reproduced",
            "reason": "x",
        }
    )
    with pytest.raises(claims.ClaimFailed, match="The control"):
        claims.record("matching-helps", BAD, control=GOOD)


def test_control_has_to_match_its_declaration(book):
    with pytest.raises(claims.ClaimError, match=r"claims.yaml, claim 'matching-helps': a control is given"):
        claims.record("matching-helps", GOOD, control=BAD)
    book({"control": {"measure": "random matching"}})
    with pytest.raises(claims.ClaimError, match=r"no control is given.*random matching"):
        claims.record("matching-helps", GOOD)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.1, float("nan"), 0.1, 0.1, 0.1], "nan at index 1"),
        ([0.1, 0.1, float("-inf"), 0.1, 0.1], "-inf at index 2"),
        ([], r"shape \(0,\)"),
        ([[0.1] * 5] * 2, r"shape \(2, 5\)"),
        (["0.1"] * 5, "real numbers"),
        ([0.1, None, 0.1, 0.1, "x"], "real numbers"),
        ([1j] * 5, "real numbers"),
        ([0.1] * 4, r"4 in number.*5 or more.*`few`"),
    ],
)
def test_values_that_cannot_be_judged_are_refused(book, tmp_path, values, message):
    with pytest.raises(claims.ClaimError, match=f"claim 'matching-helps': the values .*{message}"):
        claims.record("matching-helps", values)
    assert not (tmp_path / "build").exists()


def test_few_values_need_a_reason(book):
    book({"few": "Each takes a minute.", "control": {"measure": "random"}})
    assert claims.record("matching-helps", [0.10, 0.11], control=[1.0, 1.1]).verdict == "reproduced"
    with pytest.raises(claims.ClaimError, match="1 in number; a mean is judged on 2"):
        claims.record("matching-helps", [0.1], control=[1.0, 1.1])
    with pytest.raises(claims.ClaimError, match="the control's values are 1 in number"):
        claims.record("matching-helps", [0.1, 0.1], control=[1.0])
    book({"accept": {"upper": 0.2, "on": "every"}})
    assert claims.record("matching-helps", [0.1]).summary.low is None


def test_unknown_id_lists_its_neighbours(book):
    book({}, {"id": "matching-hurts"})
    with pytest.raises(claims.ClaimError, match=r"'matching-help'.*'matching-helps' or 'matching-hurts'"):
        claims.record("matching-help", GOOD)
    with pytest.raises(claims.ClaimError, match=r"among the 2 in chapters/\*/claims.yaml$"):
        claims.record("zzz", GOOD)


def test_a_cell_may_run_again_live_but_not_in_a_build(book, monkeypatch, tmp_path, outputs):
    claims.record("matching-helps", GOOD)
    claims.record("matching-helps", [x / 2 for x in GOOD])
    assert stored(tmp_path)["max"] == 0.05
    claims._recorded.clear()
    monkeypatch.setenv("BOOK_STATIC", "1")
    claims.record("matching-helps", GOOD)
    with pytest.raises(claims.ClaimError, match="twice"):
        claims.record("matching-helps", GOOD)


def test_writing_is_atomic(book, tmp_path, monkeypatch):
    claims.record("matching-helps", GOOD)
    before = stored(tmp_path)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        claims.record("matching-helps", [0.01] * 5)
    assert stored(tmp_path) == before
    assert os.listdir(tmp_path / "build" / "results" / "demo") == ["matching-helps.json"]


def test_outside_a_repository_the_packaged_claims_are_used(book, tmp_path, monkeypatch):
    packed = tmp_path / "site-packages" / "bookkit" / "_claims" / "demo.yaml"
    packed.parent.mkdir(parents=True)
    (tmp_path / "chapters" / "demo" / "claims.yaml").rename(packed)
    (tmp_path / "_config.yml").unlink()
    for module in (claims, claims.paths):
        monkeypatch.setattr(module, "__file__", str(packed.parent.parent / "module.py"))
    result = claims.record("matching-helps", GOOD)
    assert result.claim.part == "demo"
    assert claims.load("demo") == claims.load_all()
    assert not (tmp_path / "build").exists()
    with pytest.raises(claims.ClaimError, match="_claims"):
        claims.record("other", GOOD)
    monkeypatch.setenv("BOOK_BUILD_DIR", str(tmp_path / "out"))
    claims.record("matching-helps", GOOD)
    assert (tmp_path / "out" / "results" / "demo" / "matching-helps.json").is_file()


# What is displayed


def test_static_build_gets_a_myst_card_and_glued_numbers(book, tmp_path, monkeypatch, outputs):
    monkeypatch.setenv("BOOK_STATIC", "1")
    book({"paper": ["doe2020matching", "roe2021"], "control": {"measure": "random"}, "differs": "smaller"})
    claims.record("matching-helps", GOOD, control=BAD)
    card = outputs[0][0]["text/markdown"]
    for part in (
        "{admonition} Reproduced · Matching lowers the barrier.",
        ":class: claim claim-reproduced",
        ":name: claim-matching-helps",
        "{cite:t}`doe2020matching,roe2021`",
        "0.056 [0.022, 0.090]",
        "upper 95 % limit of the mean, 0.082, is at most 0.2",
        "smaller",
        "</build/results/demo/matching-helps.json>",
    ):
        assert part in card
    glued = {
        meta["scrapbook"]["name"]: bundle["application/papermill.record/text/plain"]
        for bundle, meta in outputs[1:]
    }
    assert {name.split(".")[1] for name in glued} == {"mean", "low", "high", "min", "max", "n", "control"}
    assert float(glued["matching-helps.mean"]) == stored(tmp_path)["mean"]
    assert glued["matching-helps.n"] == "5"
    assert float(glued["matching-helps.control"]) == stored(tmp_path)["control"]["mean"]


def test_no_download_link_to_a_place_outside_the_source(book, tmp_path, monkeypatch, outputs):
    monkeypatch.setenv("BOOK_STATIC", "1")
    monkeypatch.setenv("BOOK_BUILD_DIR", str(tmp_path.parent / "elsewhere"))
    claims.record("matching-helps", GOOD)
    assert "download" not in outputs[0][0]["text/markdown"]


def test_live_notebook_gets_plain_markdown_and_nothing_glued(book, outputs, capsys):
    result = claims.record("matching-helps", GOOD)
    assert len(outputs) == 1
    card = outputs[0][0]["text/markdown"]
    assert card.startswith("**Reproduced · Matching lowers the barrier.**")
    assert "{" not in card
    assert "`doe2020matching`" in card
    assert result._ipython_display_() is None  # the card is not shown a second time
    assert capsys.readouterr().out == ""


def test_exact_statement_shows_its_values(book, outputs):
    book({"accept": {"upper": 1e-10, "on": "every"}, "few": "It is exact."})
    claims.record("matching-helps", [1e-16, 3.14159e-15])
    assert "2 values from 1.00 × 10⁻¹⁶ to 3.14 × 10⁻¹⁵" in outputs[0][0]["text/markdown"]
    assert "largest value, 3.1 × 10⁻¹⁵, is at most 1 × 10⁻¹⁰" in outputs[0][0]["text/markdown"]
    claims.record("matching-helps", 2e-16)
    assert "2.00 × 10⁻¹⁶ (n = 1)" in outputs[1][0]["text/markdown"]
    claims.record("matching-helps", [0, 0, 0])
    assert "3 values, all 0" in outputs[2][0]["text/markdown"]
    with pytest.raises(claims.ClaimFailed, match=r"largest value, 0.0010, is not at most"):
        claims.record("matching-helps", [1e-3])


def test_a_number_never_looks_equal_to_a_bound_that_it_misses():
    assert beside(0.2 + 1e-9, 0.2) == "0.200000001"
    assert beside(0.2 + 1e-16, 0.2) != beside(0.2, 0.2) or 0.2 + 1e-16 == 0.2
    assert [number(x) for x in (1234567.0, 1e-3, -2.5e-9)] == ["1.23 × 10⁶", "0.00100", "−2.50 × 10⁻⁹"]


# glue and seeds


def test_glue_emits_for_a_static_build_only(outputs, monkeypatch):
    monkeypatch.delenv("BOOK_STATIC", raising=False)
    claims.glue("a", 1.5)
    assert outputs == []
    monkeypatch.setenv("BOOK_STATIC", "1")
    claims.glue("a", np.float64(1.5))
    claims.glue("b", torch.tensor(2))
    assert [bundle["application/papermill.record/text/plain"] for bundle, _ in outputs] == ["1.5", "2"]
    assert outputs[0][1]["scrapbook"] == {"name": "a", "mime_prefix": "application/papermill.record/"}


@pytest.mark.parametrize(
    ("value", "error"), [(float("nan"), ValueError), ([1], TypeError), (True, TypeError)]
)
def test_glue_refuses_what_is_no_number(value, error):
    with pytest.raises(error, match="'x'"):
        claims.glue("x", value)


def test_seeds_are_shifted_by_the_environment(monkeypatch):
    monkeypatch.delenv("BOOK_SEED", raising=False)
    assert claims.seeds(3) == [0, 1, 2]
    monkeypatch.setenv("BOOK_SEED", "100")
    assert claims.seeds(2) == [100, 101]
    for wrong in ("-1", "1.5", "abc"):
        monkeypatch.setenv("BOOK_SEED", wrong)
        with pytest.raises(ValueError, match=f"BOOK_SEED is '{wrong}'"):
            claims.seeds(2)


@pytest.mark.parametrize("n", [0, -1, 2.0, True, "5"])
def test_seeds_refuses_a_bad_count(n):
    with pytest.raises(ValueError, match="n is "):
        claims.seeds(n)


# claims.yaml


def test_yaml_is_read_as_people_write_it(book, tmp_path):
    text = """
- id: exact
  paper: doe
  where: Section 2
  statement: Yes: it is the same
  reported: {value: 0.25, setting: no matter}
  measure: difference
  accept: {upper: 1e-10, on: every}
""".replace("Yes: it", "Yes, it")
    (tmp_path / "chapters" / "demo" / "claims.yaml").write_text(text)
    claim = claims.load("demo")["exact"]
    assert claim.accept == claims.Rule(None, 1e-10, "every")
    assert claim.reported == {"value": "0.25", "setting": "no matter"}
    assert (claim.part, claim.paper, claim.expect, claim.control) == ("demo", ("doe",), "reproduced", None)
    assert claims.load(tmp_path / "chapters" / "demo" / "claims.yaml") == claims.load("demo")


def test_key_follows_the_entry(book):
    before = claims.load("demo")["matching-helps"].key
    book({}, {"id": "another"})
    assert claims.load("demo")["matching-helps"].key == before
    book({"accept": {"upper": 0.21}})
    assert claims.load("demo")["matching-helps"].key != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contrl": {}}, r"unknown field 'contrl'.*did you mean 'control'"),
        ({"measure": ...}, "lacks the field 'measure'"),
        ({"accept": ...}, "lacks the field 'accept'"),
        ({"accept": {}}, "accept has no bound"),
        ({"accept": 0.2}, "accept is 0.2; expected a mapping"),
        ({"accept": {"uper": 0.2}}, "unknown field 'uper'.*did you mean 'upper'"),
        ({"accept": {"upper": "small"}}, "accept.upper is 'small'; expected a finite number"),
        ({"accept": {"upper": True}}, "accept.upper is True"),
        ({"accept": {"upper": float("inf")}}, "accept.upper"),
        ({"accept": {"lower": 2, "upper": 1}}, "lower = 2 above upper = 1"),
        ({"accept": {"upper": 1, "on": "mean"}}, "accept.on is 'mean'; expected 'limit'"),
        ({"paper": 3}, "paper is 3; expected a text"),
        ({"paper": []}, "paper is an empty list"),
        ({"where": "  "}, "where is '  '; expected a text"),
        ({"reported": "about 0"}, "reported is 'about 0'; expected a mapping"),
        ({"reported": {"value": 0}}, "reported lacks the field 'setting'"),
        ({"reported": {"value": True, "setting": "x"}}, "reported.value is True"),
        ({"control": {"accept": {"lower": 1}}}, "control lacks the field 'measure'"),
        ({"control": {"measure": "x", "accept": {}}}, "control.accept has no bound"),
        ({"expect": "failed"}, "expect is 'failed'; expected one of reproduced, not-reproduced"),
        ({"expect": "not-reproduced"}, "reason is missing"),
        ({"reason": "x"}, "reason goes only with"),
        ({"few": 3}, "few is 3"),
    ],
)
def test_wrong_entries_are_named(book, change, message):
    book(change)
    with pytest.raises(
        claims.ClaimError, match=rf"chapters.demo.claims\.yaml, claim 'matching-helps': .*{message}"
    ):
        claims.load("demo")


@pytest.mark.parametrize("id", ["Matching", "a--b", "a_b", "", 3, None])
def test_ids_are_kebab_case(book, id):
    book({}, {"id": id})
    with pytest.raises(claims.ClaimError, match=r"claims.yaml, entry 2: the id is"):
        claims.load("demo")


def test_wrong_files_are_named(book, tmp_path):
    file = book({}, {})
    with pytest.raises(claims.ClaimError, match="claim 'matching-helps': this id stands twice"):
        claims.load("demo")
    file.write_text("- id: a\n  where: x\n  where: y\n")
    with pytest.raises(
        claims.ClaimError, match=r"(?s)claims.yaml is not readable.*'where' is given twice.*line 3"
    ):
        claims.load("demo")
    file.write_text("id: a\n")
    with pytest.raises(claims.ClaimError, match="holds a dict; expected a list"):
        claims.load("demo")
    file.write_text("- just text\n")
    with pytest.raises(claims.ClaimError, match="entry 1"):
        claims.load("demo")
    file.write_text("")
    assert claims.load("demo") == {}
    with pytest.raises(claims.ClaimError, match=r"chapters.nowhere.claims.yaml does not exist"):
        claims.load("nowhere")


def test_an_id_is_unique_in_the_book(book, tmp_path):
    book({}, part="other")
    with pytest.raises(
        claims.ClaimError, match=r"chapters.other.claims.yaml.*chapters.demo.claims.yaml has it too"
    ):
        claims.load_all()
    with pytest.raises(claims.ClaimError, match="has it too"):
        claims.record("matching-helps", GOOD)
    book({"id": "another"}, part="other")
    assert [(c.part, c.id) for c in claims.load_all(tmp_path).values()] == [
        ("demo", "matching-helps"),
        ("other", "another"),
    ]
