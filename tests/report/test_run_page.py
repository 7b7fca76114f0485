"""What stands first in a run's report: the answer, and what to know before believing it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lmx.audit import Finding
from lmx.report import render_run
from lmx.report.facts import facts, overlaps
from lmx.report.plots import _loss_by, _time_unit
from lmx.runs import MetricsLog, RunFolder, read_run

MakeRun = Callable[..., RunFolder]
FINDING = Finding("some-code", "warning", "3 of 4 seen", "It matters.", "key=value", "storyworld_tiny/run")


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmx.report.page.plot_run", lambda run: [])


def glance(folder: RunFolder) -> dict[str, str]:
    """The first table of the report."""
    report = render_run(read_run(folder.path)).read_text()
    lines = report.split("|  |  |\n| :-- | :-- |\n")[1].split("\n\n")[0].splitlines()
    rows = [line.strip("| ").split(" | ", 1) for line in lines]
    return {line[0]: line[1] for line in rows}


def test_the_answer_stands_first(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmx.report.page.audit_run", lambda run: [])
    folder = make_run(steps=600)
    final = read_run(folder.path).of_kind("val")[-1]
    found = glance(folder)
    assert found == {
        "Best validation": f"{final['val/loss']:.4f} nats/token, {final['val/perplexity']:.2f} perplexity, "
        f"{final['val/bits_per_byte']:.4f} bits/byte at step 600",
        "Model": "tiny: 950,000 parameters, 818,928 without embedding",
        "Data": "storyworld: 4.92M tokens in 600 steps, 2.00 passes over the train split",
        "D/N": "2.59 tokens a parameter, few tokens for this size",
        "Cost": "1 min 36 s of training, 51,200 tokens/s, 2.9e+13 FLOPs, 812 MiB resident memory",
        "Audit": "no finding",
    }
    assert "What to know before" not in folder.report.read_text()


def test_an_overfitted_run_shows_its_best_and_its_end(make_run: MakeRun) -> None:
    folder = make_run(steps=400, evaluate=100)
    last = read_run(folder.path).of_kind("val")[-1]
    MetricsLog(folder.metrics).append({**last, "step": 500, "val/loss": 7.25})
    assert glance(folder)["Best validation"].endswith("at step 400; 7.2500 at the end")


def test_findings_stand_before_the_figures(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmx.report.page.audit_run", lambda run: [FINDING])
    folder = make_run()
    assert glance(folder)["Audit"] == "1 warning"
    report = folder.report.read_text()
    assert (
        "**warning: `some-code`** (storyworld_tiny/run): 3 of 4 seen. It matters. *Mend:* key=value."
        in report
    )
    assert report.index("some-code") < report.index("## Best and final")


def test_overlap_is_told_as_it_was_recorded(make_run: MakeRun) -> None:
    folder = make_run()
    data: dict[str, Any] = folder.read_identity()["data"]
    data["overlap"] = {
        "validation": {
            "13_words": {"sequences": 400, "shared": 7, "sampled": False},
            "50_words": {"sequences": 300, "shared": 0, "sampled": True},
        },
        "test": {"13_words": {"sequences": 0, "shared": 0, "sampled": False}},
    }
    folder.update_identity(data=data)
    assert overlaps(read_run(folder.path)) == [
        ("validation", 13, "1.75 % (7 of 400)"),
        ("validation", 50, "0.00 % (0 of 300 sampled)"),
    ]
    assert glance(folder)["Validation text in train"] == "1.75 % (7 of 400)"
    assert "| validation | 50 words | 0.00 % (0 of 300 sampled) |" in folder.report.read_text()


def test_losses_against_each_budget_are_the_records(make_run: MakeRun) -> None:
    run = read_run(make_run(steps=600).path)
    for budget, per_step in (("step", 1), ("tokens", 8192), ("seconds", 0.16), ("flops", 8192 * 5.9e6)):
        found = _loss_by(run, budget)
        assert found is not None
        np.testing.assert_allclose(found.train[0], np.arange(10, 601, 10) * per_step)
        np.testing.assert_array_equal(found.validation[1], [line["val/loss"] for line in run.of_kind("val")])
    # the floor stands at the same height on both axes of the figure
    assert found.floor is not None
    assert found.ratio is not None
    assert found.floor * found.ratio == pytest.approx(0.85)
    late = found.late()
    assert late is not None
    assert late.train[0][0] == pytest.approx(120 * 8192 * 5.9e6)


@pytest.mark.parametrize(
    ("seconds", "unit"), [(None, "seconds"), (200, "seconds"), (400, "minutes"), (9e4, "hours")]
)
def test_time_in_a_unit_that_suits_it(seconds: float | None, unit: str) -> None:
    assert _time_unit(seconds)[1] == unit


def test_what_only_some_runs_measure_has_its_columns(make_run: MakeRun) -> None:
    folder = make_run(steps=20, every=10, evaluate=20)
    lines = read_run(folder.path).lines
    folder.metrics.unlink()
    log = MetricsLog(folder.metrics)
    for line in lines:
        kind, step = line["kind"], line["step"]
        more = {"train/cosine": step / 100, "train/grad_norm_cosine": step / 10, "train/skipped": 2.0}
        log.append({**line, **(more if kind == "train" else {"val/cosine": 0.5 - step / 100})})
    report = render_run(read_run(folder.path)).read_text()
    training = report.split("## Training\n")[1].split("\n\n")[1].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in training]
    last = dict(zip(cells[0], cells[-1], strict=True))
    assert (last["Train L_cos"], last["Eval L_cos"]) == ("0.1500", "0.3000")
    assert (last["Grad Norm L_cos"], last["Skipped Updates"]) == ("1.5000", "4")
    assert "Grad Norm CE" not in last
    assert "| Eval L_cos | 1 − cos | lowest | 0.3000 | 20 | 0.3000 | 20 |" in report


def test_the_peak_is_that_of_all_sessions(make_run: MakeRun) -> None:
    folder = make_run(steps=20, every=10, evaluate=None)
    lines = read_run(folder.path).lines
    folder.metrics.unlink()
    log = MetricsLog(folder.metrics)
    for line, peak in zip(lines, (900.0, 812.25), strict=True):  # a resumed process counts from its own start
        log.append({**line, "memory/peak_rss_mib": peak})
    assert "900 MiB resident memory" in glance(folder)["Cost"]


def test_seconds_of_steps_and_of_each_session_s_compilation(make_run: MakeRun) -> None:
    folder = make_run(steps=210, every=10, evaluate=None)
    lines = read_run(folder.path).lines
    folder.metrics.unlink()
    log = MetricsLog(folder.metrics)
    for number, line in enumerate(lines):
        compiled = {"speed/compile_seconds": 4.0} if number in (0, 10) else {}
        log.append({**line, "speed/step_seconds": 1.0 + number, **compiled})
    found = facts(read_run(folder.path))
    assert (found.step_seconds, found.step_seconds_95, found.compile_seconds) == (11.0, 20.0, 8.0)


@pytest.mark.parametrize("words", [["lmx.report", "RUN"], ["lmx.audit", "RUN"], ["lmx.plan"]])
def test_a_reader_that_leaves_ends_the_command_without_a_word(make_run: MakeRun, words: list[str]) -> None:
    folder = make_run(steps=20, every=10, evaluate=10)
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", *(str(folder.path) if word == "RUN" else word for word in words)]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
