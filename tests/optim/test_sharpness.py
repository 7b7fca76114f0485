"""The perturbation of a sharpness-aware update: where it leads, and the way back."""

from __future__ import annotations

import pytest
import torch
from slow_rules import gradients, matrices
from torch import nn

from lmx.optim import AdaRMSuon, Muon, PairedOptimizer, Sharpness


def test_the_direction_by_the_formula() -> None:
    hidden, rest = matrices((4, 6), (6, 4)), [nn.Parameter(torch.linspace(-1, 1, 5))]
    betas, eps = (0.9, 0.99), 1e-3
    optimizer = PairedOptimizer(
        AdaRMSuon(hidden, betas=betas, eps=eps), torch.optim.AdamW(rest, betas=betas, eps=eps, fused=True)
    )
    everything = [*hidden, *rest]
    squares = [torch.zeros_like(p) for p in everything]
    sharpness = Sharpness(optimizer, 0.1)
    for step in range(4):
        gradients(everything, step)
        before = [p.detach().clone() for p in everything]
        with sharpness.perturbed():
            for p, start, square in zip(everything, before, squares, strict=True):
                assert p.grad is not None
                divisor = (square / (1 - betas[1] ** step)).sqrt() + eps if step else 1.0
                natural = p.grad / divisor * start.abs()
                torch.testing.assert_close(p.detach() - start, 0.1 * natural / natural.norm())
        assert all(torch.equal(p, start) for p, start in zip(everything, before, strict=True))
        optimizer.step()
        squares = [
            betas[1] * square + (1 - betas[1]) * p.grad**2  # type: ignore[operator]
            for p, square in zip(everything, squares, strict=True)
        ]


def test_without_a_second_moment_the_gradient_itself_counts() -> None:
    (matrix,) = matrices((3, 5))
    optimizer = Muon([matrix])
    for step in range(2):
        gradients([matrix], step)
        start = matrix.detach().clone()
        with Sharpness(optimizer, 0.5).perturbed():
            natural = matrix.grad * start.abs()
            torch.testing.assert_close(matrix.detach() - start, 0.5 * natural / natural.norm())
        optimizer.step()


def test_on_a_parabola() -> None:
    """The gradient of ½·a·w² at w + ρ is a·(w + ρ)."""
    w = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([w], lr=0.1)
    (1.5 * w**2).sum().backward()
    with Sharpness(optimizer, 0.25).perturbed():
        w.grad = None
        (1.5 * w**2).sum().backward()
    optimizer.step()
    assert w.item() == pytest.approx(2.0 - 0.1 * 3 * 2.25, rel=1e-12)


def test_the_way_back_is_taken_after_an_error_and_zeros_stay() -> None:
    weights, zeros = matrices((3, 3), (2, 2))
    with torch.no_grad():
        zeros.zero_()
    gradients([weights, zeros], 0)
    before = weights.detach().clone()

    def interrupted() -> None:
        with Sharpness(torch.optim.SGD([weights, zeros]), 1.0).perturbed():
            assert not torch.equal(weights, before)
            assert not zeros.any()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(weights, before)
