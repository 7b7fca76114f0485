"""How a run ends before its last step: signals, the clock, or a callback that asked for it."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from lmx.training.checkpoints import Checkpoints
from lmx.training.module import LanguageModule

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Ending(pl.Callback):
    """Stops training at the end of a step: with a checkpoint on a signal, at the horizon in hours, or on request.

    A second signal ends the process at once; the checkpoint before stays good.
    """

    def __init__(self, checkpoints: Checkpoints, max_hours: float | None) -> None:
        """`max_hours` limits the training time, evaluations and saves apart."""
        self.checkpoints = checkpoints
        self.max_hours = max_hours
        self.received = 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: LanguageModule) -> None:
        """Take the signals over from Lightning, which would leave in the middle of a step."""
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            os._exit(128 + number)
        self.received = number

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: LanguageModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the run here when there is a reason to."""
        received = self._agreed(trainer.world_size)
        if received:
            pl_module.signal = received
            pl_module.stop(f"signal {signal.Signals(received).name}")
            self.checkpoints.save(trainer, pl_module)
        if self.max_hours is not None and self._out_of_time(trainer, pl_module):
            pl_module.stop(f"horizon of {self.max_hours} hours reached")
        if pl_module.stop_reason is not None:
            raise StopIteration  # Lightning's way to end the epoch, which is the whole run

    def _out_of_time(self, trainer: pl.Trainer, module: LanguageModule) -> bool:
        assert self.max_hours is not None
        return trainer.strategy.reduce_boolean_decision(module.stopwatch.seconds >= 3600 * self.max_hours, all=False)

    def _agreed(self, world_size: int) -> int:
        if world_size == 1:
            return self.received
        highest = torch.tensor(self.received)
        if dist.get_backend() == "nccl":
            highest = highest.cuda()
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return int(highest)
