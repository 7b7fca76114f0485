"""What an experiment will take, before anything is built: `python -m lmx.plan [overrides]`.

Parameters, FLOPs, tokens, memory, time and learning rates follow from the configuration alone, and from the
prepared corpus where there is one. torch is imported only to measure.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmx.config import ConfigError, DataError, Experiment, ModelConfig
from lmx.config.door import Parser, guarded
from lmx.measure import (
    chinchilla,
    flops_per_token,
    memory_estimate,
    parameter_counts,
    training_flops,
    updates,
)
from lmx.optim import lr_multiplier, schedule_problems, warmup_steps
from lmx.optim.schedule import wsd_decay_steps

BYTE_VOCABULARY = 257  # 256 bytes and the end of text
PRODUCTS_UP_TO = 512  # tokens: on a CPU, attention of shorter sequences keeps its scores
Row = tuple[str, str, str]  # what, how much, remark


@dataclass(frozen=True)
class Rate:
    """Arithmetic of one device."""

    flops: float  # a second
    source: str


@dataclass(frozen=True)
class Cost:
    """What an experiment takes; None where only the prepared corpus or the run itself will tell."""

    parameters: int
    steps: int | None
    tokens: int | None
    flops: float | None  # of training


def cost(experiment: Experiment) -> Cost:
    """Return the size of an experiment. Raises ConfigError as `plan` does."""
    facts = _prepared(experiment)
    experiment = _completed(experiment, facts)
    parameters, steps = parameter_counts(experiment.model).total, _length(experiment, facts)
    if steps is None:
        return Cost(parameters, None, None, None)
    tokens = steps * _tokens_per_update(experiment)
    flops = training_flops(experiment)
    return Cost(parameters, steps, tokens, tokens * flops)


def plan(experiment: Experiment, rate: Rate | None = None) -> list[Row]:
    """Return the rows of the plan: what, how much, remark.

    Raises ConfigError where the vocabulary is not known, or schedule and length do not fit together.
    """
    facts = _prepared(experiment)
    experiment = _completed(experiment, facts)
    length = _length(experiment, facts)
    return [
        *_model_rows(experiment),
        *_length_rows(experiment, facts, length),
        *_chinchilla_rows(experiment, facts, length),
        *_memory_rows(experiment),
        *_time_rows(experiment, length, rate),
        *_rate_rows(experiment, length),
    ]


# ---- what has to be known


def _prepared(experiment: Experiment) -> dict[str, Any] | None:
    """Return the facts of the corpus where it is prepared."""
    from lmx.data.manifest import find

    return find(experiment.data, experiment.tokenizer, experiment.paths.cache)


def _completed(experiment: Experiment, facts: dict[str, Any] | None) -> Experiment:
    """Fill in the model's vocabulary and context as training will."""
    vocabulary = experiment.model.vocab_size or _vocabulary(experiment, facts)
    model = dataclasses.replace(
        experiment.model, vocab_size=vocabulary, context_length=experiment.context_length
    )
    return dataclasses.replace(experiment, model=model)


def _vocabulary(experiment: Experiment, facts: dict[str, Any] | None) -> int:
    tokenizer = experiment.tokenizer
    if facts is not None:
        return int(facts["tokenizer"]["vocab_size"])
    if tokenizer.kind == "byte":
        return BYTE_VOCABULARY
    if tokenizer.kind == "bpe":
        assert tokenizer.vocab_size is not None
        return tokenizer.vocab_size
    file = Path(str(tokenizer.path)).expanduser() / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(
            f"model.vocab_size: got nothing, and tokenizer.path={tokenizer.path!r} would have to be fetched; "
            "give model.vocab_size=N, or a local folder with tokenizer.json"
        )
    return _vocabulary_of_file(file)


