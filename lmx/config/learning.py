"""`optimizer`, `schedule`, `objective` and `train`: what is minimised, how, and for how long."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from lmx.config.errors import bad_choice
from lmx.config.fields import choice, field_problems, number, text

HORIZON_UNITS = ("steps", "epochs", "tokens", "hours")
HORIZON_FORM = f"a number above 0 and its unit ({', '.join(HORIZON_UNITS)}), such as 600steps or 40.96Mtokens"
# measures of an evaluation, as `metrics.jsonl` names them
EVALUATION_MEASURES = (
    "val/loss",
    "val/perplexity",
    "val/bits_per_byte",
    "val/word_perplexity",
    "val/entropy",
    "val/accuracy",
    "val/accuracy_top5",
    "val/confidence",
    "val/cosine",
)
_HORIZON = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)([kMB]?)\s*([a-z]+)")
_THOUSANDS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def parse_horizon(length: str) -> tuple[float, str]:
    """Read a length of training such as ``600steps`` or ``40.96M tokens`` as (amount, unit).

    Raises ValueError saying what was got and what is allowed.
    """
    match = _HORIZON.fullmatch(length.strip())
    unit = match[3] if match else ""
    unit = unit if unit.endswith("s") else unit + "s"
    if match is None or unit not in HORIZON_UNITS:
        raise ValueError(f"got {length!r}, allowed: {HORIZON_FORM}")
    amount = float(match[1]) * _THOUSANDS[match[2]]
    if not 0 < amount < math.inf:
        raise ValueError(f"got {length!r}, allowed: {HORIZON_FORM}")
    if unit in ("steps", "tokens") and amount != int(amount):
        raise ValueError(f"got {length!r}, allowed: a whole number of {unit}")
    return amount, unit


@dataclass
class OptimizerConfig:
    """One update rule for all parameters, or one for the hidden matrices and another for the rest."""

    name: str = MISSING
    lr: float = number(MISSING, low=0)  # the rate that the schedule multiplies
    weight_decay: float = number(0.0, low=0)
    # which parameters decay: matrices (two or more dimensions: not norms and biases), hidden (the blocks'
    # matrices alone), all
    decay: str = choice("matrices", "matrices", "hidden", "all")
    # `_target_` and its options; without `rest` it updates every parameter, with it the hidden matrices only
    update: dict[str, Any] = field(default_factory=dict)
    # `_target_`, `lr` and options for embeddings, head, norms and biases
    rest: dict[str, Any] | None = None
    # sharpness-aware: the gradient is taken a second time at weights moved by this radius towards a higher
    # loss, and that one is followed; 0: never
    sharpness_rho: float = number(0.0, low=0)

    def problems(self) -> Iterator[str]:
        """Yield one line for each contradiction inside the optimizer."""
        yield from field_problems(self, "optimizer")
        if "_target_" not in self.update:
            yield "optimizer.update._target_: got nothing, allowed: the dotted name of an optimizer class"
        if "lr" in self.update:
            yield f"optimizer.update.lr: got {self.update['lr']}, allowed: none here, it is optimizer.lr"
        if self.rest is not None and "_target_" not in self.rest:
            yield "optimizer.rest._target_: got nothing, allowed: the dotted name of an optimizer class"
        if self.rest is not None and "lr" not in self.rest:
            yield "optimizer.rest.lr: got nothing, allowed: the rate of embeddings, head, norms and biases"

    def useless(self) -> Iterator[tuple[str, str]]:
        """Yield (field, reason) for each field that has no effect with the others' values."""
        if not self.weight_decay and not (self.rest or {}).get("weight_decay"):
            yield "decay", "optimizer.weight_decay=0"


@dataclass
class ScheduleConfig:
    """The learning rate as a multiple of `optimizer.lr`: a pure function of the step, to the last one."""

    name: str = MISSING
    kind: str = choice("cosine", "constant", "cosine", "linear", "wsd")
    warmup_steps: int = number(0, low=0)
    warmup_fraction: float = number(0.0, low=0, high=1)  # of all steps; instead of warmup_steps
    final_fraction: float = number(0.0, low=0, high=1)  # the last step's multiple of the peak
    decay_fraction: float = number(0.2, low=0, high=1)  # wsd: the share of the steps that decays
    decay_steps: int | None = number(None, low=1)  # the schedule's length; null: the run's

    def problems(self) -> Iterator[str]:
        """Yield one line for each contradiction inside the schedule."""
        yield from field_problems(self, "schedule")
        if self.warmup_steps and self.warmup_fraction:
            yield (
                f"schedule.warmup_fraction: got {self.warmup_fraction} beside schedule.warmup_steps="
                f"{self.warmup_steps}, allowed: one of them, the other 0"
            )

    def useless(self) -> Iterator[tuple[str, str]]:
        """Yield (field, reason) for each field that has no effect with the others' values."""
        if self.kind == "constant":
            yield "final_fraction", "schedule.kind=constant"
            yield "decay_steps", "schedule.kind=constant"
        if self.kind != "wsd":
            yield "decay_fraction", f"schedule.kind={self.kind}"


