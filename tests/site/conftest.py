"""The built site: these tests read what `make book` has put into _build/html."""

import json
from pathlib import Path

import lxml.html
import pytest
from sphinx_external_toc.parsing import parse_toc_yaml

from bookkit import paths

ROOT = paths.root()
SITE = ROOT / "_build" / "html"


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site."""
    if not (SITE / "index.html").is_file():
        pytest.fail(f"the site was not built: {SITE} has no index.html; run `make book` first", pytrace=False)
    return SITE


@pytest.fixture(scope="session")
def pages(site) -> dict[str, lxml.html.HtmlElement]:
    """Every page by its path in the site; Sphinx's own copies of scripts and sources are no pages."""
    files = [path for path in site.rglob("*.html") if not path.relative_to(site).parts[0].startswith("_")]
    parser = lxml.html.HTMLParser(encoding="utf-8")
    return {path.relative_to(site).as_posix(): lxml.html.parse(path, parser).getroot() for path in files}


@pytest.fixture(scope="session")
def toc() -> list[str]:
    """The names of the pages in _toc.yml."""
    return list(parse_toc_yaml(ROOT / "_toc.yml"))


@pytest.fixture(scope="session")
def chapters(toc) -> list[str]:
    """The names of the chapters: the pages that are notebooks."""
    return [name for name in toc if (ROOT / f"{name}.ipynb").is_file()]


@pytest.fixture(scope="session")
def results() -> dict[str, dict]:
    """What the notebooks recorded, by the claim's id."""
    files = (paths.build_dir() / "results").glob("*/*.json")
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
