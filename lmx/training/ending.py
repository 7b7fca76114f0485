"""How a run ends before its last step: signals, the clock, or a callback that asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from lmx.training.evaluation import EvaluationStopped
from lmx.training.module import LanguageModule

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Signals:
    """Notes the first signal while its `with` block runs; a second one ends the process at once."""

    def __init__(self) -> None:
        self.received = 0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        """Take the signals over; elsewhere than in the main thread Python does not allow it."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.take()
        return self

    def __exit__(self, *error: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def take(self) -> None:
        """Install the handlers, over those that Lightning has installed meanwhile."""
        for number in self._before:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data worker: a Ctrl-C reaches it too, but its trainer ends it
            if number == signal.SIGTERM:
                os._exit(128 + number)
        elif self.received:
            os._exit(128 + number)
        else:
            self.received = number


def requeue(resumes: bool) -> str | None:
    """Put a SLURM job that was warned by SIGUSR1 back into the queue; return what was done, in a line.

    Only where the command goes on with the run that it finds (`resumes`): it would start another otherwise.
    Returns None where no SLURM job runs.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    if not resumes:
        return f"SLURM job {job} is not queued again: its command has no resume=auto"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        problem = done.stderr.strip() or f"exit status {done.returncode}" if done.returncode else ""
    except OSError as error:
        problem = str(error)
    return (
        f"SLURM job {job} cannot be queued again: {problem}"
        if problem
        else f"SLURM job {job} is queued again"
    )


class Ending(pl.Callback):
    """Stops training after a step: on a signal, at the horizon in hours, or on request.

    A signal also breaks an evaluation off, between two batches. Every end is saved by Checkpoints. A signal
    after the last evaluation changes nothing: the run is complete.
    """

    def __init__(self, signals: Signals, max_hours: float | None) -> None:
        """`max_hours` limits the training time, evaluations and saves apart."""
        self.signals = signals
        self.max_hours = max_hours
        self._group: dist.ProcessGroup | None = None  # through which the ranks agree; None: the usual one

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Take the signals back from Lightning, which would leave in the middle of a step."""
        self.signals.take()
        trainer._signal_connector.received_sigterm = False  # ours has seen it as well
        if trainer.world_size > 1 and dist.get_backend() == "nccl":
            self._group = dist.new_group(backend="gloo")  # hosts agree without waiting for their devices

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """End a resumed run that has no step or no time left, or whose evaluation, now made, ended it."""
        self._heed_clock(trainer, pl_module)
        if pl_module.step == pl_module.total_steps or pl_module.stop_reason is not None:
            raise StopIteration  # Lightning's way to end the epoch, which is the whole run

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Break an evaluation off."""
        if self._heed_signal(trainer, pl_module):
            raise EvaluationStopped

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the run here when there is a reason to."""
        if pl_module.step != pl_module.total_steps:
            self._heed_signal(trainer, pl_module)
        self._heed_clock(trainer, pl_module)
        if pl_module.stop_reason is not None:
            raise StopIteration

    def _heed_signal(self, trainer: pl.Trainer, module: LanguageModule) -> bool:
        received = self._highest(self.signals.received, trainer.world_size)
        if received:
            module.signal = received
            module.stop(f"signal {signal.Signals(received).name}")
        return bool(received)

    def _heed_clock(self, trainer: pl.Trainer, module: LanguageModule) -> None:
        if self.max_hours is None:
            return
        late = module.stopwatch.seconds >= 3600 * self.max_hours
        if self._highest(int(late), trainer.world_size):
            module.stop(f"horizon of {self.max_hours} hours reached")

    def _highest(self, value: int, world_size: int) -> int:
        """Return the highest value of any rank, so that all of them stop at the same step."""
        if world_size == 1:
            return value
        highest = torch.tensor(value)
        dist.all_reduce(highest, dist.ReduceOp.MAX, group=self._group)
        return int(highest)
