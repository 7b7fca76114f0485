"""What the differences between arms are worth: over seeds, and over the windows of the validation text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lmx.measure import lower_is_better
from lmx.measure.statistics import Interval, WindowBootstrap, difference_interval, verdict
from lmx.report.standings import BITS, LOSS, UNITS, Arm, Standing
from lmx.runs import Digest, WindowRecord, read_windows

SLACK = 0.01  # relative: packing by document gives the steps of another seed slightly more or fewer tokens
BY_CHANCE = 0.05  # of the intervals at 95 % leave zero out though there is no difference
NO_WINDOWS = "no record of single windows"


@dataclass(frozen=True)
class Difference:
    """One arm against another, `a` − `b`, in the unit of the metric."""

    a: str
    b: str
    over_seeds: Interval
    over_windows: Interval | None  # None where the windows do not tell; `why` says it
    why: str
    words: str
    outcome: str  # the same without names, for a table that has them

    @property
    def telling(self) -> Interval:
        """The interval that the verdict is taken from: over seeds, at one seed over windows."""
        return self.over_seeds if self.over_seeds.known or self.over_windows is None else self.over_windows


def differences(places: Sequence[Standing], baseline: str, metric: str, amount: float) -> list[Difference]:
    """Compare every two arms within `amount` tokens: each against the baseline, then against a better one.

    `places` by rank. First come those against the baseline, then those against the best, and so on.
    """
    windows = _Windows(places, metric, amount)
    found = []
    for better, worse in combinations(places, 2):
        a, b = (better, worse) if worse.arm.name == baseline else (worse, better)
        found.append(_difference(a, b, metric, *windows.between(a.arm.name, b.arm.name)))
    return sorted(found, key=lambda item: item.b != baseline)


def real_by_chance(found: Sequence[Difference]) -> float:
    """How many of these would seem real if there were no difference anywhere."""
    return BY_CHANCE * sum(item.telling.known for item in found)


def _difference(a: Standing, b: Standing, metric: str, over_windows: Interval | None, why: str) -> Difference:
    over_seeds = difference_interval(a.by_seed or a.values, b.by_seed or b.values)
    found = Difference(a.arm.name, b.arm.name, over_seeds, over_windows, why, "", "")
    ahead = (found.telling.estimate < 0) == lower_is_better(metric)
    better, worse = (a, b) if ahead else (b, a)
    words = verdict(
        found.telling,
        unit=UNITS.get(metric, metric),
        seeds=over_seeds.n,
        better=better.arm.name,
        worse=worse.arm.name,
    )
    outcome = _outcome(found.telling, "better" if ahead else "worse", over_seeds.known)
    return Difference(found.a, found.b, over_seeds, over_windows, why, words, outcome)


def _outcome(telling: Interval, side: str, several: bool) -> str:
    if not telling.known:
        return "not known at one seed"
    if not telling.excludes_zero:
        return "no difference shown"
    return side if several else f"{side} on this text; one seed"


class _Windows:
    """Each arm on the windows of the validation split, its mean over seeds; their files are read once."""

    def __init__(self, places: Sequence[Standing], metric: str, amount: float) -> None:
        self._why: dict[str, str] = {}  # arm → why its windows do not tell
        self._place: dict[str, tuple[WindowBootstrap, int]] = {}
        groups: dict[bytes, dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]] = {}
        for place in places:
            found = _of_arm(place.arm, metric, amount)
            if isinstance(found, str):
                self._why[place.arm.name] = found
            else:
                groups.setdefault(found[1].tobytes(), {})[place.arm.name] = found
        for arms in groups.values():  # the same windows: one resampling serves all of them
            losses, tokens = zip(*arms.values(), strict=True)
            bootstrap = WindowBootstrap(np.stack(losses), tokens[0])
            self._place |= {name: (bootstrap, row) for row, name in enumerate(arms)}

    def between(self, a: str, b: str) -> tuple[Interval | None, str]:
        """Return the interval of a − b, or None and the reason."""
        for name in (a, b):
            if name in self._why:
                return None, self._why[name]
        (bootstrap, first), (other, second) = self._place[a], self._place[b]
        if bootstrap is not other:
            return None, "different windows"
        return bootstrap.difference(first, second), ""


def _of_arm(arm: Arm, metric: str, amount: float) -> tuple[NDArray[np.float64], NDArray[np.int64]] | str:
    """Return loss (N,), in the unit of the metric, and tokens (N,) of each window; or why there are none."""
    if metric not in UNITS:
        return "windows have a loss alone"
    records: list[WindowRecord] = []
    for run in arm.runs:
        record = read_windows(run.run.folder.windows / "best.npz")
        if record is None or not record.tokens.any():
            return NO_WINDOWS
        if _tokens_at(run, record.step) > amount * (1 + SLACK):
            return "the best evaluation lies beyond the budget"
        if records and not np.array_equal(records[0].tokens, record.tokens):
            return "different windows"
        records.append(record)
    scale = _per_nat(arm.runs[0], metric)
    if scale is None:
        return NO_WINDOWS
    return np.mean([record.loss for record in records], axis=0) * scale, records[0].tokens


def _tokens_at(run: Digest, step: int) -> float:
    """Tokens trained on at an evaluation; infinite where there is none at `step`."""
    return next((line["tokens"] for line in run.run.of_kind("val") if line["step"] == step), math.inf)


def _per_nat(run: Digest, metric: str) -> float | None:
    """The metric's units in a nat per token: 1, or what makes bits per byte of this split and tokenizer."""
    if metric == LOSS:
        return 1.0
    for line in reversed(run.run.of_kind("val")):
        if line.get(LOSS) and line.get(BITS):
            return float(line[BITS] / line[LOSS])
    return None
