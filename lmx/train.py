"""Train an experiment, or a sweep of them: `python -m lmx.train [group=option ...] [key=value ...]`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmx.config import Experiment

if TYPE_CHECKING:
    from lmx.runs import RunFolder

# read when torch is imported; a value that is set already stays
ENVIRONMENT = {
    # threads wait a short while before they sleep: as fast on idle cores, and several times as fast
    # as OpenMP's long spinning where another process wants a core
    "GOMP_SPINCOUNT": "10000",
}


def run(experiment: Experiment, overrides: list[str]) -> int:
    """Train one experiment and report; return the exit status of the run."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from lmx.training import record_test, requeue, train

    outcome = train(experiment, overrides, render_report)
    folder = outcome.folder
    if outcome.exit_status:
        from lmx.report import render_run
        from lmx.runs import read_run

        render_run(read_run(folder.path))
        print(
            f"\ninterrupted at step {outcome.step}; continue with\n  python -m lmx.train resume={folder.path}"
        )
        if outcome.exit_status == 128 + signal.SIGUSR1 and (said := requeue(experiment.resume is not None)):
            print(said, flush=True)
    else:
        record_test(folder.path)
        conclude(folder)
    return outcome.exit_status


def render_report(run: Path) -> None:
    """Render the report of a run that goes on, in a process of its own: its memory and errors stay there."""
    command = [sys.executable, "-m", "lmx.report", str(run)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        print(f"report: not rendered ({reason})", file=sys.stderr, flush=True)


def conclude(folder: RunFolder) -> None:
    """Render the report of a finished run; print its figures, what it writes, and where everything is."""
    from lmx.report import final_table, render_run
    from lmx.runs import read_run

    finished = read_run(folder.path)
    report = render_run(finished)
    print(f"\n{final_table(finished)}")
    if finished.samples:
        sample = finished.samples[-1]
        print("\nSample\n")
        for line in (sample["prompt"] + sample["text"]).splitlines():
            print(textwrap.fill(line, 78, initial_indent="  ", subsequent_indent="  "))
    print(f"\nRun     {folder.path}\nReport  {report}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    from lmx.config.entry import hydra_door
    from lmx.launch import ProcessLauncher

    return hydra_door(run, module="lmx.train", launcher=ProcessLauncher, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
