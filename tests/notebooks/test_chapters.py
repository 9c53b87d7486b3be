"""Every chapter keeps the book's rules (`python -m bookkit check`)."""

from pathlib import Path

import pytest

from bookkit import notebooks, structure

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", notebooks.find(ROOT), ids=notebooks.name)
def test_chapter(path):
    assert structure.check(path) == []


def test_the_chapters_together():
    assert structure.check_book(ROOT) == []
