"""Intervals against closed forms, mpmath, plain slow references and their own coverage."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from lmx.measure.statistics import (
    Interval,
    WindowBootstrap,
    difference_interval,
    mean_interval,
    t_quantile,
    verdict,
)


def paired_bootstrap(a: Any, b: Any, tokens: Any, **options: int) -> Interval:
    return WindowBootstrap([a, b], tokens, **options).difference(0, 1)


@pytest.mark.parametrize("degrees", [1.0, 1.3, 2.0, 4.7, 30.0, 1e5])
@pytest.mark.parametrize("probability", [0.03, 0.6, 0.975, 0.9995])
def test_t_quantile_against_the_incomplete_beta_function(degrees: float, probability: float) -> None:
    mpmath = pytest.importorskip("mpmath")  # comes with torch, through sympy
    quantile = t_quantile(probability, degrees)
    tail = mpmath.betainc(degrees / 2, 0.5, 0, degrees / (degrees + quantile**2), regularized=True) / 2
    assert float(tail) == pytest.approx(min(probability, 1 - probability), abs=1e-8)
    assert (quantile > 0) == (probability > 0.5)


def test_t_quantile_closed_forms() -> None:
    assert t_quantile(0.5, 3) == pytest.approx(0, abs=1e-12)
    assert t_quantile(0.975, 1) == pytest.approx(math.tan(0.475 * math.pi))
    p = 0.99
    assert t_quantile(p, 2) == pytest.approx((2 * p - 1) * math.sqrt(2 / (1 - (2 * p - 1) ** 2)))
    with pytest.raises(ValueError, match="probability: got 1, allowed: 0 < probability < 1"):
        t_quantile(1, 3)
    with pytest.raises(ValueError, match=r"degrees: got 0\.5, allowed: ≥ 1"):
        t_quantile(0.9, 0.5)


def test_mean_interval_by_hand() -> None:
    """1, 2, 3: s = 1, error 1/√3, t(0.975, 2) = 4.302653."""
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.estimate, found.n, found.known) == (2.0, 3, True)
    assert found.high - 2 == pytest.approx(4.302652730 / math.sqrt(3))
    assert found.low - 2 == pytest.approx(-4.302652730 / math.sqrt(3))


def test_one_value_has_no_interval() -> None:
    for found in (
        mean_interval([1.5]),
        difference_interval([2.0], [0.5, 0.5]),
        paired_bootstrap([3], [0], [2]),
    ):
        assert found.estimate == 1.5
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert found.n == 1
        assert not found.excludes_zero


def test_seeds_are_paired_where_both_sides_have_the_same() -> None:
    a, b = {1: 5.0, 2: 9.0, 3: 1.0}, {3: 0.85, 1: 4.8, 2: 8.9}
    assert difference_interval(a, b) == mean_interval([5.0 - 4.8, 9.0 - 8.9, 1.0 - 0.85])
    assert difference_interval(a, b).excludes_zero
    other = difference_interval(a, {1: 4.8, 2: 8.9, 4: 0.85})
    assert other == difference_interval([5.0, 9.0, 1.0], [4.8, 8.9, 0.85])
    assert not other.excludes_zero


def test_welch_by_hand() -> None:
    """Variances 1/3·1 and 1/2·8: error √(1/3 + 4), ν = (1/3 + 4)² / ((1/3)²/2 + 4²/1)."""
    found = difference_interval([1.0, 2.0, 3.0], [6.0, 10.0])
    degrees = (1 / 3 + 4) ** 2 / ((1 / 3) ** 2 / 2 + 16)
    assert found.estimate == -6
    assert found.n == 2
    assert found.high + 6 == pytest.approx(t_quantile(0.975, degrees) * math.sqrt(1 / 3 + 4))
    assert difference_interval([1.0, 1.0], [3.0, 3.0]) == Interval(-2.0, -2.0, -2.0, 2)


def _coverage(trials: int, covers: list[bool]) -> float:
    """Distance from 95 % in standard errors."""
    return (sum(covers) / trials - 0.95) / math.sqrt(0.95 * 0.05 / trials)


def test_intervals_cover_as_often_as_they_say() -> None:
    """Seeded: 2,000 draws of means, paired and unpaired differences whose truth is known."""
    rng, trials = np.random.default_rng(7), 2000
    means, pairs, welch = [], [], []
    for _ in range(trials):
        shared, a, b = rng.normal(0, 3, 4), rng.normal(1, 1, 4), rng.normal(0.5, 0.5, 7)
        found = mean_interval(a.tolist())
        means.append(found.low <= 1 <= found.high)
        found = difference_interval(
            dict(enumerate((shared + a).tolist())), dict(enumerate((shared + b[:4]).tolist()))
        )
        pairs.append(found.low <= 0.5 <= found.high)
        found = difference_interval(a.tolist(), b.tolist())
        welch.append(found.low <= 0.5 <= found.high)
    assert abs(_coverage(trials, means)) < 3
    assert abs(_coverage(trials, pairs)) < 3
    assert abs(_coverage(trials, welch)) < 4  # Welch's degrees of freedom are an approximation


def test_bootstrap_covers_the_difference_over_all_text() -> None:
    """Windows of unequal tokens whose loss difference is proportional to them, with noise."""
    rng, trials, truth = np.random.default_rng(3), 400, 0.02
    covers = []
    for trial in range(trials):
        tokens = rng.integers(50, 256, 120).astype(float)
        base = rng.normal(3, 0.5, 120) * tokens
        better = base - truth * tokens + rng.normal(0, 0.1, 120) * tokens
        found = paired_bootstrap(base, better, tokens, resamples=300, seed=trial)
        covers.append(found.low <= truth <= found.high)
    assert abs(_coverage(trials, covers)) < 3.5


def test_bootstrap_against_a_plain_slow_one() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 256, 60)
    a = rng.normal(3, 1, 60) * tokens
    b = a + rng.normal(0.1, 0.4, 60) * tokens
    found = paired_bootstrap(a, b, tokens, resamples=4000)
    plain, means = random.Random(0), []
    for _ in range(4000):
        drawn = plain.choices(range(60), k=60)
        means.append(sum(a[i] - b[i] for i in drawn) / sum(tokens[i] for i in drawn))
    low, high = np.quantile(means, [0.025, 0.975])
    width = high - low
    assert found.estimate == pytest.approx(float((a - b).sum() / tokens.sum()))
    assert found.low == pytest.approx(low, abs=0.06 * width)
    assert found.high == pytest.approx(high, abs=0.06 * width)


def test_bootstrap_is_paired_seeded_and_antisymmetric(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    tokens = np.full(200, 256)
    a = rng.normal(3, 1, 200) * tokens
    same = paired_bootstrap(a, a + 0.5 * tokens, tokens)
    assert (same.low, same.high) == (pytest.approx(-0.5), pytest.approx(-0.5))
    b = a + rng.normal(0, 0.2, 200) * tokens
    forward, back = paired_bootstrap(a, b, tokens), paired_bootstrap(b, a, tokens)
    assert forward.low == pytest.approx(-back.high)
    assert paired_bootstrap(a, b, tokens) == forward
    assert paired_bootstrap(a, b, tokens, seed=1) != forward
    # windows that were not evaluated change nothing, nor does how many resamples are drawn together
    padded = [np.insert(values, 7, value) for values, value in ((a, 9.0), (b, 1.0), (tokens, 0))]
    assert paired_bootstrap(*padded) == forward
    monkeypatch.setattr("lmx.measure.statistics.DRAWN_AT_ONCE", 1000)
    portions = paired_bootstrap(a, b, tokens)
    assert (portions.low, portions.high) == (pytest.approx(forward.low), pytest.approx(forward.high))


def test_a_bootstrap_of_several_models_is_that_of_each_two() -> None:
    rng = np.random.default_rng(2)
    tokens = rng.integers(1, 256, 90)
    losses = rng.normal(3, 1, (4, 90)) * tokens
    together = WindowBootstrap(losses, tokens)
    for a, b in ((0, 3), (2, 1)):
        found, alone = together.difference(a, b), paired_bootstrap(losses[a], losses[b], tokens)
        assert (found.low, found.high) == (pytest.approx(alone.low), pytest.approx(alone.high))
        assert found.estimate == pytest.approx(alone.estimate)


def test_bad_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="values: got 0, needed: at least one value"):
        mean_interval([])
    with pytest.raises(ValueError, match="b: got 0, needed: at least one value"):
        difference_interval([1.0], [])
    with pytest.raises(ValueError, match="level: got 95, allowed: 0 < level < 1"):
        mean_interval([1.0, 2.0], level=95)
    with pytest.raises(ValueError, match=r"windows: got shapes \(2, 2\) and \(3,\)"):
        paired_bootstrap([1, 2], [1, 2], [1, 1, 1])
    with pytest.raises(ValueError, match="windows: none of them has tokens"):
        paired_bootstrap([1, 2], [1, 2], [0, 0])


@pytest.mark.parametrize(
    ("difference", "seeds", "expected"),
    [
        (
            Interval(-0.031, -0.05, -0.012, 3),
            3,
            "muon is ahead of adamw by 0.031 bits/byte at 3 seeds (95 % interval 0.012 to 0.05).",
        ),
        (
            Interval(-0.031, -0.09, 0.028, 3),
            3,
            "No difference shown at 3 seeds: muon came out 0.031 bits/byte ahead of adamw "
            "(95 % interval -0.028 to 0.09).",
        ),
        (
            Interval(0.031, math.nan, math.nan, 1),
            1,
            "No difference shown at 1 seed: muon came out 0.031 bits/byte ahead of adamw, "
            "and how far chance alone goes is not known.",
        ),
        (
            Interval(0.031, 0.012, 0.05, 473),
            1,
            "muon is ahead of adamw by 0.031 bits/byte on this text (95 % interval 0.012 to 0.05 over its "
            "windows); at one seed, whether another run would repeat it is not known.",
        ),
        (Interval(0.0, 0.0, 0.0, 3), 3, "No difference at all at 3 seeds: muon and adamw came out equal."),
        (
            Interval(math.nan, math.nan, math.nan, 2),
            2,
            "No comparison at 2 seeds: a value is missing or not finite.",
        ),
    ],
)
def test_words_are_as_strong_as_the_data(difference: Interval, seeds: int, expected: str) -> None:
    said = verdict(difference, unit="bits/byte", seeds=seeds, better="muon", worse="adamw")
    assert said == expected
