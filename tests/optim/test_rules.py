"""Muon and Lion against slow references, torch's own Muon, and themselves after a save."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from slow_rules import gradients, matrices, polynomial_of_singular_values
from small_net import make_net, set_gradients
from torch import nn

from lmx.optim import Lion, Muon, lion, orthogonal
from lmx.optim.orthogonal import COEFFICIENTS, newton_schulz, orthogonalise, same_sized


@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4), (1, 6), (6, 1)])
def test_newton_schulz_is_a_polynomial_of_the_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    (done,) = orthogonalise([matrix], dtype="fp32")
    torch.testing.assert_close(done.double(), polynomial_of_singular_values(matrix), atol=2e-5, rtol=1e-4)
    assert ((torch.linalg.svdvals(done) > 0.6) & (torch.linalg.svdvals(done) < 1.3)).all()


def test_newton_schulz_of_zero_is_zero() -> None:
    assert not newton_schulz(torch.zeros(2, 3, 4), 5, COEFFICIENTS).any()


def test_batches_hold_matrices_of_one_size_and_lose_none(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = matrices((4, 6), (6, 4), (4, 4), (4, 6), (4, 4))
    sizes = [[tuple(p.shape) for p in batch] for batch in same_sized(list(parameters))]
    assert sizes == [[(4, 6), (6, 4), (4, 6)], [(4, 4), (4, 4)]]
    monkeypatch.setitem(orthogonal.BATCH_ELEMENTS, "cpu", 48)
    assert [len(batch) for batch in same_sized(list(parameters))] == [2, 1, 2]


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_against_a_slow_reference(nesterov: bool) -> None:
    parameters = matrices((5, 5), (4, 9), (9, 4), (9, 4))
    lr, beta, decay = 0.03, 0.9, 0.2
    optimizer = Muon(parameters, lr, beta, nesterov, decay, ns_dtype="fp32")
    expected = [p.detach().double() for p in parameters]
    momenta = [torch.zeros_like(p) for p in expected]
    for step in range(4):
        gradients(parameters, step)
        optimizer.step()
        for i, p in enumerate(parameters):
            assert p.grad is not None
            g = p.grad.double()
            momenta[i] = beta * momenta[i] + (1 - beta) * g
            u = (1 - beta) * g + beta * momenta[i] if nesterov else momenta[i]
            scale = max(1, p.shape[0] / p.shape[1]) ** 0.5
            expected[i] = (1 - lr * decay) * expected[i] - lr * scale * polynomial_of_singular_values(u)
    for p, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.detach().double(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_torch_muon(nesterov: bool) -> None:
    ours, theirs = matrices((16, 16), (8, 24), (24, 8)), matrices((16, 16), (8, 24), (24, 8))
    mine = Muon(ours, 0.02, 0.95, nesterov, 0.1, ns_dtype="bf16")
    reference = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, nesterov=nesterov, weight_decay=0.1)
    start = [p.detach().clone() for p in ours]
    for step in range(5):
        gradients(ours, step)
        gradients(theirs, step)
        mine.step()
        reference.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        torch.testing.assert_close(mine.state[a]["momentum"], reference.state[b]["momentum_buffer"])
        # both iterate in bf16, rounding in another order: some of bf16's 2⁻⁸ of what was moved
        assert (a - b).norm() < 0.03 * (b - before).norm()


def test_lion_against_a_slow_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmx.optim.lion.SLICE", 7)  # several slices and a remainder
    parameters = matrices((5, 5), (9,), (4, 3, 2))
    parameters.append(nn.Parameter(torch.randn(6, 4).t()))  # not contiguous
    lr, (b1, b2), decay = 0.01, (0.9, 0.99), 0.3
    optimizer = Lion(parameters, lr, (b1, b2), decay)
    expected = [p.detach().clone() for p in parameters]
    momenta = [torch.zeros_like(p) for p in expected]
    for step in range(6):
        gradients(parameters, step)
        optimizer.step()
        for i, p in enumerate(parameters):
            assert p.grad is not None
            update = torch.sign(b1 * momenta[i] + (1 - b1) * p.grad)
            expected[i] = expected[i] - lr * (update + decay * expected[i])
            momenta[i] = b2 * momenta[i] + (1 - b2) * p.grad
    for p, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.detach(), wanted)


def test_lion_in_few_launches_is_the_same_rule() -> None:
    outcomes = []
    for rule in (lion._update, lion._update_batched):
        parameters = [p.detach() for p in matrices((5, 5), (9,))]
        momenta = [torch.full_like(p, 0.1) for p in parameters]
        rule(parameters, [p.sin() for p in parameters], momenta, 0.01, (0.9, 0.99), 0.3)
        outcomes.append([*parameters, *momenta])
    torch.testing.assert_close(*outcomes)


RULES: list[Callable[[Any], torch.optim.Optimizer]] = [lambda p: Muon(p, 0.02), lambda p: Lion(p, 1e-3)]


@pytest.mark.parametrize("make", RULES)
def test_saved_and_continued_is_bitwise_the_uninterrupted_run(
    make: Callable[[Any], torch.optim.Optimizer],
) -> None:
    def hidden(net: nn.Module) -> list[nn.Parameter]:
        return [p for name, p in net.named_parameters() if name.startswith("blocks.") and p.ndim == 2]

    straight = make_net()
    optimizer = make(hidden(straight))
    for step in range(6):
        if step == 3:
            buffer = io.BytesIO()
            torch.save({"model": straight.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
        set_gradients(straight, step)
        optimizer.step()
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    resumed = make_net()
    resumed.load_state_dict(saved["model"])
    continued = make(hidden(resumed))
    continued.load_state_dict(saved["optimizer"])
    for step in range(3, 6):
        set_gradients(resumed, step)
        continued.step()
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("make", RULES)
def test_parameters_without_gradient_stay(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    first, second = matrices((4, 4), (4, 4))
    before = copy.deepcopy(second)
    optimizer = make([first, second])
    first.grad = torch.randn(4, 4)
    assert optimizer.step(lambda: torch.tensor(7.0)) == 7
    assert torch.equal(second, before)
    assert second not in optimizer.state


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Muon(p, ns_steps=0), "ns_steps must be ≥ 1, got 0"),
        (lambda p: Muon(p, momentum=1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda p: Muon(p, ns_dtype="fp8"), "ns_dtype must be one of fp32, bf16, got 'fp8'"),
        (lambda p: Muon(p, lr=-1.0), "must be ≥ 0, got -1.0"),
        (lambda p: Muon([nn.Parameter(torch.zeros(3))]), r"matrices only, not shape \(3,\)"),
        (lambda p: Lion(p, betas=(0.9, 1.0)), r"betas must be in \[0, 1\), got \(0.9, 1.0\)"),
        (lambda p: Lion(p, weight_decay=-1.0), "must be ≥ 0"),
    ],
)
def test_refuses_bad_values(make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(matrices((3, 3)))
