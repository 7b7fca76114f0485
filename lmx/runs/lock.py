"""Who is training in a run folder: a lock that the kernel drops when its process dies, however it dies."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmx.config.errors import CheckpointError

_NAME = ".lock"
_BUSY = (errno.EACCES, errno.EAGAIN)
# this process's locks; POSIX drops one when any handle on its file closes: `held` must not open these
_ours: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Mark `folder` as being trained in by this process until `release`, or the process's end.

    The lock belongs to the process and not to its forked children: a data worker that outlives a killed
    trainer for a moment does not keep the run busy.

    Raises CheckpointError when another process holds it.
    """
    folder = folder.resolve()
    if folder in _ours:
        return
    handle = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o644)
    # a reader that is looking whether the run lives holds the lock for an instant
    for attempt in range(5):
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _BUSY or attempt == 4:
                os.close(handle)
                raise CheckpointError(f"{folder}: another process is training in this run folder") from error
            time.sleep(0.02)
        else:
            _ours[folder] = handle
            return


def release(folder: Path) -> None:
    """Give up this process's mark on `folder`, if it has one."""
    handle = _ours.pop(folder.resolve(), None)
    if handle is not None:
        os.close(handle)


@contextmanager
def taken(folder: Path) -> Iterator[None]:
    """Hold `folder`, and keep it beyond the `with` block; release it where the block ends in an error.

    Raises CheckpointError when another process holds it.
    """
    hold(folder)
    try:
        yield
    except BaseException:
        release(folder)
        raise


def held(folder: Path) -> bool:
    """Whether some process, this one included, is training in `folder`."""
    folder = folder.resolve()
    if folder in _ours:
        return True
    try:
        handle = os.open(folder / _NAME, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
