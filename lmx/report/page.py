"""`report.md` of one run, with its plots."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmx.audit import Finding, audit_run, findings_markdown
from lmx.audit.finding import counted
from lmx.measure import Chinchilla, chinchilla, distinct_n
from lmx.report.columns import COLUMNS, Column, Interval, Record, best_index, extremes, intervals
from lmx.report.facts import Facts, corpus_tokens, facts, overlaps, setting, settings, verdict
from lmx.report.plots import plot_run
from lmx.report.text import MISSING, amount, code_block, duration, markdown_table, show
from lmx.runs import Run, write_atomic

ROWS = 60  # a longer table is thinned
HELD_OUT = (
    ("loss", "Test Loss", ".4f"),
    ("perplexity", "Test Perplexity", ",.2f"),
    ("bits_per_byte", "Test Bits/Byte", ".4f"),
    ("word_perplexity", "Test Word Perplexity", ",.2f"),
    ("accuracy", "Test Accuracy", ".4f"),
)
PROGRESSION = {"perplexity": ",.2f", "bits_per_byte": ".4f", "excess_bits_per_byte": ".4f"}


def render_run(run: Run) -> Path:
    """Write `report.md` and `plots/*.png` of `run` into its folder; return the report's path."""
    plots = [(Path(os.path.relpath(path, run.path)).as_posix(), text) for path, text in plot_run(run)]
    totals, findings = facts(run), audit_run(run)
    parts = [f"# {run.name}", f"**{verdict(run)}**", *_problems(run), *_glance(run, totals, findings)]
    if findings:
        parts += ["## What to know before believing it", findings_markdown(findings).rstrip()]
    parts += [f"![{text}]({path})" for path, text in plots]
    parts += [*_best_and_final(run), *_training_table(run), *_progression(run), *_samples(run)]
    parts += [*_size(run, totals), *_overlap(run), *_speed(totals), *_configuration(run), *_environment(run)]
    return write_atomic(run.folder.report, "\n\n".join(parts) + "\n")


def _problems(run: Run) -> Iterator[str]:
    if run.problems:
        yield "What is wrong with this record:\n\n" + "\n".join(f"- {problem}" for problem in run.problems)


def _glance(run: Run, totals: Facts, findings: Sequence[Finding]) -> Iterator[str]:
    """The answer, in a few lines that each have their section below."""
    account = _account(run, totals)
    words = next((text for split, size, text in overlaps(run) if (split, size) == ("validation", 13)), "")
    cost = [
        f"{duration(totals.train_seconds)} of training" if totals.train_seconds else "",
        f"{show(totals.tokens_per_second, ',.0f')} tokens/s" if totals.tokens_per_second else "",
        f"{show(totals.flops, '.3g')} FLOPs" if totals.flops else "",
        f"{totals.peak_memory:,.0f} MiB {totals.memory_name}" if totals.peak_memory else "",
    ]
    rows = [
        ["Best validation", _validation(run)],
        ["Model", _model(run)],
        ["Data", _data(run, totals)],
        ["D/N", "" if account is None else f"{account.ratio:.3g} tokens a parameter, {account.status}"],
        ["Validation text in train", words],
        ["Cost", ", ".join(filter(None, cost))],
        ["Audit", counted(findings)],
    ]
    yield markdown_table(["", ""], [row for row in rows if row[1]], left=2)


def _validation(run: Run) -> str:
    """Every figure of the evaluation with the lowest loss, and the last one's where it is another."""
    evaluations = run.of_kind("val")
    losses = [line.get("val/loss") for line in evaluations]
    best = best_index([float("nan") if loss is None else loss for loss in losses], "low")
    if best is None:
        return ""
    last = f"; {losses[-1]:.4f} at the end" if best != len(losses) - 1 and losses[-1] is not None else ""
    return f"{_figures(evaluations[best])} at step {evaluations[best]['step']:,}{last}"


def _figures(line: Record) -> str:
    shown = (
        ("loss", ".4f", "nats/token"),
        ("perplexity", ",.2f", "perplexity"),
        ("bits_per_byte", ".4f", "bits/byte"),
    )
    known = [(line[f"val/{name}"], spec, unit) for name, spec, unit in shown if f"val/{name}" in line]
    return ", ".join(f"{show(value, spec)} {unit}" for value, spec, unit in known)


def _model(run: Run) -> str:
    counts = run.identity.get("parameters") or {}
    if "total" not in counts:
        return ""
    name = (run.config.get("model") or {}).get("name", "")
    inner = counts.get("without_embedding")
    return f"{name}: {counts['total']:,} parameters" + (f", {inner:,} without embedding" if inner else "")


