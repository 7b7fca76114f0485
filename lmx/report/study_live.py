"""A study that runs: its jobs, how they stand and what they cost; its report, rendered in between."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from pathlib import Path

from lmx.report.text import MISSING, amount, plain_table, show
from lmx.runs.studies import JOB_STATUSES, JobState
from lmx.runs.work import Work

RENDER_SHARE = 0.1  # of the time; the report is rendered less often where it would take more


def listing(work: Work) -> str:
    """Return a table of the jobs: how they stand, and their cost."""
    rows = []
    for number, (job, cost) in enumerate(zip(work.jobs, work.costs, strict=True), start=1):
        sizes: tuple[str, ...] = ("?",) * 4
        if cost is not None:
            steps, flops = show(cost.steps, ","), show(cost.flops, ".3g")
            known = (amount(cost.parameters.total), steps, amount(cost.tokens), flops)
            sizes = tuple("?" if size == MISSING else size for size in known)
        rows.append([str(number), job.arm, str(job.seed), _place(work.state(job)), *sizes])
    headers = ["job", "arm", "seed", "state", "parameters", "steps", "tokens", "FLOPs"]
    each = [None if cost is None else cost.flops for cost in work.costs]
    if None in each:
        total = "?: known once the corpus is prepared"
    else:
        total = f"{sum(filter(None, each)):.3g} FLOPs of training in all"
    return "\n".join(
        [
            work.study.question,
            "",
            plain_table(headers, rows, left=(1, 3)),
            "",
            f"{total}; {work.folder}",
            f"one of them in full: python -m lmx.plan {shlex.join(work.jobs[0].overrides[:-1])}",
        ]
    )


def counted(states: Counter[str]) -> str:
    """Say how many jobs stand how: ``3 completed, 1 failed``."""
    return ", ".join(f"{states[name]} {name}" for name in JOB_STATUSES if states[name])


def _place(state: JobState) -> str:
    begun = state.step and state.status != "completed"
    return f"{state.status} at step {state.step:,}" if begun else state.status


class Rendering:
    """Renders the study's report while it runs, within a share of the time; a fault there ends no study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds = 0.0
        self.ended = -float("inf")

    def after_a_job(self) -> None:
        """Render, unless it was done a short while ago for its cost."""
        if time.monotonic() - self.ended < self.seconds / RENDER_SHARE:
            return
        try:
            self._render()
        except Exception as error:  # whatever it is, the jobs to come matter more; the last time it is raised
            print(f"  the report could not be rendered ({type(error).__name__}: {error})", file=sys.stderr)

    def at_the_end(self) -> None:
        """Render, and let an error through."""
        self._render()

    def _render(self) -> None:
        from lmx.report import render_study

        begun = time.monotonic()
        render_study(self.folder)
        self.ended = time.monotonic()
        self.seconds = self.ended - begun
