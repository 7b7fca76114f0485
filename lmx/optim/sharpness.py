"""Sharpness-aware updates: the gradient that counts is taken where the loss is higher (arXiv:2010.01412)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

SMALLEST_NORM = 1e-12


class Sharpness:
    """Moves each parameter p by ρ·u / ‖u‖ with u = g / (√v̂ + ε) · |p|, and back.

    g is its gradient, v̂ the bias-corrected second moment that the last update left, and the norm that of this
    parameter alone: ARS2-Neo in its synchronous mode, as in the ARS-Bench reports. Where there is no second
    moment (Muon, SGD, Lion, and any optimizer before its first update) u = g · |p|, as in adaptive SAM (Kwon
    et al. 2021, arXiv:2102.11600), but for the norm.
    """

    def __init__(self, optimizer: Optimizer, rho: float) -> None:
        """`optimizer` is the run's own, of one part or several; `rho` is the radius ρ."""
        self.optimizer = optimizer
        self.rho = rho

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """Have the weights moved inside, and to the bit what they were outside, also after an error."""
        before: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad():
            for group in self.optimizer.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        before.append((p, p.detach().clone()))
                        p.add_(self._direction(p, group), alpha=self.rho)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in before:
                    p.copy_(value)

    def _direction(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Return u / ‖u‖ of one parameter."""
        assert parameter.grad is not None
        direction = parameter.grad * parameter.abs()
        state = self.optimizer.state.get(parameter, {})
        if "exp_avg_sq" in state and "betas" in group:
            square = state["exp_avg_sq"] / (1 - group["betas"][1] ** state["step"])
            direction.div_(square.sqrt_().add_(group["eps"]))
        return direction.div_(direction.norm().clamp(min=SMALLEST_NORM))
