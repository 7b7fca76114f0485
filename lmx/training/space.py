"""Room on the disk for the checkpoints that a run will keep, looked at before it trains."""

from __future__ import annotations

import shutil
from pathlib import Path

from lmx.config import Experiment, SpaceError
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
