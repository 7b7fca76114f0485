"""`results.md` of a study: a section for each job that ended, appended and never rewritten."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from lmx.report.exports import best_evaluation
from lmx.report.facts import facts, setting
from lmx.report.text import amount, duration, markdown_table, show
from lmx.runs import Digest, read_digest

FILE = "results.md"


def append_result(folder: Path, label: str, status: str, run: Path | None, reason: str = "") -> Path:
    """Append what a job came to: its settings in a line, its best evaluation, its speed; return the file."""
    path = folder / FILE
    parts = [] if path.exists() else ["# Results, as they came\n"]
    parts.append(
        f"\n## {label}, {datetime.now():%Y-%m-%d %H:%M}\n\n{status}{f': {reason}' if reason else ''}\n"
    )
    if run is not None:
        parts += _section(read_digest(run))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(parts))
    return path


def _section(run: Digest) -> Iterator[str]:
    config = run.run.config
    if not config:
        return
    yield f"\n{' | '.join(_settings(config, run))}\n"
    lines = run.run.of_kind("val")
    evaluated = {"step 0": next((line for line in lines if line["step"] == 0), None)}
    evaluated |= {"best": best_evaluation(run) or None, "last": lines[-1] if lines else None}
    rows = [[name, *_evaluation(line)] for name, line in evaluated.items() if line is not None]
    if isinstance(test := run.run.identity.get("test"), dict):
        rows.append(
            ["best, test", *_evaluation({name.replace("test/", "val/"): test[name] for name in test})]
        )
    headers = ["Evaluation", "Step", "Epoch", "Loss", "Perplexity", "Bits/Byte", "Accuracy", "Runtime"]
    yield f"\n{markdown_table(headers, rows)}\n"
    totals = facts(run.run)
    speed = totals.tokens_per_second
    length = (config.get("data") or {}).get("sequence_length")
    samples = speed / length if speed and length else None
    steps = totals.step / totals.train_seconds if totals.train_seconds else None
    yield (
        f"\n{amount(totals.tokens)} tokens in {totals.step:,} steps, {show(totals.epochs, '.2f')} epochs, "
        f"{duration(totals.train_seconds)}; {show(samples, '.4g')} samples/s, {show(steps, '.4g')} steps/s; "
        f"{run.path}\n"
    )


def _settings(config: dict[str, Any], run: Digest) -> list[str]:
    """Family C's line: model, dataset, block, the objective where it has settings, how it was trained."""
    model, data, train = (config.get(name) or {} for name in ("model", "data", "train"))
    objective, optimizer = config.get("objective") or {}, config.get("optimizer") or {}
    parts = [f"{model.get('name')}", f"{data.get('name')}", f"block {data.get('sequence_length')}"]
    if objective.get("kind") == "cosine_mix":
        parts += [
            f"alpha {setting(objective.get('alpha'))}",
            f"temp {setting(objective.get('temperature'))}",
            f"top-k {setting(objective.get('top_k'))}",
        ]
    total = run.run.identity.get("total_steps")
    parts += [f"{show(total, ',')} steps ({train.get('horizon')})", f"{optimizer.get('name')}"]
    parts += [
        f"rate {setting(optimizer.get('lr'))}",
        f"batch {train.get('batch_size')}",
        f"seed {config.get('seed')}",
    ]
    return parts


def _evaluation(line: dict[str, Any]) -> list[str]:
    return [
        f"{line['step']:,}",
        show(line.get("epoch"), ".2f"),
        show(line.get("val/loss"), ".4f"),
        show(line.get("val/perplexity"), ",.2f"),
        show(line.get("val/bits_per_byte"), ".4f"),
        show(line.get("val/accuracy"), ".4f"),
        duration(line.get("val/seconds")),
    ]
