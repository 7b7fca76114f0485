"""The other ranks of a distributed run: `python -m lmx.training.rank RUN`, started by rank 0."""

from __future__ import annotations

import sys

from lmx.config import NonFiniteError
from lmx.config.door import guarded
from lmx.runs import RunFolder
from lmx.training.fit import fit_rank


def main(run: str) -> int:
    """Take part in a run; return the exit status."""
    return guarded(lambda: _fit(run))


def _fit(run: str) -> int:
    try:
        fit_rank(RunFolder.open(run))
    except NonFiniteError as error:  # all ranks raise it together, and rank 0 tells of it
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
