"""The LightningModule: one training step is one update of the weights."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import Any, NoReturn, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from lmx.config import Experiment, NonFiniteError
from lmx.config.validate import to_dict
from lmx.model import Decoder
from lmx.objective import Objective, TokenSums, build_objective
from lmx.optim import Sharpness, build_optimizer, lr_multiplier
from lmx.training.nonfinite import DeviceGuard, Trouble, first_non_finite
from lmx.training.parts import Parts
from lmx.training.randomness import dropout_state, random_state, replayed, restore_random_state, seed_all
from lmx.training.spikes import Spikes
from lmx.training.totals import EvaluationTotals
from lmx.training.window import Stopwatch, Update, Window, step_sums

Batch = dict[str, Any]  # tensors, and `batch_tokens`: int
CHECKPOINT_KEY = "lmx"


class _LeftOut(Exception):
    """The update is a spike."""


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
        self._guard = DeviceGuard(self._optimizer)
        rho = experiment.optimizer.sharpness_rho
        self._sharpness = Sharpness(self._optimizer, rho) if rho else None
        self.parts = Parts(experiment) if experiment.objective.mixes else None
        sigmas = experiment.train.spike_sigmas
        self._spikes = None if sigmas is None else Spikes(sigmas)
        self.step = 0  # updates made
        self.tokens = 0.0  # targets trained on
        self.window = Window()
        self.stopwatch = Stopwatch()
        self.evaluation = EvaluationTotals()
        self.result: dict[str, float] = {}  # measures of the last evaluation
        self.stop_reason: str | None = None
        self.signal = 0
        self._norms = torch.empty(0)  # of the gradient of each parameter, at the last update
        self._norm = torch.empty(0)  # of the whole gradient that was applied
        self._index = torch.empty(0)  # windows of the last update
        self._last: Tensor | None = None
        self._random: list[dict[str, Any]] | None = None
        self._uncompiled = False  # whether the compiler has its work still before it
        self.compile_seconds: float | None = None  # what it took, until it is recorded

    def compile_parts(self) -> None:
        """Let the compiler work on model and objective when the first batch is there."""
        self.model.compile()
        self.objective.compile()
        self._uncompiled = True

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
        if self._uncompiled:
            self._compile(batch)
        self._set_rate()
        tokens = batch["batch_tokens"]
        drawn = dropout_state(self.device) if self._takes_more else None
        sums = step_sums(self._accumulate(batch))
        self._last = sums[0] * (self.trainer.world_size / tokens)
        self._index = batch["index"]
        optimizer = cast(LightningOptimizer, self.optimizers())
        if drawn is not None:
            self._take_more_gradients(batch, drawn)
        skipped = False
        try:
            optimizer.step()  # calls on_before_optimizer_step
            self._guard.take_back()
        except _LeftOut:
            skipped = True
        self.objective.reuse(self.model.head_weight.grad)
        optimizer.zero_grad()
        self.window.add(sums, self._norms, tokens, skipped, self._norm, self._index)
        self.step += 1
        self.tokens += tokens
        if skipped:
            self._tell_step()

    def _compile(self, batch: Batch) -> None:
        """Take a gradient that is thrown away, so that no time of training holds the compiler's."""
        self._uncompiled = False
        began = time.perf_counter()
        drawn = dropout_state(self.device)
        with self.stopwatch.paused(), self._unsynchronised(), replayed(drawn, self.device):
            self._pass(batch, self.objective)
            self._optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        self.compile_seconds = time.perf_counter() - began

    def _set_rate(self) -> None:
        multiplier = lr_multiplier(self.experiment.schedule, self.step, self.total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * multiplier

    @property
    def _takes_more(self) -> bool:
        """Whether this update takes the gradient of its batch more than once."""
        return self._sharpness is not None or self._parts_due

    @property
    def _parts_due(self) -> bool:
        return self.parts is not None and self.parts.due(self.step + 1, self.total_steps)

    def _take_more_gradients(self, batch: Batch, drawn: Tensor) -> None:
        """Take the gradient of the batch again: of the objective's parts, or where the loss is sharper.

        The same units drop out as in the first pass, before which the generator was at `drawn`.
        """
        if self.parts is not None and self._parts_due:
            with self.parts.apart(self._gradients(), self._loss_scale), replayed(drawn, self.device):
                self._pass(batch, self.parts.smaller)
        if self._sharpness is not None:
            self._norms = torch.stack(torch._foreach_norm(self._gradients()))
            with self._sharpness.perturbed(), replayed(drawn, self.device):
                torch._foreach_zero_(self._gradients())
                self._pass(batch, self.objective)

    def _gradients(self) -> list[Tensor]:
        gradients = [p.grad for _, p in self._trainable if p.grad is not None]
        assert len(gradients) == len(self._trainable), "every trained parameter takes part in the loss"
        return gradients

    def _accumulate(self, batch: Batch) -> list[TokenSums]:
        return self._pass(batch, self.objective)

    def _pass(self, batch: Batch, objective: Objective) -> list[TokenSums]:
        """Add the gradient of the whole batch, micro-batch by micro-batch."""
        size = self.experiment.micro_batch_size
        rows = batch["tokens"].shape[0]
        # DDP averages gradients over ranks, where the sum is wanted
        scale = self.trainer.world_size / batch["batch_tokens"]
        parts = []
        for start in range(0, rows, size):
            last = start + size >= rows
            with nullcontext() if last else self._unsynchronised():
                sums = self._sums(_rows(batch, start, start + size), objective, scale)
                self.manual_backward(sums.loss)
            parts.append(sums)
        return parts

    def _unsynchronised(self) -> Any:
        block = getattr(self.trainer.strategy, "block_backward_sync", None)
        return block() if block is not None else nullcontext()

    def _sums(self, batch: Batch, objective: Objective, scale: float = 1.0) -> TokenSums:
        model = self.model
        rows, weight = model.look_up(batch["tokens"])
        hidden = model(
            batch["tokens"], positions=batch.get("positions"), documents=batch.get("documents"), rows=rows
        )
        return objective(
            hidden.flatten(0, 1),  # (B, T, C) → (B·T, C)
            batch["targets"].flatten(),
            weight=weight,
            bias=model.head_bias,
            embedding=weight if model.config.tie_embeddings else model.embedding.weight,
            scale=scale,
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Measure the gradient once, before clipping and before the optimizer.

        An update that is not finite never reaches the weights. On a GPU the device itself sees to that, and
        the host hears of it when it next waits (`settle`); elsewhere the run stops here.
        """
        gradients = self._gradients()
        norms = torch.stack(torch._foreach_norm(gradients))  # (P,)
        self._norm = norm = torch.linalg.vector_norm(norms, dtype=torch.float64)
        if self._sharpness is None:  # else they were measured at the weights themselves
            self._norms = norms
        limit = self.experiment.train.clip_grad_norm
        if norm.is_cuda and self._spikes is None and not self._scaled:
            assert self._last is not None
            self._guard.keep_back(~(norm.isfinite() & self._last.isfinite()))
            if limit is not None:
                torch._foreach_mul_(gradients, (limit / norm).clamp(max=1.0).float())
            return
        self._look_at(float(norm))
        if limit is not None and norm > limit:
            torch._foreach_mul_(gradients, limit / float(norm))

    @property
    def _scaled(self) -> bool:
        """Whether the loss is scaled for fp16, whose scaler leaves out an update that overflowed."""
        return bool(self.trainer.precision == "16-mixed")

    @property
    def _loss_scale(self) -> float:
        """By how much the gradients are too large before the optimizer's step."""
        return float(self.trainer.scaler.get_scale()) if self._scaled else 1.0  # type: ignore[union-attr]

    def _look_at(self, norm: float) -> None:
        """Stop for a gradient or loss that is not finite; leave the update out when it is a spike."""
        # under DDP a loss is known to its rank alone, and all must stop together: `settle` looks at the sum
        known = self.trainer.world_size == 1 or self._spikes is not None
        loss = self._global_loss() if known else 0.0
        if not math.isfinite(loss) or not (math.isfinite(norm) or self._scaled):
            self._refuse(Update(self.last_loss(), self._norms, norm, self._index), self.step + 1)
        if self._spikes is not None and self._spikes.is_spike(loss, norm):
            raise _LeftOut

    def _global_loss(self) -> float:
        """Loss of the last update over all ranks, nats per token."""
        assert self._last is not None
        return float(self.trainer.strategy.reduce(self._last.clone(), reduce_op="mean"))

    def settle(self) -> None:
        """Bring what was measured since the last time to the host: before a record, evaluation or checkpoint.

        Raises NonFiniteError for the first update that was not finite; every rank must call it.
        """
        updates = self.window.settle()
        for step, update in enumerate(updates, start=self.step - len(updates) + 1):
            if not (math.isfinite(update.loss) and (self._scaled or math.isfinite(update.norm))):
                self._refuse(update, step)

    def _refuse(self, update: Update, step: int) -> NoReturn:
        """Say where it went wrong; every rank must call it, and all of them raise.

        The weights are still those before, so the forward pass shows it again.
        """
        stage, culprit = self._culprit(update)
        trouble = Trouble(stage, culprit, update.loss, update.index.tolist()).over_ranks()
        rows = trouble.windows
        shown = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
        raise NonFiniteError(
            f"step {step}: {trouble.culprit} is not finite (loss {trouble.loss:g}, windows {shown}); "
            "the weights were not touched. Lower optimizer.lr or train.clip_grad_norm, or warm up longer"
        )

    def _culprit(self, update: Update) -> tuple[int, str]:
        """Return where it began on this rank, and its stage, as in `Trouble`."""
        arrays = self.trainer.datamodule.corpus.splits["train"].gather(update.index.cpu().numpy())  # type: ignore[attr-defined]
        batch = {name: torch.as_tensor(array, device=self.device) for name, array in arrays.items()}
        size = self.experiment.micro_batch_size

        def forward() -> None:
            with self.trainer.precision_plugin.forward_context():
                for start in range(0, len(batch["tokens"]), size):
                    self._sums(_rows(batch, start, start + size), self.objective)

        layer = first_non_finite(self.model, forward)
        if layer is not None:
            return 0, f"the output of {layer}"
        if not math.isfinite(update.loss):
            return 1, "the loss of finite hidden states (the head's logits)"
        norms = zip(self.parameter_names, update.norms, strict=True)
        bad = [name for name, norm in norms if not norm.isfinite()]
        # the last of them is the first that the backward pass reached; none is, where that pass was sound
        if bad:
            return 2, f"the gradient of {bad[-1]}"
        return 2, "the second gradient, at the weights moved by sharpness_rho,"

    # ---- evaluation

    def on_validation_epoch_start(self) -> None:
        """Forget the sums of the evaluation before."""
        self.evaluation = EvaluationTotals()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the sums of this evaluation."""
        sums = self._sums(batch, self.objective)
        self.evaluation.add(sums)
        self.evaluation.windows.add(batch["index"], batch["targets"], sums.token_nats)

    # ---- checkpoints

    def identity(self) -> dict[str, Any]:
        """Return what says whose weights these are: step, configuration and corpus, as plain values."""
        return {"step": self.step, "config": to_dict(self.experiment), "corpus": self.corpus}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not keep: the step, clocks, open window, random states, configuration."""
        self.settle()
        checkpoint[CHECKPOINT_KEY] = {
            **self.identity(),
            "tokens": self.tokens,
            "seconds": self.stopwatch.seconds,
            "window": self.window.state_dict(),
            "result": self.result,
            "spikes": None if self._spikes is None else self._spikes.state_dict(),
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
        if self._spikes is not None:
            self._spikes.load_state_dict(state["spikes"])
        self._random = state["random"]

    def on_train_start(self) -> None:
        """Tell Lightning the step that a resumed run is at, and restore the random states."""
        self._tell_step()
        if self._random is not None:
            restore_random_state(self._random)
            self._random = None
        elif self.trainer.global_rank:  # ranks that drew alike would drop out alike
            seed_all(self.experiment.seed + self.trainer.global_rank)
        self.stopwatch.start()

    def _tell_step(self) -> None:
        """Make Lightning's `global_step` our step."""
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
        progress.ready = progress.completed = self.step


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    return {name: value[start:stop] for name, value in batch.items() if name != "batch_tokens"}
