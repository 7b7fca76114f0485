"""The columns of every table: to add one, add one row to COLUMNS."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from lmx.runs import Run

Record = dict[str, Any]


@dataclass(frozen=True)
class Interval:
    """The records between two rows of the table over training, and the evaluation that ends it."""

    epoch: str
    whole_epoch: bool  # False: from one evaluation to the next
    task: str
    train: list[Record]
    evaluation: Record | None
    seconds: float | None  # of training

    @property
    def step(self) -> int:
        """The last step of the interval."""
        return max(int(line["step"]) for line in (*self.train[-1:], self.evaluation) if line is not None)


Read = Callable[[Interval], Any]


@dataclass(frozen=True)
class Column:
    """One column: its title, how its value is read from an interval, and how it is shown.

    A column with a `key` (the name in a record) also has a row in the table of best and final values,
    where `better` says which way is best.
    """

    title: str
    read: Read
    spec: str = ""
    key: str | None = None
    unit: str = ""
    better: Literal["low", "high"] | None = None
    over_time: bool = True  # whether it stands in the table over training


def mean(key: str, weight: str = "steps") -> Read:
    """Mean over the records of the interval, weighted by the updates or by the tokens that each covers."""

    def read(interval: Interval) -> float | None:
        pairs = [(line[key], line.get(weight, 1)) for line in interval.train if line.get(key) is not None]
        total = sum(size for _, size in pairs)
        return sum(value * size for value, size in pairs) / total if total else None

    return read


def exp_mean(key: str) -> Read:
    """exp of the mean: PI of the mean entropy and the mean gradient norm, as family A defines it."""
    logarithm = mean(key)

    def read(interval: Interval) -> float | None:
        value = logarithm(interval)
        return None if value is None else math.exp(value)

    return read


def total(key: str) -> Read:
    """Sum over the records of the interval."""

    def read(interval: Interval) -> float | None:
        values = [line[key] for line in interval.train if line.get(key) is not None]
        return sum(values) if values else None

    return read


def last(key: str) -> Read:
    """The last recorded value of the interval."""
    return lambda interval: next(
        (line[key] for line in reversed(interval.train) if line.get(key) is not None), None
    )


def evaluated(key: str) -> Read:
    """The value of the evaluation at the interval's end."""
    return lambda interval: None if interval.evaluation is None else interval.evaluation.get(key)


def _train(title: str, name: str, spec: str, unit: str = "", **more: Any) -> Column:
    key = f"train/{name}"
    return Column(title, more.pop("read", mean(key)), spec, key, unit, **more)


def _val(title: str, name: str, spec: str, unit: str = "", **more: Any) -> Column:
    key = f"val/{name}"
    return Column(title, evaluated(key), spec, key, unit, **more)


NATS = "nats/token"
BITS = "bits/byte"
COLUMNS: tuple[Column, ...] = (
    Column("Epoch", lambda interval: interval.epoch),
    Column("Task", lambda interval: interval.task),
    Column("Step", lambda interval: interval.step, ","),
    _train("Train Loss", "loss", ".4f", NATS, better="low", read=mean("train/loss", "_tokens")),
    _train("Train L_cos", "cosine", ".4f", "1 − cos", better="low", read=mean("train/cosine", "_tokens")),
    _train("LR", "lr", ".2e", read=last("train/lr")),
    _train("PI", "pi", ".3g", better="high", read=exp_mean("train/log_pi")),
    _train("log PI", "log_pi", ".4f", better="high"),
    _train("Eff. Gamma", "effective_gamma", ".4f"),
    _train("Entropy", "entropy", ".4f", NATS),
    _train("Grad Norm", "grad_norm", ".4f"),
    _train("Grad Norm CE", "grad_norm_cross_entropy", ".4f"),
    _train("Grad Norm L_cos", "grad_norm_cosine", ".4f"),
    _train("Skipped Updates", "skipped", ".0f", read=total("train/skipped")),
    _train("Train Accuracy", "accuracy", ".4f", better="high", over_time=False),
    Column("Epoch Time (s)", lambda interval: interval.seconds if interval.whole_epoch else None, ".1f"),
    Column("Time (s)", lambda interval: None if interval.whole_epoch else interval.seconds, ".1f"),
    Column("Peak GPU Mem (MiB)", last("memory/peak_allocated_mib"), ",.1f"),
    Column("Peak RSS (MiB)", last("memory/peak_rss_mib"), ",.1f"),
    _val("Eval Loss", "loss", ".4f", NATS, better="low"),
    _val("Eval L_cos", "cosine", ".4f", "1 − cos", better="low"),
    _val("Eval Perplexity", "perplexity", ",.2f", "per token", better="low"),
    _val("Eval Bits/Byte", "bits_per_byte", ".4f", BITS, better="low"),
    _val("Excess over Floor", "excess_bits_per_byte", ".4f", BITS, better="low", over_time=False),
    _val("Eval Word Perplexity", "word_perplexity", ",.2f", "per word", better="low", over_time=False),
    _val("Eval Entropy", "entropy", ".4f", NATS, over_time=False),
    _val("Eval Accuracy", "accuracy", ".4f", better="high", over_time=False),
    _val("Eval Top-5 Accuracy", "accuracy_top5", ".4f", better="high", over_time=False),
    _val("Eval Confidence", "confidence", ".4f", over_time=False),
)


