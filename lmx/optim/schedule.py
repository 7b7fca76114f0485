"""The learning rate as a pure function of the step: warm-up, then constant, cosine, linear or wsd."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lmx.config import ScheduleConfig


def lr_multiplier(config: ScheduleConfig, step: int, total_steps: int | None) -> float:
    """Return the multiple of the peak rate for the update that is about to happen.

    `step` counts from 0; `total_steps` is the run's length, None where it is not known (a horizon in hours).
    With a warm-up of w steps, step 0 takes 1/w and step w − 1 the peak. A decay ends exactly on the last
    step of its horizon (`decay_steps`, or the run's length), which takes `final_fraction`; later steps too.
    Cosine after Loshchilov & Hutter (arXiv:1608.03983), without restarts; wsd after MiniCPM
    (arXiv:2404.06395) with a linear decay. The schedule must have no `schedule_problems`.
    """
    warmup = warmup_steps(config, total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.kind == "constant":
        return 1.0
    last = _known(_horizon(config, total_steps)) - 1
    if step >= last:
        return config.final_fraction
    start = max(warmup - 1, 0)  # the last step at the peak
    if config.kind == "wsd":
        start = max(start, last - wsd_decay_steps(config, last + 1))
    progress = max(0.0, (step - start) / (last - start))
    falling = (1 + math.cos(math.pi * progress)) / 2 if config.kind == "cosine" else 1 - progress
    return config.final_fraction + (1 - config.final_fraction) * falling


def warmup_steps(config: ScheduleConfig, total_steps: int | None) -> int:
    """Return the number of warm-up steps; a fraction is of the schedule's horizon, to the nearest step."""
    if not config.warmup_fraction:
        return config.warmup_steps
    return round(config.warmup_fraction * _known(_horizon(config, total_steps)))


def wsd_decay_steps(config: ScheduleConfig, horizon: int) -> int:
    """Return how many steps at the end of `horizon` a wsd schedule decays: at least the last."""
    return max(1, round(config.decay_fraction * horizon))


def schedule_problems(config: ScheduleConfig, total_steps: int | None) -> Iterator[str]:
    """Yield one line for each reason why the schedule does not fit `total_steps` (None: not known)."""
    horizon = _horizon(config, total_steps)
    if horizon is None:
        if config.kind != "constant":
            yield f"schedule.decay_steps: got nothing, needed by {config.kind} in a run of unknown length"
        elif config.warmup_fraction:
            yield (
                f"schedule.warmup_fraction: got {config.warmup_fraction} with a run of unknown length, "
                "allowed: schedule.warmup_steps"
            )
        return
    warmup = warmup_steps(config, total_steps)
    key = "warmup_fraction" if config.warmup_fraction else "warmup_steps"
    got = f"got {getattr(config, key)}" + (f" (= {warmup} steps)" if config.warmup_fraction else "")
    if warmup >= horizon:
        yield f"schedule.{key}: {got}, allowed: fewer than the {horizon} steps of the schedule"
    elif config.kind == "wsd" and warmup + (decay := wsd_decay_steps(config, horizon)) > horizon:
        yield (
            f"schedule.{key}: {got}, allowed: at most {horizon - decay} steps, because "
            f"schedule.decay_fraction={config.decay_fraction} takes {decay} of {horizon}"
        )


def _horizon(config: ScheduleConfig, total_steps: int | None) -> int | None:
    """The number of steps after which the schedule has ended."""
    decays = config.kind != "constant" and config.decay_steps is not None
    return config.decay_steps if decays else total_steps


def _known(horizon: int | None) -> int:
    assert horizon is not None, "schedule_problems refuses this schedule without a length"
    return horizon
