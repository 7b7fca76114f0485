"""Sweeps: a process a job, failures told and survived, signals passed on, nothing littered."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from config_helpers import command, environment, options

from lmx.launch import Job, summary


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def written(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_sweep_goes_on_after_failures_and_ends_with_a_table(here: Path) -> None:
    done = command("-m", "seed=1,7,8,2", "paths.outputs=o", "~callbacks.samples", cwd=here)
    assert done.returncode == 1
    first = next(line for line in done.stdout.splitlines() if line.startswith("GOT"))
    assert first.count("~callbacks.samples") == 1
    table = done.stdout[
        done.stdout.index("2 of 4 jobs completed; all with paths.outputs=o ~callbacks.samples") :
    ]
    rows = [line.split() for line in table.splitlines()[2:]]
    assert [(row[0], row[1]) for row in rows] == [
        ("0", "completed"),
        ("1", "failed"),
        ("2", "killed"),
        ("3", "completed"),
    ]
    assert rows[0][3:] == ["1.5000", "0.2500", "seed=1", "o/run1"]
    assert rows[1][2] == "(1)"
    assert rows[2][2] == "(SIGKILL)"
    assert rows[3][3:] == ["1.5000", "0.5000", "seed=2", "o/run2"]
    assert "ValueError: boom" in done.stderr
    files = written(here)
    assert [file for file in files if not file.startswith("o/sweeps/")] == [
        "o/run1/run.json",
        "o/run2/run.json",
    ]
    assert re.fullmatch(r"o/sweeps/[\d_-]+/multirun.yaml", files[-1])
    assert len(files) == 3


def test_success_is_status_0(here: Path) -> None:
    done = command("-m", "seed=1,2", "paths.outputs=o", "hydra.sweep.dir=elsewhere", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert written(here) == ["elsewhere/multirun.yaml", "o/run1/run.json", "o/run2/run.json"]


def test_nothing_starts_when_one_job_is_wrong(here: Path) -> None:
    done = command("-m", "seed=1,2", "model=tiny,rope_5l", "paths.outputs=o", cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "lmx: job 1 (seed=1 model=rope_5l paths.outputs=o): model: got 'rope_5l', allowed: "
        f"{', '.join(options('model'))}; did you mean 'rope_4l'?\n"
    )
    assert written(here) == []


def test_a_file_may_be_a_sweep_by_itself(here: Path) -> None:
    own = here.parent / "own"
    (own / "experiment").mkdir(parents=True)
    (own / "experiment" / "grid.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params: {seed: '1,2'}\n"
    )
    done = command("--config-dir", str(own), "experiment=grid", "paths.outputs=o", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("GOT") == 2
    assert {"o/run1/run.json", "o/run2/run.json"} <= set(written(here))


def test_a_file_cannot_bring_hydra_callbacks(here: Path) -> None:
    own = here.parent / "own"
    (own / "experiment").mkdir(parents=True)
    (own / "experiment" / "evil.yaml").write_text(
        "# @package _global_\nhydra:\n  callbacks: {x: {_target_: os.system, command: touch evil}}\n"
    )
    done = command("--config-dir", str(own), "experiment=evil", "-m", "seed=1,2", cwd=here)
    assert (done.returncode, done.stderr) == (2, "lmx: hydra.callbacks: got x, allowed: none\n")
    assert written(here) == []


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
def test_a_signal_reaches_the_job_and_ends_the_sweep(here: Path, number: int, status: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "probe_command", "-m", "seed=9,1", "paths.outputs=o"],
        cwd=here,
        env=environment(here),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("GOT"):
        assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < 30, "the job slept on"
    assert process.returncode == status
    assert "0 of 1 jobs completed" in out
    assert "GOT" not in out, "no other job may start"
    assert err.endswith(f"lmx: the sweep was ended by {signal.Signals(number).name}\n")


def test_the_table_of_a_job_without_a_folder() -> None:
    text = summary(
        [Job(0, ("seed=1",), 2, 1.25, None), Job(1, ("seed=2",), 130, 1.0, Path("/x"), {"result": None})]
    )
    assert text.splitlines() == [
        "0 of 2 jobs completed",
        "job  status             seconds  bits/byte  val loss  overrides  run",
        "0    failed (2)             1.2          —         —  seed=1     —",
        "1    interrupted (130)      1.0          —         —  seed=2     /x",
    ]
