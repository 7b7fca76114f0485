"""Reading a run's record without trusting it: what is missing or of another kind is None."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmx.config import ConfigError, Experiment, ModelConfig, ScheduleConfig
from lmx.config.validate import validate
from lmx.runs import Run, WindowRecord, read_windows


def label(run: Run) -> str:
    """Name a run as its folder lies below the outputs: `<experiment>/<time>`."""
    return f"{run.name}/{run.path.name}"


def setting(run: Run, key: str) -> Any:
    """Return a value of the configuration by its dotted key; None where there is none."""
    return inside(run.config, key)


def fact(run: Run, key: str) -> Any:
    """Return a value of run.json by its dotted key; None where there is none."""
    return inside(run.identity, key)


def inside(value: Any, key: str) -> Any:
    """Follow a dotted key into nested dicts."""
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def number(value: Any) -> float | None:
    """Return a finite number as a float; None for anything else, true and false included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def numbers(run: Run, name: str, kind: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (steps, finite values) of a measure; empty where it holds anything else than numbers."""
    try:
        steps, values = run.series(name, kind)
    except (TypeError, ValueError):
        return np.empty(0, np.int64), np.empty(0)
    kept = np.isfinite(values)
    return steps[kept], values[kept]


def pairs(run: Run, kind: str, *names: str) -> np.ndarray:
    """Return (N, len(names)) of the records of `kind` that have a finite number for every name.

    Empty where they hold anything else than numbers.
    """
    try:
        rows = np.stack([run.column(name, kind).reshape(-1) for name in names], axis=1)
    except (TypeError, ValueError, OverflowError):
        return np.empty((0, len(names)))
    return rows[np.isfinite(rows).all(axis=1)]


def experiment_of(run: Run) -> Experiment | None:
    """Return the configuration as lmx reads it today; None where it would refuse it."""
    try:
        return validate(run.config)
    except ConfigError:
        return None


def schedule_of(run: Run) -> ScheduleConfig | None:
    """Return the schedule, if the configuration holds a complete and valid one."""
    return _section(run, "schedule", ScheduleConfig)


def model_of(run: Run) -> ModelConfig | None:
    """Return the model, if the configuration holds a complete and valid one."""
    return _section(run, "model", ModelConfig)


def _section(run: Run, name: str, schema: type) -> Any:
    values = setting(run, name)
    if not isinstance(values, dict):
        return None
    known = {spec.name for spec in dataclasses.fields(schema)}
    given = {key: value for key, value in values.items() if key in known}
    return _built(schema, json.dumps(given, default=str, skipkeys=True))


@lru_cache(maxsize=128)  # several checks ask for it, in every run of a study, and building takes 2 ms
def _built(schema: type, given: str) -> Any:
    try:
        values = OmegaConf.merge(OmegaConf.structured(schema), json.loads(given))
        section: Any = OmegaConf.to_object(values)
        return None if list(section.problems()) else section
    except (OmegaConfBaseException, TypeError, ValueError, AttributeError):
        return None


def steps_done(run: Run) -> int:
    """The last step with a record."""
    return max((int(line["step"]) for line in run.lines), default=0)


def tokens_seen(run: Run) -> float | None:
    """Targets trained on."""
    return number(run.last("tokens"))


def vocabulary(run: Run) -> int | None:
    """The vocabulary that the model predicts over."""
    found = number(setting(run, "model.vocab_size")) or number(fact(run, "data.tokenizer.vocab_size"))
    return None if found is None or found < 2 else int(found)


def passes(run: Run) -> float | None:
    """How often the corpus was seen: by epochs, or by tokens where windows overlap and an epoch is many."""
    tokens, corpus = tokens_seen(run), number(fact(run, "data.splits.train.tokens"))
    by_tokens = tokens / corpus if tokens is not None and corpus else None
    found = [value for value in (number(run.last("epoch")), by_tokens) if value is not None]
    return max(found, default=None)


def targets(entry: Any) -> str:
    """The class that an entry of the configuration names, without its module; empty where it names none."""
    name = entry.get("_target_") if isinstance(entry, dict) else None
    return name.rpartition(".")[2] if isinstance(name, str) else ""


def windows(run: Run, name: str) -> WindowRecord | None:
    """Return `windows/<name>.npz`, name being best or last; None where it is missing or damaged."""
    return read_windows(run.folder.windows / f"{name}.npz")


def best_step(run: Run) -> int | None:
    """The step whose weights were kept as the best: of the newest `best` checkpoint, or of its losses."""
    steps = [_step_of(path) for path in _listed(run.path / "checkpoints")]
    kept = [step for step in steps if step is not None]
    if kept:
        return max(kept)
    losses = windows(run, "best")
    return None if losses is None else losses.step


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _step_of(path: Path) -> int | None:
    match = re.fullmatch(r"best-(\d+)\.ckpt", path.name)
    return int(match[1]) if match else None
