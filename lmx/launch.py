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
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lmx.config.compose import compose
from lmx.config.entry import SweepTask
from lmx.config.errors import CheckpointError, ConfigError, LmxError
from lmx.config.overrides import parse

POINTER_VARIABLE = "LMX_RUN_POINTER"  # a file into which a job writes where its run folder is
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SweepInterrupted(LmxError):
    """A signal ended the sweep."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"the sweep was ended by {signal.Signals(number).name}; jobs not started are left out"
        )
        self.exit_status = 128 + number


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
        word = str(self.identity.get("status") or ("completed" if self.exit_status == 0 else "failed"))
        if self.exit_status < 0:
            return f"killed ({signal.Signals(-self.exit_status).name})"
        return (
            word
            if self.exit_status == 0
            else f"{word if word != 'completed' else 'failed'} ({self.exit_status})"
        )

    def measure(self, name: str) -> float | None:
        """Return a figure of its result, None where there is none."""
        value = (self.identity.get("result") or {}).get(name)
        return None if value is None else float(value)


class ProcessLauncher(Launcher):
    """Runs each job as `python -m <module> <overrides>`, one after the other; none that fails stops the rest.

    All jobs are composed and validated before the first one starts.
    """

    __module__ = "hydra_plugins.lmx"  # Hydra takes plugins from this package alone

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra knows of the sweep, and check the jobs where they are known by now.

        Raises ConfigError naming the first job that cannot be run.
        """
        assert isinstance(task_function, SweepTask)
        self.task = task_function
        self.config_name = str(config.hydra.job.config_name)
        folders = [
            source.path for source in config.hydra.runtime.config_sources if source.provider == "command-line"
        ]
        self.folder: str | None = folders[0] if folders else None
        self.checked: set[tuple[str, ...]] = set()
        self.received = 0
        if config.hydra.sweeper._target_.endswith(".BasicSweeper"):
            params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
            lines = [*params, *config.hydra.overrides.task]
            self._check(list(chain.from_iterable(BasicSweeper.split_arguments(parse(lines), None))), 0)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs; return their validation losses (NaN where there is none), for a sweeper to optimise.

        Raises SweepInterrupted when a signal came: it is passed on to the job that runs, and no other starts.
        """
        self._check(job_overrides, initial_job_idx)
        before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        jobs: list[Job] = []
        try:
            for number, overrides in enumerate(job_overrides, start=initial_job_idx):
                jobs.append(self._run(number, tuple(overrides)))
                self.task.results.append(jobs[-1])
                if self.received:
                    raise SweepInterrupted(self.received)
        finally:
            for signal_number, handler in before.items():
                signal.signal(signal_number, handler)
        return [_job_return(job) for job in jobs]

    @staticmethod
    def close(results: list[Any]) -> int:
        """Print the table of all jobs; return 0 only when all of them succeeded, else 1."""
        print(f"\n{summary(results)}", flush=True)
        return int(any(job.exit_status for job in results))

    def _check(self, jobs: Sequence[Sequence[str]], first: int) -> None:
        for number, overrides in enumerate(jobs, start=first):
            if tuple(overrides) in self.checked:
                continue
            try:
                compose(overrides, config_name=self.config_name, folder=self.folder)
            except ConfigError as error:
                raise ConfigError(f"job {number} ({' '.join(overrides)}): {error}") from error
            self.checked.add(tuple(overrides))

    def _run(self, number: int, overrides: tuple[str, ...]) -> Job:
        print(f"\njob {number}: {shlex.join(overrides)}", flush=True)
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="lmx-sweep-") as place:
            pointer = Path(place) / "run"
            # in a process group of its own: a terminal's Ctrl-C reaches it once, through us
            self.child = subprocess.Popen(
                self._command(overrides), env={**os.environ, POINTER_VARIABLE: str(pointer)}, process_group=0
            )
            if self.received:  # the signal came while it was being started
                self.child.send_signal(self.received)
            exit_status = self.child.wait()
            folder = Path(pointer.read_text()) if pointer.is_file() else None
        job = Job(number, overrides, exit_status, time.monotonic() - begun, folder, _identity(folder))
        print(f"job {number}: {job.status} in {job.seconds:.1f} s", flush=True)
        return job

    def _command(self, overrides: tuple[str, ...]) -> list[str]:
        flags = ["--config-name", self.config_name]
        if self.folder is not None:
            flags += ["--config-dir", self.folder]
        return [sys.executable, "-m", self.task.__module__, *flags, *overrides]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        child = getattr(self, "child", None)
        if child is not None and child.poll() is None:
            child.send_signal(number)


def summary(jobs: Sequence[Job]) -> str:
    """Return the table of a sweep's jobs; overrides that all of them share stand above it."""
    shared = [
        line for line in jobs[0].overrides if len(jobs) > 1 and all(line in job.overrides for job in jobs)
    ]
    rows = [("job", "status", "seconds", "bits/byte", "val loss", "overrides", "run")]
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


def _job_return(job: Job) -> JobReturn:
    """Tell Hydra that the job has been seen to: at one marked as failed its sweeper would stop the others."""
    loss = job.measure("val/loss")
    result = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)
    result.return_value = math.nan if loss is None else loss
    return result
