"""One layer of the decoder: attention and feed-forward around the residual stream."""

from __future__ import annotations

from torch import Tensor, nn

from lmx.config import ModelConfig
from lmx.model.attention import Attention
from lmx.model.cache import LayerCache
from lmx.model.feed_forward import FeedForward
from lmx.model.mask import AttentionPlan
from lmx.model.norm import build_norm
from lmx.model.position import Rotation


class Block(nn.Module):
    """Two sublayers on the residual stream; the norm stands in the branch (pre) or on the sum (post).

    pre:  x ──┬── norm ── sublayer ── dropout ── + ──▶    post:  x ──┬── sublayer ── dropout ── + ── norm ──▶
              └──────────────────────────────────┘                   └──────────────────────────┘
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.post_norm = config.norm_position == "post"
        self.attention_norm = build_norm(config, into_products=not self.post_norm)
        self.attention = Attention(config)
        self.feed_forward_norm = build_norm(config, into_products=not self.post_norm)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(
        self,
        x: Tensor,
        plan: AttentionPlan,
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
        past: int = 0,
    ) -> Tensor:
        """Map the residual stream ``(B, T, C)`` to ``(B, T, C)``."""
        if self.post_norm:
            x = self.attention_norm(x + self.dropout(self.attention(x, plan, rotation, cache, past)))
            return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        x = x + self.dropout(self.attention(self.attention_norm(x), plan, rotation, cache, past))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
