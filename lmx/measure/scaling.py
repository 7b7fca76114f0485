"""Scaling law of loss: L(N, D) = E + A / N^α + B / D^β (Hoffmann et al. 2022, arXiv:2203.15556, approach 3).

N parameters, D tokens trained on, L nats per token. Fitted by Levenberg-Marquardt on the Huber loss of
log residuals, from a grid of starts: five parameters with a closed-form Jacobian need no larger optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmx.measure.statistics import Interval

Array = NDArray[np.float64]

NAMES = ("E", "A", "B", "alpha", "beta")
FEWEST_RUNS = 6  # five constants and one to contradict them
HUBER = 0.01  # residuals beyond 1 % of the loss count linearly: a failed run does not bend the curve
APART = 1.1  # factor between two sizes or lengths that count as different: a norm more or less is no size
ALONG = 0.98  # correlation of log N and log D from which their parts cannot be told apart
PATIENCE = 10  # iterations without a gain that end the search
_TERM = (-12.0, 12.0)  # bounds of log E and of the logs of both terms at the mean run
_EXPONENT = (np.log(0.01), np.log(4.0))


@dataclass(frozen=True)
class ScalingLaw:
    """The constants of L(N, D)."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Array:
        """Return the loss in nats per token; arguments broadcast."""
        n, d = np.asarray(parameters, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        return np.asarray(self.E + self.A / n**self.alpha + self.B / d**self.beta)

    def optimal(self, flops: float) -> tuple[float, float]:
        """Return the parameters and tokens with the lowest loss for `flops`, counted as 6·N·D."""
        product = flops / 6
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = ratio * product ** (self.beta / (self.alpha + self.beta))
        return float(parameters), float(product / parameters)


@dataclass(frozen=True)
class ScalingFit:
    """A fitted law and how far other noise would have moved it."""

    law: ScalingLaw
    draws: Array  # (R, 5): the constants, as in NAMES, fitted to each bootstrap resample
    residuals: Array  # (n,): log of measured over fitted loss, widened for the five constants
    level: float
    seed: int

    def interval(self, name: str) -> Interval:
        """Return the bootstrap interval of one constant."""
        low, high = np.quantile(self.draws[:, NAMES.index(name)], _tails(self.level))
        return Interval(getattr(self.law, name), float(low), float(high), len(self.residuals), self.level)

    def predict(self, parameters: float, tokens: float) -> Interval:
        """Return the loss that one more run would measure: the law's uncertainty, and a run's own."""
        laws = np.array([float(ScalingLaw(*draw).loss(parameters, tokens)) for draw in self.draws])
        noise = np.random.default_rng(self.seed + 1).choice(self.residuals, len(laws))
        low, high = np.quantile(laws * np.exp(noise), _tails(self.level))
        estimate = float(self.law.loss(parameters, tokens))
        return Interval(estimate, float(low), float(high), len(self.residuals), self.level)


def missing_for_scaling(parameters: ArrayLike, tokens: ArrayLike) -> str | None:
    """Say what these runs lack to tell the five constants apart; None where nothing."""
    n, d = np.asarray(parameters, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    lacking = []
    if len(n) < FEWEST_RUNS:
        lacking.append(f"{len(n)} runs, needed: at least {FEWEST_RUNS}")
    for values, what in ((n, "model sizes"), (d, "training lengths")):
        if _levels(values) < 3:
            lacking.append(f"{_levels(values)} different {what}, needed: at least 3")
    if not lacking and abs(np.corrcoef(np.log(n), np.log(d))[0, 1]) > ALONG:
        lacking.append("sizes and lengths that grow together, needed: one size trained on several lengths")
    return "; ".join(lacking) or None


def _levels(values: Array) -> int:
    """How many values there are that lie APART."""
    count, last = 0, -np.inf
    for value in np.sort(values).tolist():
        if value > last * APART or not count:
            count, last = count + 1, value
    return count


def fit_scaling(
    parameters: ArrayLike,
    tokens: ArrayLike,
    losses: ArrayLike,
    *,
    resamples: int = 400,
    seed: int = 0,
    level: float = 0.95,
) -> ScalingFit:
    """Fit the law to n runs: `parameters`, `tokens` and final `losses` (nats per token), (n,) each.

    Intervals come from `resamples` fits to the fitted losses with residuals drawn anew, which are widened by
    √(n / (n − 5)) for the constants that were fitted to them.

    Raises ValueError for values that are not positive, and where `missing_for_scaling` finds something.
    """
    n, d, loss = (np.asarray(values, dtype=np.float64) for values in (parameters, tokens, losses))
    if not n.shape == d.shape == loss.shape or n.ndim != 1:
        raise ValueError(f"runs: got shapes {n.shape}, {d.shape}, {loss.shape}, needed: three of (n,)")
    for values, name in ((n, "parameters"), (d, "tokens"), (loss, "losses")):
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"{name}: got {values.tolist()}, allowed: finite and positive")
    lacking = missing_for_scaling(n, d)
    if lacking:
        raise ValueError(f"runs: got {lacking}")
    design = _Design(np.log(n), np.log(d))
    target = np.log(loss)
    starts = design.starts(loss)
    found, costs = _minimise(design, np.broadcast_to(target, (len(starts), len(loss))), starts)
    best = found[int(np.argmin(costs))]
    fitted = design.log_loss(best[None])[0]
    residuals = target - fitted
    widened = (residuals - residuals.mean()) * np.sqrt(len(loss) / (len(loss) - 5))
    noise = np.random.default_rng(seed).choice(widened, (resamples, len(loss)))
    draws, _ = _minimise(design, fitted + noise, np.broadcast_to(best, (resamples, 5)))
    law = ScalingLaw(*(float(value) for value in design.constants(best[None])[0]))
    return ScalingFit(law, design.constants(draws), widened, level, seed)


class _Design:
    """The runs, and the law in coordinates that are easy to search: (log E, log of both terms at the mean
    run, log α, log β), a row (5,) each."""

    def __init__(self, log_n: Array, log_d: Array) -> None:
        self.means = float(log_n.mean()), float(log_d.mean())
        self.x, self.y = log_n - self.means[0], log_d - self.means[1]

    def starts(self, loss: Array) -> Array:
        """Return a grid of starts, (S, 5): how the mean loss is shared out, and both exponents."""
        grid = [
            (share, part, alpha, beta)
            for share in (0.1, 0.5, 0.85)
            for part in (0.2, 0.5, 0.8)
            for alpha in (0.1, 0.35, 1.0)
            for beta in (0.1, 0.35, 1.0)
        ]
        share, part, alpha, beta = np.array(grid).T
        floor = share * loss.min()
        rest = loss.mean() - floor
        return np.log(np.stack([floor, rest * part, rest * (1 - part), alpha, beta], axis=1))

    def terms(self, rows: Array) -> Array:
        """Return the logs of the three terms at each run, (S, 3, n)."""
        e, a, b, alpha, beta = (rows[:, place, None] for place in range(5))
        ones = np.ones_like(self.x)
        return np.stack([e * ones, a - np.exp(alpha) * self.x, b - np.exp(beta) * self.y], axis=1)

    def log_loss(self, rows: Array) -> Array:
        """Return log L at each run, (S, n)."""
        return np.asarray(np.logaddexp.reduce(self.terms(rows), axis=1))

    def jacobian(self, rows: Array) -> Array:
        """Return the derivatives of log L, (S, n, 5)."""
        terms = self.terms(rows)
        shares = np.exp(terms - np.logaddexp.reduce(terms, axis=1, keepdims=True))
        slopes = [
            -shares[:, 1] * np.exp(rows[:, 3, None]) * self.x,
            -shares[:, 2] * np.exp(rows[:, 4, None]) * self.y,
        ]
        return np.stack([*shares.transpose(1, 0, 2), *slopes], axis=2)

    def constants(self, rows: Array) -> Array:
        """Return E, A, B, α, β, (S, 5)."""
        alpha, beta = np.exp(rows[:, 3]), np.exp(rows[:, 4])
        a, b = rows[:, 1] + alpha * self.means[0], rows[:, 2] + beta * self.means[1]
        return np.stack([np.exp(rows[:, 0]), np.exp(a), np.exp(b), alpha, beta], axis=1)


def _minimise(design: _Design, targets: Array, rows: Array, iterations: int = 150) -> tuple[Array, Array]:
    """Levenberg-Marquardt with Huber weights for S problems at once: targets (S, n), starts (S, 5).

    Returns the rows (S, 5) and their costs (S,).
    """
    rows = np.array(rows)
    costs = _huber(design.log_loss(rows) - targets)
    damping = np.full(len(rows), 1e-2)
    waited = np.zeros(len(rows), dtype=int)
    low, high = np.array([(*bounds,) for bounds in (*[_TERM] * 3, *[_EXPONENT] * 2)]).T
    for _ in range(iterations):
        residuals = design.log_loss(rows) - targets
        weights = HUBER / np.maximum(np.abs(residuals), HUBER)
        jacobian = design.jacobian(rows)
        weighted = jacobian * weights[..., None]
        normal = weighted.transpose(0, 2, 1) @ jacobian
        slope = np.einsum("snk,sn->sk", weighted, residuals)
        # the small constant keeps a parameter without influence where it is
        ridge = damping[:, None] * (np.einsum("skk->sk", normal) + 1e-9)
        step = np.linalg.solve(normal + np.eye(5) * ridge[:, None, :], slope[..., None])[..., 0]
        tried = np.clip(rows - step, low, high)
        cost = _huber(design.log_loss(tried) - targets)
        better, gained = cost < costs, cost < costs * (1 - 1e-9) - 1e-16
        rows, costs = np.where(better[:, None], tried, rows), np.where(better, cost, costs)
        damping = np.clip(np.where(better, damping / 4, damping * 3), 1e-12, 1e12)
        waited = np.where(gained, 0, waited + 1)
        if waited.min() >= PATIENCE:
            break
    return rows, costs


def _huber(residuals: Array) -> Array:
    size = np.abs(residuals)
    return np.asarray(np.where(size <= HUBER, size**2 / 2, HUBER * (size - HUBER / 2)).sum(-1))


def _tails(level: float) -> list[float]:
    return [(1 - level) / 2, (1 + level) / 2]
