from pathlib import Path

import pytest

from bookkit import paths


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.delenv("BOOK_BUILD_DIR", raising=False)
    (tmp_path / "book" / "chapters" / "merging").mkdir(parents=True)
    (tmp_path / "book" / "_config.yml").touch()
    return tmp_path / "book"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The package as it lies outside any repository."""
    module = tmp_path / "site-packages" / "bookkit" / "paths.py"
    module.parent.mkdir(parents=True)
    monkeypatch.setattr(paths, "__file__", str(module))
    monkeypatch.delenv("BOOK_BUILD_DIR", raising=False)
    return module


def test_root_is_the_nearest_ancestor_of_the_working_directory(repository, monkeypatch):
    for inside in (repository, repository / "chapters" / "merging"):
        monkeypatch.chdir(inside)
        assert paths.root() == repository
        assert paths.build_dir() == repository / "build"


def test_root_needs_both_marks(repository, wheel, tmp_path, monkeypatch):
    (repository / "chapters" / "_config.yml").touch()  # no chapters/ beside it: not the root
    monkeypatch.chdir(repository / "chapters")
    assert paths.root() == repository
    (repository / "_config.yml").unlink()
    assert paths.root() is None


def test_root_is_found_from_the_package_when_the_working_directory_is_elsewhere(
    repository, tmp_path, monkeypatch
):
    monkeypatch.setattr(paths, "__file__", str(repository / "utils" / "bookkit" / "paths.py"))
    monkeypatch.chdir(tmp_path)
    assert paths.root() == repository


def test_no_repository_no_build_folder(wheel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.root() is None
    assert paths.build_dir() is None


def test_variable_chooses_the_build_folder(repository, wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_BUILD_DIR", "elsewhere")
    for folder in (repository, tmp_path):
        monkeypatch.chdir(folder)
        assert paths.build_dir() == folder / "elsewhere"
    monkeypatch.setenv("BOOK_BUILD_DIR", "~/out")
    assert paths.build_dir() == Path.home() / "out"
