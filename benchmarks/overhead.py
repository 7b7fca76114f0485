"""What lies between two updates: `python -m benchmarks.overhead`.

Lightning's loop, the loader, callbacks and loggers run between the end of one training step and the start of
the next. Two clocks stand around that passage: CPU seconds of its thread, which other processes on the
machine hardly change, and wall seconds. The default experiment runs as it comes and without callbacks and
logger, in turns, each in a process of its own. Evaluations and the first steps are not counted.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.results import environment, write

STEPS, WARM, ROUNDS = 70, 10, 3
SIDES = {"as it comes": [], "unmeasured": ["callbacks=none", "logger=none"]}


def main() -> None:
    """Print and write one row a side."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(ROUNDS):
        for side, overrides in SIDES.items():
            found[side].append(run(overrides))
    lines = [
        f"{environment()}; the default model, {ROUNDS} rounds of {STEPS - WARM} steps in turns\n",
        "| side | step, ms | between two, CPU ms, mean (rounds) | wall ms, median | share of the step |",
        "|---|--:|--:|--:|--:|",
    ]
    for side, rounds in found.items():
        step, cpu, wall = ([one[name] for one in rounds] for name in ("step", "cpu", "wall"))
        mean, spread = statistics.fmean(cpu), f"{min(cpu):.2f}–{max(cpu):.2f}"
        middle, between = statistics.median(step), statistics.median(wall)
        lines.append(
            f"| {side} | {middle:.1f} | {mean:.2f} ({spread}) | {between:.2f} | {mean / middle:.2%} |"
        )
    page = "\n".join(lines)
    print(page)
    print(write("overhead", f"# Between two updates\n\n{page}"))


def run(overrides: list[str]) -> dict[str, float]:
    """Return the milliseconds of a run's steps, and of what lies between them on both clocks."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.overhead", "--run", *overrides]
        command += [f"train.horizon={STEPS}steps", f"train.eval_every_steps={STEPS}", "schedule=constant"]
        command += ["train.eval_at_start=false", f"paths.outputs={folder}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def train(overrides: list[str]) -> None:
    """Train with clocks around each step; print what they showed."""
    import os

    from lmx.train import ENVIRONMENT

    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from lmx.config.compose import compose
    from lmx.training import train
    from lmx.training.module import LanguageModule

    marks: list[tuple[float, float]] = []
    plain = LanguageModule.training_step

    def timed(self: LanguageModule, *arguments: Any) -> None:
        marks.append((time.thread_time(), time.perf_counter()))
        plain(self, *arguments)
        marks.append((time.thread_time(), time.perf_counter()))

    LanguageModule.training_step = timed  # type: ignore[method-assign]
    train(compose(overrides))
    counted = marks[2 * WARM :]
    pairs = list(zip(counted[1::2], counted[2::2], strict=False))  # an end, and the start after it
    total = counted[-2][1] - counted[0][1]
    between = {
        "step": total / (len(counted) / 2 - 1),
        "cpu": statistics.fmean(start[0] - end[0] for end, start in pairs),
        "wall": statistics.median(start[1] - end[1] for end, start in pairs),
    }
    print(json.dumps({name: 1000 * seconds for name, seconds in between.items()}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        train(sys.argv[2:])
    else:
        main()
