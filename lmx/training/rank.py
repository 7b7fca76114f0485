"""The other ranks of a distributed run: `python -m lmx.training.rank RUN PID`; PID is rank 0, its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from lmx.config import NonFiniteError
from lmx.config.door import guarded
from lmx.runs import RunFolder
from lmx.training.fit import fit_rank

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def main(run: str, rank_0: int) -> int:
    """Take part in a run; return the exit status."""
    _end_with(rank_0)
    return guarded(lambda: _fit(run))


def _end_with(rank_0: int) -> None:
    """Be killed when rank 0 is: ranks that look for each other notice that after half an hour.

    Nothing is lost, as rank 0 alone writes. Where there is no prctl, only what happened so far is noticed.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != rank_0:  # it ended while this process was starting
        os.kill(os.getpid(), signal.SIGKILL)


def _fit(run: str) -> int:
    try:
        fit_rank(RunFolder.open(run))
    except NonFiniteError as error:  # all ranks raise it together, and rank 0 tells of it
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
