"""Fields of the schemas: closed sets and bounds are declared where the field is; types are checked here."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import MISSING

from lmx.config.errors import bad_choice, nearest

LARGEST = 2**31 - 1  # of any whole number: sizes and counts beyond it fit no tensor and no machine
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a group of keys",
}


def choice(default: str, *allowed: str) -> Any:
    """A string field that takes one of `allowed`."""
    return dataclasses.field(default=default, metadata={"choices": allowed})


def text(default: str, form: str) -> Any:
    """A string field of a given form, such as "a number and its unit"; the schema checks it."""
    return dataclasses.field(default=default, metadata={"form": form})


def number(
    default: Any, *, low: float | None = None, above: float | None = None, high: float | None = None
) -> Any:
    """A numeric field with bounds: `low` ≤ value, `above` < value, value ≤ `high`; None passes."""
    return dataclasses.field(default=default, metadata={"low": low, "above": above, "high": high})


def default_of(spec: dataclasses.Field[Any]) -> Any:
    """Return a field's default, freshly made; MISSING where it has none."""
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    return MISSING if spec.default is dataclasses.MISSING else spec.default


def schema_defaults(schema: type[Any], without: Iterable[str] = ()) -> dict[str, Any]:
    """Return the defaults of a schema and of those inside it as plain dicts; MISSING where there is none."""
    defaults = {}
    for spec in dataclasses.fields(schema):
        if spec.name not in without:
            value = default_of(spec)
            inner = dataclasses.is_dataclass(value)
            defaults[spec.name] = schema_defaults(type(value)) if inner else value
    return defaults


def shown(value: Any) -> str:
    """Return a value as the user would write it: null, true, 3, 'text'."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the annotated type, without any conversion but from a whole number to a float."""
    members = _members(hint)
    if len(members) > 1:
        return any(fits(value, member) for member in members)
    if hint is int or hint is float:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole if hint is int else isinstance(value, float) or (whole and abs(value) < 2**1023)
    if hint is str:
        return isinstance(value, str) and "\0" not in value
    if typing.get_origin(hint) is dict:
        inner = typing.get_args(hint)[1]
        plain = isinstance(value, dict) and all(isinstance(key, str) for key in value)
        return plain and (inner is Any or all(fits(item, inner) for item in value.values()))
    return isinstance(value, hint)


def converted(value: Any, hint: Any) -> Any:
    """Return a value that fits, a whole number as the float that the field holds."""
    members = _members(hint)
    return float(value) if isinstance(value, int) and float in members and int not in members else value


def wanted(spec: dataclasses.Field[Any], hint: Any) -> str:
    """Say in words which values a field takes."""
    if "form" in spec.metadata:
        return str(spec.metadata["form"])
    if "choices" in spec.metadata:
        return ", ".join(spec.metadata["choices"])
    return " or ".join(map(_word, _members(hint)))


def type_problem(key: str, value: Any, spec: dataclasses.Field[Any], hint: Any) -> str | None:
    """Return one line when `value` is not of the field's type: what was got, and what is wanted."""
    if fits(value, hint):
        return None
    note = ""
    if isinstance(value, bool) and "on" in spec.metadata.get("choices", ()):
        note = " (YAML reads on and off as text only in quotes)"
    elif isinstance(value, bool | int | float) and str in _members(hint) and not spec.metadata:
        note = f" (as text: {key}=\"'{shown(value)}'\")"
    return f"{key}: got {shown(value)}, allowed: {wanted(spec, hint)}{note}"


def field_problems(config: Any, path: str) -> Iterator[str]:
    """Yield one line for each field of a schema object whose value its declaration forbids."""
    for spec in dataclasses.fields(config):
        value, key = getattr(config, spec.name), f"{path}.{spec.name}"
        if "choices" in spec.metadata and value not in spec.metadata["choices"]:
            yield bad_choice(key, value, spec.metadata["choices"])
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield from _bound_problems(key, value, dict(spec.metadata))


def unknown_name(key: str, names: list[str], what: str = "unknown key") -> str:
    """One line for a key whose last part is none of `names`: the nearest, or all when none is near."""
    path, _, name = key.rpartition(".")
    near = nearest(name, names)
    if near and path:
        near = near.replace("'", f"'{path}.", 1)
    return f"{key}: {what}{near or '; allowed: ' + (', '.join(names) or 'none')}"


def _bound_problems(key: str, value: float, bounds: dict[str, Any]) -> Iterator[str]:
    low, above, high = bounds.get("low"), bounds.get("above"), bounds.get("high")
    limits = [
        text
        for bound, text in ((low, f"≥ {low}"), (above, f"> {above}"), (high, f"≤ {high}"))
        if bound is not None
    ]
    outside = (
        (isinstance(value, float) and not math.isfinite(value))
        or (low is not None and value < low)
        or (above is not None and value <= above)
        or (high is not None and value > high)
    )
    if limits and outside:
        yield f"{key}: got {shown(value)}, allowed: {' and '.join(limits)}"
    elif isinstance(value, int) and value > LARGEST:
        yield f"{key}: got {shown(value)}, allowed: ≤ {LARGEST}"


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _word(hint: Any) -> str:
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) is dict:
        inner = [member for member in _members(typing.get_args(hint)[1]) if member in (str, int, float)]
        return _WORDS[dict] + (f" with {_WORDS[inner[0]]}" if inner else "")
    return _WORDS[hint]
