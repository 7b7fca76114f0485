"""The command: only what is missing runs, failures are survived and told of, a signal ends it cleanly."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from studies_helpers import PLAIN, FakeProcesses, jobs_of

from lmx.config import CheckpointError
from lmx.config.study import StudyJob
from lmx.launch import SIGNALS
from lmx.report import render_study
from lmx.report.__main__ import main as report
from lmx.report.study_live import Rendering
from lmx.runs import RunFolder, is_study, read_study_record, states
from lmx.runs.studies import JobRecord, job_state
from lmx.study import main

Behave = Callable[[tuple[str, ...]], int]


class Study:
    """A study in a file, whose jobs are faked."""

    def __init__(self, place: Path) -> None:
        self.file = place / "rates.yaml"
        self.file.write_text(PLAIN)
        self.outputs = Path("outputs")
        self.folder = self.outputs / "rates"

    def run(self, *words: str, behave: Behave = lambda overrides: 0) -> tuple[int, list[tuple[str, ...]]]:
        """Run the command; return its status and the jobs that it ran."""
        FakeProcesses.ran, FakeProcesses.behave = [], staticmethod(behave)
        return main([str(self.file), f"paths.outputs={self.outputs}", *words]), FakeProcesses.ran

    def states(self) -> dict[str, str]:
        """How each job stands."""
        return {s.job.place: s.status for s in states(self.folder, read_study_record(self.folder))}

    def report(self) -> str:
        """The report."""
        return (self.folder / "report.md").read_text()


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lmx.launch.Processes", FakeProcesses)
    monkeypatch.setattr("lmx.runs.work.compose_jobs", composed)
    monkeypatch.setattr("lmx.runs.identity.git_state", lambda: {"commit": "0123"})
    monkeypatch.setattr("lmx.report.comparison.plot_study", lambda *arguments: [])  # seen in tests/report
    return Study(tmp_path)


def composed(study: Any, extra: list[str], seeds: list[int] | None) -> list[StudyJob]:
    return jobs_of(PLAIN, tuple(extra), None if seeds is None else tuple(seeds))


def worse_at_seed_2(status: int) -> Behave:
    return lambda words: status if {"seed=2", "optimizer.lr=2e-3"} <= set(words) else 0


def test_a_study_runs_every_job_once(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    status, ran = study.run()
    said = capsys.readouterr().out
    assert (status, len(ran)) == (0, 4)
    assert re.search(r"job 2 of 4  lr=2e-3  seed 1  about .* left\n  step       5  val loss 2\.0000", said)
    assert set(study.states().values()) == {"completed"}
    assert "lr=2e-3 is ahead of lr=1e-3 by" in " ".join(said.split())
    for name in ("report.md", "report.html", "research_data.json", "performance_metrics.csv", "results.md"):
        assert (study.folder / name).stat().st_size > 0, name
    status, ran = study.run()
    assert (status, ran) == (0, [])


@pytest.mark.parametrize(
    ("ending", "state", "reason"),
    [(1, "failed", "ValueError: boom"), (3, "failed", "the loss is NaN")],
)
def test_a_failed_job_is_told_of_and_runs_again(study: Study, ending: int, state: str, reason: str) -> None:
    status, ran = study.run(behave=worse_at_seed_2(ending))
    assert (status, len(ran)) == (1, 4)
    assert study.states() == {
        "lr=1e-3/seed1": "completed",
        "lr=2e-3/seed1": "completed",
        "lr=1e-3/seed2": "completed",
        "lr=2e-3/seed2": state,
    }
    page = study.report()
    assert "3 of 4 jobs are completed; 1 failed." in page
    assert f"| lr=2e-3 | 2 | {state} |" in page
    assert reason in page
    assert "| 1 | **lr=2e-3** | 1 |" in page, "what is there is compared"
    status, ran = study.run()
    assert (status, len(ran)) == (0, 1)
    assert ("resume=auto" in ran[0]) == (ending == 3), "it goes on where it had a folder"
    assert "4 of 4 jobs are completed." in study.report()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_job_that_a_signal_ended_before_it_had_a_run(number: int, tmp_path: Path) -> None:
    assert job_state(tmp_path, JobRecord("lr", 1, "f0", 128 + number)).status == "interrupted"
    assert job_state(tmp_path, JobRecord("lr", 1, "f0", 3)).status == "failed"


def test_an_interrupted_study_stops_and_goes_on(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    status, ran = study.run(behave=lambda words: 130 if "optimizer.lr=2e-3" in words else 0)
    assert (status, len(ran)) == (130, 2)
    assert "ended by SIGINT; the same command goes on" in capsys.readouterr().err
    assert list(study.states().values()) == ["completed", "interrupted", "missing", "missing"]
    status, ran = study.run()
    assert (status, len(ran)) == (0, 3)
    assert "resume=auto" in ran[0]
    assert not any("resume=auto" in words for words in ran[1:])


def test_a_job_that_trains_elsewhere_is_left_alone(
    study: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study.run(behave=lambda words: 3 if "optimizer.lr=2e-3" in words else 0)
    monkeypatch.setattr("lmx.runs.lock.held", lambda folder: True)
    for path in study.folder.glob("lr=2e-3/seed*/*/run.json"):
        identity = json.loads(path.read_text())
        path.write_text(json.dumps({**identity, "status": "running"}))
    capsys.readouterr()
    status, ran = study.run()
    assert (status, ran) == (1, [])
    assert "in training elsewhere" in capsys.readouterr().out
    assert "2 running" in study.report()


def test_further_seeds_join_those_that_are_there(study: Study) -> None:
    study.run("--seeds", "1")
    status, ran = study.run("--seeds", "2,3")
    assert (status, len(ran)) == (0, 4)
    assert len(study.states()) == 6
    assert "| 1 | **lr=2e-3** | 3 |" in study.report()


def test_a_trial_does_not_touch_the_study(study: Study) -> None:
    study.run("data.stories=300", "--seeds", "1")
    assert not study.folder.exists()
    assert is_study(study.outputs / "rates,data.stories=300")


def test_the_list_says_what_is_to_be_done_and_writes_nothing(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    status, ran = study.run("--list")
    said = capsys.readouterr().out
    assert (status, ran, study.outputs.exists()) == (0, [], False)
    rows = [line.split() for line in said.splitlines() if re.match(r" +\d", line)]
    assert [row[1:4] for row in rows] == [[f"lr={n}e-3", s, "missing"] for s in "12" for n in (1, 2)]
    assert {row[5] for row in rows} == {"20"}
    assert {row[6] for row in rows} == {"40.96k"}, "20 steps of 8 × 256"
    assert "python -m lmx.plan train.horizon=20steps optimizer.lr=1e-3" in said


def test_a_report_that_cannot_be_rendered_ends_no_study(
    study: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def render(folder: Path) -> Path:
        calls.append(folder)
        if len(calls) == 1:
            raise ValueError("no ink")
        return render_study(folder)

    monkeypatch.setattr("lmx.report.render_study", render)
    status, ran = study.run()
    assert (status, len(ran)) == (0, 4)
    assert "the report could not be rendered (ValueError: no ink)" in capsys.readouterr().err


def test_a_report_takes_a_tenth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred jobs of a second each, and a report of three seconds."""
    now, rendered = 0.0, []

    def render(folder: Path) -> None:
        nonlocal now
        rendered.append(now)
        now += 3

    monkeypatch.setattr("lmx.report.render_study", render)
    monkeypatch.setattr("lmx.report.study_live.time", SimpleNamespace(monotonic=lambda: now))
    rendering = Rendering(Path("study"))
    for _ in range(100):
        now += 1
        rendering.after_a_job()
    assert rendered == [1, 34, 67, 100]
    rendering.at_the_end()
    assert len(rendered) == 5


