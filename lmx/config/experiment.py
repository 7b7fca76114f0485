"""The whole experiment: every group composed, and the checks that need more than one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from lmx.config.corpus import DataConfig, TokenizerConfig
from lmx.config.fields import shown
from lmx.config.learning import (
    CheckpointConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from lmx.config.machine import HardwareConfig, PathsConfig
from lmx.config.model import ModelConfig

# group → schema; the groups that other libraries' objects fill (callbacks, logger) are open
GROUPS: dict[str, type] = {
    "model": ModelConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "objective": ObjectiveConfig,
    "data": DataConfig,
    "tokenizer": TokenizerConfig,
    "hardware": HardwareConfig,
    "paths": PathsConfig,
}
MFU_CALLBACK = "lmx.training.callbacks.Throughput"
SECTIONS = (*GROUPS, "train", "checkpoint")


@dataclass
class Experiment:
    """A complete, runnable experiment; `config.yaml` of a run folder holds one."""

    name: str = MISSING
    seed: int = 42
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    # continue a run: `auto` finds the newest unfinished one of this very configuration, or a run folder
    resume: str | None = None
    # start a new run from the weights of another: a run folder, a checkpoint or hf:NAME_OR_FOLDER
    init_from: str | None = None

    @property
    def devices(self) -> int:
        """Number of processes that train together."""
        return self.hardware.devices or 1

    @property
    def micro_batch_size(self) -> int:
        """Sequences one device takes in one pass."""
        return self.hardware.micro_batch_size or max(1, self.train.batch_size // self.devices)

    @property
    def accumulation(self) -> int:
        """Passes a device makes for one update."""
        return max(1, self.train.batch_size // (self.devices * self.micro_batch_size))

    @property
    def passes(self) -> int:
        """Gradients taken for one update: a sharpness-aware one takes two."""
        return 2 if self.optimizer.sharpness_rho else 1

    @property
    def context_length(self) -> int:
        """The longest sequence the model takes."""
        return self.model.context_length or self.data.sequence_length

    def problems(self) -> Iterator[str]:
        """Yield one line for each contradiction in the experiment, section by section and between them."""
        if not 0 <= self.seed < 2**31:
            yield f"seed: got {self.seed}, allowed: 0 to {2**31 - 1}"
        yield from self._name_problems()
        for section in SECTIONS:
            yield from getattr(self, section).problems()
        yield from self._batch_problems()
        yield from self._pairing_problems()
        yield from self._hours_problems()

    def _name_problems(self) -> Iterator[str]:
        """The name becomes folders below paths.outputs, and must not lead out of them."""
        for part in self.name.split("/"):
            if part.strip() in ("", ".", "..") or not part.isprintable() or len(part.encode()) > 200:
                yield f"name: got {shown(self.name)}, allowed: printable names of folders, joined by '/'"
                return

    def _batch_problems(self) -> Iterator[str]:
        batch, devices, micro = self.train.batch_size, self.devices, self.micro_batch_size
        if batch % (devices * micro):
            yield (
                f"train.batch_size: got {batch}, allowed: a multiple of hardware.devices={devices} × "
                f"hardware.micro_batch_size={micro}"
            )

    def _pairing_problems(self) -> Iterator[str]:
        if self.context_length < self.data.sequence_length:
            yield (
                f"data.sequence_length: got {self.data.sequence_length}, allowed: at most "
                f"model.context_length={self.context_length}"
            )
        if self.model.attend_within_documents and self.data.packing != "documents":
            yield (
                f"model.attend_within_documents: got true with data.packing={self.data.packing}, "
                "allowed: only with data.packing=documents"
            )
        needed = None if self.tokenizer.kind == "pretrained" else self.tokenizer.vocab_size
        if self.model.vocab_size is not None and needed is not None and self.model.vocab_size < needed:
            yield (
                f"model.vocab_size: got {self.model.vocab_size}, allowed: at least "
                f"tokenizer.vocab_size={needed} (or null: the tokenizer's own)"
            )

    def _hours_problems(self) -> Iterator[str]:
        """The last step of a run in hours is not known beforehand, so no schedule may depend on it."""
        kind, horizon = self.schedule.kind, self.train.horizon
        if not horizon.strip().endswith(("hours", "hour")):
            return
        if kind != "constant" and self.schedule.decay_steps is None:
            yield (
                f"train.horizon: got {horizon!r} with schedule.kind={kind}, allowed: "
                "steps, epochs or tokens, or schedule=constant, or schedule.decay_steps"
            )
        elif kind == "constant" and self.schedule.warmup_fraction:
            yield (
                f"schedule.warmup_fraction: got {self.schedule.warmup_fraction} with train.horizon="
                f"{horizon}, allowed: 0, with schedule.warmup_steps instead"
            )

    @property
    def _fetches(self) -> bool:
        """Whether a tokenizer or weights may come from the Hub, whatever the corpus is."""
        return self.tokenizer.kind == "pretrained" or (self.init_from or "").startswith("hf:")

    def useless(self) -> Iterator[tuple[str, str]]:
        """Yield (dotted key, reason) for each key that has no effect with the values of the others."""
        for section in SECTIONS:
            config = getattr(self, section)
            if hasattr(config, "useless"):
                for name, reason in config.useless():
                    if not (name == "timeout_seconds" and self._fetches):
                        yield f"{section}.{name}", reason
        window = self.model.sliding_window
        if window is not None and window >= self.context_length:
            yield "model.sliding_window", f"a context of {self.context_length} tokens, which it covers"
        if self.init_from is not None:
            for name in ("init", "init_std"):
                yield f"model.{name}", f"init_from={self.init_from}"
        if self.resume is not None and self.resume != "auto":
            yield "init_from", f"resume={self.resume}"
        targets = [entry.get("_target_") for entry in self.callbacks.values() if isinstance(entry, dict)]
        if MFU_CALLBACK not in targets:
            yield "hardware.peak_tflops", "no throughput callback"
