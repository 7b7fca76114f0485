"""Predictive integrity against closed forms, for floats, arrays and tensors alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lmx.measure import (
    Smoothing,
    effective_gamma,
    integrated_predictive_integrity,
    log_predictive_integrity,
    neg_exp_pi,
    neg_log_one_minus,
    predictive_integrity,
)

KINDS: dict[str, Callable[[float], Any]] = {
    "float": float,
    "numpy scalar": np.float64,
    "array": lambda x: np.array([x, x]),
    "tensor": lambda x: torch.tensor(x, dtype=torch.float64),
}


@pytest.mark.parametrize("kind", KINDS)
def test_closed_forms(kind: str) -> None:
    make = KINDS[kind]
    entropy, norm, alpha, gamma = 3.0, 1.5, 0.5, 2.0
    exponent = alpha * entropy + gamma * norm
    for got, wanted in (
        (log_predictive_integrity(make(entropy), make(norm), alpha, gamma), -exponent),
        (predictive_integrity(make(entropy), make(norm), alpha, gamma), math.exp(-exponent)),
        (effective_gamma(make(entropy), make(norm), alpha, gamma), gamma * norm / exponent),
        (neg_log_one_minus(make(0.25)), -math.log(0.75)),
        (neg_log_one_minus(make(1e-12)), 1e-12),
        (neg_log_one_minus(make(1.0)), math.inf),
        (neg_exp_pi(make(0.25)), -math.exp(0.25)),
        (neg_exp_pi(make(0.0)), -1.0),
    ):
        assert isinstance(got, type(make(1.0))) or kind == "numpy scalar"
        np.testing.assert_allclose(np.asarray(got), np.broadcast_to(wanted, np.shape(got)), rtol=1e-12)


@pytest.mark.parametrize(("grad_norm", "published"), [(1.2848, 0.277), (4.4762, 0.011)])
def test_published_figures_come_from_a_zero_entropy(grad_norm: float, published: float) -> None:
    assert predictive_integrity(0.0, grad_norm) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_share_is_nan(kind: str) -> None:
    zero = KINDS[kind](0.0)
    assert np.isnan(np.asarray(effective_gamma(zero, zero))).all()
    assert np.all(np.asarray(predictive_integrity(zero, zero)) == 1.0)


def test_smoothing_is_the_weighted_mean_of_what_was_seen() -> None:
    values, beta = [0.5, 0.1, 0.4, 0.9], 0.8
    smoothing = Smoothing(beta)
    for t in range(1, len(values) + 1):
        weights = [beta ** (t - i) for i in range(1, t + 1)]
        wanted = sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights)
        assert smoothing.update(values[t - 1]) == pytest.approx(wanted)
    assert Smoothing(0.0).update(torch.tensor(3.0)) == 3
    with pytest.raises(ValueError, match=r"beta: got 1\.0, allowed: 0 ≤ beta < 1"):
        Smoothing(1.0)


def test_integral_over_a_run() -> None:
    assert integrated_predictive_integrity([0.2, 0.2, 0.2]) == pytest.approx(0.2)
    assert integrated_predictive_integrity([0.0, 1.0], delta=2.0) == pytest.approx(0.5 * math.exp(-2 * 0.25))
    with pytest.raises(ValueError, match="no values"):
        integrated_predictive_integrity([])
