"""The cores that a process may use: a container's quota, in both versions of Linux's control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lmx.config import HardwareConfig
from lmx.config.cores import cores
from lmx.training import hardware


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 16), ("200000 100000", 2), ("50000 100000", 1), ("9900000 100000", 16)],
)
def test_version_2(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cores(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 16), ("350000", 4), ("100000", 1)])
def test_version_1(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cores(tmp_path) == expected


@pytest.mark.parametrize("text", [None, "", "a b", "1 0"])
def test_without_a_quota_that_can_be_read(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert cores(tmp_path) == 16


@pytest.mark.parametrize(("asked", "threads"), [(None, 3), (5, 5)])
def test_no_more_threads_than_cores_unless_asked(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, threads: int
) -> None:
    monkeypatch.setattr(hardware, "cores", lambda: 3)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        machine = hardware.choose(HardwareConfig(accelerator="cpu", threads=asked), total_steps=1)
        assert (machine.threads, torch.get_num_threads()) == (threads, threads)
        assert ("a thread for each of 3 of" in machine.describe()) is (asked is None)
    finally:
        torch.set_num_threads(before)
