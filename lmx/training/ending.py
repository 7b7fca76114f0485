"""How a run ends before its last step: signals, the clock, or a callback that asked for it."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

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


class Ending(pl.Callback):
    """Stops training after a step: on a signal, at the horizon in hours, or on request.

    Every end is saved by Checkpoints. A signal during the last step changes nothing: the run is complete.
    """

    def __init__(self, signals: Signals, max_hours: float | None) -> None:
        """`max_hours` limits the training time, evaluations and saves apart."""
        self.signals = signals
        self.max_hours = max_hours

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Take the signals back from Lightning, which would leave in the middle of a step."""
        self.signals.take()
        trainer._signal_connector.received_sigterm = False  # ours has seen it as well

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the run here when there is a reason to."""
        received = self._agreed(trainer.world_size)
        if received and pl_module.step != pl_module.total_steps:
            pl_module.signal = received
            pl_module.stop(f"signal {signal.Signals(received).name}")
        if self.max_hours is not None and self._out_of_time(trainer, pl_module):
            pl_module.stop(f"horizon of {self.max_hours} hours reached")
        if pl_module.stop_reason is not None:
            raise StopIteration  # Lightning's way to end the epoch, which is the whole run

    def _out_of_time(self, trainer: pl.Trainer, module: LanguageModule) -> bool:
        assert self.max_hours is not None
        late = module.stopwatch.seconds >= 3600 * self.max_hours
        return trainer.strategy.reduce_boolean_decision(late, all=False)

    def _agreed(self, world_size: int) -> int:
        """Return a signal that any rank has received, so that all of them stop at the same step."""
        if world_size == 1:
            return self.signals.received
        highest = torch.tensor(self.signals.received)
        if dist.get_backend() == "nccl":
            highest = highest.cuda()
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return int(highest)
