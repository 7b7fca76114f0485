"""One process a job: its output goes to a log and is heard, a signal is passed on to it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from studies_helpers import write_records

from lmx.launch import Job, Processes, ProcessLauncher
from lmx.runs import RunFolder

PROBE = """
import os, signal, sys, time
from pathlib import Path
words = sys.argv[2:]
print("step 5  val loss 2.0", *words)
print("trouble", file=sys.stderr)
if "wait" in words:
    signal.signal(signal.SIGINT, lambda number, frame: sys.exit(128 + number))
    Path(os.environ["READY"]).touch()
    time.sleep(60)
if "kill" in words:
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdout.write("no newline at the end")
sys.exit(3 if "fail" in words else 0)
"""


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    (tmp_path / "probe_job.py").write_text(PROBE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("READY", str(tmp_path / "ready"))
    return Processes("probe_job")


def test_output_is_logged_and_heard_line_by_line(processes: Processes, tmp_path: Path) -> None:
    heard: list[str] = []
    log = tmp_path / "log.txt"
    log.write_text("an earlier attempt\n")
    job = processes.run(1, ["a=1"], log, heard.append)
    assert (job.exit_status, job.status, job.folder) == (0, "completed", None)
    assert sorted(heard) == ["step 5  val loss 2.0 a=1", "trouble"]
    assert log.read_text().startswith("an earlier attempt\n")
    assert log.read_text().endswith("no newline at the end")


@pytest.mark.parametrize(("word", "status"), [("fail", "failed (3)"), ("kill", "killed (SIGKILL)")])
def test_a_job_s_end_is_its_own(processes: Processes, tmp_path: Path, word: str, status: str) -> None:
    assert processes.run(1, [word], tmp_path / "log.txt").status == status
    assert processes.received == 0


def test_a_signal_is_passed_on_and_remembered(processes: Processes, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    job = processes.run(1, ["wait"], tmp_path / "log.txt")
    thread.join()
    assert (job.exit_status, job.status) == (130, "interrupted (130)")
    assert processes.received == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
    assert sys.executable in processes.command[0]


def test_a_sweep_writes_the_report_of_a_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmx.report.comparison.plot_study", lambda *arguments: [])
    launcher = ProcessLauncher("lmx.train")
    launcher.folder = tmp_path / "sweeps" / "now"
    for number, level in enumerate((2.0, 1.9)):
        run = RunFolder.create(tmp_path, "a")
        run.write_config({"seed": 1, "optimizer": {"lr": 0.1 * (number + 1)}})
        write_records(run, level)
        launcher.jobs.append(Job(number, (), 0, 1.0, run.path))
    assert launcher.close() == 0
    page = (launcher.folder / "report.md").read_text()
    assert page.startswith("# 2 runs compared")
    assert "| 1 | **lr=0.2** |" in page


def test_a_sweep_without_two_results_writes_none(tmp_path: Path) -> None:
    launcher = ProcessLauncher("lmx.train")
    launcher.folder = tmp_path / "sweeps"
    launcher.jobs = [Job(0, (), 1, 1.0, None)]
    assert launcher.close() == 1
    assert not launcher.folder.exists()
