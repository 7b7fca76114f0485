"""Reading many runs fast gives what reading one slowly gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from studies_helpers import write_records

from lmx.runs import RunFolder, is_evaluated, read_digest, read_run
from lmx.runs.digest import COLUMNS


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path, "a")
    folder.write_config({"seed": 1})
    write_records(folder, 2.0)
    return folder


def test_both_ways_agree(run: RunFolder) -> None:
    digest, whole = read_digest(run.path), read_run(run.path)
    assert digest.run.of_kind("val") == whole.of_kind("val")
    assert digest.run.of_kind("train") == whole.of_kind("train")[-1:]
    assert digest.run.problems == whole.problems == ["run.json: missing, the run ended before it was written"]
    assert set(digest.train) == set(COLUMNS)
    for name, values in digest.train.items():
        np.testing.assert_array_equal(values, whole.column(name, "train"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw + raw,  # doubled
        lambda raw: b"".join(reversed(raw.splitlines(keepends=True))),  # out of order
        lambda raw: raw + b"{oops\n",  # a damaged line
        lambda raw: raw[:-25],  # a torn one, which is left out silently
        lambda raw: raw.replace(b'"kind":"val"', b'"kind": "val"'),  # written by another hand
        lambda raw: raw.replace(b'"step":5,', b"", 1),  # a record without a step
    ],
)
def test_what_is_damaged_is_read_slowly_and_told_of(run: RunFolder, damage) -> None:  # type: ignore[no-untyped-def]
    run.metrics.write_bytes(damage(run.metrics.read_bytes()))
    digest, whole = read_digest(run.path), read_run(run.path)
    assert digest.run.of_kind("val") == whole.of_kind("val")
    assert digest.run.problems == whole.problems
    for name, values in digest.train.items():
        np.testing.assert_array_equal(values, whole.column(name, "train"))


def test_nothing_and_no_evaluation(run: RunFolder) -> None:
    assert is_evaluated(run.path)
    lines = run.metrics.read_text().splitlines(keepends=True)
    run.metrics.write_text("".join(line for line in lines if '"train"' in line))
    assert not is_evaluated(run.path)
    assert len(read_digest(run.path).train["step"]) == 4
    run.metrics.write_text("")
    assert len(read_digest(run.path).train["step"]) == 0
    run.metrics.unlink()
    assert read_digest(run.path).run.lines == []
