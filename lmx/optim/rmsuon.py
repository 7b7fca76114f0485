"""Adam's moments with an orthogonalised direction: RMSuon, AdaRMSuon and AdaMuon of the ARS-Bench reports."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmx.optim.orthogonal import MatrixOptimizer, orthogonalise


class OrthogonalAdam(MatrixOptimizer):
    """m ← β₁·m + (1 − β₁)·g, v ← β₂·v + (1 − β₂)·g²; s = m̂ / (√v̂ + ε); p ← (1 − lr·λ)·p − lr·c·NS(d).

    m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ); NS is Muon's Newton-Schulz iteration. The subclasses say which
    direction d is orthogonalised and by which factor c it is stretched. Weight decay λ is decoupled and
    multiplied by the rate. Matrices only: `optimizer.rest` takes the others. State: two moments.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        ns_steps: int = 5,
        ns_dtype: str | None = None,
    ) -> None:
        """`ns_dtype`: fp32 or bf16, in which the iteration computes; None: bf16 where native, else fp32.

        Raises ValueError for a value out of range or a parameter that is not a matrix.
        """
        if eps < 0:
            raise ValueError(f"eps must be ≥ 0, got {eps}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), got {tuple(betas)}")
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "ns_steps": ns_steps,
            "ns_dtype": ns_dtype,
        }
        super().__init__(params, defaults)

    def direction(self, mean: Tensor, scaled: Tensor) -> Tensor:
        """Return what is orthogonalised, of m̂ (`mean`) and s (`scaled`)."""
        raise NotImplementedError

    def factor(self, scaled: Tensor, orthogonal: Tensor) -> Tensor | float:
        """Return by what NS(d) (`orthogonal`) is stretched, given s (`scaled`)."""
        raise NotImplementedError

    def update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one size, up to transposition."""
        steps = [self._moments(p, group) for p in parameters]
        directions = (self.direction(mean, scaled) for mean, scaled in steps)
        orthogonal = orthogonalise(directions, group["ns_steps"], dtype=group["ns_dtype"])
        for p, (_, scaled), update in zip(parameters, steps, orthogonal, strict=True):
            stretched = update.to(p.dtype) * self.factor(scaled, update)
            p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(stretched, alpha=group["lr"])

    def _moments(self, parameter: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Update the moments; return m̂ and s."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(gradient)
            state["exp_avg_sq"] = torch.zeros_like(gradient)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1) / (1 - beta1 ** state["step"])
        square = state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2) / (1 - beta2 ** state["step"])
        return mean, mean / square.sqrt_().add_(group["eps"])


class RMSuon(OrthogonalAdam):
    """d = m̂ and c = ‖s‖ / ‖NS(m̂)‖: the direction of Muon without Nesterov, the length of Adam's step."""

    def direction(self, mean: Tensor, scaled: Tensor) -> Tensor:
        """Return m̂."""
        return mean

    def factor(self, scaled: Tensor, orthogonal: Tensor) -> Tensor:
        """Return ‖s‖ / ‖NS(m̂)‖."""
        return scaled.norm() / orthogonal.float().norm().clamp(min=1e-10)


class AdaRMSuon(OrthogonalAdam):
    """d = s and c = ‖s‖. ‖NS(s)‖ is about √min(rows, columns): so many times longer than Adam's step."""

    def direction(self, mean: Tensor, scaled: Tensor) -> Tensor:
        """Return s."""
        return scaled

    def factor(self, scaled: Tensor, orthogonal: Tensor) -> Tensor:
        """Return ‖s‖."""
        return scaled.norm()


class AdaMuon(OrthogonalAdam):
    """d = s and c = 1: the reports' own rule of that name, not that of Si et al. (arXiv:2507.11005)."""

    def direction(self, mean: Tensor, scaled: Tensor) -> Tensor:
        """Return s."""
        return scaled

    def factor(self, scaled: Tensor, orthogonal: Tensor) -> float:
        """Return 1."""
        return 1.0
