"""`windows/*.npz`: the loss of each validation window, for comparing runs window by window."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmx.runs.files import write_atomic


@dataclass(frozen=True)
class WindowRecord:
    """One evaluation, window by window in the order of the split; one not evaluated has no tokens."""

    loss: NDArray[np.float64]  # (N,), nats, summed over the window
    tokens: NDArray[np.int64]  # (N,), targets that count
    step: int


def write_windows(path: Path, loss: ArrayLike, tokens: ArrayLike, step: int) -> Path:
    """Write the losses (N,) and token counts (N,) of an evaluation at `step`, atomically.

    Raises SpaceError when the disk is full.
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        loss=np.asarray(loss, dtype=np.float64),
        tokens=np.asarray(tokens, dtype=np.int64),
        step=np.int64(step),
    )
    return write_atomic(path, buffer.getvalue())


def read_windows(path: Path) -> WindowRecord | None:
    """Read what `write_windows` wrote; None where it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            loss, tokens, step = (arrays[name] for name in ("loss", "tokens", "step"))
            record = WindowRecord(loss.astype(np.float64), tokens.astype(np.int64), int(step))
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return record if record.loss.ndim == 1 and record.loss.shape == record.tokens.shape else None
