"""Ranking at equal budgets and differences, against values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx.measure.statistics import WindowBootstrap, difference_interval, mean_interval
from lmx.report.differences import Difference, differences
from lmx.report.exports import arm_figures, best_evaluation, converged, phase_losses, run_figures
from lmx.report.standings import Arm, common_budget, curve, standings, within
from lmx.report.study_plots import spent_to_reach
from lmx.runs import Digest, MetricsLog, RunFolder, read_digest, write_windows

BITS = "val/bits_per_byte"
MakeDigest = Callable[..., Digest]


@pytest.fixture
def made(tmp_path: Path) -> MakeDigest:
    """Make a run of given evaluations: tokens → bits per byte; 2 nats a token are a bit per byte."""

    def make(
        curve: dict[int, float], seed: int = 1, *, seconds: float = 1e-3, windows: list[float] | None = None
    ) -> Digest:
        folder = RunFolder.create(tmp_path, "run")
        folder.write_config({"seed": seed})
        log = MetricsLog(folder.metrics)
        for step, (tokens, bits) in enumerate(curve.items()):
            spent = {"tokens": tokens, "seconds": tokens * seconds, "flops": tokens * 10.0}
            if step:
                log.append({"kind": "train", "step": step, "steps": 1, **spent, "train/loss": 2 * bits})
            log.append({"kind": "val", "step": step, **spent, BITS: bits, "val/loss": 2 * bits})
        if windows is not None:
            folder.windows.mkdir()
            write_windows(folder.windows / "best.npz", windows, [10] * len(windows), len(curve) - 1)
        return read_digest(folder.path)

    return make


def compared(*arms: Arm, baseline: str = "b") -> list[Difference]:
    places, amount = standings(arms, BITS)
    assert amount is not None
    return differences(places, baseline, BITS, amount)


def between(*arms: Arm) -> Difference:
    """Arm a against arm b."""
    (found,) = compared(*arms)
    return found


def test_the_largest_common_budget_is_the_shortest_run_s(made: MakeDigest) -> None:
    runs = [made({0: 3, 100: 2, 200: 1.5}), made({0: 3, 150: 1.8})]
    assert common_budget(runs, BITS, "tokens") == 150
    assert common_budget(runs, BITS, "flops") == 1500
    assert common_budget([*runs, made({0: 3})], BITS, "tokens") is None
    assert common_budget([], BITS, "tokens") is None


def test_a_curve_is_interpolated_at_the_budget(made: MakeDigest) -> None:
    run = made({0: 3, 100: 2, 200: 1.5})
    assert within(run, BITS, "tokens", 150).best == pytest.approx(1.75)
    assert within(run, BITS, "tokens", 100).end == 2
    overfitted = made({0: 3, 100: 1, 200: 2})
    reached = within(overfitted, BITS, "tokens", 150)
    assert (reached.best, reached.end) == (1, 1.5)
    with pytest.raises(ValueError, match="reached"):
        within(run, BITS, "tokens", 201)


def test_accuracy_is_best_where_it_is_highest(made: MakeDigest) -> None:
    run = made({0: 3, 100: 2})
    for line, value in zip(run.run.of_kind("val"), (0.5, 0.25), strict=True):
        line["val/accuracy"] = value
    assert within(run, "val/accuracy", "tokens", 100).best == 0.5


def test_of_accuracies_the_highest_leads(made: MakeDigest) -> None:
    arms = [Arm(name, (made({0: 3, 100: 2}),)) for name in "ab"]
    for arm, accuracy in zip(arms, (0.25, 0.5), strict=True):
        arm.runs[0].run.of_kind("val")[-1]["val/accuracy"] = accuracy
        arm.runs[0].run.of_kind("val")[0]["val/accuracy"] = 0.0
    places, amount = standings(arms, "val/accuracy")
    assert [place.arm.name for place in places] == ["b", "a"]
    assert amount is not None
    (found,) = differences(places, "a", "val/accuracy", amount)
    assert found.over_seeds.estimate == 0.25
    assert "b came out 0.25 val/accuracy ahead of a" in found.words


def test_nan_and_missing_values_are_no_points(made: MakeDigest) -> None:
    spent, values = curve(made({0: 3, 100: math.nan, 200: 1.5}), BITS, "tokens")
    assert (spent.tolist(), values.tolist()) == ([0, 200], [3, 1.5])


def test_arms_are_ranked_by_the_mean_over_seeds(made: MakeDigest) -> None:
    fast = Arm("fast", tuple(made({0: 3, 100: bits}, seed) for seed, bits in enumerate((1.0, 1.2))))
    slow = Arm("slow", tuple(made({0: 3, 100: 1.5, 200: bits}, seed) for seed, bits in enumerate((0.5, 0.7))))
    places, amount = standings([slow, fast], BITS)
    assert (amount, [(place.rank, place.arm.name) for place in places]) == (100, [(1, "fast"), (2, "slow")])
    assert places[0].best == mean_interval([1.0, 1.2])
    assert places[0].by_seed == {0: 1.0, 1: 1.2}


def test_time_may_order_otherwise_than_tokens(made: MakeDigest) -> None:
    good_but_slow = Arm("slow", (made({0: 3, 100: 1.0}, seconds=2),))
    quick = Arm("quick", (made({0: 3, 100: 1.1}, seconds=1),))
    assert [place.arm.name for place in standings([quick, good_but_slow], BITS)[0]] == ["slow", "quick"]
    places, amount = standings([quick, good_but_slow], BITS, "seconds")
    assert (amount, [place.arm.name for place in places]) == (100, ["quick", "slow"])
    assert places[1].best.estimate == pytest.approx(2.0), "half of its way from 3 to 1"


def test_a_difference_is_paired_by_seed_and_over_windows(made: MakeDigest) -> None:
    windows = {"a": [[20.0, 30, 25], [21, 28, 26]], "b": [[22.0, 33, 24], [23, 31, 25]]}
    level = {"a": (1.0, 1.2), "b": (1.1, 1.25)}
    arms = [
        Arm(name, tuple(made({0: 3, 100: level[name][n]}, n, windows=windows[name][n]) for n in (0, 1)))
        for name in "ab"
    ]
    found = between(*arms)
    assert (found.a, found.b, found.why) == ("a", "b", "")
    assert found.over_seeds == difference_interval({0: 1.0, 1: 1.2}, {0: 1.1, 1: 1.25})
    means = [np.mean(windows[name], axis=0) for name in "ab"]
    nats = WindowBootstrap(means, [10, 10, 10]).difference(0, 1)
    assert found.over_windows is not None
    assert found.over_windows.estimate == pytest.approx(nats.estimate / 2), "2 nats are a bit per byte here"
    assert found.over_windows.low == pytest.approx(nats.low / 2)
    assert found.words.startswith("No difference shown at 2 seeds: a came out 0.075 bits/byte ahead of b")


def test_one_seed_speaks_of_this_text_alone(made: MakeDigest) -> None:
    rng = np.random.default_rng(0)
    base = rng.gamma(4, 5, 200)
    arms = [
        Arm("b", (made({0: 3, 100: 1.1}, windows=list(base + 1)),)),
        Arm("a", (made({0: 3, 100: 1.0}, windows=list(base)),)),
    ]
    found = between(*arms)
    assert not found.over_seeds.known
    assert "a is ahead of b by 0.05 bits/byte on this text" in found.words
    assert "at one seed" in found.words


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ({"windows": None}, {}, "no record of single windows"),
        ({"windows": [1.0, 2, 3]}, {"windows": [1.0, 2]}, "different windows"),
        ({"longer": True}, {}, "the best evaluation lies beyond the budget"),
    ],
)
def test_windows_that_do_not_tell_are_left_out(
    made: MakeDigest, first: dict[str, Any], second: dict[str, Any], why: str
) -> None:
    def arm(name: str, *, longer: bool = False, windows: list[float] | None = None, **unused: Any) -> Arm:
        level = 2 if name == "a" else 2.5
        return Arm(name, (made({0: 3, 100: level, **({200: 1} if longer else {})}, windows=windows),))

    options: dict[str, Any] = {"windows": [1.0, 2, 3]}
    found = between(arm("a", **{**options, **first}), arm("b", **{**options, **second}))
    assert (found.over_windows, found.why) == (None, why)
    assert found.words.startswith("No difference shown at 1 seed")


def test_equal_seeds_twice_are_not_paired(made: MakeDigest) -> None:
    twice = Arm("a", (made({0: 3, 100: 1.0}), made({0: 3, 100: 1.1})))
    other = Arm("b", (made({0: 3, 100: 1.3}), made({0: 3, 100: 1.4})))
    assert standings([twice, other], BITS)[0][0].by_seed == {}
    assert between(twice, other).over_seeds == difference_interval([1.0, 1.1], [1.3, 1.4])


def test_family_e_s_figures(made: MakeDigest) -> None:
    # 20 equal steps: the first tenth are steps 1 and 2, the last 19 and 20
    run = made({100 * step: 3 - step / 10 for step in range(21)})
    early, late = phase_losses(run)
    assert early == pytest.approx(2 * np.mean([2.9, 2.8]))
    assert late == pytest.approx(2 * np.mean([1.1, 1.0]))
    figures = run_figures(run)
    assert figures["convergence"]["total_improvement"] == pytest.approx(3.6)
    assert figures["eval_loss"] == pytest.approx(2.0)
    assert figures["accuracy"] is None
    assert figures["efficiency"] == {"avg_step_time": None, "steps_per_second": None, "step_time_std": None}
    assert best_evaluation(run)["step"] == 20


def test_phases_are_weighted_by_tokens_and_step_times_by_steps(made: MakeDigest) -> None:
    run = made({100 * step: 3 - step / 10 for step in range(21)})
    run.train["tokens"][1:] += 200  # the second record covers 300
    run.train["steps"][1] = 3
    run.train["speed/step_seconds"][:2] = (1.0, 2.0)
    assert phase_losses(run)[0] == pytest.approx(2 * (2.9 + 3 * 2.8) / 4)
    speed = run_figures(run)["efficiency"]
    assert speed == {"avg_step_time": 1.75, "steps_per_second": 1 / 1.75, "step_time_std": 0.5}


def test_converged_means_hardly_better_in_the_last_fifth(made: MakeDigest) -> None:
    assert converged(made({0: 3, 100: 1.0, 200: 1.0, 300: 1.0, 400: 0.995, 500: 0.993})) is True
    assert converged(made({0: 3, 100: 2, 200: 1.5, 300: 1.2, 400: 1.0, 500: 0.9})) is False
    assert converged(made({0: 3, 100: 2})) is None
    both = Arm("a", (made({0: 3, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1}), made({0: 3, 1: 2, 2: 2, 3: 2, 4: 2, 5: 1})))
    assert arm_figures(both)["convergence"]["converged"] is False


def test_what_a_level_costs_is_interpolated() -> None:
    line = np.array([0.0, 100, 200]), np.array([3.0, 2.0, 1.0])
    assert spent_to_reach(line, 1.5, True) == 150
    assert spent_to_reach(line, 3.5, True) == 0
    assert spent_to_reach(line, 0.5, True) is None
    assert spent_to_reach((line[0], -line[1]), -1.5, False) == 150
