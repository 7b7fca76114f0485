"""Whether seconds are of training: without compilation and evaluation, and with the device waited for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lmx.audit.finding import Seen
from lmx.audit.record import fact, number, pairs, setting
from lmx.measure import peak_flops
from lmx.runs import Run

COMPILATION = 0.05  # of all seconds: below it the curve over time is hardly moved
MISSING = 0.8  # share of the elapsed seconds that the timed steps must make
VISIBLE = 0.3  # an evaluation shorter than this share of a record's seconds cannot be told from noise
EVALUATIONS = 3  # fewer can be slow by chance


def includes_compilation(run: Run) -> Iterator[Seen]:
    """The first record of a compiled run holds the compiler's seconds as well."""
    rows = pairs(run, "train", "steps", "speed/step_seconds")
    if fact(run, "hardware.compile") is not True or len(rows) < EVALUATIONS + 1:
        return
    usual, total = float(np.median(rows[1:, 1])), float((rows[:, 0] * rows[:, 1]).sum())
    extra = float(rows[0, 0] * (rows[0, 1] - usual))
    if extra > COMPILATION * total:
        yield Seen(
            f"the first {rows[0, 0]:.0f} steps took {rows[0, 0] * rows[0, 1]:.1f} s, {extra:.1f} s more than "
            f"at the median rate: {extra / total:.0%} of the {total:.1f} s of training are compilation",
            "compare medians of speed/step_seconds, not seconds; or hardware.compile=off",
        )


def includes_evaluation(run: Run) -> Iterator[Seen]:
    """Records after an evaluation that last longer by just its seconds."""
    rows = pairs(run, "train", "step", "steps", "speed/step_seconds")
    evaluations = pairs(run, "val", "step", "val/seconds")
    evaluations = evaluations[evaluations[:, 0] > 0]  # the one before training stands before the first record
    if len(rows) < 4 * EVALUATIONS or len(evaluations) < EVALUATIONS:
        return
    extra = (rows[:, 2] - np.median(rows[:, 2])) * rows[:, 1]
    after = np.searchsorted(rows[:, 0], evaluations[:, 0], side="right")
    evaluations, after = evaluations[after < len(rows)], after[after < len(rows)]
    if len(after) < EVALUATIONS:
        return
    others = np.delete(extra, after)
    length = float(np.median(evaluations[:, 1]))
    if length < VISIBLE * float(np.median(rows[:, 2] * rows[:, 1])) or not len(others):
        return
    share = float(np.median(extra[after] / evaluations[:, 1]))
    if 0.8 <= share <= 1.25 and float(np.quantile(others, 0.75)) < 0.3 * length:
        yield Seen(
            f"the records after {len(after)} evaluations last {np.median(extra[after]):.2f} s longer than "
            f"the others, and an evaluation takes {length:.2f} s",
            "stop the clock while evaluating",
        )


def not_synchronised(run: Run) -> Iterator[Seen]:
    """A clock that is read before the device is done measures how fast work is handed out."""
    fix = "wait for the device before reading the clock; callbacks.throughput of lmx does"
    device, precision = fact(run, "hardware.device_name"), fact(run, "hardware.precision")
    peak = peak_flops(device, precision) if isinstance(device, str) and isinstance(precision, str) else None
    peak = (number(setting(run, "hardware.peak_tflops")) or 0) * 1e12 or peak
    rates = pairs(run, "train", "speed/tokens_per_second")[:, 0]
    per_token, devices = number(fact(run, "flops_per_token")), number(fact(run, "hardware.devices")) or 1
    if peak and per_token and len(rates) and np.median(rates) * per_token > peak * devices:
        share = np.median(rates) * per_token / (peak * devices)
        yield Seen(
            f"{np.median(rates):,.0f} tokens a second would be {share:.0%} of what {device} can "
            f"compute in {precision}",
            fix,
        )
        return
    rows = pairs(run, "train", "step", "steps", "speed/step_seconds", "seconds")
    if len(rows) <= EVALUATIONS:
        return
    elapsed, timed = rows[-1, 3] - rows[0, 3], float((rows[1:, 1] * rows[1:, 2]).sum())
    if elapsed > 0 and timed < MISSING * elapsed:
        yield Seen(
            f"the timed steps make {timed:.2f} s of the {elapsed:.2f} s that training took from step "
            f"{rows[0, 0]:,.0f} to {rows[-1, 0]:,.0f}",
            fix,
        )