def _data(run: Run, totals: Facts) -> str:
    if not totals.tokens:
        return ""
    name = (run.config.get("data") or {}).get("name", "")
    passes = "" if totals.epochs is None else f", {totals.epochs:.2f} passes over the train split"
    return f"{name}: {amount(totals.tokens)} tokens in {totals.step:,} steps{passes}"


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
    test = run.identity.get("test")
    if isinstance(test, dict):
        yield f"The weights of step {test['step']:,} on the whole test split, which nothing was chosen on:"
        known = [(title, test[f"test/{key}"], spec) for key, title, spec in HELD_OUT if f"test/{key}" in test]
        yield markdown_table(
            [title for title, *_ in known], [[show(value, spec) for _, value, spec in known]]
        )


def _training_table(run: Run) -> Iterator[str]:
    rows = intervals(run)
    if not rows:
        return
    columns = [column for column in COLUMNS if column.over_time and _has_values(column, rows)]
    kept = thinned(rows, _best_row(rows))
    best = {line["step"] for line, _ in _improvements(run)}
    table = [[*(show(column.read(row), column.spec) for column in columns), _mark(row, best)] for row in kept]
    yield "## Training"
    left_out = f" {len(kept)} of {len(rows)} rows are shown." if len(kept) < len(rows) else ""
    yield f"Training columns are means since the row before; PI is exp of the mean log PI.{left_out}"
    yield markdown_table([*(column.title for column in columns), "Best so far"], table, left=2)


def _mark(row: Interval, best: set[int]) -> str:
    return "✓" if row.evaluation is not None and row.evaluation["step"] in best else ""


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


def _improvements(run: Run) -> list[tuple[Record, float | None]]:
    """Return each evaluation whose loss was the lowest so far, and by what share of the one before."""
    found: list[tuple[Record, float | None]] = []
    best: float | None = None
    for line in run.of_kind("val"):
        loss = line.get("val/loss")
        if loss is not None and loss < (math.inf if best is None else best):
            found.append((line, None if best is None else (best - loss) / best))
            best = loss
    return found


def _progression(run: Run) -> Iterator[str]:
    rows = []
    for line, gain in _improvements(run):
        place = [f"{line['step']:,}", amount(line.get("tokens")), duration(line.get("seconds"))]
        values = [show(line.get(f"val/{key}"), spec) for key, spec in PROGRESSION.items()]
        better = "" if gain is None else f"{100 * gain:.2f} %"
        rows.append([*place, show(line["val/loss"], ".4f"), better, *values])
    if len(rows) < 2:
        return
    stride = -(-len(rows) // (ROWS // 2))
    kept = [row for index, row in enumerate(rows) if index % stride == 0 or index == len(rows) - 1]
    yield "## Progression"
    left_out = f" {len(kept)} of them are shown." if len(kept) < len(rows) else ""
    yield f"{len(rows)} of {len(run.of_kind('val'))} evaluations were the best so far.{left_out}"
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
    account = _account(run, totals)
    if account is not None and totals.tokens and totals.parameters:
        yield "### Tokens for this size, parameters for these tokens"
        yield (
            "Chinchilla accounting (20 tokens a parameter): D are the distinct tokens of the **train** split "
            "that were trained on, N all parameters."
        )
        rows = [
            ["D/N", f"{account.ratio:.3g}, {account.status}"],
            ["optimal D for these parameters", f"{amount(account.optimal_tokens)} tokens"],
            ["optimal N for these tokens", f"{amount(account.optimal_parameters)} parameters"],
            ["tokens a parameter with repetition", f"{totals.tokens / totals.parameters:.3g}"],
        ]
        yield markdown_table(["", ""], rows)


def _account(run: Run, totals: Facts) -> Chinchilla | None:
    """Distinct train tokens on all parameters; None where the record lacks one of them."""
    if not totals.parameters or not totals.tokens:
        return None
    corpus = corpus_tokens(run)
    return chinchilla(totals.parameters, min(totals.tokens, corpus) if corpus else totals.tokens)


def _overlap(run: Run) -> Iterator[str]:
    rows = [[split, f"{size} words", text] for split, size, text in overlaps(run)]
    if rows:
        yield "### Held-out text in the train split"
        yield "Distinct word sequences of each held-out split that occur in the train split as well."
        yield markdown_table(["Split", "Sequences of", "in train"], rows, left=2)


def _speed(totals: Facts) -> Iterator[str]:
    rows = [
        ["training time", duration(totals.train_seconds)],
        ["evaluation time", duration(totals.eval_seconds)],
        ["compilation, in neither", duration(totals.compile_seconds)],
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
    yield (
        "[config.yaml](config.yaml) is the complete configuration"
        + (f"; the code is commit {commit}" if commit else "")
        + (", whose diff is in [run.json](run.json)" if git.get("dirty") else "")
        + "."
    )
