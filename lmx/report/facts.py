"""What a report says about a whole run, derived from its records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmx.config import Experiment
from lmx.config.fields import schema_defaults
from lmx.report.columns import Extreme, extremes
from lmx.report.text import MISSING
from lmx.runs import Run

# settings that say where a run lands or what is written about it, not what it computes
_UNIMPORTANT = ("name", "paths", "resume", "logger")


@dataclass(frozen=True)
class Facts:
    """Totals of a run; None where nothing was recorded."""

    step: int
    tokens: int | None
    epochs: float | None
    train_seconds: float | None
    eval_seconds: float | None
    compile_seconds: float | None  # of all sessions; no part of training
    flops: float | None
    parameters: int | None
    tokens_per_second: float | None
    step_seconds: float | None  # median
    step_seconds_95: float | None
    mfu: float | None
    peak_memory: float | None  # MiB
    memory_name: str


def facts(run: Run) -> Facts:
    """Return the totals of a run."""
    tokens, seconds = run.last("tokens"), run.last("seconds")
    gpu_memory, memory = (_highest(run, f"memory/peak_{name}_mib") for name in ("allocated", "rss"))
    steps = _known(run, "speed/step_seconds")
    mfu = _known(run, "speed/mfu")
    evaluation, compilation = _known(run, "val/seconds"), _known(run, "speed/compile_seconds")
    return Facts(
        step=_last_step(run),
        tokens=None if tokens is None else int(tokens),
        epochs=run.last("epoch"),
        train_seconds=seconds,
        eval_seconds=float(evaluation.sum()) if len(evaluation) else None,
        compile_seconds=float(compilation.sum()) if len(compilation) else None,
        flops=run.last("flops"),
        parameters=(run.identity.get("parameters") or {}).get("total"),
        tokens_per_second=tokens / seconds if tokens and seconds else None,
        step_seconds=float(np.median(steps)) if len(steps) else None,
        step_seconds_95=float(np.quantile(steps, 0.95)) if len(steps) else None,
        mfu=float(mfu.mean()) if len(mfu) else None,
        peak_memory=gpu_memory if gpu_memory is not None else memory,
        memory_name="GPU memory allocated" if gpu_memory is not None else "resident memory",
    )


def bits_of_a_nat(run: Run) -> float | None:
    """Bits per byte of one nat per token: constant for a validation text and its tokenizer."""
    loss, bits = run.last("val/loss"), run.last("val/bits_per_byte")
    return bits / loss if bits and loss and math.isfinite(bits / loss) else None


def floor_nats(run: Run) -> float | None:
    """Entropy of the validation text, nats per token, where the corpus knows it."""
    floor, ratio = run.last("val/floor_bits_per_byte"), bits_of_a_nat(run)
    return floor / ratio if floor and ratio else None


def headline(run: Run) -> Extreme | None:
    """Best and final of what runs are judged by: validation bits per byte, or loss where that is missing."""
    found = {extreme.column.key: extreme for extreme in extremes(run) if extreme.best is not None}
    return found.get("val/bits_per_byte") or found.get("val/loss")


def verdict(run: Run) -> str:
    """Say in one or two sentences how the run stands and how well it did."""
    total = run.identity.get("total_steps")
    end = f"at step {facts(run).step:,}" + (f" of {total:,}" if total else "")
    status = {
        "running": f"Still running, {end}",
        "completed": f"Completed {end}",
        "interrupted": f"Interrupted {end}",
        "failed": f"Failed {end}",
    }.get(run.status, f"Status unknown, {end}")
    sentences = [f"{status}{f' ({run.reason})' if run.reason else ''}."]
    best = headline(run)
    if best is None or best.best is None:
        sentences.append("No evaluation was recorded.")
    else:
        value = f"{best.best:.4f} {best.column.unit} at step {best.best_step:,}"
        sentences.append(f"Best validation: {value}{_floor(run)}.")
    return " ".join(sentences)


def under_floor(run: Run) -> bool:
    """Whether an evaluation came out below the corpus's entropy, which no model can."""
    excess = run.series("val/excess_bits_per_byte")[1]
    return bool((excess < 0).any())


def _floor(run: Run) -> str:
    floor = run.last("val/floor_bits_per_byte")
    excess = next((e.best for e in extremes(run) if e.column.key == "val/excess_bits_per_byte"), None)
    if floor is None or excess is None:
        return ""
    if under_floor(run):
        return f", {-excess:.4f} below the corpus's floor of {floor:.4f}, which cannot be: a bug in lmx"
    return f", {excess:.4f} above the corpus's floor of {floor:.4f}"


