"""From a composed configuration to a typed `Experiment`, or one message with every problem in it."""

from __future__ import annotations

import copy
import dataclasses
import re
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmx.config.errors import ConfigError, nearest
from lmx.config.experiment import Experiment
from lmx.config.fields import converted, default_of, shown, type_problem, wanted
from lmx.config.keys import children, is_section, schema_keys, unknown_key
from lmx.config.targets import target_problems


def validate(config: DictConfig | dict[str, Any], given: Iterable[str] = ()) -> Experiment:
    """Check `config` strictly against the schemas, and every value against the others.

    References (`${key}`) are resolved in a composition; a plain dict, such as a saved configuration, is
    taken at its word.

    `given` are the dotted keys that the user typed: one of them that has no effect in this combination
    is an error, where the same key from a preset is only idle.

    Raises ConfigError naming every unknown key, wrong type and missing value; where there are none, every
    contradiction.
    """
    problems: list[str] = []
    plain = _resolved(config) if isinstance(config, DictConfig) else copy.deepcopy(config)
    experiment = _build(Experiment, plain, "", problems)
    _raise(problems)
    problems += experiment.problems()
    problems += target_problems(experiment)
    problems += _useless_problems(experiment, given)
    _raise(problems)
    return experiment


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as plain dicts, lists and scalars: what `config.yaml` and checkpoints hold."""
    return dataclasses.asdict(experiment)


def _resolved(config: DictConfig) -> dict[Any, Any]:
    """Return plain dicts with every interpolation replaced by its value."""
    try:
        raw = OmegaConf.to_container(config)
        assert isinstance(raw, dict)
        # first, for a section that is none breaks the references into it
        wrong = {str(key): value for key, value in raw.items() if not isinstance(value, dict)}
        _raise(_no_section(key, value) for key, value in wrong.items() if is_section(key))
        container = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, ValueError, RecursionError) as error:
        raise ConfigError(_interpolation_text(error)) from error
    assert isinstance(container, dict)
    return container


def _interpolation_text(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "the configuration is nested too deeply, or an interpolation ${…} leads back to its own key"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = lines[0].rstrip(".")
    named = re.search(r"key '(.+)' not found", reason)
    hint = nearest(named[1], schema_keys()) if named else ""
    text = f"got a reference that leads nowhere ({reason}), allowed: a value, or ${{key}} of another{hint}"
    key = getattr(error, "full_key", None)
    return f"{key}: {text}" if key else text


def _build(schema: type[Any], data: dict[Any, Any], path: str, problems: list[str]) -> Any:
    """Return a `schema` object of `data`; what is wrong is added to `problems`, for the caller to raise."""
    hints = typing.get_type_hints(schema)
    problems += (unknown_key(f"{path}{key}") for key in data if key not in hints)
    values = {}
    for spec in dataclasses.fields(schema):
        key, hint = f"{path}{spec.name}", hints[spec.name]
        value = data[spec.name] if spec.name in data else default_of(spec)
        if dataclasses.is_dataclass(hint):
            values[spec.name] = _build_section(typing.cast(type, hint), value, key, problems)
            continue
        problem = type_problem(key, value, spec, hint)
        if value == MISSING:
            problem = f"{key}: got nothing, allowed: {wanted(spec, hint)}"
        gaps = (f"{gap}: got nothing, a value is needed" for gap in _gaps(key, value))
        problems += [problem] if problem else gaps
        values[spec.name] = value if problem else converted(value, hint)
    return schema(**values)


def _build_section(schema: type[Any], value: Any, key: str, problems: list[str]) -> Any:
    if isinstance(value, dict):
        return _build(schema, value, f"{key}.", problems)
    if isinstance(value, schema):  # the section is absent and this its default, which lacks what has none
        return _build(schema, {}, f"{key}.", problems)
    problems.append(_no_section(key, value))
    return None


def _no_section(key: str, value: Any) -> str:
    return f"{key}: got {shown(value)}, allowed: a group of keys, such as {key}.{children(key)[0]}"


def _gaps(key: str, value: Any) -> Iterator[str]:
    """Yield the dotted places inside an open group that still hold `???`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        if item == MISSING:
            yield f"{key}.{name}"
        yield from _gaps(f"{key}.{name}", item)


def _useless_problems(experiment: Experiment, given: Iterable[str]) -> Iterator[str]:
    idle = dict(experiment.useless())
    for key in dict.fromkeys(given):
        if key in idle:
            value: Any = experiment
            for part in key.split("."):
                value = getattr(value, part)
            yield f"{key}: got {shown(value)}, which has no effect with {idle[key]}; leave it out"


def _raise(problems: Iterable[str]) -> None:
    if lines := list(dict.fromkeys(problems)):
        raise ConfigError("; ".join(" ".join(line.split()) for line in lines))
