"""The fused objective against a materialised head: `python -m benchmarks.objective [V ...]`.

Both sides in one run, in turn; forward and backward of N = 2,048 tokens, width 256, on the CPU. The
materialised side computes loss, entropy and accuracy from the (N, V) logits, as lmx's measures need them.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from lmx.config import ModelConfig, ObjectiveConfig
from lmx.objective import build_objective

TOKENS, WIDTH, ROUNDS = 2048, 256, 7


def main(vocabularies: list[int]) -> None:
    """Print one row a vocabulary and dtype: medians, spread and the median of the ratios."""
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; "
        f"{TOKENS} × {WIDTH}, ms, {ROUNDS} rounds"
    )
    print(
        f"{'V':>7} {'dtype':>5} {'fused':>8} {'min–max':>14} {'plain':>8} {'min–max':>14} {'plain/fused':>12}"
    )
    for size in vocabularies:
        for dtype in (torch.float32, torch.bfloat16):
            fused, plain = compare(size, dtype)
            ratio = statistics.median(b / a for a, b in zip(fused, plain, strict=True))
            name = "fp32" if dtype == torch.float32 else "bf16"
            print(f"{size:>7} {name:>5} {row(fused)} {row(plain)} {ratio:>11.2f}×")


def compare(size: int, dtype: torch.dtype) -> tuple[list[float], list[float]]:
    """Return seconds of each round, fused and plain; asserts that both give the same loss."""
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, requires_grad=True)
    weight = (torch.randn(size, WIDTH) * 0.05).requires_grad_()
    targets = torch.randint(0, size, (TOKENS,))
    shape = ModelConfig(name="head", hidden_size=WIDTH, num_layers=0, num_heads=1, intermediate_size=1)
    objective = build_objective(ObjectiveConfig(name="cross_entropy"), shape)

    def fused() -> torch.Tensor:
        return objective(hidden, targets, weight=weight, scale=1 / TOKENS).loss

    def plain() -> torch.Tensor:
        logits = F.linear(hidden, weight).float()
        with torch.no_grad():
            log_p = logits.log_softmax(-1)
            _ = -(log_p.exp() * log_p).sum(), (logits.argmax(-1) == targets).sum()
        return F.cross_entropy(logits, targets)

    def timed(loss_of: Callable[[], torch.Tensor]) -> tuple[float, float]:
        hidden.grad = weight.grad = None
        begun = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = loss_of()
        loss.backward()
        return time.perf_counter() - begun, float(loss)

    rounds = [(timed(fused), timed(plain)) for _ in range(ROUNDS + 1)][1:]
    for (_, ours), (_, theirs) in rounds:
        assert abs(ours - theirs) < (1e-4 if dtype == torch.float32 else 2e-2), (ours, theirs)
    return [a for (a, _), _ in rounds], [b for _, (b, _) in rounds]


def row(seconds: list[float]) -> str:
    """Median and spread in milliseconds."""
    low, high = 1000 * min(seconds), 1000 * max(seconds)
    return f"{1000 * statistics.median(seconds):>8.1f} {f'{low:.0f}–{high:.0f}':>14}"


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [1024, 8192, 50257])
