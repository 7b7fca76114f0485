"""RMSuon, AdaRMSuon and AdaMuon against slow references and by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from slow_rules import gradients, matrices, polynomial_of_singular_values
from torch import Tensor, nn

from lmx.optim import AdaMuon, AdaRMSuon, RMSuon
from lmx.optim.orthogonal import COEFFICIENTS
from lmx.optim.rmsuon import OrthogonalAdam

RULES: dict[type[OrthogonalAdam], Callable[[Tensor, Tensor], Tensor]] = {
    RMSuon: lambda mean, scaled: (
        scaled.norm() / polynomial_of_singular_values(mean).norm() * polynomial_of_singular_values(mean)
    ),
    AdaRMSuon: lambda mean, scaled: scaled.norm() * polynomial_of_singular_values(scaled),
    AdaMuon: lambda mean, scaled: polynomial_of_singular_values(scaled),
}


@pytest.mark.parametrize("kind", RULES)
def test_against_a_slow_reference(kind: type[OrthogonalAdam]) -> None:
    parameters = matrices((5, 5), (4, 9), (9, 4), (9, 4))
    lr, (b1, b2), eps, decay = 0.03, (0.8, 0.9), 1e-3, 0.2
    optimizer = kind(parameters, lr, (b1, b2), eps, decay, ns_dtype="fp32")
    expected = [p.detach().double() for p in parameters]
    means, squares = ([torch.zeros_like(p) for p in expected] for _ in range(2))
    for step in range(1, 5):
        gradients(parameters, step)
        optimizer.step()
        for i, p in enumerate(parameters):
            assert p.grad is not None
            g = p.grad.double()
            means[i] = b1 * means[i] + (1 - b1) * g
            squares[i] = b2 * squares[i] + (1 - b2) * g**2
            mean, square = means[i] / (1 - b1**step), squares[i] / (1 - b2**step)
            update = RULES[kind](mean, mean / (square.sqrt() + eps))
            expected[i] = (1 - lr * decay) * expected[i] - lr * update
    for p, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.detach().double(), wanted, atol=2e-5, rtol=1e-4)


def test_of_a_single_number_rmsuon_is_adamw() -> None:
    """NS leaves only the sign of a number, and the length is Adam's."""
    ours, theirs = nn.Parameter(torch.tensor([[0.7]])), nn.Parameter(torch.tensor([[0.7]]))
    mine = RMSuon([ours], 0.1, (0.9, 0.99), 1e-8, 0.3)
    reference = torch.optim.AdamW([theirs], 0.1, (0.9, 0.99), 1e-8, 0.3)
    for gradient in (1.0, -0.5, 3.0, 0.2):
        ours.grad, theirs.grad = torch.tensor([[gradient]]), torch.tensor([[gradient]])
        mine.step()
        reference.step()
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("kind", "per_entry"), [(AdaRMSuon, 1.0), (AdaMuon, 1 / 24**0.5)])
def test_the_first_step_of_a_matrix_of_rank_one(kind: type[OrthogonalAdam], per_entry: float) -> None:
    """s is the signs, of norm √24 and one singular value, which NS brings to f(f(f(f(f(1)))))."""
    gradient = torch.tensor([1.0, -2.0, 0.5, 4.0])[:, None] * torch.tensor([3.0, 1.0, -1.0, 2.0, 5.0, -0.1])
    a, b, c = COEFFICIENTS
    value = 1.0
    for _ in range(5):
        value = a * value + b * value**3 + c * value**5
    p = nn.Parameter(torch.zeros(4, 6))
    p.grad = gradient
    kind([p], lr=0.01, eps=0.0, ns_dtype="fp32").step()
    torch.testing.assert_close(p.detach(), -0.01 * value * per_entry * gradient.sign())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr and weight_decay must be ≥ 0"),
        ({"betas": (0.9, 1.0)}, "betas must be in"),
        ({"ns_steps": 0}, "ns_steps must be ≥ 1"),
        ({"ns_dtype": "fp8"}, "ns_dtype must be one of fp32, bf16, got 'fp8'"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RMSuon(matrices((2, 2)), **options)  # type: ignore[arg-type]


def test_only_matrices_are_taken() -> None:
    with pytest.raises(ValueError, match=r"matrices only, not shape \(3,\)"):
        AdaRMSuon([nn.Parameter(torch.zeros(3))])
