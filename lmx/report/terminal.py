"""Tables for the terminal, at most 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from lmx.report.columns import extremes
from lmx.report.comparison import labels, ranked, remarks
from lmx.report.facts import facts, verdict
from lmx.report.text import MISSING, amount, duration, plain_table, show
from lmx.runs import Run

WIDTH = 80
# what the last table of a training command shows, in this order, where it was recorded
_SHOWN = (
    *("val/loss", "val/perplexity", "val/word_perplexity", "val/bits_per_byte", "val/excess_bits_per_byte"),
    *("val/accuracy", "train/loss", "train/pi", "train/log_pi", "train/entropy", "train/grad_norm"),
)


def final_table(run: Run) -> str:
    """Return the table that a training command ends with: best and final values, speed, memory, time."""
    found = {item.column.key: item for item in extremes(run)}
    rows = [
        [
            item.column.title,
            item.column.unit,
            show(item.best, item.column.spec) if item.column.better else "",
            show(item.best_step, ",") if item.column.better else "",
            show(item.final, item.column.spec),
        ]
        for item in (found[key] for key in _SHOWN if key in found)
    ]
    floor = run.last("val/floor_bits_per_byte")
    if floor is not None:
        place = next(n for n, row in enumerate(rows) if row[0] == "Excess over Floor")
        rows.insert(place, ["Floor of the corpus", "bits/byte", "", "", f"{floor:.4f}"])
    totals = facts(run)
    below = [
        ("Tokens", f"{amount(totals.tokens)} in {totals.step:,} steps, {show(totals.epochs, '.2f')} epochs"),
        ("Throughput", f"{show(totals.tokens_per_second, ',.0f')} tokens/s"),
        ("Peak memory", f"{show(totals.peak_memory, ',.0f')} MiB ({totals.memory_name})"),
        ("Time", f"{duration(totals.train_seconds)} training, {duration(totals.eval_seconds)} evaluation"),
    ]
    lines = [_wrapped(verdict(run)), ""]
    if rows:
        lines += [plain_table(["", "unit", "best", "at step", "final"], rows, left=(0, 1)), ""]
    return "\n".join([*lines, *(f"{name:<13}{text}" for name, text in below)])


def comparison_table(runs: Sequence[Run]) -> str:
    """Return a table of the runs, best first, and what has to be known before comparing them."""
    order = ranked(runs)
    headers = ["", "loss", "perplexity", "bits/byte", "tokens", "time", "run"]
    rows = []
    for number, (run, name) in enumerate(zip(order, labels(order), strict=True), start=1):
        totals = facts(run)
        best = {item.column.key: show(item.best, item.column.spec) for item in extremes(run)}
        measures = [best.get(f"val/{key}", MISSING) for key in ("loss", "perplexity", "bits_per_byte")]
        rows.append([str(number), *measures, amount(totals.tokens), duration(totals.train_seconds), name])
    widths = [max(len(row[column]) for row in (headers, *rows)) for column in range(len(headers) - 1)]
    room = WIDTH - sum(widths) - 2 * len(widths)
    rows = [[*row[:-1], textwrap.shorten(row[-1], room, placeholder=" ...")] for row in rows]
    table = plain_table(headers, rows, left=(6,))
    return "\n".join([table, "", *(_wrapped(f"- {text}", "  ") for text in remarks(order))]).rstrip()


def _wrapped(text: str, indent: str = "") -> str:
    return "\n".join(textwrap.wrap(text, WIDTH, subsequent_indent=indent))
