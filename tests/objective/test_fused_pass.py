"""The walk over a tile as the compiler traces it gives what the plain walk gives."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from lmx.native import left_out
from lmx.objective import FusedObjective, Settings, Tiling

ROWS, WIDTH, VOCABULARY = 24, 16, 70  # three tiles: two that are compiled, and one of another width


def results(objective: FusedObjective, bias: bool) -> list[Tensor]:
    """Return all sums of a call, and its gradients."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=draw).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=draw).requires_grad_()
    offset = torch.randn(VOCABULARY, generator=draw).requires_grad_() if bias else None
    targets = torch.randint(VOCABULARY, (ROWS,), generator=draw)
    targets[3] = -100
    sums = objective(hidden, targets, weight=weight, bias=offset)
    sums.loss.backward()
    gradients = [part.grad for part in (hidden, weight, offset) if part is not None]
    scalars = [sums.loss, sums.nats, sums.entropy, sums.correct, sums.correct_top5, sums.confidence]
    return [*scalars, sums.token_nats, *(part for part in gradients if part is not None)]


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("bias", [False, True])
def test_traced_equals_plain(monkeypatch: pytest.MonkeyPatch, softcap: float | None, bias: bool) -> None:
    traced: list[torch.fx.GraphModule] = []

    def collect(graph: torch.fx.GraphModule, example: list[Tensor]) -> object:
        traced.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=collect))
    settings = Settings(softcap=softcap, tiling=Tiling(rows=12, columns=32))
    plain, fused = FusedObjective(settings), FusedObjective(settings)
    fused.compile()
    with left_out():
        pairs = zip(results(fused, bias), results(plain, bias), strict=True)
    for got, wanted in pairs:
        torch.testing.assert_close(got, wanted, rtol=2e-6, atol=2e-6)
    assert len(traced) == 1
