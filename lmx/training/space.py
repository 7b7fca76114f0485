"""Room on the disk: looked at before a run trains, and what threads say when there is none left."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmx.config import Experiment, SpaceError
from lmx.config.errors import disk_full
from lmx.measure import checkpoint_space

MIB = 2**20


def check_space(experiment: Experiment, outputs: Path, checkpoints: Path | None = None) -> str:
    """Say in one line what the checkpoints take at most and what is free below `outputs`.

    What lies in `checkpoints`, of a resumed run, is room too.
    Raises SpaceError when they do not fit.
    """
    settings = experiment.checkpoint
    needed = checkpoint_space(experiment.model, experiment.optimizer, settings).total
    free = shutil.disk_usage(outputs).free
    if checkpoints is not None and checkpoints.is_dir():
        free += sum(path.stat().st_size for path in checkpoints.iterdir())
    said = f"checkpoints take up to {_size(needed)}"
    if needed > free:
        raise SpaceError(
            f"paths.outputs: the disk of {outputs} has {_size(free)} free, and the {said}; allowed: another "
            f"paths.outputs, a smaller checkpoint.keep_last={settings.keep_last}, checkpoint.best=null"
        )
    return f"{said}, {_size(free)} is free"


def _size(count: float) -> str:
    return f"{count / MIB:,.1f} MiB" if count < 1024 * MIB else f"{count / MIB / 1024:,.1f} GiB"


@contextmanager
def said_once() -> Iterator[None]:
    """Let threads end on a full disk without a word: TensorBoard's raises in the main thread as well."""
    before = threading.excepthook

    def hook(error: threading.ExceptHookArgs) -> None:
        if disk_full(error.exc_value) is None:
            before(error)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