@dataclass(frozen=True)
class Extreme:
    """Best and final value of one column, each with its step; no best where neither way is better."""

    column: Column
    best: float | None
    best_step: int | None
    final: float
    final_step: int


def extremes(run: Run) -> list[Extreme]:
    """Return best and final of every column with a key that the run has recorded."""
    found = []
    for column in COLUMNS:
        if column.key is None:
            continue
        steps, values = run.series(column.key)
        if not len(steps):
            continue
        best = best_index(values, column.better)
        found.append(
            Extreme(
                column,
                None if best is None else float(values[best]),
                None if best is None else int(steps[best]),
                float(values[-1]),
                int(steps[-1]),
            )
        )
    return found


def best_index(values: ArrayLike, better: Literal["low", "high"] | None) -> int | None:
    """Index of the first best value by its own direction; NaN is never best."""
    array = np.asarray(values, dtype=np.float64)
    if better is None or np.isnan(array).all():
        return None
    return int(np.nanargmin(array) if better == "low" else np.nanargmax(array))


def intervals(run: Run) -> list[Interval]:
    """Cut a run into the rows of its table: an epoch each, or an evaluation each where those are more."""
    train, evaluations = _weighted(run.of_kind("train")), run.of_kind("val")
    epochs = {_epoch(line) for line in train}
    by_epoch = sum(line["step"] > 0 for line in evaluations) <= len(epochs)
    groups = _by_epoch(train, evaluations) if by_epoch else _by_evaluation(train, evaluations)
    task = str((run.config.get("data") or {}).get("name", ""))
    rows, before = [], 0.0
    for label, lines, evaluation in groups:
        until = lines[-1].get("seconds") if lines else None
        seconds = None if until is None else until - before
        rows.append(Interval(label, by_epoch, task, lines, evaluation, seconds))
        before = until if until is not None else before
    return rows


Group = tuple[str, list[Record], Record | None]


def _by_evaluation(train: list[Record], evaluations: list[Record]) -> Iterator[Group]:
    start = 0
    for line in evaluations:
        end = start
        while end < len(train) and train[end]["step"] <= line["step"]:
            end += 1
        yield f"{line.get('epoch', 0):.2f}", train[start:end], line
        start = end
    if start < len(train):
        yield f"{train[-1].get('epoch', 0):.2f}", train[start:], None


def _by_epoch(train: list[Record], evaluations: list[Record]) -> Iterator[Group]:
    lines: dict[int, list[Record]] = {}
    for line in train:
        lines.setdefault(_epoch(line), []).append(line)
    ends = {_epoch(line): line for line in evaluations}  # the last of each epoch
    for epoch in sorted({*lines, *ends}):
        yield str(epoch), lines.get(epoch, []), ends.get(epoch)


def _epoch(line: Record) -> int:
    """The epoch, from 1, that a record belongs to; 0 before training. Records count passes made so far."""
    return math.ceil(line.get("epoch", 0) - 1e-9)


def _weighted(train: list[Record]) -> list[Record]:
    """Add to each record the tokens that it covers."""
    before = 0
    weighted = []
    for line in train:
        tokens = line.get("tokens", before)
        weighted.append({**line, "_tokens": tokens - before})
        before = tokens
    return weighted
