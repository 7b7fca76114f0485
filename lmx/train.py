"""Train an experiment, or a sweep of them: `python -m lmx.train [group=option ...] [key=value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lmx.config import Experiment


def run(experiment: Experiment, overrides: list[str]) -> int:
    """Train one experiment; return the exit status of the run."""
    from lmx.training import train

    return train(experiment, overrides=overrides).exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    from lmx.config.entry import hydra_door
    from lmx.launch import ProcessLauncher

    return hydra_door(run, module="lmx.train", launcher=ProcessLauncher, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
