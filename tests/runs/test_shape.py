"""Records that do not fit: what is wrong is named, the rest is read and rendered."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmx.report import final_table, render_run
from lmx.runs import MetricsLog, RunFolder, read_run

IDENTITY: dict[str, Any] = {
    "format": 1,
    "name": "toy",
    "command": "python -m lmx.train",
    "status": "completed",
    "reason": None,
    "total_steps": 2,
    "parameters": {"total": 1000, "without_embedding": 500},
    "data": {
        "fingerprint": "d0",
        "splits": {"train": {"tokens": 640}},
        "overlap": {"validation": {"13_words": {"sequences": 10, "shared": 1, "sampled": False}}},
    },
    "tokenizer": {"fingerprint": "t0"},
    "hardware": {"device_name": "a CPU", "reasons": ["no GPU was found"]},
    "git": {"commit": "0123456789abcdef", "dirty": False},
    "versions": {"python": "3.11"},
    "sessions": [{"started": "now", "ended": "then", "step": 2}],
}
CONFIG: dict[str, Any] = {
    "name": "toy",
    "seed": 1,
    "model": {"name": "tiny", "hidden_size": 8},
    "data": {"name": "storyworld"},
    "train": {"horizon": "2steps"},
    "callbacks": {"samples": None},
}
LINES: list[dict[str, Any]] = [
    {
        "kind": "val",
        "step": 0,
        "epoch": 0.0,
        "tokens": 0,
        "seconds": 0.0,
        "val/loss": 7.0,
        "val/seconds": 0.1,
    },
    {"kind": "train", "step": 1, "steps": 1, "epoch": 0.5, "tokens": 320, "seconds": 1.0, "train/loss": 6.5},
    {"kind": "train", "step": 2, "steps": 1, "epoch": 1.0, "tokens": 640, "seconds": 2.0, "train/loss": 6.0},
    {
        "kind": "val",
        "step": 2,
        "epoch": 1.0,
        "tokens": 640,
        "seconds": 2.0,
        "val/loss": 6.1,
        "val/seconds": 0.1,
    },
]


def write(folder: RunFolder, identity: Any = IDENTITY, config: Any = CONFIG, lines: Any = LINES) -> RunFolder:
    folder.path.mkdir(exist_ok=True)
    folder.identity.write_text(json.dumps(identity))
    folder.config.write_text(yaml.safe_dump(config))
    folder.metrics.unlink(missing_ok=True)
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr("lmx.report.page.plot_run", lambda run: [])
    return RunFolder(tmp_path / "run")


def test_a_record_that_fits_is_read_as_it_is(folder: RunFolder) -> None:
    run = read_run(write(folder).path)
    assert run.problems == []
    assert (run.identity, run.config, run.lines) == (IDENTITY, CONFIG, LINES)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 7}, "run.json: its format is 7, this version of lmx reads 1"),
        ({"parameters": 12}, "run.json: parameters is no mapping, left out"),
        ({"parameters": {"total": "many"}}, "run.json: parameters.total is no number, left out"),
        ({"status": ["completed"]}, "run.json: status is no text, left out"),
        ({"data": {"splits": {"train": 3}}}, "run.json: data.splits.train is no mapping, left out"),
        ({"hardware": {"reasons": "none"}}, "run.json: hardware.reasons is no list, left out"),
        ({"total_steps": True}, "run.json: total_steps is no number, left out"),
    ],
)
def test_what_does_not_fit_is_named(folder: RunFolder, change: dict[str, Any], problem: str) -> None:
    run = read_run(write(folder, {**IDENTITY, **change}).path)
    assert run.problems == [problem]
    assert problem in render_run(read_run(folder.path)).read_text()


def test_a_group_that_is_none_is_left_out(folder: RunFolder) -> None:
    run = read_run(write(folder, config={**CONFIG, "model": "tiny", 3: 4}).path)
    assert run.problems == ["config.yaml: model is no mapping, left out"]
    assert "model" not in run.config


def test_values_that_are_no_numbers_are_left_out(folder: RunFolder) -> None:
    odd = {**LINES[1], "train/loss": "low", "epoch": [1], "tokens": True, "kind": {}}
    run = read_run(write(folder, lines=[LINES[0], odd, *LINES[2:]]).path)
    assert run.problems == ["metrics.jsonl: 4 value(s) that are no numbers left out"]
    assert run.series("train/loss")[1].tolist() == [6.0]


def test_nothing_that_json_can_hold_breaks_a_report(folder: RunFolder) -> None:
    """Seeded: random parts of a record replaced by things of other kinds, or taken away."""
    rng = random.Random(0)
    kinds = [None, "x", 3, -1.5, [], [1], {}, {"a": 1}, True, "nan", 1e308]

    def changed(value: Any) -> Any:
        if not isinstance(value, dict) or not value or rng.random() < 0.15:
            return rng.choice(kinds)
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: changed(value[key])}

    for trial in range(150):
        parts: dict[str, Any] = {"identity": IDENTITY, "config": CONFIG}
        if trial % 3:
            name = ("identity", "config")[trial % 3 - 1]
            parts[name] = changed(parts[name])
        else:
            parts["lines"] = [changed(line) if rng.random() < 0.5 else line for line in LINES]
        write(folder, **parts)
        report = render_run(read_run(folder.path)).read_text()
        assert report.startswith("# ")
        assert final_table(read_run(folder.path))


def test_empty_folders_of_every_kind(folder: RunFolder) -> None:
    folder.path.mkdir()
    MetricsLog(folder.metrics).append({"kind": "train", "step": 1})
    assert "No evaluation was recorded." in render_run(read_run(folder.path)).read_text()
    folder.metrics.write_bytes(b"")
    assert "Status unknown, at step 0." in render_run(read_run(folder.path)).read_text()
    folder.metrics.unlink()
    folder.config.write_text("")
    assert "config.yaml: damaged (not a mapping)" in render_run(read_run(folder.path)).read_text()
