"""A corpus prepared once for all tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
import torch
from training_helpers import Place, Start


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of prepared corpora."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path: Path, cache: Path) -> Place:
    """A folder for the runs of one test."""
    return Place(tmp_path / "outputs", cache)


@pytest.fixture
def start(server: ForkServerContext) -> Iterator[Start]:
    """A function that calls another in a new process; none outlives the test."""
    started: list[ForkServerProcess] = []

    def start_one(target: Callable[[list[str]], None], arguments: list[str]) -> ForkServerProcess:
        process = server.Process(target=target, args=(arguments,))
        process.start()
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.join()


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    """Leave torch's threads and switches as they were."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
