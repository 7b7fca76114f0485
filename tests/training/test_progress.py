"""The line that a person watches: the rate is that of the last minute, not of a start that compiled."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lmx.training import progress


def lines_of(steps: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> list[str]:
    """Return what is shown after each (seconds, tokens) of a run of 100 steps."""
    monkeypatch.setattr(progress, "LINE_SECONDS", -1.0)
    shown = progress.Progress()
    module: Any = SimpleNamespace(
        step=0, tokens=0, total_steps=100, stopwatch=SimpleNamespace(seconds=0.0), last_loss=lambda: 2.0
    )
    trainer: Any = SimpleNamespace(is_global_zero=True)
    shown.on_train_start(trainer, module)
    for seconds, tokens in steps:
        module.step += 1
        module.tokens += tokens
        module.stopwatch.seconds += seconds
        shown.on_train_batch_end(trainer, module, None, None, 0)
    lines: list[str] = capsys.readouterr().err.splitlines()
    return lines


def test_a_first_step_that_compiles_is_left_out_of_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = lines_of([(40.0, 2000), (0.5, 2000), (0.5, 2000)], monkeypatch, capsys)
    assert lines == [
        "step 1/100  loss 2.000",
        "step 2/100  loss 2.000  4.0k tokens/s  0:49 left",
        "step 3/100  loss 2.000  4.0k tokens/s  0:48 left",
    ]


def test_the_rate_is_that_of_the_last_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = lines_of([(10.0, 1000)] * 10 + [(1.0, 1000)] * 80, monkeypatch, capsys)
    assert lines[9].endswith("0.1k tokens/s  15:00 left")
    assert lines[-1].endswith("1.0k tokens/s  0:10 left")
