"""Who may look at whom: the plan of one pass, shared by all blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmx.config import ModelConfig
from lmx.model.cache import KeyValueCache
from lmx.model.position import alibi_slopes

# On CPU plain products beat the fused kernel up to here: attention alone, forward and backward, one thread,
# products / fused in ms: bf16 16 / 28 at T = 256, 28 / 49 at 512, 46 / 59 at 1024; fp32 25 / 24,
# 50 / 49, 136 / 71.
CPU_PRODUCTS_UP_TO = 512


@dataclass(frozen=True)
class AttentionPlan:
    """How a pass attends.

    `bias`: added to the scores, ``(B or 1, H or 1, T, S)``, −∞ where nothing may be seen; None where the
    causal flag of the fused kernel (or a single query that sees everything) says enough.
    `fused`: torch's fused kernel, or plain products.
    `causal`: whether `bias` hides what comes later and nothing else.
    """

    bias: Tensor | None
    fused: bool
    causal: bool = False


def plan_attention(
    config: ModelConfig,
    length: int,
    device: torch.device,
    documents: Tensor | None = None,
    cache: KeyValueCache | None = None,
) -> AttentionPlan:
    """Plan one pass over `length` new tokens, behind those that `cache` holds.

    `documents` ``(B, T)``: each token sees its own document only.
    """
    assert documents is None or cache is None, "a cache holds one document a row"
    past = cache.length if cache is not None else 0
    padding = cache.padding if cache is not None else None
    by_products = device.type == "cpu" and 1 < length <= CPU_PRODUCTS_UP_TO and cache is None
    fused = config.attention_softcap is None and not by_products
    plainly_causal = (
        config.sliding_window is None and config.position != "alibi" and documents is None and padding is None
    )
    if plainly_causal and (length == 1 or (fused and past == 0)):
        return AttentionPlan(bias=None, fused=fused)
    bias = _bias(config, length, past, device, documents, padding)
    return AttentionPlan(bias=bias, fused=fused, causal=plainly_causal)


def _bias(
    config: ModelConfig,
    length: int,
    past: int,
    device: torch.device,
    documents: Tensor | None,
    padding: Tensor | None,
) -> Tensor:
    keys = torch.arange(past + length, device=device)
    distance = keys[past:, None] - keys  # (T, S), query minus key
    visible = distance >= 0
    if config.sliding_window is not None:
        visible = visible & (distance < config.sliding_window)
    visible = visible[None, None]  # (1, 1, T, S)
    if documents is not None:
        visible = visible & (documents[:, None, :, None] == documents[:, None, None, :])
    if padding is not None:
        real = keys >= padding[:, None, None, None]
        # a padding token sees itself: a row without anything to see would be NaN
        visible = visible & (real | (distance == 0))
    if config.position != "alibi":
        return torch.zeros(visible.shape, device=device).masked_fill(~visible, float("-inf"))
    slopes = alibi_slopes(config.num_heads, device)[:, None, None]
    return (-slopes * distance).masked_fill(~visible, float("-inf"))
