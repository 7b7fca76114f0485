"""Normalisation over the last dimension."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmx.config import ModelConfig
from lmx.model import native


class RMSNorm(nn.Module):
    """``x / √(mean(x²) + eps) · weight`` over the last dimension, in fp32 (Zhang & Sennrich, 2019)."""

    def __init__(self, width: int, eps: float, into_products: bool = False) -> None:
        """`into_products`: only products will read the result, which may come in their dtype."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.into_products = into_products

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., width)``; the result has the dtype of `x`."""
        if native.takes(x):
            dtype = native.product_dtype(x) if self.into_products else x.dtype
            return native.normalise(x, self.weight, None, self.eps, centred=False, dtype=dtype)
        # nn.RMSNorm warns and leaves its fused kernel where autocast gives it bf16 beside fp32 weights
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """``(x − mean(x)) / √(var(x) + eps) · weight + bias`` over the last dimension (Ba et al., 2016)."""

    def __init__(self, width: int, eps: float, bias: bool, into_products: bool = False) -> None:
        """`into_products`: only products will read the result, which may come in their dtype."""
        super().__init__(width, eps, bias=bias)
        self.into_products = into_products

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., width)``."""
        if native.takes(x):
            dtype = native.product_dtype(x) if self.into_products else x.dtype
            return native.normalise(x, self.weight, self.bias, self.eps, centred=True, dtype=dtype)
        return super().forward(x)


def build_norm(config: ModelConfig, into_products: bool = False) -> nn.Module:
    """Return the block's norm over ``hidden_size``: RMSNorm, LayerNorm, or the identity for ``norm=none``."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.hidden_size, config.norm_eps, into_products)
    if config.norm == "layernorm":
        return LayerNorm(config.hidden_size, config.norm_eps, config.norm_bias, into_products)
    return nn.Identity()
