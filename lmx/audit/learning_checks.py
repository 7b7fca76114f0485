"""Whether the run did what its configuration says: positions, schedule, keys, optimizer, seed, prompts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lmx.audit.finding import Seen
from lmx.audit.record import (
    experiment_of,
    fact,
    number,
    numbers,
    pairs,
    schedule_of,
    setting,
    steps_done,
    targets,
)
from lmx.config import ConfigError
from lmx.config.keys import key_problem
from lmx.optim import lr_multiplier, warmup_steps
from lmx.runs import Run

HORIZON = 0.02  # of the schedule's length: epochs and tokens round to whole steps
RATE = 0.01  # relative, between a recorded rate and the schedule's
JUMP = 10.0  # times the median of the records before: sound runs stay below 3 once they are warm
BEFORE = 32  # records that a jump is measured against; before the first one, it stands for them
FEW = 4  # records
STILL_HIGH = 0.05  # of the peak above the final rate, at the end


def positions_not_as_claimed(run: Run) -> Iterator[Seen]:
    """The self-test permutes the input: a model with positions must notice, one without must not."""
    claims, sees = fact(run, "self_test.claims_positions"), fact(run, "self_test.sees_order")
    position = setting(run, "model.position")
    if claims is True and sees is False:
        yield Seen(
            f"model.position={position}, and the output of the self-test does not change with the order of "
            "the input beyond the causal mask",
            "rotate along the sequence axis, not along heads; model.position=rope of lmx does",
        )
    elif claims is False and sees is True:
        yield Seen(
            f"model.position={position} claims no positions, and the self-test's output depends on them",
            "take the positions out of the attention: model.position=none of lmx does",
        )


def sees_the_future(run: Run) -> Iterator[Seen]:
    """A position that sees a later token predicts what it was shown."""
    if fact(run, "self_test.sees_future") is True:
        yield Seen(
            "changing a later token changed an earlier prediction in the self-test", "use a causal mask"
        )


def schedule_horizon(run: Run) -> Iterator[Seen]:
    """A decay that ends elsewhere than the run."""
    schedule, total = schedule_of(run), number(fact(run, "total_steps"))
    if schedule is None or schedule.kind == "constant":
        return
    planned = schedule.decay_steps or total
    done, status = steps_done(run), run.status
    if planned and total and abs(planned - total) > HORIZON * total:
        ends = "never reaches its end" if planned > total else "stays at its end for the rest"
        yield Seen(
            f"the {schedule.kind} schedule decays over {planned:,.0f} steps and the run has {total:,.0f}: "
            f"the rate {ends}",
            "schedule.decay_steps=null (the run's own length)",
        )
    elif planned and status == "completed" and 0 < done < (1 - HORIZON) * planned:
        left = lr_multiplier(schedule, done - 1, int(planned))
        if left - schedule.final_fraction > STILL_HIGH:
            reason = f" ({run.reason})" if run.reason else ""
            yield Seen(
                f"the run ended at step {done:,} of {planned:,.0f}{reason}, with the rate still at "
                f"{left:.0%} of its peak",
                f"train.horizon={done}steps, or schedule=constant where the end is not known beforehand",
            )


def rate_unlike_schedule(run: Run) -> Iterator[Seen]:
    """The recorded rate must be the schedule's at every record: warm-up and decay took place."""
    schedule, total = schedule_of(run), number(fact(run, "total_steps"))
    peak = number(setting(run, "optimizer.lr"))
    rows = pairs(run, "train", "step", "train/lr")
    rows = rows[rows[:, 0] > _last_session(run)]
    if schedule is None or not peak or not len(rows):
        return
    if schedule.kind != "constant" and not (schedule.decay_steps or total):
        return
    length = None if total is None else int(total)
    wanted = np.array([peak * lr_multiplier(schedule, int(step) - 1, length) for step in rows[:, 0]])
    if setting(run, "model.mup_base_width") is not None and wanted.any():  # the first group's own multiple
        wanted = wanted * np.median(rows[wanted > 0, 1] / wanted[wanted > 0])
    wrong = np.flatnonzero(np.abs(rows[:, 1] - wanted) > RATE * np.maximum(wanted, rows[:, 1]))
    if not len(wrong):
        return
    step, rate = rows[wrong[0]]
    warm = warmup_steps(schedule, length)
    phase = f"in the warm-up of {warm} steps" if step < warm else f"with schedule.kind={schedule.kind}"
    yield Seen(
        f"at step {step:,.0f} the rate was {rate:.3g} where the schedule asks for {wanted[wrong[0]]:.3g} "
        f"({phase}), in {len(wrong)} of {len(rows)} records",
        "use a schedule that is applied, or leave its keys out: schedule=constant",
    )


