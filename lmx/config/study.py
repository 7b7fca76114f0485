"""`conf/study`: a named grid of experiments with seeds, the question that it asks, and its jobs."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lmx.config.compose import config_dir, experiment_of, load
from lmx.config.errors import ConfigError, bad_choice
from lmx.config.experiment import Experiment
from lmx.config.fields import shown, unknown_name
from lmx.config.learning import EVALUATION_MEASURES
from lmx.config.overrides import parse

FIELDS = ("question", "baseline", "overrides", "arms", "grid", "seeds", "metric")
RESERVED = ("plots", "text_samples")  # folders of the report, beside those of the arms
# what a study says itself: a job's seed, its folder, and whether it goes on
_OWN = {"seed": "--seeds 1,2,3", "name": "none, a study names its runs", "resume": "none, a study resumes"}
# settings that say where things lie, not what is computed: they give a study no other folder
_PLACES = ("paths", "data.local_dir")
_LONGEST = 100  # characters of a folder's name


@dataclass(frozen=True)
class Study:
    """A question, and the experiments that are to answer it: every arm with every seed."""

    name: str
    question: str
    baseline: str  # the arm that the others are compared with
    arms: dict[str, tuple[str, ...]]  # name → its overrides
    seeds: tuple[int, ...]
    metric: str = "val/bits_per_byte"  # what the arms are ranked by


@dataclass(frozen=True)
class StudyJob:
    """One arm with one seed: what it runs, and the experiment that this composes to."""

    arm: str
    seed: int
    overrides: tuple[str, ...]
    experiment: Experiment

    @property
    def label(self) -> str:
        """`arm seed N`."""
        return f"{self.arm} seed {self.seed}"


def study_names() -> list[str]:
    """Return the names of the studies in conf/study."""
    return sorted(file.stem for file in (config_dir() / "study").glob("*.yaml"))


def read_study(name: str) -> Study:
    """Read the study `name` of conf/study, or one in a YAML file of the user's own.

    Raises ConfigError naming every problem in it.
    """
    own = name.endswith((".yaml", ".yml"))
    path = Path(name).expanduser() if own else config_dir() / "study" / f"{name}.yaml"
    if not own and name not in study_names():
        raise ConfigError(f"{bad_choice('study', name, study_names())}; or FILE.yaml")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"study: got {name!r}, which cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"study: {path} is no YAML ({' '.join(str(error).split())})") from error
    return parse_study(path.stem, data)


def parse_study(name: str, data: Any) -> Study:
    """Build a study from the content of its file. Raises ConfigError naming every problem in it."""
    if not isinstance(data, dict):
        raise ConfigError(f"study {name}: got {shown(data)}, allowed: the keys {', '.join(FIELDS)}")
    problems = [unknown_name(str(key), list(FIELDS)) for key in data if key not in FIELDS]
    problems += _type_problems(data)
    if not problems:
        shared = tuple(data.get("overrides", ()))
        study = Study(
            name=name,
            question=" ".join(data.get("question", "").split()),
            baseline=data.get("baseline", ""),
            arms={arm: (*shared, *own) for arm, own in _arms(data)},
            seeds=tuple(data.get("seeds", ())),
            metric=data.get("metric", Study.metric),
        )
        problems += _value_problems(study, [arm for arm, _ in _arms(data)])
    if problems:
        raise ConfigError("; ".join(f"study {name}: {problem}" for problem in problems))
    return study


def compose_jobs(
    study: Study, extra: Sequence[str] = (), seeds: Sequence[int] | None = None
) -> list[StudyJob]:
    """Compose every job, all arms with the first seed before the next; `extra` overrides hold for each.

    Raises ConfigError naming the arm that cannot be composed.
    """
    _check_extra(extra)
    folder = folder_name(study.name, extra)
    found: dict[tuple[int, str], StudyJob] = {}
    for arm, own in study.arms.items():
        try:
            config = load([*own, *extra])
            for seed in seeds or study.seeds:
                config.seed, config.name = seed, f"{folder}/{arm}/seed{seed}"
                overrides = (*own, *extra, f"seed={seed}", f"name='{config.name}'")
                experiment = experiment_of(config, overrides)
                found[seed, arm] = StudyJob(arm, seed, overrides, experiment)
        except ConfigError as error:
            raise ConfigError(f"study {study.name}, arm {arm}: {error}") from error
    jobs = [found[seed, arm] for seed in seeds or study.seeds for arm in study.arms]
    _check_arms(study, jobs[: len(study.arms)])
    return jobs


def _check_arms(study: Study, jobs: Sequence[StudyJob]) -> None:
    """Refuse two arms that run the same: an override that holds for all has undone what sets them apart."""
    seen: list[tuple[Experiment, str]] = []
    for job in jobs:
        experiment = replace(job.experiment, name="")
        twin = next((arm for other, arm in seen if other == experiment), None)
        if twin is not None:
            raise ConfigError(
                f"study {study.name}: arms {twin} and {job.arm} are one and the same experiment, "
                "allowed: overrides that leave them different"
            )
        seen.append((experiment, job.arm))


def folder_name(name: str, extra: Sequence[str]) -> str:
    """Return the folder of a study below paths.outputs: its name, with the overrides that change it.

    A trial with `train.horizon=50steps` therefore never mixes with the study itself.
    """
    changes = [line for line in extra if not _says_where(parse([line])[0].key_or_group)]
    full = ",".join([name, *changes])
    safe = re.sub(r"[^\w.,=+-]+", "-", full)
    if len(safe) <= _LONGEST and safe == full:
        return safe
    return f"{safe[:_LONGEST]}-{hashlib.sha256(full.encode()).hexdigest()[:6]}"


def _says_where(key: str) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in _PLACES)


def _check_extra(extra: Iterable[str]) -> None:
    for override in parse(extra):
        if override.key_or_group in _OWN:
            key = override.key_or_group
            raise ConfigError(f"{key}: got {override.input_line!r}, allowed: {_OWN[key]}")


def _type_problems(data: dict[str, Any]) -> Iterator[str]:
    for key in ("question", "baseline", "metric"):
        if key in data and not isinstance(data[key], str):
            yield f"{key}: got {shown(data[key])}, allowed: text"
    lists = {"overrides": data.get("overrides", []), "seeds": data.get("seeds", [])}
    for group in ("arms", "grid"):
        value = data.get(group, {})
        if isinstance(value, dict):
            lists |= {f"{group}.{key}": item for key, item in value.items()}
        else:
            yield f"{group}: got {shown(value)}, allowed: names, each with a list"
    for key, value in lists.items():
        kinds: tuple[type, ...] = (int,) if key == "seeds" else (str,)
        if key.startswith("grid."):
            kinds = (str, int, float)
        fits = isinstance(value, list) and all(isinstance(item, kinds) for item in value)
        fits = fits and not (key == "seeds" and any(isinstance(item, bool) for item in value))
        if not fits:
            words = {"s": "whole numbers", "g": "values"}.get(key[0], "overrides, [key=value, group=option]")
            yield f"{key}: got {shown(value)}, allowed: a list of {words}"


def _value_problems(study: Study, names: list[str]) -> Iterator[str]:
    if not study.question:
        yield "question: got nothing, allowed: what the study is to answer"
    if not study.arms:
        yield "arms: got none, allowed: at least one, under arms or grid"
    elif study.baseline not in study.arms:
        yield bad_choice("baseline", study.baseline, study.arms)
    for double in sorted({name for name in names if names.count(name) > 1}):
        yield f"arms: got {double!r} more than once, allowed: a name for each"
    for arm in study.arms:
        if not re.fullmatch(r"[\w.,=+-]{1,80}", arm) or arm in (*RESERVED, ".", ".."):
            yield f"arms: got {arm!r}, allowed: letters, digits and .,=+-_ but not {', '.join(RESERVED)}"
    seeds = study.seeds
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**31 for seed in seeds):
        yield f"seeds: got {list(seeds)}, allowed: different whole numbers from 0"
    if study.metric not in EVALUATION_MEASURES:
        yield bad_choice("metric", study.metric, EVALUATION_MEASURES)


def _arms(data: dict[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    """The arms that are named, then one for each combination of the grid: `lr=3e-4,batch_size=32`."""
    named = [(str(arm), tuple(own)) for arm, own in data.get("arms", {}).items()]
    axes = data.get("grid", {})
    for values in itertools.product(*axes.values()) if axes else ():
        pairs = [
            (key, shown(v) if isinstance(v, bool) else str(v)) for key, v in zip(axes, values, strict=True)
        ]
        arm = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in pairs)
        named.append((arm, tuple(f"{key}={value}" for key, value in pairs)))
    return named
