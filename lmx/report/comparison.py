"""Several runs side by side: what differs, how they did, and what the comparison is worth."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmx.report.columns import extremes
from lmx.report.facts import differing, facts, headline, under_floor
from lmx.report.plots import plot_comparison
from lmx.report.text import amount, code_block, duration, markdown_table, show
from lmx.runs import Run, read_run, write_atomic

# settings that make two validation texts different
_CORPUS = (
    *("source", "name", "repository", "subset", "revision", "local_dir", "files", "validation_files"),
    *("validation_fraction", "story_seed", "held_out_stories", "max_documents", "min_characters"),
)
_MEASURES = (
    *("val/bits_per_byte", "val/excess_bits_per_byte", "val/loss", "val/perplexity", "val/word_perplexity"),
    *("val/accuracy", "train/loss"),
)


def render_comparison(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write `report.md` and `plots/`, which compare the runs in `folders`, into `out`; return the report.

    Raises CheckpointError when one of `folders` is not a run folder.
    """
    out = Path(out)
    runs = ranked([read_run(folder) for folder in folders])
    names = labels(runs)
    numbered = [f"{number} {name}" for number, name in enumerate(names, start=1)]
    plots = plot_comparison(runs, numbered, out / "plots")
    parts = [f"# {len(runs)} runs compared", *_table(runs, names)]
    notes = remarks(runs)
    if notes:
        parts += ["## Before comparing", "\n".join(f"- {note}" for note in notes)]
    parts += [f"![{text}]({path.relative_to(out).as_posix()})" for path, text in plots]
    parts += [*_differences(runs), *_speed(runs), *_where(runs, out)]
    return write_atomic(out / "report.md", "\n\n".join(parts) + "\n")


def ranked(runs: Sequence[Run]) -> list[Run]:
    """Return the runs by best validation bits per byte, or by loss where some lack it; others last."""
    found = [{item.column.key: item.best for item in extremes(run)} for run in runs]
    evaluated = [values for values in found if values.get("val/loss") is not None]
    bytes_known = all(values.get("val/bits_per_byte") is not None for values in evaluated)
    key = "val/bits_per_byte" if bytes_known else "val/loss"

    def place(number: int) -> float:
        value = found[number].get(key)
        return math.inf if value is None else value

    return [runs[number] for number in sorted(range(len(runs)), key=place)]


def labels(runs: Sequence[Run]) -> list[str]:
    """Name each run by what sets it apart: its experiment, its differing settings, or its folder."""
    names = [run.name for run in runs]
    same_name = len(set(names)) == 1
    settings = differing(runs)
    found: list[str] = []
    for place, run in enumerate(runs):
        parts = [] if same_name else [run.name]
        parts += [f"{key.rpartition('.')[2]}={values[place]}" for key, values in list(settings.items())[:4]]
        label = " ".join(parts) or run.path.name
        found.append(f"{label} {run.path.name[-6:]}" if label in found else label)
    return found


def remarks(runs: Sequence[Run]) -> list[str]:
    """Return one line for each reason not to take the comparison at its word."""
    return [] if len(runs) < 2 else list(_remarks(runs))


def _remarks(runs: Sequence[Run]) -> Iterator[str]:
    unfinished = [f"{n} ({run.status})" for n, run in enumerate(runs, start=1) if run.status != "completed"]
    below = [n for n, run in enumerate(runs, start=1) if under_floor(run)]
    if below:
        yield f"Below the corpus's floor, which cannot be: run {', '.join(map(str, below))}; a bug in lmx."
    if unfinished:
        yield f"Not completed: run {', '.join(unfinished)}; their figures are those so far."
    if len({_corpus(run) for run in runs}) > 1:
        yield "Different corpora: no loss, perplexity or bits per byte of one compares with another's."
    if len({_fingerprint(run, "tokenizer") for run in runs}) > 1:
        yield "Different tokenizers: loss and perplexity per token are not comparable; bits per byte are."
    if len({_setting(run, "data", "sequence_length") for run in runs}) > 1:
        yield "Different sequence lengths: longer windows give more context to predict from."
    tokens = [totals.tokens for run in runs if (totals := facts(run)).tokens]
    if tokens and max(tokens) > 1.01 * min(tokens):
        yield (
            f"Unequal training: from {amount(min(tokens))} to {amount(max(tokens))} tokens; "
            "compare at equal tokens in the plots."
        )
    changed = [key for key in differing(runs) if key != "seed"]
    if len(changed) > 1:
        yield f"More than one setting differs ({_listed(changed)}): no difference can be laid to one of them."
    if changed and len({_setting(run, "seed") for run in runs}) == 1:
        yield "One seed: how far chance alone sets two runs apart is not known."
    elif changed and not _repeated(runs):
        yield "No configuration has two seeds: how far chance alone sets two runs apart is not known."
    if len({str(_hardware(run)) for run in runs}) > 1:
        yield "Different hardware or precision: times and throughput are not comparable."


