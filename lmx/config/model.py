"""`model`: the shape of the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import MISSING

from lmx.config.fields import choice, field_problems, number

GATED_ACTIVATIONS = ("swiglu", "geglu")
BLOCK_FIELDS = (
    *("num_heads", "num_kv_heads", "head_dim", "intermediate_size", "activation", "norm_position", "qk_norm"),
    *("attention_bias", "mlp_bias", "rope_theta", "rope_layout", "sliding_window", "attention_softcap"),
    *("attend_within_documents", "attention_dropout", "residual_dropout", "mlp_dropout"),
    "activation_checkpointing",
)


@dataclass
class ModelConfig:
    """A pre- or post-norm transformer decoder; `conf/model/*.yaml` name the usual ones."""

    name: str = MISSING
    # sizes; the two nulls are filled from the tokenizer and from data.sequence_length
    vocab_size: int | None = number(None, low=2)
    context_length: int | None = number(None, low=1)
    hidden_size: int = number(MISSING, low=1)
    num_layers: int = number(MISSING, low=0)
    num_heads: int = number(MISSING, low=1)
    num_kv_heads: int | None = number(None, low=1)  # null: num_heads
    head_dim: int | None = number(None, low=1)  # null: hidden_size / num_heads
    intermediate_size: int = number(MISSING, low=1)
    # blocks
    activation: str = choice("swiglu", "swiglu", "geglu", "gelu", "gelu_tanh", "relu", "silu")
    norm: str = choice("rmsnorm", "rmsnorm", "layernorm", "none")
    norm_position: str = choice("pre", "pre", "post")
    norm_eps: float = number(1e-6, above=0)
    final_norm: bool = True
    qk_norm: bool = False
    attention_bias: bool = False  # biases of q, k, v and o
    mlp_bias: bool = False
    norm_bias: bool = False  # LayerNorm only
    # positions
    position: str = choice("rope", "rope", "learned", "alibi", "none")
    rope_theta: float = number(1e4, above=0)
    # which dims form a rotating pair: (i, i+d/2) or (2i, 2i+1)
    rope_layout: str = choice("half", "half", "interleaved")
    # attention
    sliding_window: int | None = number(None, low=1)  # each position sees itself and the window−1 before it
    attention_softcap: float | None = number(None, above=0)  # c·tanh(x/c) on attention scores
    attend_within_documents: bool = False  # needs data.packing=documents
    # embedding and head
    tie_embeddings: bool = True
    head_bias: bool = False
    scale_embedding: bool = False  # multiply the embedding by √hidden_size
    logit_softcap: float | None = number(None, above=0)
    # regularisation
    embedding_dropout: float = number(0.0, low=0, high=1)
    attention_dropout: float = number(0.0, low=0, high=1)
    residual_dropout: float = number(0.0, low=0, high=1)
    mlp_dropout: float = number(0.0, low=0, high=1)
    # initialisation: normal N(0, std); scaled: the same with residual projections / √(2·layers);
    # xavier_truncated: family B's; torch_default: what nn.Linear and nn.Embedding do by themselves
    init: str = choice("scaled", "normal", "scaled", "xavier_truncated", "torch_default")
    init_std: float = number(0.02, above=0)
    mup_base_width: int | None = number(None, low=1)  # null: standard parametrisation
    # memory
    activation_checkpointing: bool = False

    @property
    def resolved_head_dim(self) -> int:
        """Width of one attention head."""
        return self.head_dim if self.head_dim is not None else self.hidden_size // self.num_heads

    @property
    def resolved_kv_heads(self) -> int:
        """Number of key/value heads; each serves num_heads / num_kv_heads query heads."""
        return self.num_kv_heads if self.num_kv_heads is not None else self.num_heads

    @property
    def gated(self) -> bool:
        """Whether the feed-forward has a gate (three matrices instead of two)."""
        return self.activation in GATED_ACTIVATIONS

    def problems(self) -> Iterator[str]:
        """Yield one line for each contradiction inside the model."""
        alone = list(field_problems(self, "model"))
        yield from alone
        if alone:  # what follows divides by some of them
            return
        if self.head_dim is None and self.hidden_size % self.num_heads:
            divisors = [n for n in range(1, min(self.hidden_size, 4096) + 1) if self.hidden_size % n == 0]
            near = sorted(sorted(divisors, key=lambda n: abs(n - self.num_heads))[:2])
            yield (
                f"model.num_heads: got {self.num_heads}, allowed: a divisor of model.hidden_size="
                f"{self.hidden_size} such as {' or '.join(map(str, near))}, or any with model.head_dim set"
            )
        if self.num_heads % self.resolved_kv_heads:
            yield (
                f"model.num_kv_heads: got {self.resolved_kv_heads}, allowed: a divisor of "
                f"model.num_heads={self.num_heads}"
            )
        if self.position == "rope" and self.resolved_head_dim % 2:
            yield f"model.head_dim: got {self.resolved_head_dim}, allowed with position=rope: an even number"
        if self.norm_bias and self.norm != "layernorm":
            yield f"model.norm_bias: got true with model.norm={self.norm}, allowed: false, or norm=layernorm"

    def useless(self) -> Iterator[tuple[str, str]]:
        """Yield (field, reason) for each field that has no effect with the others' values."""
        if self.position != "rope":
            yield "rope_theta", f"model.position={self.position}"
            yield "rope_layout", f"model.position={self.position}"
        if self.norm == "none":
            yield "norm_position", "model.norm=none"
            yield "final_norm", "model.norm=none"
            if not self.qk_norm:
                yield "norm_eps", "model.norm=none"
        if self.num_layers == 0:
            for name in BLOCK_FIELDS:
                yield name, "model.num_layers=0"
        if self.init in ("xavier_truncated", "torch_default"):
            yield "init_std", f"model.init={self.init}"
