"""The build of a tiny book: what runs again, and what is said when something is wrong."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from bookkit import execute, keys, nbevents, notebooks, stage
from bookkit.notebooks import BookError

DIRECT, APART = "one/01_direct", "one/02_apart"
HEAVY = ("torch", "matplotlib", "sphinx", "nbformat", "jupyter_client")


def direct(why: str) -> dict[str, list[str]]:
    return {DIRECT: [why]}


def apart(why: str) -> dict[str, list[str]]:
    return {APART: [why]}


def both(why: str) -> dict[str, list[str]]:
    return direct(why) | apart(why)


def complaint(**options) -> str:
    """What `stage.run` complains about."""
    with pytest.raises(BookError) as caught:
        stage.run(**options)
    return str(caught.value)


def test_the_first_run_executes_everything(tiny, executed_once):
    assert [path.stem for path in executed_once.ran] == ["01_direct", "02_apart", "01_alone"]
    assert tiny.copy("two/01_alone")["cells"][1]["outputs"][0]["data"]["text/plain"] == ["'1,2\\n'"]
    result = json.loads((tiny.build / "results/one/it-holds.json").read_text())
    assert result["verdict"] == "reproduced"


def test_nothing_changed_executes_nothing(tiny, monkeypatch):
    monkeypatch.setattr(execute, "execute", pytest.fail)
    before = {path: path.stat().st_mtime_ns for path in tiny.build.rglob("*.*")}
    assert stage.run() == []
    assert {path: path.stat().st_mtime_ns for path in tiny.build.rglob("*.*")} == before


def test_the_manifest_says_how_the_copy_was_made(tiny, executed_once):
    manifest = tiny.manifest("one/01_direct")
    assert manifest["key"] == stage.key("one/01_direct")
    assert 0 < manifest["cells"]["cell-1"] < manifest["seconds"] < 60
    assert manifest["seed"] == 0
    assert set(manifest["versions"]) == {"python", "torch", "numpy", "scipy"}
    assert (manifest["commit"], manifest["dirty"]) == (None, False)
    assert manifest["finished"].endswith("+00:00")
    assert list(manifest["results"]) == ["it-holds"]
    copy = tiny.copy("one/01_direct")
    assert copy["metadata"]["kernelspec"]["name"] == "python3"
    assert [cell["metadata"] for cell in copy["cells"]] == [{}] * 3, "no time stamps"


def test_sources_are_not_written_to(tiny, executed_once):
    sources = [path.read_text() for path in notebooks.find(tiny.root)]
    assert not any("text/plain" in text for text in sources)
    assert not list((tiny.root / "chapters").rglob("*.json"))


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        ("utils/tinylib/base.py", "1.0", "1.1", direct("module tinylib.base changed")),
        ("utils/tinylib/middle.py", "value", "value as value", direct("module tinylib.middle changed")),
        ("utils/tinylib/lonely.py", "'lonely'", "'alone'", apart("module tinylib.lonely changed")),
        ("utils/tinylib/__init__.py", "", "X = 1\n", both("module tinylib changed")),
        ("utils/tinylib/unused.py", "", "X = 1\n", {}),
        ("data/numbers.csv", "1", "3", {"two/01_alone": ["data/numbers.csv changed"]}),
        ("chapters/one/claims.yaml", "upper: 2", "upper: 3", direct("claim it-holds changed")),
        ("chapters/one/02_apart.ipynb", "# Apart", "# Far apart", {}),
        ("chapters/one/02_apart.ipynb", "import NAME", "import NAME as N", apart("its code cells changed")),
        ("chapters/one/02_apart.ipynb", '"metadata": {}', '"metadata": {"tags": ["hide-cell"]}', {}),
    ],
)  # fmt: skip
def test_what_makes_a_notebook_stale(tiny, path, old, new, expected):
    if not (tiny.root / path).exists():
        tiny.put(path, old)
    tiny.edit(path, old, new)
    assert tiny.why() == expected


def test_a_module_that_starts_to_import_another_brings_it_along(tiny):
    tiny.edit("utils/tinylib/lonely.py", "NAME", "def load():\n    from . import base\n\n\nNAME")
    assert tiny.why() == {"one/02_apart": ["module tinylib.base is new", "module tinylib.lonely changed"]}


@pytest.mark.parametrize(("tag", "stale"), [("raises-exception", True), ("solution", False)])
def test_tags_count_where_they_change_what_is_executed(tiny, tag, stale):
    path = tiny.root / "chapters/one/02_apart.ipynb"
    notebook = notebooks.read(path)
    notebook["cells"][1]["metadata"]["tags"] = [tag]
    notebooks.write(path, notebook)
    assert bool(tiny.stale()) == stale


def test_seed_and_pins_are_part_of_every_key(tiny, monkeypatch):
    tiny.put("requirements.txt", "numpy\nscipy\n")
    assert all(why == ["requirements.txt changed"] for why in tiny.why().values())
    tiny.put("requirements.txt", "numpy\n")
    monkeypatch.setenv("BOOK_SEED", "1000")
    assert set(map(str, tiny.why().values())) == {"['BOOK_SEED changed from 0 to 1000']"}
    assert len(tiny.stale()) == 3
    monkeypatch.setenv("BOOK_SEED", "one")
    assert "BOOK_SEED is 'one'" in complaint()


def test_data_that_a_module_names_counts_and_so_does_the_folder_of_full_data(tiny, monkeypatch):
    tiny.put("data/big.npz", "1")
    tiny.put("data/big.npz.md", "What it is.")
    tiny.edit("utils/tinylib/base.py", "1.0", "1.0  # from big.npz, or from BOOK_DATA")
    assert tiny.why()["one/01_direct"] == [
        "BOOK_DATA is new",
        "data/big.npz is new",
        "module tinylib.base changed",
    ]


def test_a_new_seed_in_a_new_folder_runs_again_and_the_commit_is_noted(tiny, monkeypatch):
    monkeypatch.setenv("BOOK_SEED", "1000")
    monkeypatch.setenv("BOOK_BUILD_DIR", "elsewhere")
    tiny.build = tiny.root / "elsewhere"
    git = ["git", "-C", str(tiny.root), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "index.md"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert stage.run(["one/01_direct"]) == [tiny.root / "chapters/one/01_direct.ipynb"]
    manifest = tiny.manifest("one/01_direct")
    assert (manifest["seed"], manifest["commit"], manifest["dirty"]) == (1000, head.stdout.strip(), True)
    assert json.loads((tiny.build / "results/one/it-holds.json").read_text())["seed"] == 1000


def test_an_edit_of_the_text_goes_into_the_copy_without_execution(tiny, monkeypatch):
    monkeypatch.setattr(execute, "execute", pytest.fail)
    tiny.edit("chapters/one/02_apart.ipynb", "# Apart", "# Far apart")
    old = tiny.copy("one/02_apart")
    assert stage.run() == []
    new = tiny.copy("one/02_apart")
    assert new["cells"][0]["source"] == ["# Far apart"]
    assert new["cells"][1] == old["cells"][1]
    assert new["cells"][1]["outputs"]


def test_executed_gives_a_copy_that_is_up_to_date_or_none(tiny):
    path = tiny.root / "chapters/one/02_apart.ipynb"
    tiny.edit("chapters/one/02_apart.ipynb", "# Apart", "# Far apart")
    assert "Far apart" in stage.executed(path).read_text()
    assert (
        stage.executed("chapters/one/02_apart.ipynb")
        == stage.executed("one/02_apart")
        == stage.executed(path)
    )
    tiny.edit("utils/tinylib/lonely.py", "lonely", "changed")
    assert stage.executed(path) is None
    with pytest.raises(BookError, match=r"no chapter is called one/09; there are: one/01_direct.ipynb, "):
        stage.executed("one/09")


def test_results_written_by_hand_are_not_taken_for_the_books(tiny):
    tiny.edit("build/results/one/it-holds.json", '"seed": 0', '"seed": 7')
    assert tiny.why() == {"one/01_direct": ["the result of claim it-holds was changed or deleted since"]}


def test_what_belongs_to_no_chapter_or_claim_any_more_is_removed(tiny):
    (tiny.root / "chapters/one/02_apart.ipynb").unlink()
    gone = tiny.put("build/results/one/it-held.json", '{"claim_key": "1"}')
    other = tiny.put("build/results/one/notes.json", "{}")
    stage.run()
    assert not gone.exists()
    assert other.exists()
    assert sorted(path.name for path in tiny.build.glob("notebooks/one/*")) == [
        "01_direct.ipynb",
        "01_direct.json",
    ]


def test_failures_of_every_kind_are_told_at_once(tiny, monkeypatch, capfd):
    monkeypatch.setattr(execute, "CELL_TIMEOUT", 4)
    tiny.chapter(
        "two/02_cell", ["# A", ">a = 1", ">if a:\n    raise RuntimeError('one\\ntwo')", ">'not-reached'"]
    )
    entry = (tiny.root / "chapters/one/claims.yaml").read_text()
    tiny.put("chapters/two/claims.yaml", entry.replace("it-holds", "not-reached"))
    tiny.chapter("two/03_dies", ["# B", ">import os\nos._exit(1)"])
    tiny.chapter("two/04_hangs", ["# C", ">import time\ntime.sleep(60)"])
    tiny.edit("utils/tinylib/base.py", "1.0", "5.0")
    tiny.edit("utils/tinylib/lonely.py", "'lonely'", "'alone'")
    said = complaint(jobs=2)
    assert (
        "two/02_cell.ipynb failed in cell 3, In [2], which begins `if a:`:\n    RuntimeError: one\n    two\n"
        in said
    )
    assert "two/03_dies.ipynb failed in a cell:\n    Kernel died\n" in said
    assert "two/04_hangs.ipynb failed in cell 2, In [1]" in said
    assert "timed out while it was being executed, after 4 seconds" in said
    assert "one/01_direct.ipynb failed in cell 3" in said
    assert "ClaimFailed: claim 'it-holds' failed" in said
    assert "What it showed until then: build/notebooks/two/02_cell.ipynb" in said
    assert "Mend chapters/two/02_cell.ipynb, then run: python -m bookkit run two/02_cell.ipynb" in said
    assert "did not record" not in said, "what failed is not blamed twice"
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 6
    assert not err, "kernels' chatter goes to a file"
    assert tiny.copy("two/02_cell")["cells"][2]["outputs"][0]["ename"] == "RuntimeError"
    assert not list(tiny.build.glob("notebooks/two/0[234]*.json"))
    assert not list(tiny.root.glob("chapters/*/*.json"))
    assert tiny.why()["two/02_cell"] == ["its last run failed"]
    assert tiny.stale() == ["one/01_direct", "two/02_cell", "two/03_dies", "two/04_hangs"], "others are kept"


def test_a_claim_has_to_be_named_and_recorded(tiny):
    file = tiny.root / "chapters/one/claims.yaml"
    entry = file.read_text()
    file.write_text(entry + entry.replace("it-holds", "it-lasts") + entry.replace("it-holds", "it-ends"))
    tiny.chapter("one/01_direct", ["# D", ">if False:\n    record('it-holds', 'it-lasts')"])
    said = complaint()
    for id in ("it-holds", "it-lasts"):  # what an earlier run recorded for the first does not count
        assert f"one/01_direct.ipynb names the claim {id} and did not record it; call claims.record(" in said
    assert "chapters/one/claims.yaml: the claim it-ends is named by no notebook beside that file" in said
    assert tiny.stale() == []
    assert complaint() == said, "nothing runs again, and still it fails"
    assert "it-ends" not in complaint(only=["one/01_direct"])


def test_keep_going_lets_later_claims_be_judged(tiny):
    record = ">claims.record('it-holds', [1, 1, 1, 1, 2])"
    tiny.chapter("one/01_direct", ["# D", ">from bookkit import claims", ">1 / 0", record])
    assert "ZeroDivisionError" in complaint(only=["one/01_direct"], keep_going=True)
    assert (tiny.build / "results/one/it-holds.json").exists()
    assert tiny.why() == {"one/01_direct": ["its last run failed"]}


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("chapters/one/02_apart.ipynb", "{", "02_apart.ipynb: not a readable notebook"),
        (
            "chapters/one/02_apart.ipynb",
            None,
            "one/02_apart.ipynb, cell 2, line 2: invalid syntax: 'a = = 1'; mend",
        ),
        ("chapters/one/claims.yaml", "- id: X\n", "chapters/one/claims.yaml, entry 1"),
        ("utils/tinylib/base.py", "def (:\n", "base.py, line 1: not Python"),
    ],
)
def test_what_cannot_be_read_is_named(tiny, path, text, said):
    if text is None:
        tiny.chapter("one/02_apart", ["# Apart", ">b = 1\na = = 1"])
    else:
        tiny.put(path, text)
    assert said in complaint()


def test_outside_a_book(tmp_path, monkeypatch):
    monkeypatch.setattr("bookkit.paths.root", lambda: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BookError, match="no book here"):
        stage.stale()


def test_a_package_that_is_not_there(tiny, monkeypatch):
    monkeypatch.setattr(keys, "FIRST_PARTY", ("nosuchlib",))
    assert "package nosuchlib cannot be imported" in complaint()


def test_two_builds_at_once_execute_once(tiny, capfd):
    tiny.edit("utils/tinylib/lonely.py", "NAME", "import time\ntime.sleep(1)\nNAME")
    ran = []
    threads = [threading.Thread(target=lambda: ran.append(stage.run())) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert sorted(map(len, ran)) == [0, 1]
    assert "another build is at work" in capfd.readouterr().out


def test_a_pytest_that_does_not_start_is_told(tiny, monkeypatch):
    tiny.edit("utils/tinylib/lonely.py", "lonely", "changed")
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert (
        "one/02_apart.ipynb failed in a cell:\n    pytest ended with status 1 and did not run it"
        in complaint()
    )


def test_the_plugin_writes_a_line_for_a_notebook_and_only_in_the_main_process(capsys):
    report = pytest.TestReport("one/a.ipynb::a", ("", 0, ""), {}, "passed", None, "call", duration=2.5)
    nbevents.Events().pytest_runtest_logreport(report)
    event = {"notebook": "one/a.ipynb", "ok": True, "seconds": 2.5, "error": ""}
    assert json.loads(capsys.readouterr().out) == event
    plugins = []
    for extra in ({}, {"workerinput": {}}):
        manager = SimpleNamespace(register=plugins.append)
        nbevents.pytest_configure(SimpleNamespace(pluginmanager=manager, **extra))
    assert len(plugins) == 1


def test_outputs_go_only_to_the_same_code():
    one, other = ({"cells": [{"cell_type": "code", "source": source}]} for source in "ab")
    with pytest.raises(ValueError, match="code differs"):
        notebooks.refreshed(one, other)


def test_the_key_does_not_depend_on_where_the_book_lies(tiny, executed_once):
    assert str(executed_once.root) not in (tiny.build / "notebooks/one/01_direct.json").read_text()


def test_parts_of_ipython_in_a_cell(tiny):
    source = ">%%time\nfrom tinylib import lonely\n!ls\nx = await f()"
    tiny.chapter("two/02_magic", ["# M", source, ">%%bash\necho 'a", ">lonely?", ">files = !ls"])
    ingredients = stage.Book().keys.ingredients(tiny.root / "chapters/two/02_magic.ipynb")
    assert "module tinylib.lonely" in ingredients


def test_a_run_with_nothing_to_do_is_fast_and_imports_little(tiny):
    script = f"""import sys; from bookkit import keys, __main__; keys.FIRST_PARTY = ("tinylib",)
status = __main__.main(["run"]); print(sorted(set(sys.modules) & set({HEAVY}))); sys.exit(status)"""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ)
    assert done.stdout == "nothing is stale; every claim holds\n[]\n", done.stderr
    assert time.monotonic() - started < 10  # 1 s on an idle machine
