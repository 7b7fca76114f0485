"""The words of a command line, `group=option` and `key=value`, checked before anything is composed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from lmx.config.errors import ConfigError, nearest
from lmx.config.fields import shown
from lmx.config.keys import PRESET_GROUPS, is_open, is_section, key_problem, schema_keys

Options = Callable[[str], list[str]]  # the names of a group's options

# what may be said to Hydra itself: nothing that names code to run or makes folders of its own
HYDRA_GROUPS = ("hydra/sweeper",)
_FORMS = "key=value, group=option, +key=value or ~key"
HYDRA_KEYS = ("hydra.sweep.dir", "hydra.sweeper")


def parse(lines: Iterable[str]) -> list[Override]:
    """Parse override lines with Hydra's grammar.

    Raises ConfigError naming each line that is none.
    """
    parser = OverridesParser.create()
    parsed, problems = [], []
    for line in lines:
        try:
            parsed.append(parser.parse_override(line))
        except (HydraException, ValueError, RecursionError) as error:
            problems.append(_malformed(line, error))
    if problems:
        raise ConfigError("; ".join(problems))
    return parsed


def check_overrides(
    lines: Iterable[str], groups: Sequence[str], options: Options, *, sweep: bool = False
) -> None:
    """Check that each line names a key or an option that exists; `sweep` allows several values in a line.

    `groups` are the names of the groups there are. Values are checked when the whole is composed.

    Raises ConfigError with one line for each problem.
    """
    problems: list[str] = []
    for override in parse(lines):
        if override.is_sweep_override() and not sweep:
            key, _, values = str(override.input_line).partition("=")
            problems.append(f"{key}: got {values}, allowed: one value, a list [a,b], or -m to try each")
        else:
            problems += _problems(override, groups, options)
    if problems:
        raise ConfigError("; ".join(dict.fromkeys(problems)))


def given_keys(lines: Iterable[str]) -> list[str]:
    """Return the dotted keys that override lines set to a value, those inside `model={…}` too.

    Choices of a group and keys taken away with `~` are not among them.
    """
    keys: list[str] = []
    for override in parse(lines):
        if not override.is_delete():
            keys += _keys(override)
    return list(dict.fromkeys(keys))


def is_choice(override: Override, groups: Sequence[str]) -> bool:
    """Whether an override chooses an option of a group, rather than setting keys."""
    return override.key_or_group in (*groups, *HYDRA_GROUPS) and not isinstance(_value(override), dict)


def _problems(override: Override, groups: Sequence[str], options: Options) -> Iterator[str]:
    key = override.key_or_group
    if key == "study":
        yield f"study: got {override.input_line!r}, allowed: python -m lmx.study {_value(override) or 'NAME'}"
    elif override.package is not None:
        yield f"{key}@{override.package}: the place of a group is fixed, allowed: {key}=NAME"
    elif key in HYDRA_GROUPS or (key in groups and is_choice(override, groups)):
        yield from _choice_problems(override, options(key))
    elif key.split(".")[0].split("/")[0] == "hydra":
        yield from _hydra_problems(override)
    elif "/" in key:
        group, _, rest = key.partition("/")
        name = f"{rest}/{_value(override)}"
        hint = f"; did you mean '{group}={name}'?" if group in groups and name in options(group) else ""
        yield f"{key}: unknown group{hint or '; allowed: ' + ', '.join(groups)}"
    else:
        yield from _key_problems(override, groups)


def _choice_problems(override: Override, names: list[str]) -> Iterator[str]:
    group, value = override.key_or_group, _value(override)
    several = is_open(group)  # callbacks and loggers are entries, which add up
    if override.is_delete():
        if is_section(group):
            yield f"~{group}: got nothing in its place, allowed: {group}=NAME with one of {', '.join(names)}"
        return
    if override.is_sweep_override() or (value is None and (several or group in PRESET_GROUPS)):
        return
    for name in value if several and isinstance(value, list) else [value]:
        if not isinstance(name, str) or name not in names:
            allowed = ", ".join(names) or f"none, there is no {group} to choose from"
            yield f"{group}: got {shown(name)}, allowed: {allowed}{nearest(str(name), names)}"


def _hydra_problems(override: Override) -> Iterator[str]:
    key = override.key_or_group
    within = any(key == allowed or key.startswith(f"{allowed}.") for allowed in HYDRA_KEYS)
    private = any(part.startswith("_") for part in key.split("."))
    plain = override.is_sweep_override() or not isinstance(_value(override), dict | list)
    if not within or private or not plain:
        yield f"{key}: not a key of lmx, allowed of Hydra's own: {', '.join((*HYDRA_GROUPS, *HYDRA_KEYS))}"


def _key_problems(override: Override, groups: Sequence[str]) -> Iterator[str]:
    key, value = override.key_or_group, _value(override)
    if not key:
        yield f"{override.input_line!r}: got no key, allowed: key=value"
        return
    if found := [problem for place in _keys(override) if (problem := key_problem(place, groups))]:
        yield from found
        return
    if override.is_sweep_override():
        return
    open_keys = [place for place in schema_keys() if is_open(place)]
    if override.is_delete() and not any(key.startswith(f"{place}.") for place in open_keys):
        yield f"~{key}: cannot be taken away, allowed: entries of {', '.join(open_keys)}"
    elif not override.is_delete() and is_section(key) and not isinstance(value, dict):
        example = next(name for name in schema_keys() if name.startswith(f"{key}."))
        yield f"{key}: got {shown(value)}, allowed: a group of keys, such as {example}"
    elif isinstance(value, dict) and not is_section(key) and key in schema_keys() and not is_open(key):
        yield f"{key}: got {shown(value)}, allowed: a single value"


def _keys(override: Override) -> list[str]:
    """Return the dotted keys an override sets: several for `model={…}`, none for a choice of a group."""
    key, value = override.key_or_group, _value(override)
    if is_section(key) and isinstance(value, dict):
        return [f"{key}.{name}" for name in value]
    sets_keys = "." in key or (key in schema_keys() and not is_section(key) and not is_open(key))
    chooses = not sets_keys and not isinstance(value, dict) and (key in PRESET_GROUPS or key in schema_keys())
    return [] if chooses or "/" in key or key.startswith("hydra.") else [key]


def _value(override: Override) -> Any:
    return None if override.is_sweep_override() else override.value()


def _malformed(line: str, error: Exception) -> str:
    got = repr(line) if len(line) <= 100 else f"{line[:100]!r}…"
    if isinstance(error, RecursionError):
        return f"{got}: nested too deeply"
    reason = str(error.__cause__ or error).splitlines()[0].strip()
    stray = re.fullmatch(r"LexerNoViableAltException\((.*)\)", reason)
    if stray is None:
        return f"{got}: not an override ({reason}), allowed: {_FORMS}"
    key, sign, _ = line.partition("=")
    in_value = sign and stray[1].strip("'") not in key
    note = f"; a value with such characters needs quotes: {key}=\"'…'\"" if in_value else ""
    return f"{got}: not an override, it cannot hold {stray[1]} there, allowed: {_FORMS}{note}"