# ---- bad input: each is told of, and the rest is rendered


def test_a_moved_study_renders_where_it_stands(study: Study, tmp_path: Path) -> None:
    study.run()
    moved = shutil.move(study.folder, tmp_path / "elsewhere")
    (moved / "report.md").unlink()
    assert report([str(moved)]) == 0
    assert "4 of 4 jobs are completed." in (moved / "report.md").read_text()


def test_a_copy_of_a_run_counts_once(study: Study) -> None:
    study.run()
    run = next(study.folder.glob("lr=1e-3/seed1/2*"))
    shutil.copytree(run, run.with_name(run.name[:-1] + "x"))
    study.run()
    page = study.report()
    assert "| lr=1e-3 | 2 |" in page.split("## Ranking")[1]
    assert "lr=1e-3/seed1: " in page.split("left out:")[1]


@pytest.mark.parametrize("damage", ["config.yaml", "metrics.jsonl", "torn", "empty", "run.json"])
def test_damaged_runs_leave_the_rest_rendered(study: Study, damage: str) -> None:
    study.run()
    run = next(study.folder.glob("lr=1e-3/seed1/2*"))
    if damage == "torn":
        (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes()[:-30])
    elif damage == "empty":
        (run / "metrics.jsonl").write_bytes(b"")
    else:
        (run / damage).write_bytes(b"\xff{")
    assert report([str(study.folder)]) == 0
    page = study.report()
    assert "| lr=2e-3 | 2 | completed |" in page
    told = {
        "config.yaml": "config.yaml: damaged",
        "metrics.jsonl": "lr=1e-3/seed1: no evaluation was recorded.",
        "empty": "lr=1e-3/seed1: no evaluation was recorded.",
        "torn": "| lr=1e-3 | 1 | completed |",
        "run.json": "3 of 4 jobs are completed; 1 missing.",
    }
    assert told[damage] in page


def test_a_damaged_study_is_one_line(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study.run()
    record = study.folder / "study.json"
    for text, expected in (
        ("{", r"damaged \(JSONDecodeError"),
        ("[]", r"damaged \("),
        ('{"format": 9}', r"got format 9, allowed: 1, this version"),
    ):
        record.write_text(text)
        with pytest.raises(CheckpointError, match=rf"study\.json: {expected}"):
            read_study_record(study.folder)
        assert report([str(study.folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("lmx: ") == said.count("\n") == 3
    assert report([str(study.folder), "--out", "x"]) == 2
    assert "--out: has no effect with a study" in capsys.readouterr().err


def test_a_study_without_any_result_still_has_a_report(study: Study) -> None:
    status, _ = study.run(behave=lambda words: 1)
    assert status == 1
    page = study.report()
    assert "Nothing to compare yet" in page
    assert page.count("ValueError: boom") == 4


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seeds", "1,x"], r"^lmx: --seeds: got '1,x', allowed: different whole numbers"),
        (["--seed", "1"], r"^lmx: --seed 1: unknown option; did you mean '--seeds'\?"),
        (["seed=1"], r"^lmx: seed: got 'seed=1', allowed: --seeds 1,2,3"),
    ],
)
def test_bad_words_are_one_line_and_status_2(
    study: Study, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    assert study.run(*words)[0] == 2
    said = capsys.readouterr()
    assert re.match(expected, said.err)
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert not study.outputs.exists()


def test_a_stray_file_beside_the_runs_is_no_run(study: Study) -> None:
    study.run(behave=worse_at_seed_2(3))
    (study.folder / "lr=2e-3/seed2/.DS_Store").write_text("x")
    assert study.run()[0] == 0
    assert (
        RunFolder.open(next(study.folder.glob("lr=2e-3/seed2/2*"))).read_identity()["status"] == "completed"
    )
