"""Every planted fault is found, and nothing is found where there is none."""

from __future__ import annotations

import pytest
from audit_bench import Bench
from planted import CLEAN, PLANTED, Plant


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: f"{plant.family}-{plant.fault}")
def test_planted_fault_is_found(plant: Plant, bench: Bench) -> None:
    found, false_alarms = plant.outcome(bench)
    assert found
    assert not false_alarms


@pytest.mark.parametrize("name", CLEAN)
def test_nothing_is_found_in_a_clean_one(name: str, bench: Bench) -> None:
    assert [f"{finding.code}: {finding.seen}" for finding in CLEAN[name](bench)] == []
