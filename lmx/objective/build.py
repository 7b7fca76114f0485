"""From the configuration to the objective."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from lmx.config import ModelConfig, ObjectiveConfig
from lmx.objective.cosine import CosineMix
from lmx.objective.fused import Settings, fused_objective
from lmx.objective.gradients import WEIGHT
from lmx.objective.sums import Objective, TokenSums
from lmx.objective.tile import FusedPass
from lmx.objective.workspace import Workspace


class FusedObjective:
    """An `Objective` whose logits are never all in memory; it owns the scratch memory of its calls."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._space = Workspace()

    def compile(self) -> None:
        """Let the compiler fuse the element-wise work of training; what comes out differs by rounding."""
        self.settings = dataclasses.replace(self.settings, fused=FusedPass())

    def reuse(self, gradient: Tensor | None) -> None:
        """Take back the memory of the weight's gradient; see `Objective`."""
        if gradient is None or gradient.device.type != "cpu" or not gradient.is_contiguous():
            return
        if gradient.dtype in (torch.float32, torch.float64) and _has_its_memory_alone(gradient):
            self._space.put_back(WEIGHT, gradient)

    def __call__(
        self,
        hidden: Tensor,
        targets: Tensor,
        *,
        weight: Tensor,
        bias: Tensor | None = None,
        embedding: Tensor | None = None,
        token_weight: Tensor | None = None,
        scale: float | Tensor = 1.0,
        details: bool = True,
    ) -> TokenSums:
        """Compute the sums over one micro-batch; see `Objective`."""
        return fused_objective(
            self.settings,
            self._space,
            hidden,
            targets,
            weight=weight,
            bias=bias,
            embedding=embedding,
            token_weight=token_weight,
            scale=scale,
            details=details,
        )


def _has_its_memory_alone(tensor: Tensor) -> bool:
    """Whether a tensor is no part of another, as gradients are that DDP sends in buckets."""
    return tensor.untyped_storage().nbytes() == tensor.nbytes


def build_objective(config: ObjectiveConfig, model: ModelConfig) -> Objective:
    """Build the objective that `config` names, for the logits that `model` gives.

    A mix with `alpha` 0 is plain cross-entropy, at its cost: its cosine distance is then not measured.
    """
    mix = None
    if config.mixes:
        mix = CosineMix(config.alpha, config.temperature, config.top_k)
    return FusedObjective(Settings(softcap=model.logit_softcap, mix=mix))
