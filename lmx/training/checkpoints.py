"""Checkpoints that survive: written beside, flushed, renamed; the manifest last; verified when read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO

from lmx.config import CheckpointError
from lmx.measure import lower_is_better
from lmx.runs.files import make_folder, space_guard, write_json
from lmx.training.callbacks.base import Listener
from lmx.training.module import CHECKPOINT_KEY, LanguageModule

LAST, BEST = "last", "best"


# ---- files


def write_checkpoint(path: Path, checkpoint: dict[str, Any], **facts: Any) -> None:
    """Write `path` and then its manifest, so that a kill at any moment leaves the checkpoints before intact.

    Raises SpaceError when the disk is full; nothing half-written stays behind.
    """
    temporary = path.with_suffix(".tmp")
    make_folder(path.parent)
    try:
        with space_guard(path), temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        size, digest = temporary.stat().st_size, _sha256(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    write_json(
        _manifest(path), {"file": path.name, "bytes": size, "sha256": digest, **facts}
    )  # also makes the renaming durable


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of plain tensors and values after comparing it with its manifest.

    Raises CheckpointError, in one line, when it is missing, damaged or holds anything but plain data.
    """
    try:
        size = path.stat().st_size
        manifest = json.loads(_manifest(path).read_bytes())
    except FileNotFoundError as error:
        missing = "no such checkpoint" if error.filename == str(path) else "not whole: it has no manifest"
        raise CheckpointError(f"{path}: {missing}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{_manifest(path)}: damaged manifest ({error})") from error
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{_manifest(path)}: damaged manifest (not a JSON object)")
    if size != manifest.get("bytes"):
        raise CheckpointError(f"{path}: damaged: {size} bytes, its manifest says {manifest.get('bytes')}")
    if _sha256(path) != manifest.get("sha256"):
        raise CheckpointError(f"{path}: damaged: its contents are not those its manifest describes")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of plain tensors: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(loaded, dict) or CHECKPOINT_KEY not in loaded:
        raise CheckpointError(f"{path}: not a checkpoint of lmx")
    return loaded


def checkpoints(folder: Path, role: str) -> list[Path]:
    """Return the complete checkpoints of a role (those with a manifest), newest first."""
    return _named(folder, role, "json")


def _named(folder: Path, role: str, *endings: str) -> list[Path]:
    """Return the checkpoints of which there is a file with one of the endings, newest first.

    A file with another name than ours, such as a copy, is none of them and is left alone.
    """
    ours = re.compile(rf"{role}-\d{{8,}}\.({'|'.join(endings)})")
    found = {path.with_suffix(".ckpt") for path in folder.glob(f"{role}-*") if ours.fullmatch(path.name)}
    return sorted(found, key=step_of, reverse=True)


def newest_good(folder: Path, role: str, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint of a role that is whole, naming on `say` each damaged one passed over."""
    for path in _named(folder, role, "ckpt", "json"):
        try:
            checkpoint = read_checkpoint(path)
            if checkpoint[CHECKPOINT_KEY]["step"] != step_of(path):
                raise CheckpointError(f"{path}: renamed, it is of step {checkpoint[CHECKPOINT_KEY]['step']}")
            return path, checkpoint
        except CheckpointError as error:
            say(f"{error}; trying the one before")
    return None


def remove_others(folder: Path, role: str, kept: Container[Path]) -> None:
    """Remove every file of a role that is not of the `kept` checkpoints, manifests first."""
    for path in _named(folder, role, "ckpt", "json", "tmp"):
        if path not in kept:
            for ending in (".json", ".ckpt", ".tmp"):
                path.with_suffix(ending).unlink(missing_ok=True)


def step_of(path: Path) -> int:
    """Step that a checkpoint's name says."""
    return int(path.stem.rpartition("-")[2])


class VerifiedCheckpointIO(CheckpointIO):
    """Lightning's way to the functions above."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write with manifest."""
        write_checkpoint(Path(path), checkpoint, step=checkpoint[CHECKPOINT_KEY]["step"], role=LAST)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
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


# ---- when


class Checkpoints(Listener):
    """Writes `last` by steps and by minutes, and `best` (weights alone) when its measure improves."""

    def __init__(
        self,
        folder: Path,
        every_steps: int | None,
        every_minutes: float | None,
        keep_last: int,
        best: str | None,
        mode: str,
    ) -> None:
        """`folder` is the run's checkpoints folder; `best` the measure.

        `mode` says which value of it is best: min, max, or auto for the measure's own direction.
        """
        self.folder = folder
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.keep_last = keep_last
        self.monitor = best
        falling = best is not None and lower_is_better(best) if mode == "auto" else mode == "min"
        self._sign = 1.0 if falling else -1.0
        self.best: float | None = None
        self.best_step: int | None = None
        self._saved_step: int | None = None
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return the best so far, and the step that this checkpoint is of."""
        return {"best": self.best, "best_step": self.best_step, "saved_step": self._saved_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it; a `best` written after the checkpoint is removed, as the resumed run decides again."""
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
        self._saved_step = state_dict["saved_step"]
        self._prune_best()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is due."""
        if self._due(trainer, pl_module):
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Save the end, after its evaluation."""
        self.save(trainer, pl_module)

    def on_evaluation(self, trainer: pl.Trainer, module: LanguageModule, values: dict[str, float]) -> None:
        """Keep the weights when they are the best so far; the untrained ones at step 0 are not kept."""
        if self.monitor is None or module.step == 0:
            return
        value = values[self.monitor]
        if self.best is not None and not self._sign * value < self._sign * self.best:
            return
        self.best, self.best_step = value, module.step
        if trainer.is_global_zero:
            content = {"state_dict": module.state_dict(), CHECKPOINT_KEY: module.identity()}
            facts = {"step": module.step, "role": BEST, "monitor": self.monitor, "value": value}
            with module.stopwatch.paused():
                write_checkpoint(self._path(BEST, module.step), content, **facts)
            self._prune_best()

    def save(self, trainer: pl.Trainer, module: LanguageModule) -> None:
        """Write `last`, then remove what keep_last no longer covers; every rank must call it.

        A step is saved once: writing over a checkpoint would risk the only one there is.
        """
        if module.step == self._saved_step:
            return
        self._saved_step = module.step
        with module.stopwatch.paused():
            trainer.save_checkpoint(self._path(LAST, module.step))
            if trainer.is_global_zero:
                remove_others(self.folder, LAST, checkpoints(self.folder, LAST)[: self.keep_last])
                self._prune_best()
        self._saved_at = time.monotonic()

    def _due(self, trainer: pl.Trainer, module: LanguageModule) -> bool:
        if self.every_steps is not None and module.step % self.every_steps == 0:
            return True
        if self.every_minutes is None or module.step % module.experiment.train.log_every_steps:
            return False
        waited = time.monotonic() - self._saved_at >= 60 * self.every_minutes
        return trainer.strategy.reduce_boolean_decision(waited, all=False)

    def _path(self, role: str, step: int) -> Path:
        return self.folder / f"{role}-{step:08d}.ckpt"

    def _prune_best(self) -> None:
        """Keep the best, and what was the best at each `last` that is kept: a resumed run starts with it.

        Nothing goes where the best is missing: what is there may be all that is left.
        """
        found = checkpoints(self.folder, BEST)
        if self.best_step is None or self._path(BEST, self.best_step) not in found:
            return
        kept = {self._path(BEST, self.best_step)}
        for last in checkpoints(self.folder, LAST):
            kept |= set([path for path in found if step_of(path) <= step_of(last)][:1])  # newest first
        remove_others(self.folder, BEST, kept)