def machine(identity: dict[str, Any]) -> str:
    """On how many of what a run was trained, and in which precision: ``1 × NVIDIA H100, bf16``."""
    hardware = identity.get("hardware")
    if not isinstance(hardware, dict) or "device_name" not in hardware:
        return MISSING
    return f"{hardware.get('devices')} × {hardware['device_name']}, {hardware.get('precision')}"


def corpus_tokens(run: Run) -> int | None:
    """Tokens of the train split, once through; None where the record does not say."""
    splits = (run.identity.get("data") or {}).get("splits") or {}
    return (splits.get("train") or {}).get("tokens")


def overlaps(run: Run) -> list[tuple[str, int, str]]:
    """Return (split, words in a sequence, how many of its sequences the train split holds), as recorded."""
    rows = []
    for split, sizes in ((run.identity.get("data") or {}).get("overlap") or {}).items():
        for name, seen in (sizes or {}).items():
            shared, sequences = seen.get("shared"), seen.get("sequences")
            if shared is None or not sequences:
                continue
            sample = " sampled" if seen.get("sampled") else ""
            text = f"{100 * shared / sequences:.2f} % ({shared:,} of {sequences:,}{sample})"
            rows.append((split, int(name.split("_")[0]), text))
    return rows


def settings(run: Run) -> list[tuple[str, str]]:
    """Return (group, what is set): its name and the values that differ from the defaults of its schema."""
    rows = []
    for group, value in run.config.items():
        if group in ("name", "paths") or value in (None, {}):
            continue
        if not isinstance(value, dict):
            rows.append((group, setting(value)))
        elif group in ("callbacks", "logger"):
            rows.append((group, ", ".join(name for name, entry in value.items() if entry is not None)))
        else:
            name = [str(value["name"])] if "name" in value else []
            rows.append((group, ", ".join([*name, *_set_values(group, value)]) or "defaults"))
    return rows


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return setting → its value in each run, for the settings that are not the same in all of them.

    Settings are `group.key`; where another member of a group was chosen, the group's name stands for the
    values that follow from it.
    """
    flat = [_flat({key: v for key, v in run.config.items() if key not in _UNIMPORTANT}) for run in runs]
    keys = dict.fromkeys(key for config in flat for key in config)
    rows = {key: [setting(config.get(key)) for config in flat] for key in keys}
    found = {key: values for key, values in rows.items() if len(set(values)) > 1}
    chosen = {key.removesuffix(".name"): values for key, values in found.items() if key.endswith(".name")}
    kept = dict(chosen)
    for key, values in found.items():
        names = chosen.get(key.partition(".")[0])
        follows = names is not None and len(set(zip(names, values, strict=True))) == len(set(names))
        if not follows and not key.endswith(".name"):
            kept[key] = values
    return kept


def _last_step(run: Run) -> int:
    """The last step that was finished: as the end of the run says, or else as the records do."""
    sessions = run.identity.get("sessions") or [{}]
    recorded = int(run.lines[-1]["step"]) if run.lines else 0
    return max(recorded, sessions[-1].get("step") or 0)


def _known(run: Run, key: str) -> np.ndarray:
    values = run.series(key)[1]
    return values[np.isfinite(values)]


def _highest(run: Run, key: str) -> float | None:
    """The highest value; each session of a run counts its own peak."""
    values = _known(run, key)
    return float(values.max()) if len(values) else None


def _set_values(group: str, value: dict[str, Any]) -> list[str]:
    found = schema_defaults(Experiment).get(group)
    defaults = found if isinstance(found, dict) else {}  # a damaged record has a group where a value belongs
    return [
        f"{key} {setting(item)}"
        for key, item in value.items()
        if key != "name" and (key not in defaults or item != defaults[key])
    ]


def setting(value: Any) -> str:
    """A setting as text; an entry with `_target_` as the call that it stands for."""
    if isinstance(value, dict):
        options = [f"{key}={setting(item)}" for key, item in value.items() if key != "_target_"]
        return f"{str(value.get('_target_', '')).rpartition('.')[2]}({', '.join(options)})"
    if isinstance(value, list):
        return f"[{', '.join(setting(item) for item in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """`group.key` → value; an entry of an open group stays whole."""
    found: dict[str, Any] = {}
    for group, value in config.items():
        if isinstance(value, dict):
            found |= {f"{group}.{key}": item for key, item in value.items()}
        else:
            found[group] = value
    return found
