"""A corpus prepared once for all tests of this room."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training_helpers import Place


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of prepared corpora."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path: Path, cache: Path) -> Place:
    """A folder for the runs of one test."""
    return Place(tmp_path / "outputs", cache)


@pytest.fixture(scope="session")
def processes() -> multiprocessing.context.ForkServerContext:
    """Processes that start quickly, for what they import has been imported once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["training_helpers", "lmx.train", "lmx.launch", "lmx.report", "matplotlib.pyplot"]
    )
    return context


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    """Leave torch's threads and switches as they were."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