def _table(runs: Sequence[Run], names: Sequence[str]) -> Iterator[str]:
    values = [{item.column.key: item for item in extremes(run)} for run in runs]
    shown = [key for key in _MEASURES if any(key in row for row in values)]
    columns = {item.column.key: item.column for row in values for item in row.values()}
    measures = [columns[key].title for key in shown]
    rows = []
    for number, (run, name, row) in enumerate(zip(runs, names, values, strict=True), start=1):
        best = headline(run)
        cells = [show(row[key].best, columns[key].spec) if key in row else show(None) for key in shown]
        rows.append([str(number), name, run.status, *cells, show(best.best_step if best else None, ",")])
    yield "Each run's best values, the best run first."
    yield markdown_table(["", "Run", "Status", *measures, "at step"], rows, left=3)


def _differences(runs: Sequence[Run]) -> Iterator[str]:
    rows = [[key, *values] for key, values in differing(runs).items()]
    if rows:
        yield "## What differs"
        yield markdown_table(["Setting", *(str(n) for n in range(1, len(runs) + 1))], rows)


def _speed(runs: Sequence[Run]) -> Iterator[str]:
    rows = []
    for number, run in enumerate(runs, start=1):
        totals = facts(run)
        sizes = [show(totals.parameters, ","), show(totals.step, ","), amount(totals.tokens)]
        costs = [show(totals.flops, ".3g"), duration(totals.train_seconds)]
        speeds = [show(totals.tokens_per_second, ",.0f"), show(totals.peak_memory, ",.0f")]
        rows.append([str(number), *sizes, *costs, *speeds])
    headers = ["", "Parameters", "Steps", "Tokens", "FLOPs", "Training time", "Tokens/s", "Peak memory (MiB)"]
    yield "## Size and speed"
    yield markdown_table(headers, rows)


def _where(runs: Sequence[Run], out: Path) -> Iterator[str]:
    lines = []
    for number, run in enumerate(runs, start=1):
        place = Path(os.path.relpath(run.path.resolve(), out.resolve())).as_posix()
        target = f"{place}/report.md" if run.folder.report.exists() else place
        command = run.identity.get("command", "command unknown")
        lines.append(f"{number}. [{run.path.name}]({target}): `{command}`")
    yield "## Where"
    yield "\n".join(lines)
    yield code_block("python -m lmx.report " + " ".join(str(run.path) for run in runs), "sh")


def _corpus(run: Run) -> tuple[Any, ...]:
    return tuple(str(_setting(run, "data", key)) for key in _CORPUS)


def _fingerprint(run: Run, part: str) -> Any:
    recorded = (run.identity.get(part) or {}).get("fingerprint")
    return recorded if recorded is not None else str(run.config.get(part))


def _hardware(run: Run) -> tuple[Any, ...]:
    hardware = run.identity.get("hardware") or {}
    return tuple(hardware.get(key) for key in ("device_name", "devices", "precision", "threads", "compile"))


def _setting(run: Run, *path: str) -> Any:
    value: Any = run.config
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _repeated(runs: Sequence[Run]) -> bool:
    """Whether some configuration was run with more than one seed."""
    seeds: dict[tuple[str, ...], set[Any]] = {}
    others = [values for key, values in differing(runs).items() if key != "seed"]
    for place, run in enumerate(runs):
        same = tuple(values[place] for values in others)
        seeds.setdefault(same, set()).add(_setting(run, "seed"))
    return any(len(found) > 1 for found in seeds.values())


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
