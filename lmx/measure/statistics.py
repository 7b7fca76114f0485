"""What a difference between runs is worth: intervals over seeds and over evaluation windows."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Seeds = Mapping[int, float] | Sequence[float]  # seed → value, or values alone

DRAWN_AT_ONCE = 400_000  # window numbers of a bootstrap that are in memory together


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; `low` and `high` are NaN where n < 2."""

    estimate: float
    low: float
    high: float
    n: int  # values, seeds a side, or windows that it rests on
    level: float = 0.95

    @property
    def known(self) -> bool:
        """Whether there is an interval at all."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign of the estimate is shown at this level."""
        return self.known and not self.low <= 0 <= self.high


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean and Student's t interval of independent values, such as one a seed.

    Raises ValueError for no values or a level outside (0, 1).
    """
    sample = _sample(values, "values")
    n = len(sample)
    error = float(sample.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return _student(float(sample.mean()), error, n - 1, n, level)


def difference_interval(a: Seeds, b: Seeds, level: float = 0.95) -> Interval:
    """Return the interval of mean(a) − mean(b), from one value a seed.

    Two mappings over the same seeds are paired seed by seed (Student); all else is compared as two
    independent samples of unequal variance (Welch 1947). `n` is the number of seeds on the smaller side.

    Raises ValueError where a side is empty or the level lies outside (0, 1).
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
        return mean_interval([a[seed] - b[seed] for seed in a], level)
    first = _sample(list(a.values()) if isinstance(a, Mapping) else a, "a")
    second = _sample(list(b.values()) if isinstance(b, Mapping) else b, "b")
    n = min(len(first), len(second))
    difference = float(first.mean() - second.mean())
    if n < 2:
        return _student(difference, math.nan, 1, n, level)
    parts = [float(side.var(ddof=1)) / len(side) for side in (first, second)]
    freedom = sum(part**2 / (len(s) - 1) for part, s in zip(parts, (first, second), strict=True))
    # without any scatter the interval has no width, whatever the degrees of freedom
    degrees = sum(parts) ** 2 / freedom if freedom > 0 else 1.0
    return _student(difference, math.sqrt(sum(parts)), degrees, n, level)


