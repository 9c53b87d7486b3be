"""A browser, for the tests that look at pages."""

import os
from collections.abc import Callable

import pytest

from bookkit.editions import chromium as installed
from bookkit.notebooks import BookError


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium. Without one a test is skipped and says how to get it; CI fails."""
    try:
        return installed.find()
    except BookError as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


# For one file at a time: while Playwright runs, the thread has an event loop, and other tests need their own.
@pytest.fixture(scope="module")
def browser(chromium):
    """A headless Chromium that finds no host but this machine."""
    sync_api = pytest.importorskip("playwright.sync_api")
    refused = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    options = [refused, "--disable-gpu", "--disable-background-networking", "--disable-quic"]
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def stop_clock() -> Callable:
    """A function that stops a page's clock and returns it: it goes on only when it is told to."""

    def stop_clock(page):
        page.clock.install(time=0)
        page.clock.pause_at(1000)
        return page.clock

    return stop_clock


def pytest_collection_modifyitems(items):
    """The files that run whole chapters begin, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: not item.path.name.startswith(("test_sabotage", "test_elsewhere")))
