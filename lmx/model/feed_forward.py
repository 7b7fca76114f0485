"""The block's position-wise feed-forward, gated or not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from lmx.config import ModelConfig
from lmx.model import native

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class FeedForward(nn.Module):
    """``down(act(up(x)))``, or gated ``down(act(gate(x)) · up(x))`` (Shazeer, 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate = nn.Linear(width, inner, bias) if config.gated else None
        self.up = nn.Linear(width, inner, bias)
        self.down = nn.Linear(inner, width, bias)
        self.name, self.activation = config.activation, ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(config.mlp_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, T, C)`` to ``(B, T, C)``."""
        if self.gate is None:
            inner = self._activate(self.up(x), None)
        else:
            inner = self._activate(self.gate(x), self.up(x))
        return self.down(self.dropout(inner))

    def _activate(self, x: Tensor, up: Tensor | None) -> Tensor:
        if self.name in native.ACTIVATIONS and native.takes(x):
            return native.activate(self.name, x, up)
        return self.activation(x) if up is None else self.activation(x) * up
