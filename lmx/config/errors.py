"""The errors that users see: one line each, and the exit status of the command that meets them."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class LmxError(Exception):
    """Root of every error that is the user's or the machine's doing and not a bug in lmx.

    The command line prints its text without a traceback and exits with `exit_status`.
    """

    exit_status = 2


class ConfigError(LmxError):
    """The configuration cannot be run: an unknown key, a wrong type, values that contradict each other."""


class DataError(LmxError):
    """A corpus or tokenizer is missing, unreadable, empty, or not what the configuration says."""


class CheckpointError(LmxError):
    """A checkpoint or run folder is missing, damaged, or belongs to another experiment."""


class NonFiniteError(LmxError):
    """A loss or gradient became NaN or infinite; the weights were not touched."""

    exit_status = 3


class RankError(LmxError):
    """Another process of a distributed run ended before this one."""

    exit_status = 1


class SpaceError(LmxError):
    """The disk is full."""

    exit_status = 4


# what the operating system says of a disk, a quota or a limit that is reached
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_full(error: BaseException | None) -> OSError | None:
    """Return the operating system's "disk full" behind an error; torch, for one, raises another on top."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return error
        error = error.__cause__ or error.__context__
    return None


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest allowed name, or an empty string."""
    match = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.55)
    return f"; did you mean '{match[0]}'?" if match else ""


def bad_choice(key: str, got: object, allowed: Iterable[str]) -> str:
    """One line for a value outside a closed set: what, got, allowed, nearest."""
    names = list(allowed)
    return f"{key}: got {got!r}, allowed: {', '.join(names)}{nearest(str(got), names)}"
