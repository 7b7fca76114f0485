"""Who is ahead at an equal budget, and what the differences are worth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lmx.measure import lower_is_better
from lmx.measure.statistics import Interval, difference_interval, mean_interval, paired_bootstrap, verdict
from lmx.runs import Digest, read_windows

BUDGETS = {"tokens": "tokens", "flops": "FLOPs", "seconds": "training time"}
BITS, LOSS = "val/bits_per_byte", "val/loss"
SLACK = 0.01  # relative: packing by document gives the steps of another seed slightly more or fewer tokens
UNITS = {BITS: "bits/byte", LOSS: "nats/token"}


@dataclass(frozen=True)
class Arm:
    """One configuration, and its runs with different seeds."""

    name: str
    runs: tuple[Digest, ...]

    @property
    def seeds(self) -> list[int]:
        """The seed of each run."""
        return [seed_of(run) for run in self.runs]


@dataclass(frozen=True)
class Reached:
    """What a run reached within a budget."""

    best: float  # the best evaluation up to it
    end: float  # at its end


@dataclass(frozen=True)
class Standing:
    """An arm's place: what its runs reached within a budget that all runs of the comparison had."""

    arm: Arm
    rank: int
    best: Interval  # over seeds
    end: Interval
    by_seed: dict[int, float] = field(default_factory=dict)  # seed → best; empty where seeds repeat


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


def seed_of(run: Digest) -> int:
    """The seed that a run was trained with; −1 where its record does not say."""
    seed = run.run.config.get("seed", run.run.identity.get("seed"))
    return seed if isinstance(seed, int) else -1


def curve(run: Digest, metric: str, budget: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (spent (N,), value (N,)) of the evaluations, both finite, by what was spent."""
    lines = run.run.of_kind("val")
    pairs = np.array([(line.get(budget), line.get(metric)) for line in lines], dtype=np.float64).reshape(
        -1, 2
    )
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    return pairs[:, 0], pairs[:, 1]


def common_budget(runs: Sequence[Digest], metric: str, budget: str) -> float | None:
    """Return the largest budget that every run reached with an evaluation; None where one never began."""
    ends = [spent[-1] if len(spent) else 0.0 for spent, _ in (curve(run, metric, budget) for run in runs)]
    return float(min(ends)) if ends and min(ends) > 0 else None


def within(run: Digest, metric: str, budget: str, amount: float) -> Reached:
    """Return what `run` reached within `amount`: its curve is interpolated between two evaluations.

    Raises ValueError where it spent less.
    """
    spent, values = curve(run, metric, budget)
    if not len(spent) or spent[-1] < amount * (1 - 1e-9):
        raise ValueError(f"{run.path}: reached {spent[-1:]} of {amount} {budget}")
    end = float(np.interp(amount, spent, values))
    up_to = [*values[spent <= amount].tolist(), end]
    return Reached(min(up_to) if lower_is_better(metric) else max(up_to), end)


def standings(
    arms: Sequence[Arm], metric: str, budget: str = "tokens"
) -> tuple[list[Standing], float | None]:
    """Rank `arms` by the mean over seeds of the best evaluation within the largest common `budget`.

    Returns the standings, the best first, and that budget; none where it is not known.
    """
    runs = [run for arm in arms for run in arm.runs]
    amount = common_budget(runs, metric, budget)
    if amount is None:
        return [], None
    found = []
    for arm in arms:
        reached = [within(run, metric, budget, amount) for run in arm.runs]
        by_seed = dict(zip(arm.seeds, [r.best for r in reached], strict=True))
        best, end = (mean_interval([getattr(r, name) for r in reached]) for name in ("best", "end"))
        found.append(Standing(arm, 0, best, end, by_seed if len(by_seed) == len(arm.runs) else {}))
    sign = 1 if lower_is_better(metric) else -1
    found.sort(key=lambda standing: sign * standing.best.estimate)
    return [replace(place, rank=rank) for rank, place in enumerate(found, start=1)], amount


def differences(
    places: Sequence[Standing], baseline: str, metric: str, amount: float
) -> Iterator[Difference]:
    """Yield each arm against the baseline, in the order of the standings."""
    base = next((place for place in places if place.arm.name == baseline), None)
    for place in places if base is not None else ():
        if place is not base:
            assert base is not None
            yield difference(place, base, metric, amount)


def difference(a: Standing, b: Standing, metric: str, amount: float) -> Difference:
    """Compare two arms over their seeds, paired where both have the same, and over evaluation windows."""
    over_seeds = difference_interval(
        a.by_seed or _values(a, metric, amount), b.by_seed or _values(b, metric, amount)
    )
    over_windows, why = _over_windows(a.arm, b.arm, metric, amount)
    telling = over_seeds if over_seeds.known or over_windows is None else over_windows
    ahead = (telling.estimate < 0) == lower_is_better(metric)
    better, worse = (a, b) if ahead else (b, a)
    words = verdict(
        telling,
        unit=UNITS.get(metric, metric),
        seeds=over_seeds.n,
        better=better.arm.name,
        worse=worse.arm.name,
    )
    outcome = _outcome(telling, "better" if ahead else "worse", over_seeds.known)
    return Difference(a.arm.name, b.arm.name, over_seeds, over_windows, why, words, outcome)


def _outcome(telling: Interval, side: str, several: bool) -> str:
    if not telling.known:
        return "not known at one seed"
    if not telling.excludes_zero:
        return "no difference shown"
    return side if several else f"{side} on this text; one seed"


def _values(place: Standing, metric: str, amount: float) -> list[float]:
    return [within(run, metric, "tokens", amount).best for run in place.arm.runs]


def _over_windows(a: Arm, b: Arm, metric: str, amount: float) -> tuple[Interval | None, str]:
    """Bootstrap the difference over the windows of the validation split, each arm's mean over its seeds."""
    if metric not in UNITS:
        return None, "windows have a loss alone"
    losses: list[np.ndarray] = []
    tokens: np.ndarray | None = None
    scale: float | None = None
    for arm in (a, b):
        rows = []
        for run in arm.runs:
            record = read_windows(run.run.folder.windows / "best.npz")
            if record is None:
                return None, "no record of single windows"
            if _tokens_at(run, record.step) > amount * (1 + SLACK):
                return None, "the best evaluation lies beyond the budget"
            if tokens is not None and not np.array_equal(tokens, record.tokens):
                return None, "different windows"
            tokens = record.tokens
            rows.append(record.loss)
            scale = _per_nat(run, metric) if scale is None else scale
        losses.append(np.mean(rows, axis=0))
    if tokens is None or scale is None:
        return None, "no record of single windows"
    found = paired_bootstrap(losses[0], losses[1], tokens)
    return Interval(found.estimate * scale, found.low * scale, found.high * scale, found.n, found.level), ""


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
