"""What is compared: runs gathered into configurations, from a study's folder or from run folders."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from lmx.report.facts import differing
from lmx.report.standings import BITS, LOSS, Arm, Digest, has_begun, seed_of
from lmx.runs import JobState, Run, read_digest, read_study_record, states

READERS = 4  # runs that are read at the same time
# settings that do not make another configuration: the seed, and where a run lands or what is written of it
_NOT_CONFIGURATION = ("seed", "name", "paths", "resume", "logger")


@dataclass
class Comparison:
    """Everything that a report on several runs is made of."""

    title: str
    question: str
    baseline: str
    metric: str
    arms: list[Arm]  # those with runs that count
    overrides: dict[str, list[str]]  # arm → what it was asked for; empty where runs were just given
    jobs: list[JobState]  # of a study
    command: str  # that renders or continues it
    changes: list[str] = field(default_factory=list)  # overrides that a study was given, for all of its arms
    left_out: list[str] = field(default_factory=list)  # one sentence for each run that does not count

    @property
    def runs(self) -> list[Digest]:
        """All runs that count."""
        return [run for arm in self.arms for run in arm.runs]

    @property
    def has_baseline(self) -> bool:
        """Whether the baseline has a run that counts."""
        return any(arm.name == self.baseline for arm in self.arms)


def of_study(folder: Path) -> Comparison:
    """Read the study in `folder`: its completed jobs count, the others are told of.

    Raises CheckpointError where its `study.json` is missing or damaged.
    """
    record = read_study_record(folder)
    jobs = states(folder, record)
    runs: dict[str, list[Digest]] = {arm: [] for arm in record.arms}
    left_out = []
    done = [state.run for state in jobs if state.status == "completed" and state.run is not None]
    digests = dict(zip(done, _read(done), strict=True))
    for state in jobs:
        if state.status == "completed" and state.run is not None:
            digest = digests[state.run]
            if has_begun(digest, LOSS):
                runs[state.job.arm].append(digest)
            else:
                left_out.append(f"{state.job.place}: {_why_not(digest)}.")
        if state.others:
            names = ", ".join(path.name for path in state.others)
            left_out.append(
                f"{state.job.place}: {names} left out, runs of the same or another configuration."
            )
    arms = [Arm(name, tuple(found)) for name, found in runs.items() if found]
    metric = record.metric if all(has_begun(run, record.metric) for arm in arms for run in arm.runs) else LOSS
    return Comparison(
        record.name,
        record.question,
        record.baseline,
        metric,
        arms,
        record.arms,
        jobs,
        record.command,
        record.overrides,
        left_out,
    )


def of_runs(folders: Sequence[Path]) -> Comparison:
    """Gather runs by configuration; the first run's is the baseline."""
    left_out: list[str] = []
    kept = _distinct(_read(folders), left_out)
    counted = []
    for run in kept:
        if run.run.status == "failed":
            left_out.append(f"{run.path}: failed ({run.run.reason or 'no reason recorded'}).")
        elif not has_begun(run, LOSS):
            left_out.append(f"{run.path}: {_why_not(run)}.")
        else:
            counted.append(run)
    arms = _gathered(counted)
    return Comparison(
        title=f"{len(folders)} runs compared",
        question="",
        baseline=arms[0].name if arms else "",
        metric=BITS if all(has_begun(run, BITS) for run in counted) else LOSS,
        arms=arms,
        overrides={},
        jobs=[],
        command=shlex.join(["python", "-m", "lmx.report", *map(str, folders)]),
        left_out=left_out,
    )


def _read(folders: Sequence[Path]) -> list[Digest]:
    """Read several runs at a time: most of it is Arrow's work, which leaves Python free."""
    with ThreadPoolExecutor(max_workers=READERS) as pool:
        return list(pool.map(read_digest, folders))


def _distinct(runs: list[Digest], left_out: list[str]) -> list[Digest]:
    """Leave out copies of a run: they began at the same microsecond with the same configuration."""
    seen: dict[tuple[str, str], Digest] = {}
    kept = []
    for run in runs:
        identity = run.run.identity
        key = str(identity.get("started")), str(identity.get("config_fingerprint"))
        if "None" not in key and key in seen:
            left_out.append(f"{run.path}: a copy of {seen[key].path}.")
            continue
        seen[key] = run
        kept.append(run)
    return kept


def _gathered(runs: Sequence[Digest]) -> list[Arm]:
    groups: dict[str, list[Digest]] = {}
    for run in runs:
        config = {key: value for key, value in run.run.config.items() if key not in _NOT_CONFIGURATION}
        key = json.dumps(config, sort_keys=True, default=str) if config else str(run.path)
        groups.setdefault(key, []).append(run)
    names = _arm_names([found[0].run for found in groups.values()])
    return [
        Arm(name, tuple(sorted(found, key=seed_of)))
        for name, found in zip(names, groups.values(), strict=True)
    ]


def _arm_names(runs: Sequence[Run]) -> list[str]:
    """Name each configuration by its experiment, else by up to four differing settings, else by both."""
    names = _plain_names(runs)
    if len(set(names)) == len(names):
        return names
    settings = {key: values for key, values in differing(runs).items() if key != "seed"}
    found: list[str] = []
    for place, run in enumerate(runs):
        parts = [names[place]] if len(set(names)) > 1 or not settings else []
        own = [f"{key.rpartition('.')[2]}={values[place]}" for key, values in list(settings.items())[:4]]
        label = " ".join([*parts, *(text for text in own if not parts or text not in parts[0])])
        found.append(f"{label} {run.path.name[-6:]}" if label in found else label)
    return found


def _plain_names(runs: Sequence[Run]) -> list[str]:
    """The experiments' names without what a study adds to them: its own name in front, the seed behind."""
    parts = []
    for run in runs:
        words = run.name.split("/")
        parts.append(words[:-1] if words[1:] and words[-1] == f"seed{run.config.get('seed')}" else words)
    while all(len(words) > 1 for words in parts) and len({words[0] for words in parts}) == 1 and parts[1:]:
        parts = [words[1:] for words in parts]
    return ["/".join(words) for words in parts]


def _why_not(run: Digest) -> str:
    """Why a run does not count that is not failed."""
    if any(line.get(LOSS) is not None for line in run.run.of_kind("val")):
        return "no evaluation after step 0 with a finite loss"
    return "no evaluation was recorded"
