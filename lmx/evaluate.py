"""Evaluate a trained run on a whole split: `python -m lmx.evaluate RUN --split test`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence


def parser() -> argparse.ArgumentParser:
    """Return the command line of this door."""
    from lmx.config.door import Parser

    line = Parser(prog="python -m lmx.evaluate", description="Evaluate a trained run on a whole split, once.")
    line.add_argument("run", metavar="RUN", help="a run folder")
    line.add_argument("--split", default="validation", help="validation (default), test or train")
    line.add_argument("--checkpoint", metavar="FILE", help="a checkpoint file instead of the run's best")
    line.add_argument(
        "--batch-size", type=int, metavar="N", help="sequences a pass; the result does not depend on it"
    )
    line.add_argument("--json", action="store_true", help="print one JSON object")
    return line


def run(arguments: argparse.Namespace) -> int:
    """Print the measures of the split."""
    from lmx.measure import digits
    from lmx.training.evaluate import evaluate_run

    values = evaluate_run(
        arguments.run,
        arguments.split,
        checkpoint=arguments.checkpoint,
        batch_size=arguments.batch_size,
        say=lambda text: print(text, file=sys.stderr),
    )
    if arguments.json:
        print(json.dumps(values, indent=2))
    else:
        width = max(map(len, values))
        for name, value in values.items():
            print(f"{name:<{width}}  {digits(value, ',.6f')}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    from lmx.config.door import guarded

    return guarded(lambda: run(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
