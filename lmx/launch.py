"""Sweeps and studies: a process for each job, so that memory is freed and a crash stays its own."""

from __future__ import annotations

import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lmx.config.errors import CheckpointError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
POLL_SECONDS = 0.2  # how often the output of a job is looked at
Hear = Callable[[str], None] | None


@dataclass(frozen=True)
class Job:
    """How one job of a sweep ended."""

    number: int
    overrides: tuple[str, ...]
    exit_status: int
    seconds: float
    folder: Path | None  # None: it ended before it had one
    identity: dict[str, Any] = field(default_factory=dict)  # what its run.json holds

    @property
    def status(self) -> str:
        """One word, with the exit status where that says more."""
        if self.exit_status < 0:
            return f"killed ({signal.Signals(-self.exit_status).name})"
        if self.exit_status == 0:
            return "completed"
        ended = self.exit_status in [128 + number for number in SIGNALS]
        return f"{'interrupted' if ended else 'failed'} ({self.exit_status})"

    def measure(self, name: str) -> float | None:
        """Return a figure of its result, None where there is none."""
        value = (self.identity.get("result") or {}).get(name)
        return None if value is None else float(value)


class Processes:
    """Runs jobs one after the other, each as `python -m <module> <flags> <overrides>`.

    SIGINT, SIGTERM and SIGUSR1 are passed on to the job that runs, and stand in `received` after it.
    """

    def __init__(self, module: str, flags: Sequence[str] = ()) -> None:
        self.command = [sys.executable, "-m", module, "--run", *flags]
        self.child: subprocess.Popen[bytes] | None = None
        self.received = 0

    def run(self, number: int, overrides: Sequence[str], log: Path | None = None, hear: Hear = None) -> Job:
        """Run one job to its end.

        Its output goes where ours does; with `log` it is appended there, and `hear` is called with each line.
        """
        from lmx.runs import POINTER_VARIABLE

        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="lmx-sweep-") as place:
            pointer = Path(place) / "run"
            exit_status = self._wait([*self.command, *overrides], {POINTER_VARIABLE: str(pointer)}, log, hear)
            folder = Path(pointer.read_text()) if pointer.is_file() else None
        seconds = time.monotonic() - begun
        return Job(number, tuple(overrides), exit_status, seconds, folder, _identity(folder))

    def _wait(self, command: list[str], variables: dict[str, str], log: Path | None, hear: Hear) -> int:
        before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        try:
            # in a process group of its own, so that a terminal's Ctrl-C reaches it once, through us
            if log is None:
                self.child = subprocess.Popen(command, env={**os.environ, **variables}, process_group=0)
                self._pass_on()
                return self.child.wait()
            variables = {**variables, "PYTHONUNBUFFERED": "1"}
            with open(log, "ab") as output, open(log, "rb") as lines:
                lines.seek(0, os.SEEK_END)
                self.child = subprocess.Popen(
                    command,
                    env={**os.environ, **variables},
                    process_group=0,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                self._pass_on()
                return _listen(self.child, lines, hear)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self) -> None:
        if self.received and self.child is not None:  # it came while the job was being started
            self.child.send_signal(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(number)


class ProcessLauncher:
    """What Hydra calls for each job of a sweep: a process each.

    A job that fails is told of, and the others go on; a signal ends the sweep after the job that runs.
    """

    def __init__(self, module: str, flags: Sequence[str] = ()) -> None:
        self.__module__ = module  # Hydra names the application after it
        self.processes = Processes(module, flags)
        self.jobs: list[Job] = []
        self.folder: Path | None = None  # of the sweep

    def __call__(self, config: DictConfig) -> float:
        """Run the job that Hydra composed; return its validation loss, NaN where there is none.

        Raises SystemExit with 128 + the signal when one came.
        """
        hydra = HydraConfig.get()
        self.folder = Path(hydra.sweep.dir)
        number, overrides = int(hydra.job.num), tuple(map(str, hydra.overrides.task))
        print(f"\njob {number}: {shlex.join(overrides)}", flush=True)
        job = self.processes.run(number, overrides)
        self.jobs.append(job)
        print(f"job {job.number}: {job.status} in {job.seconds:.1f} s", flush=True)
        if self.processes.received:
            raise SystemExit(128 + self.processes.received)
        loss = job.measure("val/loss")
        return math.nan if loss is None else loss

    def close(self) -> int:
        """Print the table of all jobs, write the report that compares them; 0 when all succeeded, else 1."""
        if self.jobs:
            print(f"\n{summary(self.jobs)}", flush=True)
        if self.processes.received:
            name = signal.Signals(self.processes.received).name
            print(f"lmx: the sweep was ended by {name}", file=sys.stderr)
        elif self.folder is not None:
            self._report(self.folder)
        return int(any(job.exit_status for job in self.jobs))

    def _report(self, out: Path) -> None:
        """Compare the runs that were evaluated, where there are several."""
        from lmx.runs import is_evaluated

        folders = [job.folder for job in self.jobs if job.folder is not None and is_evaluated(job.folder)]
        if len(folders) > 1:
            from lmx.report import render_comparison

            print(f"\nReport  {_near(render_comparison(folders, out))}", flush=True)


def _listen(child: subprocess.Popen[bytes], lines: BinaryIO, hear: Hear) -> int:
    """Wait for `child` and tell `hear` of each line that it has written."""
    torn = b""
    while True:
        ended = child.poll() is not None  # asked before reading: what it wrote last is read too
        *whole, torn = (torn + lines.read()).split(b"\n")
        for line in whole:
            if hear is not None:
                hear(line.decode(errors="replace"))
        if ended:
            return child.wait()
        time.sleep(POLL_SECONDS)


def summary(jobs: Sequence[Job]) -> str:
    """Return the table of a sweep's jobs; overrides that all of them share stand above it."""
    shared = [
        line for line in jobs[0].overrides if len(jobs) > 1 and all(line in job.overrides for job in jobs)
    ]
    rows: list[tuple[str, ...]] = [("job", "status", "seconds", "bits/byte", "val loss", "overrides", "run")]
    for job in jobs:
        own = " ".join(line for line in job.overrides if line not in shared)
        bits, loss = job.measure("val/bits_per_byte"), job.measure("val/loss")
        figures = ("—" if value is None else f"{value:.4f}" for value in (bits, loss))
        rows.append(
            (str(job.number), job.status, f"{job.seconds:.1f}", *figures, own or "—", _near(job.folder))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    done = sum(job.exit_status == 0 for job in jobs)
    head = f"{done} of {len(jobs)} jobs completed{'; all with ' + ' '.join(shared) if shared else ''}"
    return "\n".join([head, *lines])


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    figures = range(2, 5)
    return [
        f"{cell:>{width}}" if column in figures else f"{cell:<{width}}"
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _near(folder: Path | None) -> str:
    """Return a path as it is written from the current folder."""
    if folder is None:
        return "—"
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)


def _identity(folder: Path | None) -> dict[str, Any]:
    if folder is None:
        return {}
    from lmx.runs import RunFolder

    try:
        return RunFolder.open(folder).read_identity()
    except CheckpointError:
        return {}
