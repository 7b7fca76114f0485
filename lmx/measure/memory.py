"""Estimates of the memory that training takes on one device, and of the disk that its checkpoints take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lmx.config import ModelConfig, OptimizerConfig
from lmx.config.learning import CheckpointConfig
from lmx.measure.counts import ParameterCounts, parameter_counts

FP32 = 4
# fp32 numbers that an update rule keeps a parameter; a class not listed counts as Adam's two
STATE = {"Muon": 1, "Lion": 1, "SGD": 0, "RMSprop": 1, "Adafactor": 0}
ABOUT_A_CHECKPOINT = 2**18  # bytes: configuration, random states, losses of the validation windows
QUERIES = 128  # of a block of attention in C++
LOSS_CHUNK = 128 * 2**20  # the fused loss cuts the batch so that the logits of a chunk stay below


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by part. The process itself (libraries, CUDA's context, the allocator's slack) comes on top."""

    weights: int
    gradients: int
    optimizer_state: int
    activations: int
    loss: int

    @property
    def total(self) -> int:
        """All parts."""
        return self.weights + self.gradients + self.optimizer_state + self.activations + self.loss


def memory_estimate(
    model: ModelConfig,
    optimizer: OptimizerConfig,
    tokens: int,
    sequence_length: int,
    half: bool,
    scores_kept: bool,
    native: bool,
) -> MemoryEstimate:
    """Estimate the peak of a training step, in bytes.

    `tokens` are those of one pass (micro-batch × sequence), `half` means autocast to bf16 or fp16 over fp32
    weights, `scores_kept` that attention is computed by plain products, which keep (B, H, T, T), and `native`
    that C++ does what lies between the products (lmx.native), as on a CPU: it keeps less.
    Weights, gradients and optimizer state are exact but for small buffers; activations count what autograd
    saves in a block (residual stream, norms, q, k, v, mixed values, feed-forward), without dropout masks.
    """
    counts = parameter_counts(model)
    vocab, width = model.vocab_size or 0, model.hidden_size
    size = 2 if half else FP32
    layer = int(tokens * _saved_in_block(model, sequence_length, half, scores_kept, native))
    copies = size * counts.hidden_matrices if half else 0
    if model.activation_checkpointing:
        kept = layer + model.num_layers * tokens * width * FP32
    else:
        kept = model.num_layers * layer
    unmoved = counts.total if optimizer.sharpness_rho else 0  # kept while the weights are moved
    loss = min(tokens * vocab * size, LOSS_CHUNK) + FP32 * vocab * width + FP32 * tokens * width
    return MemoryEstimate(
        weights=FP32 * counts.total,
        gradients=FP32 * counts.total,
        optimizer_state=FP32 * (_state_numbers(optimizer, counts) + unmoved),
        activations=kept + copies,
        loss=loss,
    )


@dataclass(frozen=True)
class CheckpointSpace:
    """Bytes on the disk: of one checkpoint of each kind, and of all that a run has at any time."""

    last: int  # weights and optimizer state
    best: int  # weights alone
    total: int


def checkpoint_space(
    model: ModelConfig, optimizer: OptimizerConfig, settings: CheckpointConfig
) -> CheckpointSpace:
    """Return what the checkpoints of a run take at most: a new one is written before the oldest goes."""
    counts = parameter_counts(model)
    best = FP32 * counts.total + ABOUT_A_CHECKPOINT
    last = best + FP32 * _state_numbers(optimizer, counts)
    total = (settings.keep_last + 1) * last
    if settings.best is not None:  # that of each `last`, a newer one, and one being written
        total += (settings.keep_last + 2) * best
    return CheckpointSpace(last, best, total)


def _saved_in_block(
    model: ModelConfig, sequence_length: int, half: bool, scores_kept: bool, native: bool
) -> float:
    """Bytes that one block saves a token."""
    size = 2 if half else FP32
    head_dim, heads, kv_heads = model.resolved_head_dim, model.num_heads, model.resolved_kv_heads
    scores = size * heads * sequence_length if scores_kept else 0
    if native:
        # the stream before each sublayer in fp32, and normalised, as products take it
        stream = model.hidden_size * 2 * (FP32 + size)
        attention = size * head_dim * 4 * heads
        blocks = math.ceil(sequence_length / QUERIES)  # each of which keeps its scores up to its last query
        seen = (blocks + 1) / (2 * blocks)
        return stream + attention + seen * scores + size * model.intermediate_size * (3 if model.gated else 2)
    # the stream before each sublayer and its norm's parts in fp32; under autocast the products' copies too
    stream = model.hidden_size * (28 if half else 24)
    attention = size * head_dim * (3 * heads + 2 * kv_heads)
    feed_forward = size * model.intermediate_size * (4 if model.gated else 2)
    return stream + attention + scores + feed_forward


def _state_numbers(config: OptimizerConfig, counts: ParameterCounts) -> int:
    if config.rest is None:
        return _state_of(config.update) * counts.total
    rest = counts.total - counts.hidden_matrices
    return _state_of(config.update) * counts.hidden_matrices + _state_of(config.rest) * rest


def _state_of(entry: dict[str, Any]) -> int:
    """Numbers kept a parameter by the optimizer of one configuration entry."""
    name = str(entry["_target_"]).rpartition(".")[2]
    extra = bool(entry.get("amsgrad")) + bool(entry.get("centered"))
    if name in ("SGD", "RMSprop"):
        extra += bool(entry.get("momentum"))
    return STATE.get(name, 2) + extra
