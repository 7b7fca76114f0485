"""What an experiment will take, before anything is built: `python -m lmx.plan [overrides]`.

Parameters, FLOPs, tokens, memory, disk, time and learning rates follow from the configuration alone, and from
the prepared corpus where there is one. torch is imported only to measure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lmx.config.door import Parser, guarded


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m lmx.plan",
        description="Say what an experiment will take, before anything is built: parameters, FLOPs, tokens, "
        "memory, disk, time, learning rates.",
        epilog="example: python -m lmx.plan model=rope_4l data=wikitext2 train.horizon=10epochs",
        allow_abbrev=False,
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="overrides, as python -m lmx.train takes"
    )
    parser.add_argument(
        "--measure", action="store_true", help="multiply matrices for half a second to estimate time"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    return guarded(lambda: run(_parser().parse_intermixed_args(argv)))


def run(arguments: argparse.Namespace) -> int:
    """Compose, estimate and print."""
    from lmx.config.compose import compose
    from lmx.measure.estimate import estimate, measured_rate
    from lmx.report.plan_table import plan_rows, plan_table

    known = estimate(compose(arguments.overrides))
    rate = measured_rate(known.experiment.hardware) if arguments.measure else None
    print(plan_table(known.experiment.name, plan_rows(known, rate)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
