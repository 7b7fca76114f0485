"""Causal self-attention with grouped key/value heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmx.config import ModelConfig
from lmx.model import native
from lmx.model.cache import LayerCache
from lmx.model.mask import AttentionPlan
from lmx.model.norm import RMSNorm
from lmx.model.position import Rotation, rotate


class Attention(nn.Module):
    """``softmax(scale · q kᵀ + bias) v`` in `num_heads` heads; each key/value head serves a group of them.

    The scale is ``1/√D``, under muP ``1/D``. With `qk_norm`, q and k are RMS-normalised over D before
    they are rotated (Qwen3).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, bias = config.hidden_size, config.attention_bias
        self.num_heads, self.num_kv_heads = config.num_heads, config.resolved_kv_heads
        self.head_dim = config.resolved_head_dim
        self.query = nn.Linear(width, self.num_heads * self.head_dim, bias)
        self.key = nn.Linear(width, self.num_kv_heads * self.head_dim, bias)
        self.value = nn.Linear(width, self.num_kv_heads * self.head_dim, bias)
        self.output = nn.Linear(self.num_heads * self.head_dim, width, bias)
        self.norm_eps = config.norm_eps
        self.query_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.rope_layout = config.rope_layout
        self.scale = self.head_dim ** (-0.5 if config.mup_base_width is None else -1.0)
        self.softcap = config.attention_softcap
        self.dropout = config.attention_dropout

    def forward(
        self,
        x: Tensor,
        plan: AttentionPlan,
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
        past: int = 0,
    ) -> Tensor:
        """Attend from ``(B, T, C)`` to itself and to the `past` tokens of `cache`; return ``(B, T, C)``."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        dropout = self.dropout if self.training else 0.0
        own = not plan.fused and not dropout and self.softcap is None and native.takes(query)
        query = self._heads(query, self.query_norm, rotation, self.scale if own else 1.0)  # (B, H, T, D)
        key = self._heads(key, self.key_norm, rotation)
        value = self._heads(value)
        if cache is not None:
            key, value = cache.extend(past, key, value)
        if own:
            mixed = native.attend(query, *self._repeated(key, value), None if plan.causal else plan.bias)
        elif plan.fused:
            mixed = self._fused(query, key, value, plan.bias, dropout)
        else:
            mixed = self._products(query, *self._repeated(key, value), plan.bias, dropout)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _heads(
        self, x: Tensor, norm: nn.Module | None = None, rotation: Rotation | None = None, factor: float = 1.0
    ) -> Tensor:
        """Turn ``(B, T, H·D)`` into ``(B, H, T, D)``, normalised and rotated if need be, times `factor`."""
        heads = x.shape[-1] // self.head_dim
        if native.takes(x):
            weight = norm.weight if isinstance(norm, RMSNorm) else None
            return native.split_heads(
                x,
                heads,
                weight=weight,
                eps=self.norm_eps,
                rotation=rotation,
                layout=self.rope_layout,
                factor=factor,
            )
        x = x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)
        x = x if norm is None else norm(x)
        return x if rotation is None else rotate(x, rotation, self.rope_layout)

    def _repeated(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values once for each query head."""
        group = self.num_heads // self.num_kv_heads
        if group == 1:
            return key, value
        return key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)

    def _fused(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float
    ) -> Tensor:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if bias is None else bias.to(query.dtype),
            is_causal=bias is None and query.shape[2] > 1,
            dropout_p=dropout,
            scale=self.scale,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )

    def _products(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float
    ) -> Tensor:
        scores = (query * self.scale) @ key.transpose(-1, -2)  # (B, H, T, S)
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        # in their own dtype: autocast's fp32 would only be rounded to it again by the next product
        with torch.autocast(scores.device.type, enabled=False):
            weights = scores.softmax(-1)
        return F.dropout(weights, dropout) @ value
