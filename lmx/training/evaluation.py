"""Evaluation: the whole split once, summed in float64, and when it happens."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from lmx.data import Windows
from lmx.measure import bits_per_byte, perplexity, word_perplexity
from lmx.objective import TokenSums

NAMES = ("nats", "entropy", "correct", "correct_top5", "confidence", "tokens")


class EvaluationTotals:
    """Sums over the tokens of a split, in float64 and over all ranks: the same for any batch size and order."""

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


class Evaluation(pl.Callback):
    """Evaluates at step 0, every so many updates, and once more after the last."""

    def __init__(self, every: int, at_start: bool) -> None:
        """`every`: updates between evaluations; `at_start`: also before the first update."""
        self.every = every
        self.at_start = at_start
        self._evaluated: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the step last evaluated."""
        return {"evaluated": self._evaluated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it, so that a run killed between a save and its evaluation still makes it."""
        self._evaluated = state_dict["evaluated"]

    def _due(self, step: int) -> bool:
        if step == self._evaluated:
            return False
        return self.at_start if step == 0 else step % self.every == 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the reference at step 0, or what a resumed run was killed before."""
        self._run_if(self._due(pl_module.step), trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate when it is due."""
        self._run_if(self._due(pl_module.step), trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate what the last update left."""
        self._run_if(pl_module.step != self._evaluated and not trainer.interrupted, trainer, pl_module)

    def _run_if(self, due: bool, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not due:
            return
        self._evaluated = pl_module.step
        with pl_module.stopwatch.paused():
            _validate(trainer)


def _validate(trainer: pl.Trainer) -> None:
    """Run Lightning's validation loop from within training, as its own epoch loop does."""
    connector = trainer._logger_connector
    first = connector._first_loop_iter
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
    connector._first_loop_iter = first

