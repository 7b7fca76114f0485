"""Options of an optimizer class, checked against its signature before it is built."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any

from lmx.config import ConfigError, nearest

# set by lmx itself from the schema's own fields, or the parameters
RESERVED = ("params", "lr", "weight_decay")
WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a word", NoneType: "null"}


def check_options(key: str, target: str, kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` for the class `kind`, lists made tuples; if it takes any keyword, nothing is checked.

    `key` is the dotted name of the entry, `target` that of the class. Raises ConfigError for a name that the
    class does not take, with the nearest that it does, and for a value of the wrong type.
    """
    signature = inspect.signature(kind).parameters
    hints = typing.get_type_hints(kind.__init__)  # type: ignore[misc]
    allowed = [name for name in signature if name not in RESERVED]
    if any(item.kind is item.VAR_KEYWORD for item in signature.values()):
        return dict(options)
    checked = {}
    for name, value in options.items():
        if name not in allowed:
            hint = nearest(name, allowed) or f"; allowed: {', '.join(allowed)}"
            raise ConfigError(f"{key}.{name}: unknown option of {target}{hint}")
        wanted = hints.get(name, Any)
        if not fits(value, wanted):
            raise ConfigError(f"{key}.{name}: got {value!r}, allowed: {describe(wanted)}")
        checked[name] = tuple(value) if isinstance(value, list) else value
    return checked


def fits(value: Any, hint: Any) -> bool:
    """Whether a value read from YAML is of the annotated type; what YAML cannot hold never fits."""
    if hint is Any:
        return True
    if (members := _union(hint)) is not None:
        return any(fits(value, member) for member in members)
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        same_length = isinstance(value, list | tuple) and len(value) == len(items)
        return same_length and all(fits(v, item) for v, item in zip(value, items, strict=True))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)


def describe(hint: Any) -> str:
    """Say in words which values `fits` takes."""
    if (members := _union(hint)) is not None:
        words = [describe(member) for member in members if member in WORDS or typing.get_args(member)]
        return " or ".join(words)
    if typing.get_origin(hint) is tuple:
        return "[" + ", ".join(describe(item) for item in typing.get_args(hint)) + "]"
    return WORDS.get(hint, str(hint))


def _union(hint: Any) -> tuple[Any, ...] | None:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else None
