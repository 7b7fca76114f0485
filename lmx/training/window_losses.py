"""Keeps the loss of each validation window, from which runs are compared window by window."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from lmx.runs import RunFolder, read_windows, write_windows
from lmx.training.callbacks.base import Listener
from lmx.training.checkpoints import BEST, LAST, Checkpoints
from lmx.training.module import LanguageModule


class WindowLosses(Listener):
    """Writes `windows/last.npz` at each evaluation and `windows/best.npz` where `best` is checkpointed."""

    def __init__(self, folder: RunFolder, checkpoints: Checkpoints, windows: int) -> None:
        """`checkpoints` decides what is best and is told of an evaluation first; `windows` counts them."""
        self.folder = folder
        self.checkpoints = checkpoints
        self.windows = windows
        self.best: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the best, which a run killed after a newer one must find again."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self.best = state_dict["best"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Remove what was written after the checkpoint of a resumed run; put its best back."""
        if not trainer.is_global_zero:
            return
        for role in (LAST, BEST):
            path = self.folder.windows / f"{role}.npz"
            found = read_windows(path)
            if found is None or found.step > pl_module.step:
                path.unlink(missing_ok=True)
        if self.best is not None:
            self._write(BEST, self.best)

    def on_evaluation(self, trainer: pl.Trainer, module: LanguageModule, values: dict[str, float]) -> None:
        """Keep this evaluation as the last, and as the best where its weights were."""
        loss, tokens = module.evaluation.windows.collect(self.windows)
        record = {"loss": loss, "tokens": tokens, "step": module.step}
        if trainer.is_global_zero:
            self._write(LAST, record)
        if self.checkpoints.best_step == module.step:
            self.best = record
            if trainer.is_global_zero:
                self._write(BEST, record)

    def _write(self, role: str, record: dict[str, Any]) -> None:
        write_windows(self.folder.windows / f"{role}.npz", **record)
