"""The sums of an evaluation, in float64, and the measures they make."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist

from lmx.config import ObjectiveConfig
from lmx.data import Windows
from lmx.measure import bits_per_byte, perplexity, word_perplexity
from lmx.objective import IGNORE_INDEX, TokenSums

LUCK = 40.0  # bits: less than once in 10¹²
NAMES = ("nats", "entropy", "correct", "correct_top5", "confidence", "tokens")
OF_BATCHES = "batches/"  # before the name of a sum over the batches' means, and before their number


class EvaluationTotals:
    """Sums over the tokens of a split, in float64 and over all ranks: the same in any batches and order."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = NAMES
        self._total: torch.Tensor | None = None  # (2, names): of tokens, of batches
        self.windows = WindowTotals()

    def add(self, sums: TokenSums) -> None:
        """Add one batch."""
        self._names = NAMES if sums.cosine is None else ("cosine", *NAMES)
        row = torch.stack([getattr(sums, name).double() for name in self._names])
        pair = torch.stack([row, row / row[-1].clamp(min=1)])
        self._total = pair if self._total is None else self._total + pair

    def collect(self) -> dict[str, float]:
        """Return each sum over all ranks; every rank must call it.

        Beside each sum over the tokens stands that over the means of the batches, as `batches/<name>`, where
        `batches/tokens` is the number of batches. There is a `cosine` where the objective measures it.
        """
        total = self._total if self._total is not None else torch.zeros(2, len(NAMES), dtype=torch.float64)
        if dist.is_available() and dist.is_initialized():
            total = total.clone()
            dist.all_reduce(total)
        names = [prefix + name for prefix in ("", OF_BATCHES) for name in self._names]
        return dict(zip(names, total.flatten().tolist(), strict=True))


class WindowTotals:
    """Loss and tokens of each window of a split, in float64: what a paired comparison of runs needs."""

    def __init__(self) -> None:
        self._parts: list[torch.Tensor] = []  # (3, B) each: number of the window, nats, tokens

    def add(self, index: torch.Tensor, targets: torch.Tensor, token_nats: torch.Tensor) -> None:
        """Add one batch: `index` (B,), −1 for a filler row; `targets` (B, T); `token_nats` (B·T,)."""
        nats = token_nats.view(targets.shape).sum(1, dtype=torch.float64)
        tokens = (targets != IGNORE_INDEX).sum(1)
        self._parts.append(torch.stack([index.double(), nats, tokens.double()]))

    def collect(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return nats (N,) and tokens (N,) of the `count` windows over all ranks; every rank must call it.

        A window that was not evaluated has neither.
        """
        rows = torch.cat(self._parts, dim=1) if self._parts else torch.zeros(3, 0, dtype=torch.float64)
        table = torch.zeros(2, count + 1, dtype=torch.float64, device=rows.device)
        table.index_add_(1, rows[0].long() % (count + 1), rows[1:])  # fillers, −1, land behind the last
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(table)
        nats, tokens = table[:, :count].cpu()
        return nats, tokens.long()


def measure_names(windows: Windows, objective: ObjectiveConfig) -> list[str]:
    """Return the names that `summarise` gives to the measures of a split."""
    sums = (*NAMES, "cosine") if objective.mixes else NAMES
    return list(summarise(dict.fromkeys(sums, 1.0), windows))


def summarise(totals: dict[str, float], windows: Windows, over: str = "tokens") -> dict[str, float]:
    """Turn the sums of an evaluation into its measures, named `val/…`.

    Loss and entropy are in nats per token; perplexity is exp of the loss. `over` = batches takes them and the
    shares of tokens as means of the batches' means. Bits per byte and word perplexity refer to the original
    text that the scored tokens stand for: of windows that were drawn, in proportion to their tokens.
    """
    tokens, nats = totals["tokens"], totals["nats"]
    assert tokens > 0
    share = tokens / windows.targets
    kind = OF_BATCHES if over == "batches" else ""
    means = {name: totals[kind + name] / totals[f"{kind}tokens"] for name in totals if "/" not in name}
    bits = bits_per_byte(nats, share * windows.scored_bytes)
    values = {
        "loss": means["nats"],
        "perplexity": perplexity(means["nats"], 1.0),
        "bits_per_byte": bits,
        "word_perplexity": word_perplexity(nats, share * windows.scored_words),
        "entropy": means["entropy"],
        "accuracy": means["correct"],
        "accuracy_top5": means["correct_top5"],
        "confidence": means["confidence"],
    }
    if "cosine" in means:
        values["cosine"] = means["cosine"]
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
