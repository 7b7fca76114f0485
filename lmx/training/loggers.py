"""What loggers show of a run that was killed and resumed: every step, once, as `metrics.jsonl` has it."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger

from lmx.runs import MetricsLog
from lmx.runs.metrics import read_lines

NO_METRICS = ("kind", "step", "epoch", "tokens", "seconds", "flops", "steps")  # what else a line holds


class Loggers(pl.Callback):
    """Has loggers write what they hold before each checkpoint, and tells a CSV logger again what came before.

    What TensorBoard was told after a checkpoint is hidden when the run is resumed (`build_loggers`).
    """

    def __init__(self, metrics: MetricsLog) -> None:
        """`metrics` is the log of the run, cut back to the checkpoint by the time that training starts."""
        self.metrics = metrics

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Repeat the lines of the log: Lightning's CSV logger removes the file of the session before."""
        again = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
        if not (again and trainer.is_global_zero):
            return
        for line in read_lines(self.metrics.path)[0]:
            numbers = {k: v for k, v in line.items() if k not in NO_METRICS and v is not None}
            for logger in again:
                logger.log_metrics(numbers, step=line["step"])

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Have them write: a CSV logger, for one, would keep its lines in memory to the end."""
        for logger in trainer.loggers:
            logger.save()
