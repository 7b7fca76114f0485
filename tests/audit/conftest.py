"""The bench of small runs, shared by all tests of this room."""

from __future__ import annotations

import pytest
from audit_bench import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Runs that are trained when they are first asked for."""
    return Bench(tmp_path_factory.mktemp("bench"))
