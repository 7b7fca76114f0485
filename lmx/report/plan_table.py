"""What an experiment will take, as the table that `python -m lmx.plan` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lmx.config import ModelConfig
from lmx.measure import checkpoint_space, chinchilla, flops_per_token, memory_estimate
from lmx.measure.estimate import Estimate, Rate, half_precision
from lmx.optim import lr_multiplier, warmup_steps
from lmx.optim.schedule import wsd_decay_steps

PRODUCTS_UP_TO = 512  # tokens: on a CPU, attention of shorter sequences keeps its scores
Row = tuple[str, str, str]  # what, how much, remark


def plan_rows(known: Estimate, rate: Rate | None = None) -> list[Row]:
    """Return the rows of the plan: what, how much, remark; time follows from `rate` where it is given."""
    return [
        *_model_rows(known),
        *_length_rows(known),
        *_chinchilla_rows(known),
        *_memory_rows(known),
        *_disk_rows(known),
        *_time_rows(known, rate),
        *_rate_rows(known),
    ]


def plan_table(title: str, rows: Sequence[Row]) -> str:
    """Lay the rows out in three columns."""
    first = max(len(row[0]) for row in rows)
    second = max(len(row[1]) for row in rows)
    lines = [f"{what:<{first}}  {much:>{second}}  {remark}".rstrip() for what, much, remark in rows]
    return "\n".join([f"lmx plan: {title}", "", *lines])


# ---- the rows


def _model_rows(known: Estimate) -> list[Row]:
    experiment, counts = known.experiment, known.parameters
    model = experiment.model
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
            _short(known.flops_per_token),
            f"forward {_short(flops.forward)}; matrix products, the head's too{twice}",
        ),
    ]


def _part_remark(model: ModelConfig, part: str) -> str:
    if part == "embedding" and model.position == "learned":
        return f"with {model.context_length:,} learned positions"
    return "tied to the embedding" if part == "head" and model.tie_embeddings else ""


def _length_rows(known: Estimate) -> list[Row]:
    experiment, train = known.experiment, known.experiment.train
    devices, passes = _many(experiment.devices, "device"), _many(experiment.accumulation, "pass")
    cut = f"{devices}, {passes} of {experiment.micro_batch_size:,}"
    size = f"{known.tokens_per_update:,} tokens an update; {cut}"
    batch = ("batch", f"{train.batch_size:,} sequences", size)
    if known.steps is None:
        unit = train.horizon_amount[1]
        why = "known after preparing the corpus" if unit == "epochs" else "depends on the speed"
        return [batch, ("steps", "unknown", f"{train.horizon}: {why}")]
    exact = experiment.data.packing not in ("sentences", "documents")
    bound = "" if exact else "at most: padding is not trained on"
    epochs: Row = ("epochs", "unknown", "known after preparing the corpus")
    if known.updates_per_epoch is not None:
        each = f"{known.updates_per_epoch:,} steps each"
        epochs = ("epochs", f"{known.steps / known.updates_per_epoch:.3g}", each)
    return [
        batch,
        ("steps", f"{known.steps:,}", train.horizon),
        ("tokens", f"{known.tokens:,}", bound),
        epochs,
    ]


def _chinchilla_rows(known: Estimate) -> list[Row]:
    rows = []
    if known.tokens is not None:
        rows.append(_chinchilla_row("tokens a parameter", known.parameters.total, known.tokens))
    if known.corpus is not None:
        distinct = int(known.corpus["splits"]["train"]["tokens"])
        rows.append(_chinchilla_row("  of distinct tokens", known.parameters.total, distinct))
    return rows


def _chinchilla_row(label: str, parameters: int, tokens: int) -> Row:
    account = chinchilla(parameters, tokens)
    smaller, longer = _short(account.optimal_parameters), _short(account.optimal_tokens)
    remark = f"{account.status}; 20 would be {smaller} parameters or {longer} tokens"
    return label, f"{account.ratio:.3g}", remark


def _memory_rows(known: Estimate) -> list[Row]:
    experiment = known.experiment
    hardware, sequence = experiment.hardware, experiment.data.sequence_length
    half, said = half_precision(hardware)
    on_cpu = hardware.accelerator != "gpu"
    needed = memory_estimate(
        experiment.model,
        experiment.optimizer,
        experiment.micro_batch_size * sequence,
        sequence,
        half=half,
        scores_kept=experiment.model.attention_softcap is not None or (on_cpu and sequence <= PRODUCTS_UP_TO),
        native=on_cpu,
    )
    parts = dataclasses.asdict(needed)
    return [
        ("memory a device", _size(needed.total), f"an estimate, {said}; libraries come on top"),
        *((f"  {part.replace('_', ' ')}", _size(value), "") for part, value in parts.items()),
    ]


def _disk_rows(known: Estimate) -> list[Row]:
    settings = known.experiment.checkpoint
    needed = checkpoint_space(known.experiment.model, known.experiment.optimizer, settings)
    last, best = _size(needed.last), _size(needed.best)
    rows: list[Row] = [
        ("disk for checkpoints", _size(needed.total), "at most, while a new one is written beside the old"),
        ("  last", last, f"all that a run goes on from; checkpoint.keep_last={settings.keep_last}"),
    ]
    return [*rows, ("  best", best, f"weights alone, by {settings.best}")] if settings.best else rows


def _time_rows(known: Estimate, rate: Rate | None) -> list[Row]:
    hardware = known.experiment.hardware
    declared = hardware.peak_tflops
    rate = rate or (None if declared is None else Rate(declared * 1e12, "hardware.peak_tflops"))
    rows: list[Row] = []
    if known.flops is not None:
        rows.append(("FLOPs of the run", f"{known.flops:.3g}", "of training, without evaluation"))
    if rate is None:
        return [*rows, ("time", "unknown", "declare hardware.peak_tflops, or give --measure")]
    speed = rate.flops * known.experiment.devices
    said = f"at {rate.flops / 1e12:.3g} TFLOP/s a device ({rate.source})"
    if known.flops is None:
        upper = f"under {_short(speed / known.flops_per_token)}"
        return [*rows, ("tokens a second", upper, f"arithmetic alone, {said}")]
    lowest = known.flops / speed
    return [
        *rows,
        ("time, at least", _duration(lowest), f"arithmetic alone, {said}"),
        (
            "  usually",
            f"{_duration(2 * lowest)} to {_duration(5 * lowest)}",
            "20 to 50 % of that rate is common",
        ),
    ]


def _rate_rows(known: Estimate) -> list[Row]:
    schedule, peak, steps = known.experiment.schedule, known.experiment.optimizer.lr, known.steps
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
        rate = f"{peak * lr_multiplier(schedule, step, steps):.4g}"
        rows.append((label, rate, f"step {step + 1:,}, {what}"))
    return rows


# ---- numbers as text


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "es" if what.endswith("s") else "s")


def _short(value: float) -> str:
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _size(count: float) -> str:
    mib = count / 2**20
    if mib >= 10_000:
        return f"{mib / 1024:,.1f} GiB"
    return f"{mib:,.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    if seconds < 5400:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 172_800 else f"{seconds / 86_400:.3g} days"
