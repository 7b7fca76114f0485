"""What a comparison leaves for programs: `research_data.json`, `performance_metrics.csv`, `text_samples/`."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmx.measure import distinct_n, lower_is_better
from lmx.report.arms import Comparison
from lmx.report.differences import Difference, real_by_chance
from lmx.report.facts import facts
from lmx.report.standings import BITS, LOSS, UNITS, Arm, Digest, Standing, seed_of
from lmx.report.text import code_block
from lmx.runs import write_atomic

CONVERGED = 0.01  # improvement of the best evaluation over the last fifth of the steps, as a share
DEFINITIONS = {
    "train_loss": "nats per token over the last tenth of the steps, weighted by tokens",
    "eval_loss": "nats per token at the run's best evaluation; the next four belong to the same evaluation",
    "convergence.early_phase_loss": "train loss over the first tenth of the steps",
    "convergence.late_phase_loss": "train loss over the last tenth of the steps",
    "convergence.total_improvement": "early_phase_loss − late_phase_loss",
    "convergence.converged": "the best evaluation improved by under 1 % over the last fifth of the steps",
    "efficiency.avg_step_time": "seconds, mean over all steps; evaluations, saving and start-up apart",
    "efficiency.step_time_std": "seconds, standard deviation of the means between two log lines",
    "differences": "every two configurations, `configuration` − `minus`: first against the baseline, then "
    "against the best, and so on down the ranking",
    "differences_real_by_chance": "how many of their intervals would leave zero out by chance alone",
    "means": "each figure of a configuration is the mean over its runs; converged: whether all of them have",
}
_EVALUATION = {
    "eval_loss": LOSS,
    "accuracy": "val/accuracy",
    "perplexity": "val/perplexity",
    "avg_confidence": "val/confidence",
    "top5_accuracy": "val/accuracy_top5",
}
Figures = dict[str, Any]


def run_figures(run: Digest) -> Figures:
    """Return family E's figures of one run; None where they were not recorded."""
    best = best_evaluation(run)
    steps, seconds = run.train["steps"], run.train["speed/step_seconds"]
    known = np.isfinite(seconds) & np.isfinite(steps)
    mean = float(np.average(seconds[known], weights=steps[known])) if known.any() else None
    early, late = phase_losses(run)
    improvement = None if early is None or late is None else early - late
    return {
        "train_loss": late,
        **{name: best.get(key) for name, key in _EVALUATION.items()},
        "convergence": {
            "total_improvement": improvement,
            "early_phase_loss": early,
            "late_phase_loss": late,
            "converged": converged(run),
        },
        "efficiency": {
            "avg_step_time": mean,
            "steps_per_second": 1 / mean if mean else None,
            "step_time_std": float(seconds[known].std()) if known.any() else None,
        },
    }


def best_evaluation(run: Digest) -> dict[str, Any]:
    """Return the evaluation with the lowest loss; empty where there is none."""
    lines = [line for line in run.run.of_kind("val") if line.get(LOSS) is not None]
    return min(lines, key=lambda line: line[LOSS], default={})


def phase_losses(run: Digest) -> tuple[float | None, float | None]:
    """Return the train loss over the first and over the last tenth of the steps, weighted by tokens."""
    step, loss = run.train["step"], run.train["train/loss"]
    tokens = np.diff(run.train["tokens"], prepend=0.0)
    known = np.isfinite(loss) & np.isfinite(tokens) & (tokens > 0)
    if not known.any():
        return None, None
    step, loss, tokens = step[known], loss[known], tokens[known]
    # the first and the last record always count, however few there are
    early = step <= max(step[-1] / 10, step[0])
    late = step > min(step[-1] * 0.9, step[-1] - 1)
    return tuple(float(np.average(loss[part], weights=tokens[part])) for part in (early, late))  # type: ignore[return-value]


def converged(run: Digest) -> bool | None:
    """Whether the best evaluation hardly improved over the last fifth; None with fewer than three."""
    lines = [line for line in run.run.of_kind("val") if line.get(LOSS) is not None]
    if len(lines) < 3:
        return None
    cut = 0.8 * lines[-1]["step"]
    before = min(line[LOSS] for line in lines if line["step"] <= cut)
    return bool((before - min(line[LOSS] for line in lines)) < CONVERGED * before)


def arm_figures(arm: Arm) -> Figures:
    """Return family E's figures of a configuration: means over its runs."""
    return _mean([run_figures(run) for run in arm.runs])


def _mean(rows: Sequence[Figures]) -> Figures:
    found: Figures = {}
    for key, value in rows[0].items():
        values = [row[key] for row in rows]
        if isinstance(value, dict):
            found[key] = _mean(values)
        elif any(item is None for item in values):
            found[key] = None
        elif isinstance(value, bool):
            found[key] = all(values)
        else:
            found[key] = float(np.mean(values))
    return found


