"""Reading runs back: whole, interrupted, half-written or moved."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lmx.config.errors import CheckpointError
from lmx.runs import lock
from lmx.runs.folder import RunFolder, is_run
from lmx.runs.metrics import read_lines
from lmx.runs.shape import fitted_config, fitted_identity, fitted_lines

KINDS = ("train", "val")
Reader = Callable[[Path], tuple[list[dict[str, Any]], list[str]]]  # records, and what was wrong with them
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Run:
    """What a run folder holds. Missing parts are empty, and `problems` says what was missing or damaged."""

    folder: RunFolder
    config: dict[str, Any]
    identity: dict[str, Any]
    lines: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    alive: bool = False
    problems: list[str] = field(default_factory=list)
    _series: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.identity.get("name") or self.config.get("name") or self.path.parent.name)

    @property
    def status(self) -> str:
        """running, completed, interrupted, failed or unknown; one whose process is gone was interrupted."""
        status = str(self.identity.get("status") or "unknown")
        return "interrupted" if status == "running" and not self.alive else status

    @property
    def reason(self) -> str | None:
        """Why it failed or was interrupted, in one line, where that is known."""
        if self.status != self.identity.get("status") and self.status == "interrupted":
            return "its process ended without a word"
        return self.identity.get("reason")

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The records of one kind, `train` or `val`, in order."""
        return self._by_kind.get(kind, [])

    def column(self, name: str, kind: str) -> np.ndarray:
        """Values (N,) of `name` over all N records of `kind`; NaN where a record lacks it or has null."""
        return np.array([line.get(name) for line in self.of_kind(kind)], dtype=np.float64)

    def series(self, name: str, kind: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return (steps (N,) int64, values (N,) float64) of the records that have `name`.

        `kind` defaults to the part of the name before the slash where that is `train` or `val`, else `train`.
        Nulls are left out; recorded NaN and infinities are kept.
        """
        kind = kind or (name.split("/")[0] if name.split("/")[0] in KINDS else "train")
        if (name, kind) not in self._series:
            lines = [line for line in self.of_kind(kind) if line.get(name) is not None]
            steps = np.array([line["step"] for line in lines], dtype=np.int64)
            self._series[name, kind] = steps, np.array([line[name] for line in lines], dtype=np.float64)
        return self._series[name, kind]

    def last(self, name: str) -> float | None:
        """The last value of `name` among all records; None where there is none."""
        return next((line[name] for line in reversed(self.lines) if line.get(name) is not None), None)

    @cached_property
    def _by_kind(self) -> dict[str, list[dict[str, Any]]]:
        return {kind: [line for line in self.lines if line.get("kind") == kind] for kind in KINDS}


def read_run(path: str | Path, read: Reader = read_lines) -> Run:
    """Read the run folder at `path`, as much as there is of it; `read` gives the records of its metrics.

    Raises CheckpointError when `path` is not a run folder.
    """
    folder = RunFolder.open(path)
    problems: list[str] = []
    config = fitted_config(_read_config(folder, problems), problems)
    try:
        identity = fitted_identity(folder.read_identity(), problems)
    except CheckpointError as error:
        identity = {}
        problems.append(str(error).removeprefix(f"{folder.path}{os.sep}"))
    problems += map(str, identity.get("missing") or ())
    lines, damage = read(folder.metrics)
    problems += damage
    lines = _in_order(fitted_lines(lines, problems), problems)
    samples = _read_samples(folder, problems)
    return Run(folder, config, identity, lines, samples, lock.held(folder.path), problems)


def find_runs(root: str | Path) -> list[Path]:
    """Return every run folder at or below `root`, by experiment and then by age."""
    found = []
    for place, folders, _ in os.walk(Path(root).expanduser()):
        path = Path(place)
        if is_run(path):
            found.append(path)
            folders.clear()  # nothing below a run folder is another run
    return sorted(found)


def named_runs(places: Sequence[str | Path]) -> list[Path]:
    """Return the run folders that `places` are or hold, each once.

    Raises CheckpointError for a place that neither is one nor holds one.
    """
    found: dict[Path, Path] = {}
    for place in places:
        folders = find_runs(place) or [RunFolder.open(place).path]
        found |= {folder.resolve(): folder for folder in folders}
    return list(found.values())


def newest_unfinished(outputs: str | Path, name: str | None, config_fingerprint: str) -> Path | None:
    """Return the newest run of `name` with this configuration that is neither completed nor in training.

    The counterpart of `resume=auto`; None where there is no such run. `name` None looks into every folder
    of `outputs`: a run that took its model over lies under another name than its configuration composes.
    """
    root = Path(outputs).expanduser()
    parents = [root / name] if name is not None else list(root.glob("*"))
    candidates = []
    for path in (path for parent in parents if parent.is_dir() for path in parent.iterdir() if is_run(path)):
        try:
            identity = RunFolder(path).read_identity()
        except CheckpointError:
            continue
        same = identity.get("config_fingerprint") == config_fingerprint
        if same and identity.get("status") != "completed" and not lock.held(path):
            candidates.append((str(identity.get("started")), path))
    return max(candidates)[1] if candidates else None


def _read_config(folder: RunFolder, problems: list[str]) -> dict[str, Any]:
    try:
        config = yaml.load(folder.config.read_text(encoding="utf-8"), Loader=_YamlLoader)
    except FileNotFoundError:
        problems.append("config.yaml: missing")
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"config.yaml: damaged ({str(error).splitlines()[0]})")
        return {}
    if not isinstance(config, dict):
        problems.append("config.yaml: damaged (not a mapping)")
        return {}
    return config


def _read_samples(folder: RunFolder, problems: list[str]) -> list[dict[str, Any]]:
    lines, damage = read_lines(folder.sample_log)
    problems += damage
    whole = [line for line in lines if {"step", "prompt", "text"} <= line.keys()]
    if len(whole) < len(lines):
        problems.append(
            f"samples.jsonl: {len(lines) - len(whole)} line(s) without step, prompt or text left out"
        )
    return whole


def _in_order(lines: list[dict[str, Any]], problems: list[str]) -> list[dict[str, Any]]:
    """Drop lines without a step, keep the later of two lines of one kind and step, and sort by step."""
    stepped = [line for line in lines if isinstance(line.get("step"), int)]
    if len(stepped) < len(lines):
        problems.append(f"metrics.jsonl: {len(lines) - len(stepped)} line(s) without a step left out")
    unique = {(line.get("kind"), line["step"]): line for line in stepped}
    if len(unique) < len(stepped):
        problems.append(
            f"metrics.jsonl: {len(stepped) - len(unique)} line(s) doubled; the later of each two counts"
        )
    ordered = sorted(unique.values(), key=lambda line: line["step"])
    if ordered != list(unique.values()):
        problems.append("metrics.jsonl: the lines were not in the order of their steps")
    return ordered
