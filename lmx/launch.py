"""Sweeps: each job in a process of its own, so that memory is freed and a crash stays its own."""

from __future__ import annotations

import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lmx.config.errors import CheckpointError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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


class ProcessLauncher:
    """What Hydra calls for each job of a sweep: runs it as `python -m <module> <flags> <overrides>`.

    A job that fails is told of, and the others go on. SIGINT and SIGTERM are passed on to the job that runs,
    and end the sweep after it.
    """

    def __init__(self, module: str, flags: Sequence[str] = ()) -> None:
        self.__module__ = module  # Hydra names the application after it
        self.command = [sys.executable, "-m", module, "--run", *flags]
        self.jobs: list[Job] = []
        self.child: subprocess.Popen[bytes] | None = None
        self.received = 0

    def __call__(self, config: DictConfig) -> float:
        """Run the job that Hydra composed; return its validation loss, NaN where there is none.

        Raises SystemExit with 128 + the signal when one came.
        """
        hydra = HydraConfig.get()
        job = self._run(int(hydra.job.num), tuple(map(str, hydra.overrides.task)))
        self.jobs.append(job)
        print(f"job {job.number}: {job.status} in {job.seconds:.1f} s", flush=True)
        if self.received:
            raise SystemExit(128 + self.received)
        loss = job.measure("val/loss")
        return math.nan if loss is None else loss

    def close(self) -> int:
        """Print the table of all jobs; return 0 when all of them succeeded, else 1."""
        if self.jobs:
            print(f"\n{summary(self.jobs)}", flush=True)
        if self.received:
            print(f"lmx: the sweep was ended by {signal.Signals(self.received).name}", file=sys.stderr)
        return int(any(job.exit_status for job in self.jobs))

    def _run(self, number: int, overrides: tuple[str, ...]) -> Job:
        from lmx.runs import POINTER_VARIABLE

        print(f"\njob {number}: {shlex.join(overrides)}", flush=True)
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="lmx-sweep-") as place:
            pointer = Path(place) / "run"
            exit_status = self._wait([*self.command, *overrides], {POINTER_VARIABLE: str(pointer)})
            folder = Path(pointer.read_text()) if pointer.is_file() else None
        return Job(number, overrides, exit_status, time.monotonic() - begun, folder, _identity(folder))

    def _wait(self, command: list[str], variables: dict[str, str]) -> int:
        before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        try:
            # in a process group of its own, so that a terminal's Ctrl-C reaches it once, through us
            self.child = subprocess.Popen(command, env={**os.environ, **variables}, process_group=0)
            if self.received:  # it came while the job was being started
                self.child.send_signal(self.received)
            return self.child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(number)


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
