"""`report.md` of one run, with its plots."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from lmx.measure import chinchilla, distinct_n
from lmx.report.columns import COLUMNS, Column, Interval, best_index, extremes, intervals
from lmx.report.facts import Facts, corpus_tokens, facts, setting, settings, verdict
from lmx.report.plots import plot_run
from lmx.report.text import MISSING, amount, code_block, duration, markdown_table, show
from lmx.runs import Run, read_run, write_atomic

ROWS = 60  # a longer table is thinned
PROGRESSION = {"perplexity": ",.2f", "bits_per_byte": ".4f", "excess_bits_per_byte": ".4f"}


def render_run(folder: str | Path) -> Path:
    """Write `report.md` and `plots/*.png` of the run in `folder` from its records; return the report's path.

    Raises CheckpointError when `folder` is not a run folder.
    """
    run = read_run(folder)
    plots = [(Path(os.path.relpath(path, run.path)).as_posix(), text) for path, text in plot_run(run)]
    totals = facts(run)
    parts = [f"# {run.name}", f"**{verdict(run)}**", *_problems(run), *_best_and_final(run)]
    parts += [f"![{text}]({path})" for path, text in plots]
    parts += [*_training_table(run), *_progression(run), *_samples(run)]
    parts += [*_size(run, totals), *_speed(totals), *_configuration(run), *_environment(run)]
    return write_atomic(run.folder.report, "\n\n".join(parts) + "\n")


def _problems(run: Run) -> Iterator[str]:
    if run.problems:
        yield "What is wrong with this record:\n\n" + "\n".join(f"- {problem}" for problem in run.problems)


def _best_and_final(run: Run) -> Iterator[str]:
    rows = [
        [
            item.column.title,
            item.column.unit,
            "" if item.column.better is None else {"low": "lowest", "high": "highest"}[item.column.better],
            show(item.best, item.column.spec) if item.column.better else "",
            show(item.best_step, ",") if item.column.better else "",
            show(item.final, item.column.spec),
            f"{item.final_step:,}",
        ]
        for item in extremes(run)
    ]
    if rows:
        yield "## Best and final"
        headers = ["Metric", "Unit", "Best is", "Best", "at step", "Final", "at step"]
        yield markdown_table(headers, rows, left=3)


def _training_table(run: Run) -> Iterator[str]:
    rows = intervals(run)
    if not rows:
        return
    columns = [column for column in COLUMNS if column.over_time and _has_values(column, rows)]
    kept = thinned(rows, _best_row(rows))
    table = [[show(column.read(row), column.spec) for column in columns] for row in kept]
    yield "## Training"
    left_out = f" {len(kept)} of {len(rows)} rows are shown." if len(kept) < len(rows) else ""
    yield f"Training columns are means since the row before; PI is exp of the mean log PI.{left_out}"
    yield markdown_table([column.title for column in columns], table, left=2)


def thinned(rows: list[Interval], best: int | None) -> list[Interval]:
    """Return about ROWS of `rows` at most, evenly spread, with the first, the last and the best."""
    stride = -(-len(rows) // ROWS)
    keep = {*range(0, len(rows), stride), len(rows) - 1, *([] if best is None else [best])}
    return [row for index, row in enumerate(rows) if index in keep]


def _has_values(column: Column, rows: list[Interval]) -> bool:
    return any(column.read(row) not in (None, "") for row in rows)


def _best_row(rows: list[Interval]) -> int | None:
    losses = [row.evaluation.get("val/loss") if row.evaluation else None for row in rows]
    return best_index([float("nan") if loss is None else loss for loss in losses], "low")


def _progression(run: Run) -> Iterator[str]:
    rows, best = [], None
    evaluations = run.of_kind("val")
    for line in evaluations:
        loss = line.get("val/loss")
        if loss is None or not loss < (float("inf") if best is None else best):
            continue
        gain = "" if best is None else f"{100 * (best - loss) / best:.2f} %"
        place = [f"{line['step']:,}", amount(line.get("tokens")), duration(line.get("seconds"))]
        values = [show(line.get(f"val/{key}"), spec) for key, spec in PROGRESSION.items()]
        rows.append([*place, show(loss, ".4f"), gain, *values])
        best = loss
    if len(rows) < 2:
        return
    stride = -(-len(rows) // (ROWS // 2))
    kept = [row for index, row in enumerate(rows) if index % stride == 0 or index == len(rows) - 1]
    yield "## Progression"
    left_out = f" {len(kept)} of them are shown." if len(kept) < len(rows) else ""
    yield f"{len(rows)} of {len(evaluations)} evaluations were the best so far.{left_out}"
    place = ["Step", "Tokens", "Training time", "Eval Loss", "better by"]
    yield markdown_table([*place, "Eval Perplexity", "Bits/Byte", "Excess"], kept, left=0)


def _samples(run: Run) -> Iterator[str]:
    if not run.samples:
        return
    last = max(sample["step"] for sample in run.samples)
    yield "## Text"
    yield (
        f"Written by the model at step {last:,}. distinct-n: different n-grams of words over all of them; "
        "a text that never repeats itself has 1."
    )
    for sample in run.samples:
        if sample["step"] == last:
            text = sample["text"]
            words = text.split()
            measures = [f"distinct-{n} {show(distinct_n(words, n), '.3f')}" for n in (1, 2)]
            seed = [f"seed {sample['seed']}"] if "seed" in sample else []
            prompt = json.dumps(sample["prompt"], ensure_ascii=False)
            yield f"Prompt `{prompt}` ({', '.join([*measures, *seed])}):"
            yield code_block(sample["prompt"] + text)


def _size(run: Run, totals: Facts) -> Iterator[str]:
    counts = run.identity.get("parameters") or {}
    corpus = corpus_tokens(run)
    rows = [[key.replace("_", " "), f"{value:,}"] for key, value in counts.items() if isinstance(value, int)]
    rows = [["parameters, " + name, value] for name, value in rows]
    rows.append(["tokens trained on", show(totals.tokens, ",")])
    rows.append(["tokens of the train split", show(corpus, ",")])
    rows.append(["epochs", show(totals.epochs, ".2f")])
    rows.append(["FLOPs of training", show(totals.flops, ".3g")])
    yield "## Size and data"
    yield markdown_table(["", ""], [row for row in rows if row[1] != MISSING])
    if totals.parameters and totals.tokens:
        yield _chinchilla(totals.parameters, totals.tokens, corpus)


def _chinchilla(parameters: int, tokens: int, corpus: int | None) -> str:
    distinct_tokens = min(tokens, corpus) if corpus else tokens
    account = chinchilla(parameters, distinct_tokens)
    text = (
        f"Chinchilla accounting, distinct train tokens D on all parameters N: D/N = {account.ratio:.3g}, "
        f"{account.status}. At 20 to 1, {amount(account.optimal_tokens)} tokens are optimal for these "
        f"parameters, {amount(account.optimal_parameters)} parameters for these tokens."
    )
    seen = f" With repetition, {tokens / parameters:.3g} tokens a parameter were seen."
    return text + (seen if tokens > distinct_tokens else "")


def _speed(totals: Facts) -> Iterator[str]:
    rows = [
        ["training time", duration(totals.train_seconds)],
        ["evaluation time", duration(totals.eval_seconds)],
        ["tokens a second, mean", show(totals.tokens_per_second, ",.0f")],
        ["seconds a step, median", show(totals.step_seconds, ".4g")],
        ["seconds a step, 95th percentile", show(totals.step_seconds_95, ".4g")],
        ["model FLOPs utilisation, mean", show(totals.mfu, ".1%")],
        [f"peak {totals.memory_name}, MiB", show(totals.peak_memory, ",.1f")],
    ]
    known = [row for row in rows if row[1] != MISSING]
    if known:
        yield "## Speed and memory"
        yield markdown_table(["", ""], known)


def _configuration(run: Run) -> Iterator[str]:
    if run.config:
        yield "## Configuration"
        yield "What differs from the defaults of each group; [config.yaml](config.yaml) is complete."
        yield markdown_table(["Group", "Settings"], [list(row) for row in settings(run)], left=2)


def _environment(run: Run) -> Iterator[str]:
    identity = run.identity
    if not identity:
        return
    git = identity.get("git") or {}
    commit = str(git.get("commit", ""))[:12] + (" and uncommitted changes" if git.get("dirty") else "")
    versions = identity.get("versions") or {}
    hardware = identity.get("hardware") or {}
    reasons = hardware.get("reasons") or []
    rows = [
        ["started", str(identity.get("started", MISSING))],
        ["ended", str(identity.get("ended") or MISSING)],
        ["sessions", str(len(identity.get("sessions") or []))],
        ["hardware", ", ".join(f"{key} {setting(hardware[key])}" for key in hardware if key != "reasons")],
        ["because", "; ".join(map(str, reasons))],
        ["versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)],
        ["commit", commit],
        ["data", str((identity.get("data") or {}).get("fingerprint", MISSING))],
        ["tokenizer", str((identity.get("tokenizer") or {}).get("fingerprint", MISSING))],
        ["configuration", str(identity.get("config_fingerprint", MISSING))],
    ]
    yield "## Environment"
    yield markdown_table(["", ""], [row for row in rows if row[1] not in ("", MISSING)], left=2)
    yield "## Again"
    yield code_block(str(identity.get("command", "")), "sh")
