"""What the long tests count, shown as one table at the end: `pytest -m slow`, or `make soak`."""

from __future__ import annotations

import gc

import pytest
from tally import Tally

TALLY = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    """Start counting."""
    config.stash[TALLY] = Tally()


def pytest_collection_finish() -> None:
    """Take what has been imported out of the collector's walks, a twentieth of all time."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, where a test has counted."""
    lines = config.stash[TALLY].table()
    if lines:
        terminalreporter.section("tried, survived, lost")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Tally:
    """The counts of this session."""
    return request.config.stash[TALLY]
