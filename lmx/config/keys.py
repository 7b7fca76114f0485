"""Which dotted keys there are, and what to say of one that there is not."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

from lmx.config.experiment import Experiment
from lmx.config.fields import unknown_name

# groups whose options fill keys of several sections, and so are no section themselves
PRESET_GROUPS = ("experiment", "debug")
# the type of a key that holds a `_target_` and the options of that class
OPTIONS = dict[str, Any]


@cache
def schema_keys() -> dict[str, Any]:
    """Return every key of the schemas with its type, sections included: `model`, `model.hidden_size`, …"""
    keys: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(Experiment).items():
        keys[name] = hint
        if dataclasses.is_dataclass(hint):
            keys |= {f"{name}.{inner}": kind for inner, kind in typing.get_type_hints(hint).items()}
    return keys


def is_section(key: str) -> bool:
    """Whether `key` is a group with a schema of its own, such as `model`."""
    return dataclasses.is_dataclass(schema_keys().get(key))


def is_open(key: str) -> bool:
    """Whether `key` holds keys that no schema lists, such as `callbacks` or `optimizer.update`."""
    hint = schema_keys().get(key)
    return any(typing.get_origin(member) is dict for member in (hint, *typing.get_args(hint)))


def children(section: str) -> list[str]:
    """Return the names in a section; those at the top for an empty one."""
    prefix = f"{section}." if section else ""
    names = (key.removeprefix(prefix) for key in schema_keys() if key.startswith(prefix))
    return [name for name in names if "." not in name]


def key_problem(key: str, groups: Sequence[str] = ()) -> str | None:
    """Return one line when no schema has `key`, else None; `groups` are further names at the top."""
    parts = key.split(".")
    for depth in range(1, len(parts) + 1):
        place = ".".join(parts[:depth])
        if place not in schema_keys():
            return unknown_key(place, groups)
        if is_open(place):
            return None
        if depth < len(parts) and not is_section(place):
            return f"{key}: unknown key, {place} holds a single value and has no keys below it"
    return None


def unknown_key(key: str, groups: Sequence[str] = ()) -> str:
    """Say that `key` is unknown: the same name elsewhere, the nearest in its section, or all of them."""
    section, _, name = key.rpartition(".")
    elsewhere = [other for other in schema_keys() if other.rpartition(".")[2] == name]
    if len(elsewhere) == 1:
        return f"{key}: unknown key; did you mean '{elsewhere[0]}'?"
    if section:
        within = next(
            (child for child in children(section) if schema_keys()[f"{section}.{child}"] == OPTIONS), None
        )
        hint = f" (options of the class itself: {section}.{within}.{name})" if within else ""
        line = unknown_name(key, children(section))
        return line if "did you mean" in line else line + hint
    top = list(dict.fromkeys((*children(""), *groups)))
    places = {other.rpartition(".")[2]: other for other in schema_keys()} | {other: other for other in top}
    near = get_close_matches(name, places, n=1, cutoff=0.5)
    return f"{key}: unknown key; did you mean '{places[near[0]]}'?" if near else unknown_name(key, top)
