"""A comparison for the terminal, at most 80 columns wide, read from its `research_data.json`."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from lmx.report.text import MISSING, amount, plain_table, show

WIDTH = 80
SHOWN = 8  # verdicts and findings; the report has all of them


def comparison_table(out: Path) -> str:
    """Return the ranking of the comparison in `out`, what the differences show, and the audit's findings."""
    data = json.loads((out / "research_data.json").read_text(encoding="utf-8"))
    ranking = data["ranking"]["tokens"]
    if not ranking:
        lines = ["Nothing to compare: no run with an evaluation counts."]
    else:
        budget = amount(data["budgets"]["tokens"])
        lines = [
            f"Validation {data['metric']['unit']}, each run's best within {budget} tokens",
            _ranking(ranking),
            "",
        ]
    if ranking and data["baseline"] not in data["configurations"]:
        lines.append(_wrapped(f"- the baseline, {data['baseline']}, has no run that counts"))
    references = (data["baseline"], *(item["configuration"] for item in ranking[:1]))
    told = [item["verdict"] for item in data["differences"] if item["minus"] in references]
    lines += [_wrapped(f"- {verdict}") for verdict in told[:SHOWN]]
    grave = [item for item in data["findings"] if item["severity"] != "note"]
    lines += [_wrapped(f"- {item['severity']}, {item['code']}: {item['seen']}") for item in grave[:SHOWN]]
    more = max(0, len(told) - SHOWN) + max(0, len(grave) - SHOWN)
    lines += [f"- {more} more in the report"] if more else []
    lines += [_wrapped(f"- left out: {text}") for text in data["left_out"][:SHOWN]]
    return "\n".join(lines).rstrip()


def _ranking(ranking: list[dict[str, Any]]) -> str:
    rows = []
    for rank, item in enumerate(ranking, start=1):
        best = item["best"]
        interval = f"{best['low']:.4f} to {best['high']:.4f}" if best["low"] is not None else MISSING
        rows.append(
            [str(rank), show(best["estimate"], ".4f"), interval, str(best["n"]), item["configuration"]]
        )
    headers = ["", "mean", "95 % interval", "seeds", "configuration"]
    room = WIDTH - sum(max(len(row[n]) for row in (headers, *rows)) + 2 for n in range(4))
    rows = [[*row[:-1], row[-1] if len(row[-1]) <= room else f"{row[-1][: room - 1]}…"] for row in rows]
    return plain_table(headers, rows, left=(4,))


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, WIDTH, subsequent_indent="  ", max_lines=4, placeholder=" ..."))
