"""How many updates a run makes, and how often it evaluates."""

from __future__ import annotations

from lmx.config import ConfigError, Experiment
from lmx.measure import updates
from lmx.optim import schedule_problems


def total_steps(experiment: Experiment, steps_per_epoch: int) -> int | None:
    """Return the number of updates, or None for a horizon in hours.

    Raises ConfigError where the corpus makes no batch, the horizon no update, or where the schedule does
    not fit into it.
    """
    if steps_per_epoch < 1:
        raise ConfigError(
            f"train.batch_size: got {experiment.train.batch_size} with data.drop_last=true, "
            "allowed: at most the windows of the train split"
        )
    amount, unit = experiment.train.horizon_amount
    per_update = experiment.train.batch_size * experiment.data.sequence_length
    steps = updates(amount, unit, per_update, steps_per_epoch)
    if steps is not None and steps < 1:
        raise ConfigError(f"train.horizon: got {experiment.train.horizon!r}, allowed: at least one step")
    problems = list(schedule_problems(experiment.schedule, steps))
    if problems:
        raise ConfigError("; ".join(problems))
    return steps


def max_hours(experiment: Experiment) -> float | None:
    """Return the horizon in hours, or None where it is in another unit."""
    amount, unit = experiment.train.horizon_amount
    return amount if unit == "hours" else None


def evaluation_interval(experiment: Experiment, steps_per_epoch: int) -> int:
    """Return the number of updates between two evaluations."""
    return experiment.train.eval_every_steps or steps_per_epoch
