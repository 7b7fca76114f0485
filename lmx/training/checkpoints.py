"""Checkpoints that survive: written beside, flushed, renamed; their manifest last; verified before they are read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO

from lmx.config import CheckpointError, SpaceError, bad_choice
from lmx.measure import lower_is_better
from lmx.training.callbacks.base import Listener
from lmx.training.module import CHECKPOINT_KEY, LanguageModule

LAST, BEST = "last", "best"


# ---- files


def write_checkpoint(path: Path, checkpoint: dict[str, Any], **facts: Any) -> None:
    """Write `path` and its manifest `path.json` so that a kill at any moment leaves the one before intact.

    Raises SpaceError when the disk is full; nothing half-written stays behind.
    """
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        digest = _sha256(temporary)
        size = temporary.stat().st_size
        temporary.replace(path)
        manifest = {"file": path.name, "bytes": size, "sha256": digest, **facts}
        _write_synced(_manifest(path), json.dumps(manifest, indent=2) + "\n")
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        if getattr(error, "errno", None) == errno.ENOSPC or "file write failed" in str(error):
            raise SpaceError(f"{path}: the disk is full; the checkpoint before it is kept") from error
        raise


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of plain tensors and values after comparing it with its manifest.

    Raises CheckpointError, in one line, when it is missing, damaged or holds anything but plain data.
    """
    try:
        manifest = json.loads(_manifest(path).read_text())
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename}: no such checkpoint") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{_manifest(path)}: damaged manifest ({error})") from error
    if size != manifest.get("bytes"):
        raise CheckpointError(f"{path}: damaged: {size} bytes, its manifest says {manifest.get('bytes')}")
    if _sha256(path) != manifest.get("sha256"):
        raise CheckpointError(f"{path}: damaged: its contents are not those its manifest describes")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: not a checkpoint of plain tensors: {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, dict) or CHECKPOINT_KEY not in loaded:
        raise CheckpointError(f"{path}: not a checkpoint of lmx")
    return loaded


def checkpoints(folder: Path, role: str) -> list[Path]:
    """Return the complete checkpoints of a role (those with a manifest), newest first."""
    return sorted((p for p in folder.glob(f"{role}-*.ckpt") if _manifest(p).is_file()), reverse=True)


def newest_good(folder: Path, role: str, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint of a role that is whole, naming on `say` each damaged one passed over."""
    for path in checkpoints(folder, role):
        try:
            return path, read_checkpoint(path)
        except CheckpointError as error:
            say(f"{error}; trying the one before")
    return None


class VerifiedCheckpointIO(CheckpointIO):
    """Lightning's way to the functions above."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write with manifest."""
        write_checkpoint(Path(path), checkpoint, step=checkpoint[CHECKPOINT_KEY]["step"], role=LAST)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read after verification; always plain data, on the CPU."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the manifest first: what has none is not a checkpoint."""
        _manifest(Path(path)).unlink(missing_ok=True)
        Path(path).unlink(missing_ok=True)


def _manifest(path: Path) -> Path:
    return path.with_suffix(".json")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, text: str) -> None:
    temporary = path.with_suffix(".json.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# ---- when


class Checkpoints(Listener):
    """Writes `last` by steps and by minutes, and `best` (weights alone) when its measure improves."""

    def __init__(
        self, folder: Path, every_steps: int | None, every_minutes: float | None, keep_last: int, best: str | None
    ) -> None:
        """`folder` is the run's checkpoints folder; `best` names the measure, whose better direction is its own."""
        self.folder = folder
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.keep_last = keep_last
        self.monitor = best
        self.best: float | None = None
        self.best_step: int | None = None
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return the best so far."""
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it; a `best` written after the checkpoint is removed, as the resumed run decides again."""
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
        for path in checkpoints(self.folder, BEST):
            if self.best_step is None or step_of(path) > self.best_step:
                VerifiedCheckpointIO().remove_checkpoint(path)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: LanguageModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is due."""
        if self._due(trainer, pl_module):
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: LanguageModule) -> None:
        """Save the end, after its evaluation; an interrupted run has done so already."""
        if not pl_module.interrupted:
            self.save(trainer, pl_module)

    def on_evaluation(self, trainer: pl.Trainer, module: LanguageModule, values: dict[str, float]) -> None:
        """Keep the weights when they are the best so far; the untrained ones at step 0 are not kept."""
        if self.monitor is None:
            return
        if self.monitor not in values:
            raise CheckpointError(bad_choice("checkpoint.best", self.monitor, values))
        value = values[self.monitor]
        sign = 1.0 if lower_is_better(self.monitor) else -1.0
        if module.step == 0 or (self.best is not None and sign * value >= sign * self.best):
            return
        self.best, self.best_step = value, module.step
        if trainer.is_global_zero:
            self._save_best(module, value)

    def save(self, trainer: pl.Trainer, module: LanguageModule) -> None:
        """Write `last`, then remove what keep_last no longer covers; every rank must call it."""
        with module.stopwatch.paused():
            trainer.save_checkpoint(self.folder / f"{LAST}-{module.step:08d}.ckpt")
            if trainer.is_global_zero:
                self._prune(LAST, self.keep_last)
        self._saved = time.monotonic()

    def _due(self, trainer: pl.Trainer, module: LanguageModule) -> bool:
        if self.every_steps is not None and module.step % self.every_steps == 0:
            return True
        if self.every_minutes is None or module.step % module.experiment.train.log_every_steps:
            return False
        waited = time.monotonic() - self._saved >= 60 * self.every_minutes
        return trainer.strategy.reduce_boolean_decision(waited, all=False)

    def _save_best(self, module: LanguageModule, value: float) -> None:
        assert self.monitor is not None
        path = self.folder / f"{BEST}-{module.step:08d}.ckpt"
        content = {"state_dict": module.state_dict(), CHECKPOINT_KEY: module.identity()}
        write_checkpoint(path, content, step=module.step, role=BEST, monitor=self.monitor, value=value)
        self._prune(BEST, 1)

    def _prune(self, role: str, keep: int) -> None:
        for path in checkpoints(self.folder, role)[keep:]:
            VerifiedCheckpointIO().remove_checkpoint(path)


def step_of(path: Path) -> int:
    """Step that a checkpoint's name says."""
    return int(path.stem.rpartition("-")[2])
