"""Replication of a tiny book under several seeds, here and on a Dask cluster."""

import builtins
import json

import pytest

from bookkit.__main__ import main
from bookkit.notebooks import BookError
from bookkit.replicate import Tally, replicate

# holds under the first seed, and not under the others
RECORD = ">claims.record('it-holds', [1 + seed / 100 for seed in claims.seeds(5)])"


@pytest.fixture
def wavering(tiny):
    """A book with one chapter, whose claim holds under BOOK_SEED = 0 alone."""
    for path in tiny.root.glob("chapters/*/*.ipynb"):
        path.unlink()
    tiny.chapter("one/01_wavers", ["# Wavers", ">from bookkit import claims", RECORD])
    return tiny


def test_it_counts_how_often_a_claim_holds(wavering, capsys):
    assert main(["replicate", "--seeds", "2", "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("it-holds  holds 1 of 2 times (95 % interval 9% to 91%); fails at BOOK_SEED = 1000\n")
    assert "BOOK_SEED=0 one/01_wavers.ipynb: ok" in out
    assert "ClaimFailed: claim 'it-holds' failed" in out
    report = json.loads((wavering.build / "replicate/report.json").read_text())
    assert report["it-holds"]["held"] == [0]
    assert report["it-holds"]["failed"] == [1000]
    assert report["it-holds"]["means"]["1000"] == pytest.approx(11.02)
    folder = wavering.build / "replicate/seed-1000/one-01_wavers"
    assert json.loads((folder / "results/one/it-holds.json").read_text())["seed"] == 1000
    assert not (wavering.build / "notebooks/one/01_wavers.json").exists(), (
        "the book's own build is left alone"
    )


def test_an_error_is_no_failed_claim(wavering, capsys):
    wavering.chapter("one/01_wavers", ["# Wavers", ">claims.record('it-holds', [])"])
    assert main(["replicate", "--seeds", "1", "one/01_wavers"]) == 1
    out, err = capsys.readouterr()
    assert "NameError: name 'claims' is not defined" in out
    assert "it-holds  never recorded" in out
    assert "some claims were not recorded" in err


def test_a_tally_in_words():
    tally = Tally()
    for seed in range(20):
        tally.add(seed, {"verdict": "reproduced", "mean": 1.0})
    assert str(tally) == "holds 20 of 20 times (95 % interval 84% to 100%)"
    tally.add(20, None)
    assert str(tally).endswith("; is not recorded at BOOK_SEED = 20")
    tally.add(21, {"verdict": "not-reproduced", "mean": 1.0})
    assert len(tally.held) == 21, "as expected is as good as reproduced"


def test_seeds_are_counted_from_one(tiny):
    with pytest.raises(BookError, match="seeds is 0"):
        replicate(0)


def test_without_dask_it_says_what_to_install(tiny, monkeypatch):
    genuine = builtins.__import__

    def without_dask(name, *args, **kwargs):
        if name.startswith("dask"):
            raise ImportError(name)
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_dask)
    with pytest.raises(BookError, match=r'pip install "dask\[distributed\]"'):
        replicate(1, scheduler="tcp://127.0.0.1:1")


def test_a_scheduler_that_does_not_answer(tiny, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("bookkit.replicate.PATIENCE", "1s")
    with pytest.raises(BookError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        replicate(1, scheduler="tcp://127.0.0.1:9")


def test_a_cluster_does_the_same(wavering):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, processes=False, protocol="tcp://", dashboard_address=None
    ) as cluster:
        tallies = replicate(2, scheduler=cluster.scheduler_address)
    assert (tallies["it-holds"].held, tallies["it-holds"].failed) == ([0], [1000])