def _last_session(run: Run) -> float:
    """The step at which the last session began: a longer horizon changes the schedule from there on."""
    sessions = fact(run, "sessions")
    if not isinstance(sessions, list) or len(sessions) < 2 or not isinstance(sessions[-2], dict):
        return 0.0
    return number(sessions[-2].get("step")) or 0.0


def gradient_jumps(run: Run) -> Iterator[Seen]:
    """A norm far above what it was shortly before; not in the first tenth, where a warm-up ends."""
    steps, norms = numbers(run, "train/grad_norm")
    if len(norms) < FEW:
        return
    padded = np.concatenate([np.full(BEFORE - 1, norms[0]), norms[:-1]])
    usual = np.median(np.lib.stride_tricks.sliding_window_view(padded, BEFORE), axis=1)
    start = 1 + len(norms) // 10
    times = norms[start:] / np.maximum(usual[start - 1 :], np.finfo(float).tiny)
    worst, jumps = start + int(np.argmax(times)), int((times > JUMP).sum())
    if not jumps:
        return
    schedule, rate = schedule_of(run), number(setting(run, "optimizer.lr"))
    cold = schedule is not None and not (schedule.warmup_fraction or schedule.warmup_steps)
    fixes = ["schedule.warmup_fraction=0.05"] if cold else []
    fixes += [f"optimizer.lr={rate / 3:.1g}" if rate else "a lower rate", "train.spike_sigmas=6"]
    yield Seen(
        f"train/grad_norm jumps to {norms[worst]:.3g} at step {steps[worst]:,.0f}, {times.max():,.0f} times "
        f"the median of the {BEFORE} records before; {jumps} of {len(norms)} records jump by more than "
        f"{JUMP:.0f} times",
        ", or ".join(fixes),
    )


def key_without_effect(run: Run) -> Iterator[Seen]:
    """Keys that nothing reads, and typed ones that the other values make idle."""
    unknown = [problem for key in _leaves(run.config) if (problem := key_problem(key))]
    for problem in unknown:
        yield Seen(f"config.yaml holds {problem}; nothing reads it", "leave it out")
    experiment = experiment_of(run)
    if unknown or experiment is None:
        return
    idle = dict(experiment.useless())
    for key in _typed(run, idle):
        if key in idle:
            yield Seen(
                f"{key}={setting(run, key)} was typed and has no effect with {idle[key]}", f"leave {key} out"
            )


def _leaves(config: Any, path: str = "") -> Iterator[str]:
    for name, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, dict) and path == "":
            yield from _leaves(value, f"{name}.")
        else:
            yield f"{path}{name}"


def _typed(run: Run, among: Iterable[str]) -> list[str]:
    """The keys that were typed, as far as they are `among` some."""
    overrides = run.identity.get("overrides")
    if not isinstance(overrides, list):
        return []
    names = {key.rpartition(".")[2] for key in among}
    texts = [text for item in overrides if any(name in (text := str(item)) for name in names)]
    if not texts:
        return []  # without Hydra, whose import takes longer than all of these checks
    from lmx.config.overrides import given_keys

    try:
        return list(dict.fromkeys(given_keys(texts)))
    except ConfigError:  # an edited line that is no override
        return []


def muon_on_embeddings(run: Run) -> Iterator[Seen]:
    """Rows of an embedding are words, not a map: orthogonalising them mixes what was never seen together."""
    name = targets(setting(run, "optimizer.update"))
    if "uon" in name and setting(run, "optimizer.rest") is None:
        yield Seen(
            f"optimizer.update={name} takes every parameter, embedding and head too: optimizer.rest=null",
            "optimizer=muon (AdamW for embeddings, head, norms and biases)",
        )


def no_seed(run: Run) -> Iterator[Seen]:
    """Without a seed nothing can be repeated."""
    if run.identity and setting(run, "seed") is None and fact(run, "seed") is None:
        yield Seen("no seed was recorded", "seed=42")


def prompt_trailing_space(run: Run) -> Iterator[Seen]:
    """Tokenizers put the space before a word into its token: a trailing one asks for an unusual token."""
    prompts = setting(run, "callbacks.samples.prompts")
    for prompt in prompts if isinstance(prompts, list) else ():
        if isinstance(prompt, str) and re.search(r"\S[ \t]+$", prompt):
            yield Seen(f"the prompt {prompt!r} ends with a space", "callbacks.samples.prompts=[…] without it")


def unfinished(run: Run) -> Iterator[Seen]:
    """A run that did not reach its end."""
    if run.status in ("interrupted", "failed", "unknown") and run.lines:
        total = number(fact(run, "total_steps"))
        of = f" of {total:,.0f}" if total else ""
        reason = f" ({run.reason})" if run.reason else ""
        yield Seen(
            f"the run is {run.status} at step {steps_done(run):,}{of}{reason}",
            "python -m lmx.train resume=RUN" if run.status != "unknown" else "train it again",
        )
