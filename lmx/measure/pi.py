"""Predictive integrity: how certain a model is and how still its gradient, in one number.

Source: the ARS-Bench reports and IPWT. Every function takes floats, numpy arrays and torch tensors alike, and
never makes a tensor wait for its device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Number: TypeAlias = Any  # float, numpy array or torch tensor; the result is of the same kind


def log_predictive_integrity(
    entropy: Number, grad_norm: Number, alpha: float = 1.0, gamma: float = 1.0
) -> Number:
    """Return log PI = −(α·H + γ·G): H is the mean predictive entropy in nats a token, G the gradient norm."""
    return -(alpha * entropy + gamma * grad_norm)


def predictive_integrity(
    entropy: Number, grad_norm: Number, alpha: float = 1.0, gamma: float = 1.0
) -> Number:
    """Return PI = exp(−(α·H + γ·G)), in (0, 1] for non-negative H and G."""
    return _exp(log_predictive_integrity(entropy, grad_norm, alpha, gamma))


def effective_gamma(entropy: Number, grad_norm: Number, alpha: float = 1.0, gamma: float = 1.0) -> Number:
    """Return the share of PI's exponent that the gradient makes, γ·G / (α·H + γ·G); NaN where both are 0."""
    part, whole = gamma * grad_norm, alpha * entropy + gamma * grad_norm
    if isinstance(whole, float | int):
        return part / whole if whole else math.nan
    with np.errstate(invalid="ignore"):
        return part / whole


def neg_log_one_minus(pi: Number) -> Number:
    """Return −log(1 − PI): about PI where it is small, infinite at 1."""
    if isinstance(pi, float | int):
        return -math.log1p(-pi) if pi < 1 else math.inf
    with np.errstate(divide="ignore"):
        return -((-pi).log1p() if hasattr(pi, "log1p") else np.log1p(-pi))


def neg_exp_pi(pi: Number) -> Number:
    """Return −exp(PI), from −1 (no integrity) to −e."""
    return -_exp(pi)


def integrated_predictive_integrity(values: Sequence[float] | np.ndarray, delta: float = 1.0) -> float:
    """Return ∫PI over a run, mean(PI)·exp(−δ·Var(PI)), with the population variance (IPWT).

    Raises ValueError where there are no values.
    """
    series = np.asarray(values, dtype=np.float64)
    if not series.size:
        raise ValueError("predictive integrity cannot be integrated over no values")
    return float(series.mean() * math.exp(-delta * series.var()))


@dataclass
class Smoothing:
    """Bias-corrected running mean m ← β·m + (1 − β)·x, read as m / (1 − βᵗ) after t values."""

    beta: float
    mean: Any = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for a β outside [0, 1)."""
        if not 0 <= self.beta < 1:
            raise ValueError(f"beta: got {self.beta}, allowed: 0 ≤ beta < 1")

    def update(self, value: Number) -> Number:
        """Take one more value; return the smoothed one."""
        self.count += 1
        self.mean = self.beta * self.mean + (1 - self.beta) * value
        return self.mean / (1 - self.beta**self.count)


def _exp(x: Any) -> Any:
    if hasattr(x, "exp"):
        return x.exp()
    return np.exp(x) if isinstance(x, np.ndarray) else math.exp(x)
