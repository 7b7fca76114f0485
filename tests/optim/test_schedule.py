"""Schedules against closed forms at every corner, and against torch's and transformers' own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lmx.config import ScheduleConfig
from lmx.optim import lr_multiplier, schedule_problems, warmup_steps

KINDS = ("constant", "cosine", "linear", "wsd")


def schedule(kind: str, **fields: Any) -> ScheduleConfig:
    return ScheduleConfig(name=kind, kind=kind, **fields)


def curve(config: ScheduleConfig, total: int, steps: int | None = None) -> list[float]:
    assert not list(schedule_problems(config, total))
    return [lr_multiplier(config, step, total) for step in range(steps or total)]


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
@pytest.mark.parametrize("total", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("warmup", [0, 1, 2, -1])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_ends_on_the_last_step_and_never_exceeds_the_peak(
    kind: str, total: int, warmup: int, final: float
) -> None:
    warmup = total - 1 if warmup < 0 else warmup
    config = schedule(kind, warmup_steps=warmup, final_fraction=final, decay_fraction=1 / total)
    if warmup >= total:
        assert list(schedule_problems(config, total))
        return
    values = curve(config, total)
    assert values[-1] == final
    assert all(0 <= value <= 1 for value in values)
    assert values[:warmup] == [(step + 1) / warmup for step in range(warmup)]
    after = values[max(warmup - 1, 0) :]
    assert after == sorted(after, reverse=True)
    if total > max(warmup, 1):
        assert values[max(warmup - 1, 0)] == 1.0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (schedule("constant"), [1, 1, 1, 1, 1]),
        (schedule("constant", warmup_steps=4), [0.25, 0.5, 0.75, 1, 1]),
        (schedule("linear"), [1, 0.75, 0.5, 0.25, 0]),
        (schedule("linear", warmup_steps=2, final_fraction=0.4), [0.5, 1, 0.8, 0.6, 0.4]),
        (schedule("linear", warmup_steps=4), [0.25, 0.5, 0.75, 1, 0]),
        (schedule("cosine"), [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
        (
            schedule("cosine", warmup_steps=1, final_fraction=0.2),
            [1, 0.2 + 0.4 * (1 + math.sqrt(0.5)), 0.6, None, 0.2],
        ),
        (schedule("wsd", decay_fraction=0.4), [1, 1, 1, 0.5, 0]),
        (schedule("wsd", decay_fraction=0.4, warmup_steps=3), [1 / 3, 2 / 3, 1, 0.5, 0]),
        (schedule("wsd", decay_fraction=0.0), [1, 1, 1, 1, 0]),
        (schedule("wsd", decay_fraction=1.0), [1, 0.75, 0.5, 0.25, 0]),
    ],
)
def test_five_steps_by_hand(config: ScheduleConfig, expected: list[float | None]) -> None:
    for got, wanted in zip(curve(config, 5), expected, strict=True):
        if wanted is not None:
            assert got == pytest.approx(wanted, abs=1e-15)


def test_horizon_of_its_own() -> None:
    short = schedule("linear", decay_steps=5)
    assert curve(short, 8) == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0, 0, 0])
    long = schedule("linear", decay_steps=9)
    assert curve(long, 5) == pytest.approx([1, 0.875, 0.75, 0.625, 0.5])
    assert [lr_multiplier(short, step, None) for step in (0, 4, 10**9)] == [1.0, 0.0, 0.0]
    assert lr_multiplier(schedule("constant", decay_steps=2, warmup_steps=3), 1, None) == pytest.approx(2 / 3)


def test_warmup_as_a_fraction_is_rounded_to_the_nearest_step() -> None:
    assert warmup_steps(schedule("cosine", warmup_fraction=0.29), 100) == 29
    assert warmup_steps(schedule("cosine", warmup_fraction=0.05), 5) == 0
    assert warmup_steps(schedule("cosine", warmup_fraction=0.1, decay_steps=50), 1000) == 5
    by_steps = curve(schedule("cosine", warmup_steps=29, final_fraction=0.1), 100)
    assert curve(schedule("cosine", warmup_fraction=0.29, final_fraction=0.1), 100) == by_steps


def test_linear_is_transformers_linear() -> None:
    from transformers import get_linear_schedule_with_warmup

    warmup, total = 7, 50
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    # ours is theirs one step earlier: no step is lost at rate 0, and the last one takes final_fraction
    theirs = get_linear_schedule_with_warmup(optimizer, warmup, total)
    ours = schedule("linear", warmup_steps=warmup)
    for step in range(total):
        optimizer.step()
        theirs.step()
        assert lr_multiplier(ours, step, total) == pytest.approx(theirs.get_last_lr()[0])


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_is_torch_cosine(final: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    total = 40
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total - 1, eta_min=final)
    ours = schedule("cosine", final_fraction=final)
    for step in range(total):
        assert lr_multiplier(ours, step, total) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    ("config", "total", "message"),
    [
        (
            schedule("cosine", warmup_steps=10),
            10,
            "schedule.warmup_steps: got 10, allowed: fewer than the 10 steps",
        ),
        (
            schedule("constant", warmup_steps=11),
            10,
            "schedule.warmup_steps: got 11, allowed: fewer than the 10 steps",
        ),
        (
            schedule("linear", warmup_fraction=1.0),
            10,
            r"warmup_fraction: got 1.0 \(= 10 steps\), allowed: fewer than",
        ),
        (
            schedule("linear", warmup_steps=7, decay_steps=5),
            10,
            "allowed: fewer than the 5 steps of the schedule",
        ),
        (schedule("wsd", warmup_steps=5, decay_fraction=0.6), 10, "got 5, allowed: at most 4 steps, because"),
        (schedule("cosine"), None, "schedule.decay_steps: got nothing, needed by cosine"),
        (
            schedule("constant", warmup_fraction=0.1),
            None,
            "warmup_fraction: got 0.1 with a run of unknown length",
        ),
    ],
)
def test_refuses_what_does_not_fit(config: ScheduleConfig, total: int | None, message: str) -> None:
    import re

    problems = list(schedule_problems(config, total))
    assert len(problems) == 1
    assert re.search(message, problems[0]), problems[0]


@pytest.mark.parametrize("kind", KINDS)
def test_presets_fit_the_shortest_runs(kind: str) -> None:
    from lmx.config.compose import compose

    config = compose([f"schedule={kind}"]).schedule
    for total in (1, 2, 5, 600):
        assert len(curve(config, total)) == total
