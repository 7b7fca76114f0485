"""Reading runs back, whole and broken."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from lmx.config import CheckpointError
from lmx.runs import MetricsLog, Run, RunFolder, find_runs, read_run


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path / "outputs", "toy")
    folder.write_config({"name": "toy", "seed": 3})
    log = MetricsLog(folder.metrics)
    log.append({"kind": "val", "step": 0, "val/loss": 5.0})
    for step in (10, 20, 30):
        log.append({"kind": "train", "step": step, "train/loss": 5 - step / 10, "speed/mfu": None})
    log.append({"kind": "val", "step": 30, "val/loss": math.inf})
    return folder


def pairs(run: Run, name: str, kind: str | None = None) -> list[tuple[int, float]]:
    steps, values = run.series(name, kind)
    assert (steps.dtype, values.dtype) == (np.int64, np.float64)
    return list(zip(steps.tolist(), values.tolist(), strict=True))


def test_series_by_name_and_kind(folder: RunFolder) -> None:
    run = read_run(folder.path)
    assert pairs(run, "train/loss") == [(10, 4.0), (20, 3.0), (30, 2.0)]
    assert pairs(run, "val/loss") == [(0, 5.0), (30, math.inf)]
    assert pairs(run, "val/loss", "train") == []
    assert pairs(run, "speed/mfu") == []
    assert pairs(run, "nothing") == []
    assert np.isnan(run.column("speed/mfu", "train")).tolist() == [True] * 3
    assert (run.last("train/loss"), run.last("speed/mfu"), run.name) == (2.0, None, "toy")


def test_a_run_that_ended_before_its_identity_is_read_all_the_same(folder: RunFolder) -> None:
    run = read_run(folder.path)
    assert run.status == "unknown"
    assert run.problems == ["run.json: missing, the run ended before it was written"]
    assert run.config == {"name": "toy", "seed": 3}


def test_damaged_parts_are_named_and_the_rest_is_read(folder: RunFolder) -> None:
    folder.config.write_text("a: [1")
    folder.identity.write_text("[]")
    folder.metrics.write_bytes(folder.metrics.read_bytes() + b"oops\n" + b'{"kind": "train", "st')
    MetricsLog(folder.sample_log).append({"step": 1, "prompt": "a"})
    run = read_run(folder.path)
    assert len(run.lines) == 5
    assert [problem.split(":")[0] for problem in run.problems] == [
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "samples.jsonl",
    ]


def test_doubled_and_disordered_lines_are_put_right_and_reported(folder: RunFolder) -> None:
    log = MetricsLog(folder.metrics)
    log.append({"kind": "train", "step": 20, "train/loss": 2.5})
    log.append({"kind": "train", "step": 15, "train/loss": 3.5})
    log.append({"kind": "train", "train/loss": 9.0})
    run = read_run(folder.path)
    assert pairs(run, "train/loss") == [(10, 4.0), (15, 3.5), (20, 2.5), (30, 2.0)]
    assert run.problems[1:] == [
        "metrics.jsonl: 1 line(s) without a step left out",
        "metrics.jsonl: 1 line(s) doubled; the later of each two counts",
        "metrics.jsonl: the lines were not in the order of their steps",
    ]


def test_a_moved_run_reads_the_same(folder: RunFolder, tmp_path: Path) -> None:
    before = read_run(folder.path)
    moved = tmp_path / "elsewhere"
    shutil.move(folder.path, moved)
    after = read_run(moved)
    assert (after.lines, after.config, after.problems) == (before.lines, before.config, before.problems)


def test_an_empty_folder_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run folder"):
        read_run(tmp_path)


def test_find_runs_by_experiment_and_age(tmp_path: Path) -> None:
    made = []
    for name, stamp in (("b", "2025-01-02"), ("a/x", "2025-01-03"), ("a/x", "2025-01-01")):
        path = tmp_path / name / stamp
        (path / "checkpoints").mkdir(parents=True)
        (path / "metrics.jsonl").touch()
        (path / "checkpoints" / "config.yaml").touch()  # nothing below a run is a run
        made.append(path)
    (tmp_path / "comparisons").mkdir()
    assert find_runs(tmp_path) == [made[2], made[1], made[0]]
    assert find_runs(made[0]) == [made[0]]
    assert find_runs(tmp_path / "none") == []
