"""Muon: momentum whose matrices are orthogonalised before they are applied (Jordan et al. 2024).

https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmx.optim.orthogonal import COEFFICIENTS, MatrixOptimizer, orthogonalise


class Muon(MatrixOptimizer):
    """m ← β·m + (1 − β)·g; u = (1 − β)·g + β·m (Nesterov) or m; p ← (1 − lr·λ)·p − lr·s·NS(u).

    NS is the Newton-Schulz iteration of `orthogonal.py`; s = √max(1, rows / columns) for a matrix (rows,
    columns), so that tall matrices move their outputs as much as square ones. Weight decay λ is decoupled and
    multiplied by the rate. What is no matrix belongs to `optimizer.rest`. State: one momentum.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        ns_steps: int = 5,
        ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
        ns_dtype: str | None = None,
    ) -> None:
        """`ns_dtype`: fp32 or bf16, in which the iteration computes; None: bf16 where native, else fp32.

        Raises ValueError for a value out of range or a parameter that is not a matrix.
        """
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "ns_steps": ns_steps,
            "ns_coefficients": tuple(ns_coefficients),
            "ns_dtype": ns_dtype,
        }
        super().__init__(params, defaults)

    def update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one size, up to transposition."""
        directions = (self._direction(p, group["momentum"], group["nesterov"]) for p in parameters)
        orthogonal = orthogonalise(directions, group["ns_steps"], group["ns_coefficients"], group["ns_dtype"])
        for p, update in zip(parameters, orthogonal, strict=True):
            rows, columns = p.shape
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.sub_(update, alpha=group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _direction(self, parameter: Tensor, momentum: float, nesterov: bool) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        mean = state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum) if nesterov else mean
