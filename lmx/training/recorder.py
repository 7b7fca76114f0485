"""The one place where measurements become a record: a line of metrics.jsonl, and the same to the loggers."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning.pytorch as pl

from lmx.config import NonFiniteError
from lmx.data import Windows
from lmx.measure import training_flops
from lmx.runs import MetricsLog
from lmx.training.callbacks.base import Listener, Measure
from lmx.training.module import LanguageModule
from lmx.training.totals import check_floor, summarise
from lmx.training.window import Steps


class Recorder(pl.Callback):
    """Writes a `train` line every `every` updates and a `val` line at each evaluation."""

    def __init__(self, metrics: MetricsLog, validation: Windows, every: int, steps_per_epoch: int) -> None:
        """`validation` is the split that evaluations cover; `every` counts updates."""
        self.metrics = metrics
        self.validation = validation
        self.every = every
        self.steps_per_epoch = steps_per_epoch
        self._mark = 0.0  # stopwatch at the last train line
        self._position: int | None = None  # of the log, when a run is resumed

    # ---- resuming

    def state_dict(self) -> dict[str, Any]:
        """Return how far the log was written, flushed to disk, and the clock at its last line."""
        return {"position": self.metrics.position(), "mark": self._mark}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._mark = state_dict["mark"]
        self._position = state_dict["position"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Cut the log back to the checkpoint: what came after it will be written again."""
        if trainer.is_global_zero and self._position is not None:
            self.metrics.rewind_to(self._position)

    # ---- training

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the updates since the last line when enough have come together."""
        if pl_module.step % self.every == 0 or pl_module.step == pl_module.total_steps:
            self._record_steps(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Record what an early end left open; an interrupted run keeps it in its checkpoint."""
        if len(pl_module.window) and not pl_module.interrupted:
            self._record_steps(trainer, pl_module)

    def _record_steps(self, trainer: pl.Trainer, module: LanguageModule) -> None:
        module.settle()
        steps = module.window.take()
        now = module.stopwatch.seconds
        seconds, self._mark = now - self._mark, now
        values: dict[str, float | None] = {
            "train/loss": steps.mean("nats"),
            "train/entropy": steps.mean("entropy"),
            "train/accuracy": steps.mean("correct"),
            "train/accuracy_top5": steps.mean("correct_top5"),
            "train/confidence": steps.mean("confidence"),
            "train/lr": module.rate,
        }
        if module.experiment.train.spike_sigmas is not None:
            values["train/skipped"] = float(steps.skipped.sum())
        if module.compile_seconds is not None:
            values["speed/compile_seconds"] = round(module.compile_seconds, 3)
            module.compile_seconds = None
        if module.parts is not None:
            values |= {"train/cosine": steps.mean("cosine"), **module.parts.take()}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Measure):
                values |= callback.measure(steps, module, seconds)
        self._write(trainer, module, "train", values, steps)

    # ---- evaluation

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the clock of the evaluation."""
        self._began = time.perf_counter()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Record an evaluation and tell the listeners."""
        totals = pl_module.evaluation.collect()
        if totals["tokens"] == self.validation.targets:  # of windows that were drawn, no floor is known
            check_floor(totals, self.validation)
        values = summarise(totals, self.validation, pl_module.experiment.train.eval_mean)
        values["val/seconds"] = round(time.perf_counter() - self._began, 3)
        pl_module.result = values
        self._write(trainer, pl_module, "val", dict(values), None)
        if not math.isfinite(values["val/loss"]):
            raise NonFiniteError(f"step {pl_module.step}: the validation loss is {values['val/loss']}")
        pl_module.log_dict(values, logger=False)  # for callbacks of others that monitor a measure
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Listener):
                callback.on_evaluation(trainer, pl_module, values)

    def _write(
        self,
        trainer: pl.Trainer,
        module: LanguageModule,
        kind: str,
        values: dict[str, float | None],
        steps: Steps | None,
    ) -> None:
        if not trainer.is_global_zero:
            return
        line: dict[str, Any] = {
            "kind": kind,
            "step": module.step,
            "epoch": round(module.step / self.steps_per_epoch, 6),
            "tokens": int(module.tokens),
            "seconds": round(module.stopwatch.seconds, 3),
            "flops": training_flops(module.experiment) * module.tokens,
        }
        if steps is not None:
            line["steps"] = steps.count
        self.metrics.append({**line, **values})
        numbers = {name: value for name, value in values.items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=module.step)
