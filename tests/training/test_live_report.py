"""The report that is rendered while a run goes on: after its checkpoints, and never for long."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training_helpers import Place

from lmx.config.compose import compose
from lmx.runs import RunFolder, read_run
from lmx.train import render_report
from lmx.training import live_report, train
from lmx.training.checkpoints import BEST, checkpoints


def evaluate_every(seconds: float, times: int, rendering: float, *, rank_zero: bool = True) -> list[float]:
    """Return when a report was rendered, for evaluations at a steady pace and rendering of a given length."""
    now, rendered = 0.0, []

    def render(path: Path) -> None:
        nonlocal now
        rendered.append(now)
        now += rendering

    listener = live_report.LiveReport(RunFolder(Path("run")), render, clock=lambda: now)
    trainer: Any = SimpleNamespace(is_global_zero=rank_zero)
    for _ in range(times):
        now += seconds
        listener.on_evaluation(trainer, None, {})  # type: ignore[arg-type]
    return rendered


@pytest.mark.parametrize(("pace", "rendering"), [(10.0, 2.0), (1.0, 30.0), (1000.0, 1.0)])
def test_rendering_takes_two_percent_of_the_time_at_most(pace: float, rendering: float) -> None:
    times = 2000
    rendered = evaluate_every(pace, times, rendering)
    assert rendered
    assert rendered[0] >= 150  # 3 s of rendering may be expected then
    total = len(rendered) * rendering
    whole = times * pace + total
    first_guess = max(0.0, rendering - 3.0)  # the first may take longer than expected
    assert total <= 0.02 * whole + first_guess
    if rendering <= 3:
        assert total >= 0.5 * min(0.02 * whole, times * rendering)


def test_only_the_first_rank_renders() -> None:
    assert evaluate_every(1000, 5, 1, rank_zero=False) == []


def test_a_rendered_report_sees_its_own_evaluation_and_checkpoint(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_report, "SHARE", 1e9)
    seen = []

    def look(path: Path) -> None:
        run = read_run(path)
        best = [item.stem for item in checkpoints(run.folder.checkpoints, BEST)]
        seen.append((run.of_kind("val")[-1]["step"], best, run.status))

    overrides = place.overrides(
        "train.horizon=4steps", "train.eval_every_steps=2", "checkpoint.best=val/loss"
    )
    train(compose(overrides), overrides, look)
    assert seen == [(0, [], "running"), (2, ["best-00000002"], "running"), (4, ["best-00000004"], "running")]


def test_the_door_renders_in_a_process_of_its_own(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place.train("train.horizon=2steps").folder
    render_report(folder.path)
    assert folder.report.read_text().startswith("# storyworld_tiny\n")
    capsys.readouterr()
    render_report(tmp_path / "none")  # a report that fails does not end the run
    assert "report: not rendered (" in capsys.readouterr().err
