"""The sums of an evaluation, in float64, and the measures they make."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist

from lmx.data import Windows
from lmx.measure import bits_per_byte, perplexity, word_perplexity
from lmx.objective import TokenSums

LUCK = 40.0  # bits: less than once in 10¹²
NAMES = ("nats", "entropy", "correct", "correct_top5", "confidence", "tokens")


class EvaluationTotals:
    """Sums over the tokens of a split, in float64 and over all ranks: the same in any batches and order."""

    def __init__(self) -> None:
        self._total: torch.Tensor | None = None

    def add(self, sums: TokenSums) -> None:
        """Add one batch."""
        row = torch.stack([getattr(sums, name).double() for name in NAMES])
        self._total = row if self._total is None else self._total + row

    def collect(self) -> dict[str, float]:
        """Return each sum over all ranks; every rank must call it."""
        total = self._total if self._total is not None else torch.zeros(len(NAMES), dtype=torch.float64)
        if dist.is_available() and dist.is_initialized():
            total = total.clone()
            dist.all_reduce(total)
        return dict(zip(NAMES, total.tolist(), strict=True))


def measure_names(windows: Windows) -> list[str]:
    """Return the names that `summarise` gives to the measures of a split."""
    return list(summarise(dict.fromkeys(NAMES, 1.0), windows))


def summarise(totals: dict[str, float], windows: Windows) -> dict[str, float]:
    """Turn the sums of a whole split into its measures, named `val/…`.

    Loss and entropy are in nats per token; perplexity is exp of the total; bits per byte and word
    perplexity refer to the original text that the scored tokens stand for.
    """
    tokens = totals["tokens"]
    assert tokens > 0
    bits = bits_per_byte(totals["nats"], windows.scored_bytes)
    values = {
        "loss": totals["nats"] / tokens,
        "perplexity": perplexity(totals["nats"], tokens),
        "bits_per_byte": bits,
        "word_perplexity": word_perplexity(totals["nats"], windows.scored_words),
        "entropy": totals["entropy"] / tokens,
        "accuracy": totals["correct"] / tokens,
        "accuracy_top5": totals["correct_top5"] / tokens,
        "confidence": totals["confidence"] / tokens,
    }
    floor = windows.floor_bits_per_byte
    if floor is not None:
        values |= {"floor_bits_per_byte": floor, "excess_bits_per_byte": bits - floor}
    return {f"val/{name}": value for name, value in values.items()}


def check_floor(totals: dict[str, float], windows: Windows) -> None:
    """Raise RuntimeError when a held-out text was told in fewer bits than its own source needs.

    For text that is drawn from its source apart from training, no model saves k bits by luck with a
    probability above 2⁻ᵏ (Markov's inequality on q(x)/p(x), whose mean is at most 1). So LUCK bits below
    the floor mean that the loss, the bytes or the split is counted wrongly: a bug in lmx.
    """
    floor = windows.floor_bits_per_byte
    if floor is None:
        return
    saved = floor * windows.scored_bytes - totals["nats"] / math.log(2)
    if saved > LUCK:
        raise RuntimeError(
            f"{windows.name}: {saved:.0f} bits below the entropy of the corpus, which no model can reach: "
            "this is a bug in lmx"
        )
