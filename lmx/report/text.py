"""Numbers, durations and tables as text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from lmx import measure

MISSING = "—"


def show(value: Any, spec: str = "") -> str:
    """Format a number by `spec` (as in an f-string); None is a dash, other things are their own text.

    A number too large to read in full, such as the perplexity of a run that diverged, has three digits.
    """
    if value is None:
        return MISSING
    if isinstance(value, str | bool) or not spec:
        return str(value)
    return measure.digits(value, spec)


def amount(value: float | None) -> str:
    """A large count in three or four digits: ``4.92M``, ``812``."""
    if value is None or not math.isfinite(value):
        return show(value, ".0f")
    return measure.amount(value)


def duration(seconds: float | None) -> str:
    """Seconds as people say them: ``8.3 s``, ``1 min 42 s``, ``2 h 05 min``."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first `left` columns are aligned to the left and the others to the right."""
    rule = [":--" if column < left else "--:" for column in range(len(headers))]
    lines = [headers, rule, *(map(_cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def plain_table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """A table for a terminal with a rule under its headers; columns in `left` are aligned to the left."""
    lines = [headers, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]

    def padded(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([padded(headers), "-" * (sum(widths) + 2 * (len(widths) - 1)), *map(padded, rows)])


def code_block(text: str, language: str = "text") -> str:
    """A fenced block that no run of backticks inside `text` can end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
