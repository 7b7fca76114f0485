"""The decoder: tokens to hidden states, and hidden states to logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lmx.config import ConfigError, ModelConfig
from lmx.model.block import Block
from lmx.model.cache import KeyValueCache
from lmx.model.init import initialise
from lmx.model.mask import plan_attention
from lmx.model.norm import build_norm
from lmx.model.parameters import mup_lr_multiplier, mup_width_ratio
from lmx.model.position import Rotation, positions_in_documents, rope_rotation
from lmx.model.tied import TiedTable


class Head(nn.Module):
    """The parameters of the output head: `weight` ``(V, C)`` unless tied, `bias` ``(V,)`` where wanted."""

    def __init__(self, width: int, vocab_size: int, tied: bool, bias: bool) -> None:
        super().__init__()
        self.weight = None if tied else nn.Parameter(torch.empty(vocab_size, width))
        self.bias = nn.Parameter(torch.empty(vocab_size)) if bias else None
        bound = 1 / math.sqrt(width)  # as nn.Linear(width, vocab_size) does
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)


class Decoder(nn.Module):
    """A decoder-only transformer of `config`, whose vocab_size and context_length are filled in.

    A tied head has no parameter of its own: `head_weight` is the embedding's, so nothing can untie it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None, "model.vocab_size is filled in from the tokenizer"
        assert config.context_length is not None, "model.context_length is filled in from the data"
        self.config = config
        self.context_length = config.context_length
        width = config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, width)
        learned = config.position == "learned"
        self.position_embedding = nn.Embedding(self.context_length, width) if learned else None
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = build_norm(config) if config.final_norm else nn.Identity()
        self.head = Head(width, config.vocab_size, config.tie_embeddings, config.head_bias)
        self.output_scale = mup_width_ratio(config)
        self._compiled: Callable[..., Tensor] | None = None
        initialise(self, config)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: KeyValueCache | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states ``(B, T, C)`` of tokens ``(B, T)``, after the final norm.

        - `positions` ``(B, T)``: where each token stands; by default its column, its place in its document
          (with `documents`) or behind the cached tokens.
        - `documents` ``(B, T)``: document numbers; tokens see their own document only. Used where the
          configuration says `attend_within_documents`, ignored elsewhere.
        - `cache`: keys and values of the tokens before these, extended by this pass.
        - `rows` ``(B, T, C)``: what `look_up` returned for the tokens.

        Under muP the hidden states carry the output multiplier, base width / width, so that any head
        product of them with `head_weight` gives the logits.

        Raises ConfigError when the sequence is longer than `context_length` or the cache's capacity.
        """
        past = cache.length if cache is not None else 0
        self._check_length(past + tokens.shape[1], cache)
        if not self.config.attend_within_documents:
            documents = None
        if positions is None:
            positions = self._positions(tokens, documents, cache)
        rotation = None
        if self.config.position == "rope":
            rotation = rope_rotation(positions, self.config.resolved_head_dim, self.config.rope_theta)
        rows = self.embedding(tokens) if rows is None else rows
        # evaluations and generation come in other shapes, each of which would be compiled
        compiled = self._compiled if self.training and torch.is_grad_enabled() else None
        return (compiled or self._layers)(rows, positions, documents, rotation, cache)

    def compile(self) -> None:
        """From now on, let the compiler fuse the layers of training; what comes out differs by rounding.

        Rotary angles are left out: the compiler would compute their powers and cosines anew for each head.
        """
        self._compiled = torch.compile(self._layers, dynamic=False)

    def _layers(
        self,
        rows: Tensor,
        positions: Tensor,
        documents: Tensor | None,
        rotation: Rotation | None,
        cache: KeyValueCache | None,
    ) -> Tensor:
        past = cache.length if cache is not None else 0
        plan = plan_attention(self.config, rows.shape[1], rows.device, documents, cache)
        hidden = self._embed(rows, positions)  # (B, T, C)
        for number, block in enumerate(self.blocks):
            if self.config.activation_checkpointing and cache is None and torch.is_grad_enabled():
                hidden = checkpoint(block, hidden, plan, rotation, use_reentrant=False)
            else:
                layer = cache.layers[number] if cache is not None else None
                hidden = block(hidden, plan, rotation, layer, past)
        if cache is not None:
            cache.length += rows.shape[1]
        hidden = self.final_norm(hidden)
        return hidden if self.output_scale == 1.0 else hidden * self.output_scale

    def look_up(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings ``(B, T, C)`` of tokens ``(B, T)``, and the weight ``(V, C)`` for the head.

        Where the two are tied and trained, a step that uses both from here is spared a second gradient of
        the size of the table. On a GPU, where adding rows in a fixed order is slow, nothing is gained.
        """
        table = self.embedding.weight
        if self.head.weight is None and table.device.type == "cpu" and torch.is_grad_enabled():
            rows, weight = TiedTable.apply(table, tokens)
            return rows, weight
        return self.embedding(tokens), self.head_weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits ``(..., V)`` of hidden states ``(..., C)``, bias and soft-cap included."""
        logits = F.linear(hidden, self.head_weight, self.head_bias)
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @property
    def head_weight(self) -> Tensor:
        """The output head's matrix ``(V, C)``; the embedding's own parameter where they are tied."""
        return self.embedding.weight if self.head.weight is None else self.head.weight

    @property
    def head_bias(self) -> Tensor | None:
        """The output head's bias ``(V,)``, or None."""
        return self.head.bias

    def new_cache(self, capacity: int, padding: Tensor | None = None) -> KeyValueCache:
        """Return an empty cache for `capacity` tokens a row, with `padding` ``(B,)`` fillers on its left."""
        return KeyValueCache(self.config.num_layers, capacity, padding)

    def mup_lr_multiplier(self, name: str) -> float:
        """Return the factor of the learning rate of parameter `name`; 1 for all without muP."""
        return mup_lr_multiplier(self.config, name)

    def num_parameters(self, with_embedding: bool = True) -> int:
        """Count parameters, tied ones once; without the input embedding (and learned positions) if asked."""
        return sum(
            parameter.numel()
            for name, parameter in self.named_parameters()
            if with_embedding or "embedding" not in name
        )

    def _embed(self, hidden: Tensor, positions: Tensor) -> Tensor:
        if self.config.scale_embedding:
            hidden = hidden * math.sqrt(self.config.hidden_size)
        if self.position_embedding is not None:
            hidden = hidden + self.position_embedding(positions)
        return self.embedding_dropout(hidden)

    def _positions(self, tokens: Tensor, documents: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        if cache is not None:
            return cache.positions(tokens.shape[1], tokens.device)
        if documents is not None:
            return positions_in_documents(documents)
        return torch.arange(tokens.shape[1], device=tokens.device)[None]

    def _check_length(self, length: int, cache: KeyValueCache | None) -> None:
        if length > self.context_length:
            raise ConfigError(
                f"sequence: got {length} tokens, allowed: at most model.context_length={self.context_length}"
            )
        if cache is not None and length > cache.capacity:
            raise ConfigError(
                f"sequence: got {length} tokens, allowed: at most the cache's capacity of {cache.capacity}"
            )
