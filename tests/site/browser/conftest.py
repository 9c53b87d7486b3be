"""The built site in Chromium: served on this machine with every other host refused, and from files."""

import functools
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from sphinx_external_toc.parsing import parse_toc_yaml

from bookkit import paths

PAGES = [*parse_toc_yaml(paths.root() / "_toc.yml"), "search"]
CHAPTERS = [name for name in PAGES if (paths.root() / f"{name}.ipynb").is_file()]
HOST = "127.0.0.1"
# A frame in which the boxes that changed are measured, one for what that changes, and what moves at its end.
SETTLE = """async () => {
  for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
  const ends = (each) => each.effect.getComputedTiming().endTime < Infinity;
  document.getAnimations().filter(ends).forEach((each) => each.finish()); // out of sight none would go on
}"""


def pytest_generate_tests(metafunc):
    """Run a test once for each page that it asks for, so that a failure names the page."""
    for fixture, names in (("name", PAGES), ("chapter", CHAPTERS)):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, names)


@pytest.fixture(scope="session")
def served(site) -> Iterator[str]:
    """The address of the site, served from a thread."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer((HOST, 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{HOST}:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def visit(browser, served, site) -> Iterator[Callable]:
    """A function that opens a page of the site and returns it, loaded.

    Whatever the test does with the page, in the end it fails if the page has asked for something outside the
    site or for something that is not there, or if a script or the console has reported an error.
    """
    contexts, trouble = [], set()

    def visit(name: str, over: str = "http", **options):
        base = served if over == "http" else f"{site.as_uri()}/"
        context = browser.new_context(reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        scripts = options.get("java_script_enabled", True)
        page.set_default_timeout(10_000)
        watch(page, base, site, trouble, scripts)
        page.goto(f"{base}{name}.html")
        if scripts:
            page.evaluate("document.fonts.ready.then(() => true)")
            page.wait_for_function("document.documentElement.dataset.measured !== undefined")  # scroll.js
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not trouble, "\n".join(sorted(trouble))


@pytest.fixture(scope="session")
def settle() -> Callable:
    """A function that waits until a page has come to rest, in a window and colors that it can be given."""

    def settle(page, viewport: dict[str, int] | None = None, scheme: str | None = None):
        if viewport:
            page.set_viewport_size(viewport)
            page.wait_for_function("width => innerWidth === width", arg=viewport["width"])
        if scheme:
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
        page.evaluate(SETTLE)

    return settle


def watch(page, base: str, site: Path, trouble: set[str], scripts: bool) -> None:
    """Note what goes wrong on a page."""

    def requested(request):
        url = request.url
        if url.startswith(("data:", "blob:")):
            return
        if not url.startswith(base):
            trouble.add(f"asks for {url}")
        elif not (site / unquote(urlsplit(url).path.removeprefix(urlsplit(base).path))).is_file():
            trouble.add(f"there is no {url}")

    page.on("request", requested)

    def failed(request):
        left = request.failure == "net::ERR_ABORTED"  # the page was left while it loaded
        refused = not scripts and request.resource_type == "script"  # they are asked for all the same
        if not left and not refused:
            trouble.add(f"{request.failure}: {request.url}")

    page.on("requestfailed", failed)
    page.on("websocket", lambda socket: trouble.add(f"opens {socket.url}"))
    page.on("pageerror", lambda error: trouble.add(f"error: {error}"))
    page.on("console", lambda said: said.type == "error" and trouble.add(f"console: {said.text}"))
