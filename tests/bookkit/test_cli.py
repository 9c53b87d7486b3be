"""The command line: what it prints, how it ends, and the site that `build` makes of a tiny book."""

import json

import pytest

from bookkit import execute, publish
from bookkit.__main__ import main, parser


def said(capsys, *arguments: str) -> tuple[int, str, str]:
    """Run a command; returns exit status, output and errors."""
    status = main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    words = ("run", "status", "check", "build", "replicate", "student", "answers", "slides", "BOOK_SEED")
    assert [word for word in (*words, "examples:") if word not in out] == []


def test_without_a_command_it_says_how_to_use_it(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "usage: python -m bookkit" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_jobs_are_a_number(jobs, capsys):
    with pytest.raises(SystemExit):
        main(["run", f"--jobs={jobs}"])
    assert f"'{jobs}' is no whole number above 0" in capsys.readouterr().err


def test_run_and_status(tiny, capsys):
    assert said(capsys, "run") == (0, "nothing is stale; every claim holds\n", "")
    tiny.edit("utils/tinylib/lonely.py", "lonely", "changed")
    status, out, _ = said(capsys, "status")
    assert status == 0
    assert "current  one/01_direct.ipynb: up to date, took " in out
    assert "stale    one/02_apart.ipynb: module tinylib.lonely changed\n" in out
    assert out.endswith("3 notebooks, 1 stale\n")
    assert said(capsys, "run", "one/01_direct")[1] == "nothing is stale; every claim holds\n"
    status, out, err = said(capsys, "run", "--jobs", "1", "one/02_apart.ipynb")
    assert (status, err) == (0, "")
    assert out.endswith("1 executed; every claim holds\n")


def test_an_error_is_told_on_stderr_without_a_traceback(tiny, capsys):
    status, out, err = said(capsys, "run", "one/09")
    assert (status, out) == (1, "")
    assert err.startswith("\nno chapter is called one/09; there are: one/01_direct.ipynb")
    assert len(err.splitlines()) == 2


def test_an_interrupt_is_no_traceback(tiny, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "execute", interrupted)
    tiny.edit("utils/tinylib/lonely.py", "lonely", "changed")
    status, _, err = said(capsys, "run")
    assert (status, err) == (130, "\nstopped; what has run is kept\n")


def test_check_and_its_fix(tiny, capsys):
    path = tiny.root / "chapters/one/02_apart.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][1]["execution_count"] = 3
    path.write_text(json.dumps(notebook))
    status, _, err = said(capsys, "check")
    assert status == 1
    assert "one/02_apart.ipynb: cell 2 was saved with its output or its number" in err
    assert err.rstrip().endswith("to mend")
    status, out, err = said(capsys, "check", "--fix")
    assert out == "cleaned chapters/one/02_apart.ipynb\n"
    assert "was saved" not in err
    assert said(capsys, "check", "--fix")[1] == ""
    for path in tiny.root.glob("chapters/*/*.ipynb"):
        path.unlink()
    (tiny.root / "chapters/one/claims.yaml").unlink()
    assert said(capsys, "check") == (0, "0 notebooks keep the rules\n", "")


@pytest.mark.parametrize("name", ["student", "answers", "slides"])
def test_editions(tiny, capsys, monkeypatch, name):
    monkeypatch.setattr(f"bookkit.editions.{name}", lambda root: root / "build" / name)
    assert said(capsys, name) == (0, f"build/{name}\n", "")


def test_build_makes_the_site_once(tiny, capfd, monkeypatch):
    status, out, _ = said(capfd, "build")
    page = tiny.root / "_build/html/index.html"
    assert status == 0
    assert page.exists()
    assert out.endswith(f"the site was built: _build/html/index.html\n{page.as_uri()}\n")
    monkeypatch.setattr(publish, "JUPYTER_BOOK", "raise SystemExit(1)")
    status, out, _ = said(capfd, "build")
    assert (status, out) == (0, f"the site is up to date: _build/html/index.html\n{page.as_uri()}\n")
    tiny.edit("index.md", "# Tiny", "# Small")
    assert said(capfd, "build")[0] == 1, "it is built again"


@pytest.mark.parametrize(
    ("path", "same"),
    [
        ("index.md", False),
        ("_config.yml", False),
        ("book/_static/book.css", False),
        ("data/papers.csv", False),
        ("chapters/one/index.md", False),
        ("build/notebooks/one/01_direct.json", False),
        ("build/results/one/it-holds.json", False),
        ("build/notebooks/log.txt", True),
        ("chapters/one/.ipynb_checkpoints/01_direct.ipynb", True),
        ("_build/html/index.html", True),
    ],
)
def test_what_the_site_depends_on(tiny, path, same):
    from bookkit.state import Book

    before = publish.site_key(Book())
    file = tiny.root / path
    tiny.put(path, (file.read_text() if file.exists() else "") + "\n")
    assert (publish.site_key(Book()) == before) is same


def test_a_saved_output_fails_the_build(tiny, capfd):
    path = tiny.root / "chapters/one/01_direct.ipynb"
    notebook = json.loads(path.read_text())
    next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")["execution_count"] = 3
    path.write_text(json.dumps(notebook))
    status, _, err = said(capfd, "build")
    assert status == 1
    assert "one/01_direct.ipynb: cell" in err
    assert "was saved with its output or its number; run `python -m bookkit check --fix`" in err
    assert not (tiny.root / "_build").exists()


def test_a_warning_fails_the_build(tiny, capfd):
    tiny.edit("index.md", "# Tiny", "# Tiny\n\n[gone](nowhere.md)")
    status, _, err = said(capfd, "build")
    assert status == 1
    assert "nowhere.md" in err
    assert err.rstrip().endswith("mend them, then run: make book")
    assert not (tiny.root / "_build/html/.stamp").exists(), "so the next build tries again"


def test_every_command_says_what_it_does():
    (commands,) = parser()._subparsers._group_actions
    assert all(command.description and command.get_default("act") for command in commands.choices.values())
