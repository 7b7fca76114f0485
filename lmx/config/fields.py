"""Field helpers shared by the schemas: closed sets and numeric bounds are declared where the field is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from lmx.config.errors import bad_choice


def choice(default: str, *allowed: str) -> Any:
    """A string field that takes one of `allowed`."""
    return dataclasses.field(default=default, metadata={"choices": allowed})


def number(default: Any, *, low: float | None = None, above: float | None = None, high: float | None = None) -> Any:
    """A numeric field with bounds: `low` ≤ value, `above` < value, value ≤ `high`; None passes."""
    return dataclasses.field(default=default, metadata={"low": low, "above": above, "high": high})


def field_problems(config: Any, path: str) -> Iterator[str]:
    """Yield one line for each field of a schema object whose value its declaration forbids."""
    for spec in dataclasses.fields(config):
        value, key = getattr(config, spec.name), f"{path}.{spec.name}"
        if "choices" in spec.metadata and value not in spec.metadata["choices"]:
            yield bad_choice(key, value, spec.metadata["choices"])
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield from _bound_problems(key, value, dict(spec.metadata))


def _bound_problems(key: str, value: float, bounds: dict[str, Any]) -> Iterator[str]:
    low, above, high = bounds.get("low"), bounds.get("above"), bounds.get("high")
    limits = [
        text
        for bound, text in ((low, f"≥ {low}"), (above, f"> {above}"), (high, f"≤ {high}"))
        if bound is not None
    ]
    outside = (
        not math.isfinite(value)
        or (low is not None and value < low)
        or (above is not None and value <= above)
        or (high is not None and value > high)
    )
    if limits and outside:
        yield f"{key}: got {value}, allowed: {' and '.join(limits)}"
