"""Stop when the validation measure no longer improves."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from lmx.measure import lower_is_better
from lmx.training.callbacks.base import Listener
from lmx.training.module import CHECKPOINT_KEY, LanguageModule


class EarlyStopping(Listener):
    """Ends training after `patience` evaluations in a row without an improvement of more than `min_delta`."""

    def __init__(self, monitor: str = "val/loss", patience: int = 5, min_delta: float = 0.0) -> None:
        """`monitor` is a measure of the evaluation; its better direction is its own.

        Raises ValueError for a `patience` below 1.
        """
        if patience < 1:
            raise ValueError(f"patience: got {patience}, allowed: ≥ 1")
        self.monitor = monitor
        self.patience = patience
        self.min_delta = min_delta
        self.best: float | None = None
        self.waited = 0
        self._horizon: str | None = None  # of the checkpoint that a run goes on from

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.best, self.waited = state_dict["best"], state_dict["waited"]

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Note how far the run was to go."""
        self._horizon = checkpoint[CHECKPOINT_KEY]["config"]["train"]["horizon"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """End a run again that was killed after it had been ended; with another horizon, count anew."""
        if self.waited < self.patience:
            return
        if self._horizon == pl_module.experiment.train.horizon:
            self._stop(pl_module)
        else:
            self.waited = 0

    def on_evaluation(self, trainer: pl.Trainer, module: LanguageModule, values: dict[str, float]) -> None:
        """Count evaluations without improvement; ask for the end when there were too many."""
        sign = 1.0 if lower_is_better(self.monitor) else -1.0
        value = sign * values[self.monitor]
        if self.best is None or value < self.best - self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.waited >= self.patience:
            self._stop(module)

    def _stop(self, module: LanguageModule) -> None:
        module.stop(f"{self.monitor} did not improve in {self.patience} evaluations")
