"""Counts of the long tests."""

from __future__ import annotations

HEADERS = ("what", "how", "tried", "survived", "lost")


class Tally:
    """How often something was tried, and how often it went well."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], list[int]] = {}

    def count(self, what: str, how: str, tried: int, survived: int) -> None:
        """Add to a row of the table."""
        row = self._counts.setdefault((what, how), [0, 0])
        row[0] += tried
        row[1] += survived

    def table(self) -> list[str]:
        """Return the lines of the table, with a total for each `what`; none when nothing was counted."""
        rows = [(*names, tried, survived) for names, (tried, survived) in self._counts.items()]
        for what in dict.fromkeys(row[0] for row in rows):
            part = [row for row in rows if row[0] == what]
            if len(part) > 1:
                at = rows.index(part[-1]) + 1
                rows.insert(at, (what, "all", sum(row[2] for row in part), sum(row[3] for row in part)))
        cells = [
            HEADERS,
            *((what, how, f"{n:,}", f"{good:,}", f"{n - good:,}") for what, how, n, good in rows),
        ]
        widths = [max(len(row[column]) for row in cells) for column in range(len(HEADERS))]
        return [
            "  ".join(
                f"{cell:<{width}}" if column < 2 else f"{cell:>{width}}"
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells[: len(rows) and len(cells)]
        ]
