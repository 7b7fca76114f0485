"""Records that were edited, damaged or written by another version: what does not fit is left out."""

from __future__ import annotations

import math
from typing import Any

from lmx.config.experiment import SECTIONS
from lmx.runs.identity import FORMAT

EACH = "*"  # in a shape: every key
NUMBER = (int, float)
Shape = Any  # a class, several, or a dict of shapes by key; keys that it does not name may hold anything

OVERLAP: Shape = {"shared": NUMBER, "sequences": NUMBER}
IDENTITY: Shape = {
    "name": str,
    "command": str,
    "status": str,
    "reason": str,
    "total_steps": int,
    "steps_per_epoch": int,
    "parameters": {EACH: int},
    "data": {"splits": {EACH: {"tokens": NUMBER}}, "overlap": {EACH: {EACH: OVERLAP}}},
    "tokenizer": {},
    "hardware": {"reasons": list},
    "missing": list,
    "git": {"commit": str},
    "versions": {},
    "result": {},
}
CONFIG: Shape = {"name": str, **{section: {"name": str} for section in SECTIONS}}


def fitted_identity(identity: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return `run.json` without what has another kind than lmx writes, naming it in `problems`."""
    written = identity.get("format", FORMAT)
    if written != FORMAT:
        problems.append(f"run.json: its format is {written!r}, this version of lmx reads {FORMAT}")
    identity = _fitted(identity, IDENTITY, "run.json: ", problems)
    sessions = identity.get("sessions")
    if sessions is not None:
        whole = [session for session in _list(sessions) if isinstance(session, dict)]
        identity["sessions"] = [
            _fitted(session, {"step": int}, "run.json: sessions.", []) for session in whole
        ]
    return identity


def fitted_config(config: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return `config.yaml` without groups of another kind than lmx writes, naming them in `problems`."""
    return _fitted({str(key): value for key, value in config.items()}, CONFIG, "config.yaml: ", problems)


def fitted_lines(lines: list[dict[str, Any]], problems: list[str]) -> list[dict[str, Any]]:
    """Return records whose values are numbers; what is not is left out and counted in `problems`.

    A measure (with a slash in its name) may be null, NaN or infinite; where a record stands may not.
    """
    odd = 0
    for line in lines:
        wrong = [
            key
            for key, value in line.items()
            # the first half is what nearly all of them are, and saves the call
            if not (type(value) is float and "/" in key) and not _is_value(key, value)
        ]
        for key in wrong:
            del line[key]
        odd += len(wrong)
    if odd:
        problems.append(f"metrics.jsonl: {odd} value(s) that are no numbers left out")
    return lines


def _is_value(key: str, value: Any) -> bool:
    if type(value) in NUMBER:  # and no boolean
        return "/" in key or math.isfinite(value)
    return isinstance(value, str) if key == "kind" else value is None and "/" in key


def _fitted(
    value: dict[str, Any], shape: dict[str, Shape], place: str, problems: list[str]
) -> dict[str, Any]:
    kept = {}
    for key, item in value.items():
        wanted = shape.get(key, shape.get(EACH))
        if wanted is None or item is None:
            kept[key] = item
        elif isinstance(wanted, dict) and isinstance(item, dict):
            kept[key] = _fitted(item, wanted, f"{place}{key}.", problems)
        elif not isinstance(wanted, dict) and isinstance(item, wanted) and not isinstance(item, bool):
            kept[key] = item
        else:
            problems.append(f"{place}{key} is no {_named(wanted)}, left out")
    return kept


def _named(wanted: Shape) -> str:
    if isinstance(wanted, dict):
        return "mapping"
    return {str: "text", list: "list"}.get(wanted, "number")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