@dataclass
class ObjectiveConfig:
    """Cross-entropy, or family C's mix of cross-entropy and an embedding cosine distance."""

    name: str = MISSING
    kind: str = choice("cross_entropy", "cross_entropy", "cosine_mix")
    alpha: float = number(0.5, low=0, high=1)  # share of the cosine distance
    temperature: float = number(1.0, above=0)
    top_k: int | None = number(256, low=1)  # null: the whole vocabulary

    @property
    def mixes(self) -> bool:
        """Whether a cosine distance is computed at all."""
        return self.kind == "cosine_mix" and self.alpha > 0

    def problems(self) -> Iterator[str]:
        """Yield one line for each contradiction inside the objective."""
        yield from field_problems(self, "objective")

    def useless(self) -> Iterator[tuple[str, str]]:
        """Yield (field, reason) for each field that has no effect with the others' values."""
        if self.kind != "cosine_mix":
            for name in ("alpha", "temperature", "top_k"):
                yield name, f"objective.kind={self.kind}"
        elif self.alpha == 0:
            yield "temperature", "objective.alpha=0"
            yield "top_k", "objective.alpha=0"


@dataclass
class TrainConfig:
    """How long, in what batches, and what happens on the way. One step is one update of the weights."""

    horizon: str = text(MISSING, HORIZON_FORM)
    batch_size: int = number(MISSING, low=1)  # sequences an update, over all devices and micro-batches
    clip_grad_norm: float | None = number(1.0, above=0)  # null: measured, not clipped
    # leave out updates whose loss or gradient norm is so many deviations above the last 128; 6 is usual
    spike_sigmas: float | None = number(None, above=0)
    log_every_steps: int = number(10, low=1)
    eval_every_steps: int | None = number(None, low=1)  # null: at the end of each epoch
    eval_at_start: bool = True
    eval_batch_size: int | None = number(None, low=1)  # null: hardware.micro_batch_size
    eval_windows: int | None = number(
        None, low=1
    )  # null: all, once; N: that many, drawn anew at each evaluation
    test_at_end: bool = False  # the best weights on the test split, once, when the run is completed
    eval_mean: str = choice("tokens", "tokens", "batches")  # of all tokens, or of the means of the batches

    @property
    def horizon_amount(self) -> tuple[float, str]:
        """The horizon as (amount, unit); the unit is one of HORIZON_UNITS."""
        return parse_horizon(self.horizon)

    def problems(self) -> Iterator[str]:
        """Yield one line for each contradiction inside the training settings."""
        yield from field_problems(self, "train")
        try:
            parse_horizon(self.horizon)
        except ValueError as error:
            yield f"train.horizon: {error}"


@dataclass
class CheckpointConfig:
    """When checkpoints are written and which are kept; the last step is always kept as `last`."""

    every_steps: int | None = number(None, low=1)
    every_minutes: float | None = number(10.0, above=0)
    keep_last: int = number(2, low=1)  # one of them to fall back on
    best: str | None = "val/loss"  # the metric that chooses `best`; null: none is kept
    best_mode: str = choice(
        "auto", "auto", "min", "max"
    )  # which value is best; auto: the metric's own direction

    def problems(self) -> Iterator[str]:
        """Yield one line for each contradiction inside the checkpoint settings."""
        yield from field_problems(self, "checkpoint")
        if self.best is not None and not self.best.startswith("val/"):
            yield bad_choice("checkpoint.best", self.best, EVALUATION_MEASURES)

    def useless(self) -> Iterator[tuple[str, str]]:
        """Yield (field, reason) for each field that has no effect with the others' values."""
        if self.best is None:
            yield "best_mode", "checkpoint.best=null"