def _vocabulary_of_file(file: Path) -> int:
    """Return the largest id of a tokenizers file, plus one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        added = [token["id"] for token in content.get("added_tokens") or []]
        return int(max([*ids, *added])) + 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not a tokenizer: {type(error).__name__}: {error}") from error


def _length(experiment: Experiment, facts: dict[str, Any] | None) -> int | None:
    """Return the number of updates, None where only the run will tell; refuse what cannot be followed."""
    per_epoch = None if facts is None else _updates_per_epoch(experiment, facts)
    steps = updates(*experiment.train.horizon_amount, _tokens_per_update(experiment), per_epoch)
    if steps is not None or _unit(experiment) == "hours":
        problems = list(schedule_problems(experiment.schedule, steps))
        if problems:
            raise ConfigError("; ".join(problems))
    return steps


def _unit(experiment: Experiment) -> str:
    return experiment.train.horizon_amount[1]


def _tokens_per_update(experiment: Experiment) -> int:
    return experiment.train.batch_size * experiment.data.sequence_length


def _updates_per_epoch(experiment: Experiment, facts: dict[str, Any]) -> int:
    windows, batch = int(facts["splits"]["train"]["windows"]), experiment.train.batch_size
    return windows // batch if experiment.data.drop_last else -(-windows // batch)


# ---- the rows


def _model_rows(experiment: Experiment) -> list[Row]:
    model, counts = experiment.model, parameter_counts(experiment.model)
    flops = flops_per_token(model, experiment.data.sequence_length)
    heads = f"{model.num_heads} heads of {model.resolved_head_dim}"
    if model.resolved_kv_heads != model.num_heads:
        heads += f" ({model.resolved_kv_heads} for keys and values)"
    shape = f"{model.num_layers} layers of width {model.hidden_size}, {heads}"
    parts = ("embedding", "attention", "feed_forward", "norm", "head")
    twice = "; two gradients an update" if experiment.passes == 2 else ""
    return [
        ("model", model.name, f"{shape}, {model.activation} {model.intermediate_size}"),
        ("vocabulary", f"{model.vocab_size:,}", f"{experiment.tokenizer.name} tokenizer"),
        ("parameters", f"{counts.total:,}", ""),
        ("  without embedding", f"{counts.without_embedding:,}", ""),
        *(
            (f"  {part.replace('_', ' ')}", f"{getattr(counts, part):,}", _part_remark(model, part))
            for part in parts
        ),
        (
            "FLOPs a token",
            _short(training_flops(experiment)),
            f"forward {_short(flops.forward)}; matrix products, the head's too{twice}",
        ),
    ]


def _part_remark(model: ModelConfig, part: str) -> str:
    if part == "embedding" and model.position == "learned":
        return f"with {model.context_length:,} learned positions"
    return "tied to the embedding" if part == "head" and model.tie_embeddings else ""


def _length_rows(experiment: Experiment, facts: dict[str, Any] | None, steps: int | None) -> list[Row]:
    train, tokens = experiment.train, _tokens_per_update(experiment)
    devices, passes = _many(experiment.devices, "device"), _many(experiment.accumulation, "pass")
    cut = f"{devices}, {passes} of {experiment.micro_batch_size:,}"
    batch = ("batch", f"{train.batch_size:,} sequences", f"{tokens:,} tokens an update; {cut}")
    if steps is None:
        why = "known after preparing the corpus" if _unit(experiment) == "epochs" else "depends on the speed"
        return [batch, ("steps", "unknown", f"{train.horizon}: {why}")]
    exact = experiment.data.packing not in ("sentences", "documents")
    bound = "" if exact else "at most: padding is not trained on"
    epochs: Row = ("epochs", "unknown", "known after preparing the corpus")
    if facts is not None:
        per_epoch = _updates_per_epoch(experiment, facts)
        epochs = ("epochs", f"{steps / per_epoch:.3g}", f"{per_epoch:,} steps each")
    return [batch, ("steps", f"{steps:,}", train.horizon), ("tokens", f"{steps * tokens:,}", bound), epochs]


def _chinchilla_rows(experiment: Experiment, facts: dict[str, Any] | None, steps: int | None) -> list[Row]:
    parameters = parameter_counts(experiment.model).total
    rows = []
    if steps is not None:
        rows.append(_chinchilla_row("tokens a parameter", parameters, steps * _tokens_per_update(experiment)))
    if facts is not None:
        distinct = int(facts["splits"]["train"]["tokens"])
        rows.append(_chinchilla_row("  of distinct tokens", parameters, distinct))
    return rows


def _chinchilla_row(label: str, parameters: int, tokens: int) -> Row:
    account = chinchilla(parameters, tokens)
    smaller, longer = _short(account.optimal_parameters), _short(account.optimal_tokens)
    remark = f"{account.status}; 20 would be {smaller} parameters or {longer} tokens"
    return label, f"{account.ratio:.3g}", remark


def _memory_rows(experiment: Experiment) -> list[Row]:
    hardware, sequence = experiment.hardware, experiment.data.sequence_length
    half, said = _half(experiment)
    on_gpu = hardware.accelerator == "gpu"
    estimate = memory_estimate(
        experiment.model,
        experiment.optimizer,
        experiment.micro_batch_size * sequence,
        sequence,
        half=half,
        scores_kept=experiment.model.attention_softcap is not None
        or (not on_gpu and sequence <= PRODUCTS_UP_TO),
    )
    parts = dataclasses.asdict(estimate)
    return [
        ("memory a device", f"{_mib(estimate.total)} MiB", f"an estimate, {said}; libraries come on top"),
        *((f"  {part.replace('_', ' ')}", f"{_mib(value)} MiB", "") for part, value in parts.items()),
    ]


def _half(experiment: Experiment) -> tuple[bool, str]:
    """Whether products are in half precision, and how that is known."""
    hardware = experiment.hardware
    if hardware.precision != "auto":
        return hardware.precision != "fp32", hardware.precision
    if hardware.accelerator == "gpu":
        return True, "half precision, as precision=auto takes on a GPU"
    return False, "as if precision=auto took fp32"


def _time_rows(experiment: Experiment, steps: int | None, rate: Rate | None) -> list[Row]:
    flops = training_flops(experiment)
    declared = experiment.hardware.peak_tflops
    rate = rate or (None if declared is None else Rate(declared * 1e12, "hardware.peak_tflops"))
    rows: list[Row] = []
    if steps is not None:
        total = steps * _tokens_per_update(experiment) * flops
        rows.append(("FLOPs of the run", f"{total:.3g}", "of training, without evaluation"))
    if rate is None:
        return [*rows, ("time", "unknown", "declare hardware.peak_tflops, or give --measure")]
    speed = rate.flops * experiment.devices
    said = f"at {rate.flops / 1e12:.3g} TFLOP/s a device ({rate.source})"
    if steps is None:
        return [*rows, ("tokens a second", f"under {_short(speed / flops)}", f"arithmetic alone, {said}")]
    lowest = total / speed
    return [
        *rows,
        ("time, at least", _duration(lowest), f"arithmetic alone, {said}"),
        (
            "  usually",
            f"{_duration(2 * lowest)} to {_duration(5 * lowest)}",
            "20 to 50 % of that rate is common",
        ),
    ]


def _rate_rows(experiment: Experiment, steps: int | None) -> list[Row]:
    schedule, peak = experiment.schedule, experiment.optimizer.lr
    if steps is None and not (schedule.kind == "constant" and not schedule.warmup_fraction):
        return [("learning rate", f"{peak:g}", f"{schedule.name}; its corners are known with the steps")]
    corners = {0: "first step"}
    warmup = warmup_steps(schedule, steps)
    if warmup:
        corners[warmup - 1] = "end of the warm-up"
    horizon = steps if schedule.kind == "constant" else schedule.decay_steps or steps
    if schedule.kind == "wsd" and horizon is not None:
        corners.setdefault(max(horizon - 1 - wsd_decay_steps(schedule, horizon), 0), "last step at the peak")
    if steps is not None:
        corners[steps - 1] = "last step"
    rows: list[Row] = []
    for step, what in sorted(corners.items()):
        label = "learning rate" if not rows else ""
        rows.append(
            (label, f"{peak * lr_multiplier(schedule, step, steps):.4g}", f"step {step + 1:,}, {what}")
        )
    return rows


# ---- numbers as text


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "es" if what.endswith("s") else "s")


def _short(value: float) -> str:
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _mib(value: float) -> str:
    mib = value / 2**20
    return f"{mib:,.0f}" if mib >= 10 else f"{mib:.1f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    if seconds < 5400:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 172_800 else f"{seconds / 86_400:.3g} days"


def render(title: str, rows: Sequence[Row]) -> str:
    """Lay the rows out in three columns."""
    first = max(len(row[0]) for row in rows)
    second = max(len(row[1]) for row in rows)
    lines = [f"{what:<{first}}  {much:>{second}}  {remark}".rstrip() for what, much, remark in rows]
    return "\n".join([f"lmx plan: {title}", "", *lines])


# ---- the door


def measured_rate(experiment: Experiment, seconds: float = 0.5) -> Rate:
    """Multiply matrices for `seconds` on the device that would train, in its precision."""
    import torch

    on_gpu = experiment.hardware.accelerator != "cpu" and torch.cuda.is_available()
    half = _half(experiment)[0] or (on_gpu and experiment.hardware.precision == "auto")
    device = torch.device("cuda" if on_gpu else "cpu")
    size = 8192 if on_gpu else 1024
    left = torch.ones(size, size, device=device, dtype=torch.bfloat16 if half else torch.float32)
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)
    left @ left  # the first product also sets the library up
    wait()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        left @ left
        count += 1
        wait()
    flops = 2 * size**3 * count / (time.perf_counter() - start)
    name = torch.cuda.get_device_name() if on_gpu else f"CPU, {_many(torch.get_num_threads(), 'thread')}"
    return Rate(flops, f"measured: {name}, {'bf16' if half else 'fp32'}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m lmx.plan",
        description="Say what an experiment will take, before anything is built: parameters, FLOPs, tokens, "
        "memory, time, learning rates.",
        epilog="example: python -m lmx.plan model=rope_4l data=wikitext2 train.horizon=10epochs",
        allow_abbrev=False,
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="overrides, as python -m lmx.train takes"
    )
    parser.add_argument(
        "--measure", action="store_true", help="multiply matrices for half a second to estimate time"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    return guarded(lambda: run(_parser().parse_intermixed_args(argv)))


def run(arguments: argparse.Namespace) -> int:
    """Compose, plan and print."""
    from lmx.config.compose import compose

    experiment = compose(arguments.overrides)
    rows = plan(experiment, measured_rate(experiment) if arguments.measure else None)
    print(render(experiment.name, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
