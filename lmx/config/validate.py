"""From a composed configuration to a typed `Experiment`, or one message with every problem in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmx.config.errors import ConfigError, nearest
from lmx.config.experiment import Experiment
from lmx.config.targets import target_problems


def validate(config: DictConfig | dict[str, Any], given: Iterable[str] = ()) -> Experiment:
    """Merge `config` strictly into the schemas and check every value against the others.

    `given` are the dotted keys that the user typed: one of them that has no effect in this combination
    is an error, where the same key from a preset is only idle.

    Raises ConfigError naming every unknown key, wrong type, missing value and contradiction found.
    """
    try:
        container = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(describe(error)) from error
    assert isinstance(container, dict)
    typed = OmegaConf.structured(Experiment)
    problems: list[str] = []
    _merge(typed, container, "", problems)
    problems += [f"{key}: got nothing, a value is needed" for key in sorted(OmegaConf.missing_keys(typed))]
    _raise(problems)
    experiment = OmegaConf.to_object(typed)
    assert isinstance(experiment, Experiment)
    problems += experiment.problems()
    problems += target_problems(experiment)
    problems += _useless_problems(experiment, given)
    _raise(problems)
    return experiment


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as plain dicts, lists and scalars: what `config.yaml` and checkpoints hold."""
    return dataclasses.asdict(experiment)


def describe(error: OmegaConfBaseException) -> str:
    """Say in one line what OmegaConf refused."""
    first = str(error).strip().splitlines()[0].strip() if str(error).strip() else type(error).__name__
    key = getattr(error, "full_key", None)
    return f"{key}: {first}" if key else first


def _merge(node: DictConfig, data: dict[Any, Any], path: str, problems: list[str]) -> None:
    schema = OmegaConf.get_type(node)
    names = [spec.name for spec in dataclasses.fields(schema)]  # type: ignore[arg-type]
    for key, value in data.items():
        dotted = f"{path}{key}"
        if key not in names:
            problems.append(f"{dotted}: unknown key{nearest(str(key), names) or '; allowed: ' + ', '.join(names)}")
            continue
        child = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        kind = OmegaConf.get_type(child) if isinstance(child, DictConfig) else None
        if kind is not None and dataclasses.is_dataclass(kind):
            if isinstance(value, dict):
                _merge(node[key], value, f"{dotted}.", problems)
            else:
                problems.append(f"{dotted}: got {value!r}, allowed: a group of keys")
            continue
        try:
            node[key] = value
        except OmegaConfBaseException:
            expected = next(spec.type for spec in dataclasses.fields(schema) if spec.name == key)  # type: ignore[arg-type]
            problems.append(f"{dotted}: got {value!r} ({type(value).__name__}), allowed: {expected}")


def _useless_problems(experiment: Experiment, given: Iterable[str]) -> list[str]:
    idle = dict(experiment.useless())
    return [f"{key}: has no effect with {idle[key]}" for key in given if key in idle]


def _raise(problems: list[str]) -> None:
    if problems:
        raise ConfigError("; ".join(dict.fromkeys(problems)))