def write_metrics(path: Path, places: Sequence[Standing], metric: str) -> Path:
    """Write one line a configuration, the best first: family E's columns, then what lmx adds."""
    rows = []
    for place in places:
        figures = arm_figures(place.arm)
        row = {"configuration": place.arm.name}
        for key, value in figures.items():
            row |= (
                {f"{key}_{name}": item for name, item in value.items()}
                if isinstance(value, dict)
                else {key: value}
            )
        totals = [facts(run.run) for run in place.arm.runs]
        rows.append(
            {
                **row,
                "rank": place.rank,
                "seeds": len(place.arm.runs),
                "metric": metric,
                "metric_at_equal_tokens": place.best.estimate,
                "metric_low": place.best.low,
                "metric_high": place.best.high,
                "parameters": totals[0].parameters,
                "tokens": totals[0].tokens,
                "flops": totals[0].flops,
                "train_seconds": float(np.mean([item.train_seconds or np.nan for item in totals])),
            }
        )
    buffer = io.StringIO()
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows([{key: _cell(value) for key, value in row.items()} for row in rows])
    return write_atomic(path, buffer.getvalue())


def _cell(value: Any) -> Any:
    missing = value is None or (isinstance(value, float) and not np.isfinite(value))
    return "" if missing else str(value).lower() if isinstance(value, bool) else value


def research_data(
    comparison: Comparison,
    places: dict[str, tuple[list[Standing], float | None]],
    found: Sequence[Difference],
    findings: Sequence[Any],
) -> dict[str, Any]:
    """Return everything that the report says, for programs."""
    metric = comparison.metric
    return {
        "study": comparison.title,
        "question": comparison.question,
        "metric": {
            "name": metric,
            "unit": UNITS.get(metric, ""),
            "better": "lower" if lower_is_better(metric) else "higher",
        },
        "baseline": comparison.baseline,
        "definitions": DEFINITIONS,
        "budgets": {budget: amount for budget, (_, amount) in places.items()},
        "configurations": {arm.name: _configuration(comparison, arm) for arm in comparison.arms},
        "ranking": {
            budget: [
                {
                    "configuration": place.arm.name,
                    "best": dataclasses.asdict(place.best),
                    "end": dataclasses.asdict(place.end),
                }
                for place in order
            ]
            for budget, (order, _) in places.items()
        },
        "differences": [
            {
                "configuration": item.a,
                "minus": item.b,
                "over_seeds": dataclasses.asdict(item.over_seeds),
                "over_windows": None if item.over_windows is None else dataclasses.asdict(item.over_windows),
                "over_windows_missing": item.why or None,
                "verdict": item.words,
            }
            for item in found
        ],
        "differences_real_by_chance": real_by_chance(found),
        "jobs": [
            {
                "configuration": state.job.arm,
                "seed": state.job.seed,
                "status": state.status,
                "step": state.step,
                "reason": state.reason or None,
            }
            for state in comparison.jobs
        ],
        "left_out": comparison.left_out,
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }


def _configuration(comparison: Comparison, arm: Arm) -> dict[str, Any]:
    return {
        **arm_figures(arm),
        "overrides": comparison.overrides.get(arm.name),
        "runs": [
            {
                "seed": seed_of(run),
                "folder": str(run.path),
                "status": run.run.status,
                "best_step": best_evaluation(run).get("step"),
                "bits_per_byte": best_evaluation(run).get(BITS),
                **run_figures(run),
            }
            for run in arm.runs
        ],
    }


def write_samples(folder: Path, comparison: Comparison) -> list[Path]:
    """Write the last generated texts of each configuration into a file of its own; return the files."""
    written: list[Path] = []
    for arm in comparison.arms:
        parts = [f"# {arm.name}"]
        for run in arm.runs:
            parts += [_sample(run, sample) for sample in last_samples(run)]
        name = re.sub(r"[^\w.,=+-]+", "-", arm.name)[:80]
        path = folder / f"{name}.md"
        if path in written:
            path = folder / f"{name}_{len(written) + 1}.md"
        if len(parts) > 1:
            written.append(write_atomic(path, "\n\n".join(parts) + "\n"))
    return written


def last_samples(run: Digest) -> list[dict[str, Any]]:
    """Return the texts that a run generated last."""
    samples = run.run.samples
    last = max((sample["step"] for sample in samples), default=None)
    return [sample for sample in samples if sample["step"] == last]


def _sample(run: Digest, sample: dict[str, Any]) -> str:
    words = sample["text"].split()
    measures = ", ".join(f"distinct-{n} {distinct_n(words, n):.3f}" for n in (1, 2))
    prompt = json.dumps(sample["prompt"], ensure_ascii=False)
    head = f"Seed {seed_of(run)}, step {sample['step']:,}, prompt `{prompt}`, {measures}:"
    return f"{head}\n\n{code_block(sample['prompt'] + sample['text'])}"
