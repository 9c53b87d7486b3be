"""A pytest plugin for `bookkit.execute`: one line of JSON on standard output for each notebook that has run.

So what has run is kept even when the rest is interrupted.
"""

import json

import pytest


class Events:
    """Writes {notebook, ok, seconds, error} when a notebook is done."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Report a notebook's run, or whatever failed before or after it."""
        if report.when == "call" or report.failed:
            event = {
                "notebook": report.nodeid.partition("::")[0],
                "ok": report.passed,
                "seconds": report.duration,
                "error": report.longreprtext,
            }
            print("\n" + json.dumps(event), flush=True)  # a line of its own, between dots


def pytest_configure(config: pytest.Config) -> None:
    """Register in the main process alone: pytest-xdist loads the plugin in its workers as well."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Events())
