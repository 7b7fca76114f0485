"""Who is ahead at an equal budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmx.measure import lower_is_better
from lmx.measure.statistics import Interval, mean_interval
from lmx.runs import Digest

BUDGETS = {"tokens": "tokens", "flops": "FLOPs", "seconds": "training time"}
BITS, LOSS = "val/bits_per_byte", "val/loss"
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
    values: tuple[float, ...]  # the best of each run, which `best` is the mean of

    @property
    def by_seed(self) -> dict[int, float]:
        """Seed → best; empty where seeds repeat."""
        found = dict(zip(self.arm.seeds, self.values, strict=True))
        return found if len(found) == len(self.values) else {}


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


def has_begun(run: Digest, metric: str) -> bool:
    """Whether there is a finite evaluation after step 0: without one a run says nothing about training."""
    spent, _ = curve(run, metric, "tokens")
    return bool(len(spent) and spent[-1] > 0)


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
        values = tuple(item.best for item in reached)
        end = mean_interval([item.end for item in reached])
        found.append(Standing(arm, 0, mean_interval(values), end, values))
    sign = 1 if lower_is_better(metric) else -1
    found.sort(key=lambda standing: sign * standing.best.estimate)
    return [replace(place, rank=rank) for rank, place in enumerate(found, start=1)], amount
