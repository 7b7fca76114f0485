"""Matrices, gradients for them, and Newton-Schulz by singular values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmx.optim.orthogonal import COEFFICIENTS


def matrices(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    torch.manual_seed(1)
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def gradients(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)


def polynomial_of_singular_values(matrix: Tensor, steps: int = 5) -> Tensor:
    """What Newton-Schulz does, said by singular values in float64: U·f(…f(S/‖S‖))·Vᵀ."""
    a, b, c = COEFFICIENTS
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ v
