"""Tables for the terminal, at most 80 columns wide."""

from __future__ import annotations

import textwrap

from lmx.measure import digits
from lmx.report.columns import extremes
from lmx.report.facts import facts, verdict
from lmx.report.text import amount, duration, plain_table, show
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
    times = [(totals.train_seconds, "training"), (totals.eval_seconds, "evaluation")]
    if totals.compile_seconds is not None:
        times.append((totals.compile_seconds, "compilation"))
    below = [
        ("Tokens", f"{amount(totals.tokens)} in {totals.step:,} steps, {show(totals.epochs, '.2f')} epochs"),
        ("Throughput", f"{show(totals.tokens_per_second, ',.0f')} tokens/s"),
        ("Peak memory", f"{show(totals.peak_memory, ',.0f')} MiB ({totals.memory_name})"),
        ("Time", ", ".join(f"{duration(seconds)} {what}" for seconds, what in times)),
    ]
    test = run.identity.get("test")
    if isinstance(test, dict):
        bits = digits(test["test/bits_per_byte"], ".4f")
        perplexity = digits(test["test/perplexity"], ",.2f")
        below.append(
            ("Test split", f"{bits} bits/byte, perplexity {perplexity}, weights of step {test['step']:,}")
        )
    skipped = [line["train/skipped"] for line in run.of_kind("train") if "train/skipped" in line]
    if skipped:
        below.append(("Skipped", f"{sum(skipped):,.0f} updates, as spikes of the loss or the gradient"))
    lines = [_wrapped(verdict(run)), ""]
    if rows:
        lines += [plain_table(["", "unit", "best", "at step", "final"], rows, left=(0, 1)), ""]
    return "\n".join([*lines, *(f"{name:<13}{text}" for name, text in below)])


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH)
