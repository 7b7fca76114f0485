"""The other ranks of a distributed run: `python -m lmx.training.rank RUN`, started by rank 0."""

from __future__ import annotations

import sys

from lmx.runs import RunFolder
from lmx.training.fit import fit_rank

if __name__ == "__main__":
    fit_rank(RunFolder.open(sys.argv[1]))