class WindowBootstrap:
    """Several models on the same evaluation windows: how far another text might change their differences.

    N windows are drawn with replacement, the same ones for every model, so that any two of them are paired.
    It says nothing about another seed of training. Windows are taken as independent.

    Args:
        losses: summed loss of each window under each of K models, (K, N) nats, or another unit.
        weights: tokens of each window, (N,); windows without any are left out.
        resamples: how often N windows are drawn.
        seed: of the drawing.

    Raises ValueError where lengths differ or no window has tokens.
    """

    def __init__(
        self, losses: ArrayLike, weights: ArrayLike, *, resamples: int = 2000, seed: int = 0
    ) -> None:
        rows, tokens = (np.asarray(values, dtype=np.float64) for values in (losses, weights))
        if rows.ndim != 2 or rows.shape[1:] != tokens.shape:
            raise ValueError(f"windows: got shapes {rows.shape} and {tokens.shape}, needed: (K, N) and (N,)")
        scored = tokens > 0
        rows, tokens = rows[:, scored], tokens[scored]
        self.n = len(tokens)
        if self.n == 0:
            raise ValueError("windows: none of them has tokens")
        self._means = rows.sum(axis=1) / tokens.sum()
        rng, columns = np.random.default_rng(seed), np.vstack([rows, tokens]).T
        portions = _portions(resamples, DRAWN_AT_ONCE // self.n)
        sums = np.concatenate([_times_drawn(rng, self.n, size) @ columns for size in portions])
        self._drawn = sums[:, :-1] / sums[:, -1:]  # (resamples, K)

    def difference(self, a: int, b: int, level: float = 0.95) -> Interval:
        """Return the percentile interval (Efron 1979) of model a − model b, per token.

        Raises ValueError where the level lies outside (0, 1).
        """
        _check_level(level)
        estimate = float(self._means[a] - self._means[b])
        if self.n < 2:
            return Interval(estimate, math.nan, math.nan, self.n, level)
        ends = np.quantile(self._drawn[:, a] - self._drawn[:, b], [(1 - level) / 2, (1 + level) / 2])
        return Interval(estimate, float(ends[0]), float(ends[1]), self.n, level)


def verdict(difference: Interval, *, unit: str, seeds: int, better: str, worse: str) -> str:
    """Say in one sentence what a difference shows, in words no stronger than the data.

    `better` names the side that came out ahead, `worse` the other: only the size of `difference` is read, so
    that its sign may follow either order. `seeds` is the number of training runs a side, which an interval
    over evaluation windows cannot know: with one seed nothing is said about the next.
    """
    size = f"{abs(difference.estimate):.4g} {unit}"
    runs = "1 seed" if seeds == 1 else f"{seeds} seeds"
    if not math.isfinite(difference.estimate):
        return f"No comparison at {runs}: a value is missing or not finite."
    if difference.estimate == 0:
        return f"No difference at all at {runs}: {better} and {worse} came out equal."
    ahead = f"{better} came out {size} ahead of {worse}"
    if not difference.known:
        return f"No difference shown at {runs}: {ahead}, and how far chance alone goes is not known."
    ends = sorted(math.copysign(1.0, difference.estimate) * end for end in (difference.low, difference.high))
    interval = f"{100 * difference.level:g} % interval {ends[0]:.4g} to {ends[1]:.4g}"
    if not difference.excludes_zero:
        return f"No difference shown at {runs}: {ahead} ({interval})."
    if seeds < 2:
        return (
            f"{better} is ahead of {worse} by {size} on this text ({interval} over its windows); "
            "at one seed, whether another run would repeat it is not known."
        )
    return f"{better} is ahead of {worse} by {size} at {runs} ({interval})."


@functools.lru_cache(maxsize=256)
def t_quantile(probability: float, degrees: float) -> float:
    """Return the quantile of Student's t distribution with `degrees` of freedom (≥ 1, fractions too).

    Raises ValueError outside 0 < probability < 1 or below one degree of freedom.
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability: got {probability}, allowed: 0 < probability < 1")
    if degrees < 1:
        raise ValueError(f"degrees: got {degrees}, allowed: ≥ 1")
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_share(middle, degrees) < 2 * probability - 1 else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)


def _t_share(angle: float, degrees: float) -> float:
    """P(|T| ≤ √degrees · tan(angle)): with t = √ν·tan θ the density is cos^(ν−1) θ, smooth to integrate."""
    theta = angle * (_NODES + 1) / 2
    integral = angle / 2 * float(_WEIGHTS @ np.cos(theta) ** (degrees - 1))
    log_beta = math.lgamma(0.5) + math.lgamma(degrees / 2) - math.lgamma((degrees + 1) / 2)
    return 2 * integral * math.exp(-log_beta)


def _student(estimate: float, error: float, degrees: float, n: int, level: float) -> Interval:
    _check_level(level)
    if n < 2:
        return Interval(estimate, math.nan, math.nan, n, level)
    margin = t_quantile((1 + level) / 2, degrees) * error
    return Interval(estimate, estimate - margin, estimate + margin, n, level)


def _times_drawn(rng: np.random.Generator, n: int, size: int) -> Array:
    """How often each of n windows is drawn in each of `size` resamples, (size, n)."""
    windows = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
    return np.bincount(windows.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _portions(total: int, most: int) -> list[int]:
    """Cut `total` into parts of at most `most`, at least 1."""
    most = max(1, most)
    return [min(most, total - start) for start in range(0, total, most)]


def _sample(values: Sequence[float], name: str) -> Array:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample):
        raise ValueError(
            f"{name}: got {len(sample) if sample.ndim else 'a number'}, needed: at least one value"
        )
    return sample


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, allowed: 0 < level < 1")
