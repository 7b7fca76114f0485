"""The LightningModule: one training step is one update of the weights."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from lmx.config import Experiment, NonFiniteError
from lmx.config.validate import to_dict
from lmx.model import Decoder
from lmx.objective import TokenSums, build_objective
from lmx.optim import build_optimizer, lr_multiplier
from lmx.training.randomness import random_state, restore_random_state, seed_all
from lmx.training.totals import EvaluationTotals
from lmx.training.window import Stopwatch, Window, step_sums

Batch = dict[str, Any]  # tensors, and `batch_tokens`: int
CHECKPOINT_KEY = "lmx"


class LanguageModule(pl.LightningModule):
    """Decoder, objective and optimizer of one experiment.

    Optimization is manual because a step here is a whole update: its batch is this rank's share of
    `train.batch_size`, walked in micro-batches whose sums are divided by the tokens of all of them.
    """

    def __init__(self, experiment: Experiment, total_steps: int | None, corpus: str) -> None:
        """Build the decoder and the optimizer, so that their settings are refused before a run folder exists.

        `total_steps` is None for a horizon in hours; `corpus` is the fingerprint of the token store.
        """
        super().__init__()
        self.automatic_optimization = False
        self.experiment = experiment
        self.total_steps = total_steps
        self.corpus = corpus
        self.model = Decoder(experiment.model)
        self.objective = build_objective(experiment.objective, experiment.model)
        self._optimizer = build_optimizer(self.model, experiment.optimizer, self.model.mup_lr_multiplier)
        self._trainable = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        self.step = 0  # updates made
        self.tokens = 0.0  # targets trained on
        self.window = Window()
        self.stopwatch = Stopwatch()
        self.evaluation = EvaluationTotals()
        self.result: dict[str, float] = {}  # measures of the last evaluation
        self.stop_reason: str | None = None
        self.signal = 0
        self._norms: Tensor | None = None
        self._last: Tensor | None = None
        self._rows: Tensor | None = None
        self._random: list[dict[str, Any]] | None = None

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the run."""
        return self.signal != 0

    def stop(self, reason: str) -> None:
        """Ask for the end of training after this step; the first reason counts."""
        self.stop_reason = self.stop_reason or reason

    def last_loss(self) -> float:
        """Loss of the last update on this rank, nats per token; waits for the device."""
        return float("nan") if self._last is None else float(self._last)

    @property
    def parameter_names(self) -> list[str]:
        """Names of the trained parameters, in the order of `Steps.norms`."""
        return [name for name, _ in self._trainable]

    @property
    def rate(self) -> float:
        """Learning rate of the first parameter group at the last update."""
        return float(self._optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the one optimizer of the run."""
        return self._optimizer

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V) of tokens (B, T)."""
        return self.model.logits(self.model(tokens))

    # ---- one update

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Accumulate the gradient of the whole batch, then update the weights."""
        self._set_rate()
        self._rows = batch["index"]
        tokens = batch["batch_tokens"]
        sums = step_sums(self._accumulate(batch))
        self._last = sums[0] * (self.trainer.world_size / tokens)
        optimizer = cast(LightningOptimizer, self.optimizers())
        optimizer.step()  # calls on_before_optimizer_step
        optimizer.zero_grad()
        assert self._norms is not None
        self.window.add(sums, self._norms, tokens)
        self.step += 1
        self.tokens += tokens

    def _set_rate(self) -> None:
        multiplier = lr_multiplier(self.experiment.schedule, self.step, self.total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * multiplier

    def _accumulate(self, batch: Batch) -> list[TokenSums]:
        size = self.experiment.micro_batch_size
        rows = batch["tokens"].shape[0]
        # DDP averages gradients over ranks, where the sum is wanted
        scale = self.trainer.world_size / batch["batch_tokens"]
        parts = []
        for start in range(0, rows, size):
            last = start + size >= rows
            with nullcontext() if last else self._unsynchronised():
                sums = self._sums(_rows(batch, start, start + size), scale)
                self.manual_backward(sums.loss)
            parts.append(sums)
        return parts

    def _unsynchronised(self) -> Any:
        block = getattr(self.trainer.strategy, "block_backward_sync", None)
        return block() if block is not None else nullcontext()

    def _sums(self, batch: Batch, scale: float = 1.0) -> TokenSums:
        hidden = self.model(
            batch["tokens"], positions=batch.get("positions"), documents=batch.get("documents")
        )
        return self.objective(
            hidden.flatten(0, 1),  # (B, T, C) → (B·T, C)
            batch["targets"].flatten(),
            weight=self.model.head_weight,
            bias=self.model.head_bias,
            embedding=self.model.embedding.weight,
            scale=scale,
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Measure the gradient once, before clipping and before the optimizer; stop if it is not finite."""
        gradients = [p.grad for _, p in self._trainable if p.grad is not None]
        assert len(gradients) == len(self._trainable), "every trained parameter takes part in the loss"
        self._norms = torch.stack(torch._foreach_norm(gradients))  # (P,)
        norm = float(torch.linalg.vector_norm(self._norms, dtype=torch.float64))
        if not math.isfinite(norm):
            # fp16: the scaler skips a step whose scaled gradient overflowed, and lowers its scale
            if self.trainer.precision == "16-mixed" and math.isfinite(self.last_loss()):
                return
            raise NonFiniteError(self._non_finite_text())
        limit = self.experiment.train.clip_grad_norm
        if limit is not None and norm > limit:
            torch._foreach_mul_(gradients, limit / norm)

    def _non_finite_text(self) -> str:
        assert self._norms is not None
        assert self._rows is not None
        worst = self.parameter_names[int(self._norms.isfinite().long().argmin())]
        rows = self._rows.tolist()
        shown = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
        return (
            f"step {self.step + 1}: the gradient of {worst} is not finite (loss {self.last_loss():g}, "
            f"windows {shown}); the weights were not touched. Lower optimizer.lr or train.clip_grad_norm, "
            "or warm up longer"
        )

    # ---- evaluation

    def on_validation_epoch_start(self) -> None:
        """Forget the sums of the evaluation before."""
        self.evaluation = EvaluationTotals()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the sums of this evaluation."""
        self.evaluation.add(self._sums(batch))

    # ---- checkpoints

    def identity(self) -> dict[str, Any]:
        """Return what says whose weights these are: step, configuration and corpus, as plain values."""
        return {"step": self.step, "config": to_dict(self.experiment), "corpus": self.corpus}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not keep: the step, clocks, open window, random states, configuration."""
        checkpoint[CHECKPOINT_KEY] = {
            **self.identity(),
            "tokens": self.tokens,
            "seconds": self.stopwatch.seconds,
            "window": self.window.state_dict(),
            "result": self.result,
            "random": random_state(),
        }
        del checkpoint["loops"]  # Lightning sees one epoch that starts where the loader does

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` added; random states wait until training starts."""
        state = checkpoint[CHECKPOINT_KEY]
        self.step = int(state["step"])
        self.tokens = float(state["tokens"])
        self.stopwatch.elapsed = float(state["seconds"])
        self.window.load_state_dict(state["window"])
        self.result = dict(state["result"])
        self._random = state["random"]

    def on_train_start(self) -> None:
        """Tell Lightning the step that a resumed run is at, and restore the random states."""
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
        progress.ready = progress.completed = self.step
        if self._random is not None:
            restore_random_state(self._random)
            self._random = None
        elif self.trainer.global_rank:  # ranks that drew alike would drop out alike
            seed_all(self.experiment.seed + self.trainer.global_rank)
        self.stopwatch.start()


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    return {name: value[start:stop] for name, value in batch.items() if name != "batch_tokens"}
