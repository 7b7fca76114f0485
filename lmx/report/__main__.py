"""`python -m lmx.report RUN [RUN ...]`: render a run's report again, or compare several runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from lmx.config.door import Parser, guarded
from lmx.config.errors import LmxError
from lmx.runs import is_study, named_runs, read_run

DESCRIPTION = """\
Render reports from the records of runs. One run: its report.md and plots are written again.
Several runs, or a folder that holds several: a report that compares them is written.
A study's folder: its report is written again."""
EXAMPLES = """\
examples:
  python -m lmx.report outputs/storyworld_tiny/2025-01-31_12-00-00_1a2b3c
  python -m lmx.report outputs/storyworld_tiny                 # compare all runs in it
  python -m lmx.report RUN RUN --out outputs/comparisons/mine
  python -m lmx.report --scaling outputs/sizes                 # predict the next size"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, render, print the report's path; return the exit status."""
    return guarded(lambda: run(_parser().parse_args(argv)))


def run(arguments: argparse.Namespace) -> int:
    """Render what the arguments ask for."""
    try:
        if arguments.scaling:
            return _render_scaling(named_runs(arguments.run), arguments.out)
        if len(arguments.run) == 1 and is_study(Path(arguments.run[0]).expanduser()):
            return _render_study(Path(arguments.run[0]).expanduser(), arguments.out)
        return _render(named_runs(arguments.run), arguments.out)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LmxError(f"{error.filename}: {error.strerror}") from error


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m lmx.report",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", nargs="+", metavar="RUN", help="a run folder, or a folder that holds some")
    parser.add_argument("--out", metavar="DIR", help="where a comparison goes (OUTPUTS/comparisons/TIME)")
    parser.add_argument(
        "--scaling", action="store_true", help="fit L(N, D) = E + A / N^α + B / D^β to the runs' losses"
    )
    return parser


def _render(folders: list[Path], out: str | None) -> int:
    if len(folders) == 1:
        from lmx.report import final_table, render_run

        if out is not None:
            raise LmxError("--out: has no effect with one run, whose report stands in its own folder")
        run = read_run(folders[0])
        path = render_run(run)
        print(final_table(run))
    else:
        from lmx.report import comparison_table, render_comparison

        path = render_comparison(folders, out or _comparison_folder(folders))
        print(comparison_table(path.parent))
    print(f"\n{path}")
    return 0


def _render_study(folder: Path, out: str | None) -> int:
    from lmx.report import comparison_table, render_study

    if out is not None:
        raise LmxError("--out: has no effect with a study, whose report stands in its own folder")
    path = render_study(folder)
    print(f"{comparison_table(folder)}\n\n{path}")
    return 0


def _render_scaling(folders: list[Path], out: str | None) -> int:
    from lmx.report.scaling import render_scaling

    path = render_scaling(folders, Path(out or _comparison_folder(folders)))
    print(f"{path.read_text()}\n{path}")
    return 0


def _comparison_folder(folders: Sequence[Path]) -> Path:
    """`comparisons/<now>` in the outputs folder of the first run; beside the runs where they were moved."""
    first, name = folders[0].resolve(), Path(read_run(folders[0]).name).parts
    outputs = first.parents[len(name)] if first.parent.parts[-len(name) :] == name else None
    common = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    return (outputs or common) / "comparisons" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")


if __name__ == "__main__":
    sys.exit(main())
