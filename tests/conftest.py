"""What the long tests count, shown as one table at the end: `pytest -m slow`, or `make soak`."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

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


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServerContext]:
    """Forks of a process that has imported everything; torch must not have computed in it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            *("training_helpers", "lmx.train", "lmx.launch", "lmx.report", "matplotlib.pyplot"),
            *("lmx.training.fit", "tensorboard", "harness"),
        ]
    )
    yield context
    process = forkserver._forkserver._forkserver_pid  # it outlives us where a child holds its pipe
    if process is not None:
        os.kill(process, signal.SIGKILL)
