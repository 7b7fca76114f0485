"""Predictive integrity: how certain the model is and how still its gradient, in one number."""

from __future__ import annotations

import numpy as np

from lmx.measure import effective_gamma, log_predictive_integrity, predictive_integrity
from lmx.training.callbacks.base import Measure
from lmx.training.module import LanguageModule
from lmx.training.window import Steps


class PredictiveIntegrity(Measure):
    """Logs PI = exp(−(α·H + γ·G)), its logarithm and the share of the exponent that γ·G makes.

    H is the mean predictive entropy of an update in nats per token, over all valid positions and without
    clamping; G its global gradient norm before clipping. Each update has its own PI; a record holds the mean.
    Source: the ARS-Bench reports (family A).
    """

    def __init__(self, alpha: float = 1.0, gamma: float = 1.0) -> None:
        """`alpha` weighs the entropy, `gamma` the gradient norm; both at least 0."""
        self.alpha = alpha
        self.gamma = gamma

    def measure(self, steps: Steps, module: LanguageModule, seconds: float) -> dict[str, float | None]:
        """Return PI, log PI and effective gamma, each the mean over the updates."""
        entropy, norm = steps.per_token("entropy"), steps.grad_norm()
        values = {
            "train/pi": predictive_integrity(entropy, norm, self.alpha, self.gamma),
            "train/log_pi": log_predictive_integrity(entropy, norm, self.alpha, self.gamma),
            "train/effective_gamma": effective_gamma(entropy, norm, self.alpha, self.gamma),
        }
        return {name: float(np.mean(value)) for name, value in values.items()}
