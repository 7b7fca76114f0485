"""metrics.jsonl: strict lines, torn lines, rewinding."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx.config import SpaceError
from lmx.runs import MetricsLog
from lmx.runs.metrics import read_lines


@pytest.fixture
def log(tmp_path: Path) -> MetricsLog:
    return MetricsLog(tmp_path / "metrics.jsonl")


def fill(log: MetricsLog, steps: range) -> bytes:
    for step in steps:
        log.append({"kind": "train", "step": step, "train/loss": 1 / (step + 1)})
    return log.path.read_bytes()


def steps_in(log: MetricsLog) -> list[int]:
    return [line["step"] for line in read_lines(log.path)[0]]


def test_a_line_comes_back_as_it_was(log: MetricsLog) -> None:
    line = {"kind": "val", "step": 3, "val/loss": 0.1 + 0.2, "speed/mfu": None, "note": "naïve\n…"}
    log.append(line)
    assert read_lines(log.path) == ([line], [])


def test_scalars_of_arrays_and_tensors_become_numbers(log: MetricsLog) -> None:
    log.append({"step": np.int64(1), "a": np.float32(0.5), "b": np.float64(0.25), "c": np.array(2.0)})
    assert json.loads(log.path.read_text()) == {"step": 1, "a": 0.5, "b": 0.25, "c": 2.0}


def test_non_finite_values_are_strict_json_and_come_back(log: MetricsLog) -> None:
    log.append({"step": 1, "a": math.nan, "b": math.inf, "c": -math.inf, "d": None, "e": 1.0})

    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    raw = json.loads(log.path.read_text(), parse_constant=refuse)
    assert raw["a"] is raw["b"] is raw["c"] is None
    ((line,), problems) = read_lines(log.path)
    assert math.isnan(line["a"])
    assert (line["b"], line["c"], line["d"], line["e"]) == (math.inf, -math.inf, None, 1.0)
    assert "non_finite" not in line
    assert problems == []


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_is_left_out_and_dropped_by_the_next_append(log: MetricsLog, cut: int) -> None:
    whole = fill(log, range(5))
    log.path.write_bytes(whole[:-cut] if cut < 60 else whole)
    kept = whole[:-cut].count(b"\n") + (1 if cut == 1 else 0)  # without its newline alone a line is whole
    assert steps_in(log) == list(range(kept))
    again = MetricsLog(log.path)
    again.append({"step": 99})
    assert steps_in(log) == [*range(kept), 99]
    assert read_lines(log.path)[1] == []


def test_a_damaged_line_in_the_middle_is_reported_and_the_others_stay(log: MetricsLog) -> None:
    lines = fill(log, range(4)).splitlines(keepends=True)
    log.path.write_bytes(lines[0] + b'{"step": 1, "tr\n' + b"[1]\n" + b"\n" + lines[3])
    records, problems = read_lines(log.path)
    assert [record["step"] for record in records] == [0, 3]
    assert problems == ["metrics.jsonl: 2 damaged line(s) left out"]


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "none") == ([], [])


def test_rewind_removes_what_came_after_and_nothing_else(log: MetricsLog) -> None:
    fill(log, range(10))
    log.append({"kind": "val", "step": 5})
    before = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(before) + b'{"kind": "tr')
    assert log.rewind(5) == 5  # steps 6 to 9 and the torn line
    assert log.path.read_bytes() == b"".join([*before[:6], before[10]])
    assert log.rewind(5) == 0
    log.append({"kind": "train", "step": 6})
    assert steps_in(log) == [0, 1, 2, 3, 4, 5, 5, 6]


def test_rewind_keeps_a_damaged_line_that_it_cannot_place(log: MetricsLog) -> None:
    lines = fill(log, range(3)).splitlines(keepends=True)
    log.path.write_bytes(lines[0] + b"garbage\n" + lines[1] + lines[2])
    assert log.rewind(1) == 1
    assert log.path.read_bytes() == lines[0] + b"garbage\n" + lines[1]


def test_rewind_of_a_missing_log_does_nothing(log: MetricsLog) -> None:
    assert log.rewind(3) == 0
    assert log.rewind_to(3) == 0
    assert log.position() == 0
    assert not log.path.exists()


def test_rewind_to_a_position_removes_later_lines_of_the_same_step(log: MetricsLog) -> None:
    whole = fill(log, range(5))
    position = log.position()
    assert position == len(whole)
    log.append({"kind": "val", "step": 4})
    log.append({"kind": "train", "step": 5})
    assert log.rewind_to(position) == 2
    assert log.path.read_bytes() == whole


def test_rewinding_resumed_run_ends_with_the_bytes_of_the_uninterrupted_one(tmp_path: Path) -> None:
    through, resumed = MetricsLog(tmp_path / "a"), MetricsLog(tmp_path / "b")
    fill(through, range(40))
    fill(resumed, range(27))
    resumed.path.write_bytes(resumed.path.read_bytes()[:-9])
    again = MetricsLog(resumed.path)
    again.rewind(19)
    fill(again, range(20, 40))
    assert resumed.path.read_bytes() == through.path.read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_one_clear_line() -> None:
    log = MetricsLog(Path("/dev/full"))
    log._ready = True
    with pytest.raises(SpaceError, match=r"^/dev/full: cannot be written, the disk is full"):
        log.append({"step": 1})


def test_a_short_write_leaves_no_torn_line(log: MetricsLog, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    whole = fill(log, range(3))
    real = builtins.open

    def nearly_full(path: Any, mode: str = "r", **options: Any) -> Any:
        file = real(path, mode, **options)
        if mode != "ab":
            return file

        class Short:
            def __enter__(self) -> Short:
                return self

            def __exit__(self, *error: object) -> None:
                file.close()

            def tell(self) -> int:
                return file.tell()

            def truncate(self, size: int) -> int:
                return file.truncate(size)

            def write(self, data: bytes) -> int:
                return file.write(data[:7])

        return Short()

    monkeypatch.setattr(builtins, "open", nearly_full)
    with pytest.raises(SpaceError, match="disk is full"):
        log.append({"step": 3})
    monkeypatch.undo()
    assert log.path.read_bytes() == whole


def test_other_errors_of_the_disk_are_not_called_full(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        MetricsLog(tmp_path).append({"step": 1})
    assert caught.value.errno == errno.EISDIR
