"""Attention against loops over rows, heads, queries and keys, in both of its ways of computing."""

from __future__ import annotations

import cmath
import math
from typing import Any

import pytest
import torch
from model_helpers import VARIANTS, random_tokens, relative_difference, tiny_model
from torch import Tensor

import lmx.model.mask
from lmx.config import ModelConfig
from lmx.model.attention import Attention
from lmx.model.mask import plan_attention
from lmx.model.position import positions_in_documents, rope_rotation


def turned(vector: list[float], position: int, config: ModelConfig) -> list[float]:
    """Rotary positions as products of complex numbers."""
    half = len(vector) // 2
    result = list(vector)
    for pair in range(half):
        a, b = (pair, pair + half) if config.rope_layout == "half" else (2 * pair, 2 * pair + 1)
        angle = position * config.rope_theta ** (-2 * pair / len(vector))
        number = complex(vector[a], vector[b]) * cmath.exp(1j * angle)
        result[a], result[b] = number.real, number.imag
    return result


def normalised(vector: list[float], eps: float) -> list[float]:
    scale = 1 / math.sqrt(sum(x * x for x in vector) / len(vector) + eps)
    return [x * scale for x in vector]


def slow_slope(head: int, heads: int) -> float:
    assert heads == 4
    return [1 / 4, 1 / 16, 1 / 64, 1 / 256][head]


def slow_attention(
    module: Attention, config: ModelConfig, x: Tensor, documents: Tensor, places: Tensor
) -> Tensor:
    batch, length, _ = x.shape
    heads, width = config.num_heads, config.resolved_head_dim
    group = heads // config.resolved_kv_heads
    result = torch.zeros(batch, length, heads * width, dtype=x.dtype)
    projected = [layer(x).tolist() for layer in (module.query, module.key, module.value)]
    for row in range(batch):
        for head in range(heads):

            def vector(which: int, place: int, row: int = row, head: int = head) -> list[float]:
                number = head if which == 0 else head // group
                values = projected[which][row][place][number * width : (number + 1) * width]
                if which < 2 and config.qk_norm:
                    values = normalised(values, config.norm_eps)
                if which < 2 and config.position == "rope":
                    values = turned(values, int(places[row, place]), config)
                return values

            for i in range(length):
                scores: dict[int, float] = {}
                for j in range(i + 1):
                    outside = config.sliding_window is not None and i - j >= config.sliding_window
                    if outside or documents[row, i] != documents[row, j]:
                        continue
                    score = sum(a * b for a, b in zip(vector(0, i), vector(1, j), strict=True)) / math.sqrt(
                        width
                    )
                    if config.attention_softcap is not None:
                        score = config.attention_softcap * math.tanh(score / config.attention_softcap)
                    if config.position == "alibi":
                        score -= slow_slope(head, heads) * (i - j)
                    scores[j] = score
                total = sum(math.exp(score) for score in scores.values())
                for j, score in scores.items():
                    part = torch.tensor(vector(2, j), dtype=x.dtype) * (math.exp(score) / total)
                    result[row, i, head * width : (head + 1) * width] += part
    return module.output(result)


@pytest.mark.parametrize("products_up_to", [0, 512], ids=["fused", "products"])
@pytest.mark.parametrize("packed", [False, True], ids=["one", "packed"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_equals_loops(
    variant: str, packed: bool, products_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmx.model.mask, "CPU_PRODUCTS_UP_TO", products_up_to)
    model = tiny_model(**VARIANTS[variant], attend_within_documents=packed).double()
    config, module = model.config, model.blocks[0].attention
    x = torch.randn(2, 7, config.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    documents = (
        torch.tensor([[0, 0, 0, 1, 1, 2, 2], [4, 4, 4, 4, 4, 4, 3]]) if packed else torch.zeros(2, 7).long()
    )
    places = positions_in_documents(documents)
    rotation = rope_rotation(places, config.resolved_head_dim, config.rope_theta)
    plan = plan_attention(config, 7, x.device, documents if packed else None)
    with torch.no_grad():
        got = module(x, plan, rotation if config.position == "rope" else None)
        expected = slow_attention(module, config, x, documents, places)
    # fp32 angles and norms inside a float64 model leave fp32's rounding
    assert relative_difference(got, expected) < 1e-6


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_the_two_ways_have_equal_gradients(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for products_up_to in (0, 512):
        monkeypatch.setattr(lmx.model.mask, "CPU_PRODUCTS_UP_TO", products_up_to)
        model = tiny_model(**options)
        model.logits(model(random_tokens())).logsumexp(-1).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for fused, products in zip(*gradients, strict=True):
        assert fused is not None
        assert products is not None
        torch.testing.assert_close(fused, products, rtol=1e-4, atol=1e-4 * products.abs().max().item())


def test_a_causal_pass_keeps_no_mask_in_memory() -> None:
    config = tiny_model(context_length=4096).config
    plan = plan_attention(config, 4096, torch.device("cpu"))
    assert plan.fused
    assert plan.bias is None
    assert plan_attention(config, 64, torch.device("cuda")).bias is None


def test_documents_in_a_row_do_not_see_each_other() -> None:
    model = tiny_model(attend_within_documents=True, position="learned")
    first, second = random_tokens(1, 5), random_tokens(1, 6, seed=2)
    documents = torch.tensor([[0] * 5 + [1] * 6])
    packed = model(torch.cat((first, second), 1), documents=documents)
    torch.testing.assert_close(packed[:, :5], model(first), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed[:, 5:], model(second), rtol=1e-5, atol=1e-5)


def test_documents_are_ignored_where_the_configuration_does_not_ask() -> None:
    model = tiny_model()
    tokens = random_tokens(1, 6)
    assert torch.equal(model(tokens, documents=torch.tensor([[0, 0, 0, 1, 1, 1]])), model(tokens))
