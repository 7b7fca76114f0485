"""Normalisation over the last dimension."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmx.config import ModelConfig


class RMSNorm(nn.Module):
    """``x / √(mean(x²) + eps) · weight`` over the last dimension, in fp32 (Zhang & Sennrich, 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., width)``; the result has the dtype of `x`."""
        # nn.RMSNorm warns and leaves its fused kernel where autocast gives it bf16 beside fp32 weights
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


def build_norm(config: ModelConfig) -> nn.Module:
    """Return the block's norm over ``hidden_size``: RMSNorm, LayerNorm, or the identity for ``norm=none``."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.hidden_size, config.norm_eps)
    if config.norm == "layernorm":
        return nn.LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias)
    return nn.Identity()
