"""What others would run on the same work: `python -m benchmarks.peers SIDE FOLDER` prints figures as JSON.

FOLDER holds `init/` (a GPT-2 folder of transformers: everyone's first weights), `batches.npy`
(steps, B, T + 1) and `work.json`. The sides:

- plain: a loop in the manner of nanoGPT: fp32 on a CPU, materialised logits, torch's AdamW as it comes
- plain-bf16-compiled: the same under bf16 autocast and `torch.compile`
- lightning: the same model in an ordinary LightningModule
- trainer: the Trainer of transformers on its own GPT-2
- bare: lmx's decoder, objective and optimizer in a loop of ten lines, in the precision that lmx chooses:
  no Lightning, records or callbacks
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Clock = Callable[[int, float], None]  # told of the updates made and the loss of the last


class Block(nn.Module):
    """Pre-norm attention and feed-forward of GPT-2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(width, 3 * width), "c_proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        split = self.attn["c_attn"](self.ln_1(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in split)  # (B, H, T, D)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.attn["c_proj"](mixed)
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """GPT-2 with materialised logits; parameter names are those of transformers' checkpoints."""

    def __init__(self, work: dict[str, Any]) -> None:
        super().__init__()
        width = work["width"]
        self.wte, self.wpe = nn.Embedding(work["vocabulary"], width), nn.Embedding(work["length"], width)
        self.h = nn.ModuleList(Block(width, work["heads"]) for _ in range(work["layers"]))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of (B, T) tokens and targets."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def load(self, folder: Path) -> GPT:
        """Take the weights of a transformers folder, whose linear layers are transposed."""
        from safetensors.torch import load_file

        theirs = load_file(folder / "model.safetensors")
        theirs = {name.removeprefix("transformer."): value for name, value in theirs.items()}
        own = self.state_dict()
        self.load_state_dict(
            {name: theirs[name].T if "c_" in name and "weight" in name else theirs[name] for name in own}
        )
        return self


def decaying(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def adamw(model: nn.Module, work: dict[str, Any]) -> torch.optim.Optimizer:
    """torch's AdamW with its defaults: a loop over the parameters on a CPU."""
    return torch.optim.AdamW(decaying(model, work["weight_decay"]), lr=work["lr"], betas=tuple(work["betas"]))


def pairs(folder: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets of each update."""
    for batch in np.load(folder / "batches.npy", mmap_mode="r"):
        rows = torch.from_numpy(batch.astype(np.int64))
        yield rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def plain(folder: Path, work: dict[str, Any], clock: Clock, *, fast: bool = False) -> None:
    """The loop of nanoGPT; `fast`: bf16 autocast and compiled."""
    model = GPT(work).load(folder / "init")
    optimizer = adamw(model, work)
    loss_of: Callable[..., Tensor] = torch.compile(model) if fast else model
    for step, (tokens, targets) in enumerate(pairs(folder), start=1):
        with torch.autocast("cpu", dtype=torch.bfloat16) if fast else nullcontext():
            loss = loss_of(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock(step, loss.item())


def bare(folder: Path, work: dict[str, Any], clock: Clock) -> None:
    """lmx's parts without what lies between them."""
    from lmx.model.from_transformers import from_transformers
    from lmx.objective import build_objective
    from lmx.optim import build_optimizer
    from lmx.training.hardware import choose

    experiment = load_experiment(work)
    half = choose(experiment.hardware, work["steps"]).precision == "bf16"
    model = from_transformers(str(folder / "init"))
    objective = build_objective(experiment.objective, model.config)
    optimizer = build_optimizer(model, experiment.optimizer)
    for step, (tokens, targets) in enumerate(pairs(folder), start=1):
        with torch.autocast("cpu", dtype=torch.bfloat16) if half else nullcontext():
            rows, weight = model.look_up(tokens)
            hidden = model(tokens, rows=rows).flatten(0, 1)
            sums = objective(hidden, targets.flatten(), weight=weight, scale=1 / targets.numel())
        sums.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock(step, float(sums.loss))


def load_experiment(work: dict[str, Any]) -> Any:
    """Return the experiment that the lmx side runs."""
    from lmx.config.compose import compose

    return compose(work["overrides"])


def lightning(folder: Path, work: dict[str, Any], clock: Clock) -> None:
    """The plain model in an ordinary LightningModule."""
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = GPT(work).load(folder / "init")

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            loss = self.model(*batch)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(self.model, work)

        def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
            clock(index + 1, float(outputs["loss"]))

    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(list(pairs(folder)), batch_size=None))


def trainer(folder: Path, work: dict[str, Any], clock: Clock) -> None:
    """transformers' Trainer on its own GPT-2."""
    from transformers import GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    batches = np.load(folder / "batches.npy").astype(np.int64)
    rows = [torch.from_numpy(row) for row in batches.reshape(-1, work["length"] + 1)]
    examples = [{"input_ids": row[:-1], "labels": row[:-1], "shift_labels": row[1:]} for row in rows]
    model = GPT2LMHeadModel.from_pretrained(folder / "init")
    model.config.use_cache = False

    class InOrder(Trainer):
        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(examples)

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            losses.append(float(loss))
            return loss

    class Told(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock(state.global_step, losses[-1])

    losses: list[float] = []
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=work["batch"],
        max_steps=work["steps"],
        learning_rate=work["lr"],
        weight_decay=work["weight_decay"],
        adam_beta1=work["betas"][0],
        adam_beta2=work["betas"][1],
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        logging_steps=10,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    InOrder(model=model, args=arguments, train_dataset=examples, callbacks=[Told()]).train()


SIDES: dict[str, Callable[[Path, dict[str, Any], Clock], None]] = {
    "plain": plain,
    "plain-bf16-compiled": lambda folder, work, clock: plain(folder, work, clock, fast=True),
    "lightning": lightning,
    "trainer": trainer,
    "bare": bare,
}


def main(side: str, place: str) -> None:
    """Run one side; print seconds a step after the warm-up, and the loss of every step."""
    folder = Path(place)
    work = json.loads((folder / "work.json").read_text())
    moments: list[float] = []
    losses: list[float] = []

    def clock(step: int, loss: float) -> None:
        assert step == len(losses) + 1
        assert math.isfinite(loss)
        moments.append(time.perf_counter())
        losses.append(loss)

    SIDES[side](folder, work, clock)
    measured = len(moments) - work["warmup"]
    seconds = (moments[-1] - moments[work["warmup"] - 1]) / measured
    print(json.dumps({"seconds": seconds, "losses": losses}))


if __name__ == "__main__":
    main(*sys.argv[1:])
