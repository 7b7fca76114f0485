"""Small configurations and inputs shared by the tests of the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmx.config import ModelConfig
from lmx.model import Decoder


def tiny_config(**changes: Any) -> ModelConfig:
    """A valid configuration of a few thousand parameters, with `changes`."""
    values: dict[str, Any] = {
        "name": "test",
        "vocab_size": 61,
        "context_length": 16,
        "hidden_size": 24,
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 40,
        "init_std": 0.2,
    }
    config = ModelConfig(**(values | changes))
    assert not list(config.problems()), list(config.problems())
    return config


def tiny_model(seed: int = 0, **changes: Any) -> Decoder:
    """A decoder of `tiny_config` in eval mode, weights drawn from `seed`."""
    torch.manual_seed(seed)
    return Decoder(tiny_config(**changes)).eval()


def random_tokens(batch: int = 2, length: int = 11, vocab_size: int = 61, seed: int = 1) -> Tensor:
    """Tokens ``(batch, length)`` drawn from `seed`."""
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def relative_difference(got: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest absolute value expected."""
    return ((got - expected).abs().max() / expected.abs().max()).item()


VARIANTS: dict[str, dict[str, Any]] = {
    "rope": {},
    "interleaved": {"rope_layout": "interleaved", "rope_theta": 100.0},
    "learned": {"position": "learned"},
    "alibi": {"position": "alibi"},
    "none": {"position": "none"},
    "grouped": {"num_kv_heads": 2},
    "one_kv_head_wide": {"num_kv_heads": 1, "head_dim": 10},
    "qk_norm": {"qk_norm": True},
    "window": {"sliding_window": 3},
    "softcap": {"attention_softcap": 0.5},
    "everything": {
        "position": "alibi",
        "num_kv_heads": 2,
        "head_dim": 10,
        "qk_norm": True,
        "attention_bias": True,
        "sliding_window": 5,
        "attention_softcap": 2.0,
    },
}
