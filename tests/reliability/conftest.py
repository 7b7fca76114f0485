"""Processes that start quickly, and a corpus prepared once."""

from __future__ import annotations

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


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    """Leave torch's threads and switches as they were."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
