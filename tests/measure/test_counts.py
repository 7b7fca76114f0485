"""Parameters to the digit of the record, and FLOPs as torch counts them on the real decoder."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmx.config import ModelConfig
from lmx.measure import chinchilla, flops_per_token, parameter_counts

torch.set_num_threads(1)


def shape(vocab: int, width: int, layers: int, heads: int, inner: int, **fields: Any) -> ModelConfig:
    fields.setdefault("context_length", 512)
    return ModelConfig(
        name="test",
        vocab_size=vocab,
        hidden_size=width,
        num_layers=layers,
        num_heads=heads,
        intermediate_size=inner,
        **fields,
    )


def family_a(heads: int, layers: int) -> ModelConfig:
    return shape(40_479, 512, layers, heads, 2048, head_dim=128, qk_norm=True)


def family_d(width: int, heads: int, inner: int, layers: int) -> ModelConfig:
    biased = {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "head_bias": True}
    return shape(
        50_257, width, layers, heads, inner, norm="layernorm", activation="relu", position="learned", **biased
    )


def family_e(width: int, heads: int, layers: int) -> ModelConfig:
    return shape(49_152, width, layers, heads, 4 * width, activation="silu", scale_embedding=True)


UNTIED = {"tie_embeddings": False}
RECORDED = [
    (family_a(6, 4), 39_605_248, 18_880_000),
    (family_a(4, 3), 33_312_512, 12_587_264),
    (shape(10_000, 512, 4, 16, 1344, **UNTIED), 22_696_448, 17_576_448),
    (shape(10_000, 768, 12, 12, 3072, **UNTIED), 128_625_408, 120_945_408),
    (family_d(16, 2, 64, 2), 869_153, None),
    (family_d(128, 8, 512, 4), 7_342_033, None),
    (family_d(256, 8, 1024, 4), 16_206_673, None),
    (family_d(256, 8, 1024, 8), 19_365_713, None),
    (family_d(512, 8, 2048, 12), 63_873_617, None),
    (family_e(384, 6, 12), 40_117_632, None),
    (family_e(256, 4, 8), 18_878_720, None),
]


@pytest.mark.parametrize(("model", "total", "without_embedding"), RECORDED)
def test_counts_of_the_record(model: ModelConfig, total: int, without_embedding: int | None) -> None:
    counts = parameter_counts(model)
    assert counts.total == total
    if without_embedding is not None:
        assert counts.without_embedding == without_embedding


ODD = [
    shape(37, 24, 3, 4, 40, num_kv_heads=2, head_dim=10, qk_norm=True, attention_bias=True, **UNTIED),
    shape(37, 24, 2, 4, 40, norm="none", position="none", activation="gelu", mlp_bias=True),
    shape(37, 24, 2, 3, 40, norm="layernorm", norm_position="post", final_norm=False, head_bias=True),
    shape(37, 24, 2, 3, 40, norm="layernorm", norm_bias=True, position="learned", activation="geglu"),
    shape(37, 24, 0, 3, 40, mlp_bias=True, position="alibi"),
]


@pytest.mark.parametrize("model", [*ODD, *(model for model, *_ in RECORDED)])
def test_every_part_is_the_decoders(model: ModelConfig) -> None:
    from lmx.model import Decoder, parameter_group_of

    with torch.device("meta"):
        decoder = Decoder(model)
    parts: Counter[str] = Counter()
    for name, parameter in decoder.named_parameters():
        parts[parameter_group_of(name)] += parameter.numel()
        if name.startswith("blocks.") and parameter.ndim == 2:
            parts["hidden_matrices"] += parameter.numel()
    counts = vars(parameter_counts(model))
    assert {name: value for name, value in counts.items() if value} == dict(parts)


@pytest.mark.parametrize("model", ODD)
def test_flops_are_what_torch_counts(model: ModelConfig) -> None:
    from lmx.model import Decoder

    torch.manual_seed(0)
    decoder = Decoder(model)
    batch, length = 2, 12
    tokens = torch.randint(37, (batch, length))
    with FlopCounterMode(display=False) as forward:
        loss = decoder.logits(decoder(tokens)).sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    counted = flops_per_token(model, length)
    assert counted.forward * batch * length == forward.get_total_flops()
    assert counted.training * batch * length == forward.get_total_flops() + backward.get_total_flops()


def test_six_n_is_the_rule_without_attention() -> None:
    model = family_a(6, 4)
    counts = parameter_counts(model)
    matrices = counts.hidden_matrices + 40_479 * 512
    attention = 3 * 4 * 4 * 6 * 128 * 255
    assert flops_per_token(model, 255).training == 6 * matrices + attention
    assert flops_per_token(model, 255).training == pytest.approx(6 * counts.total + attention, rel=1e-3)


def test_preset_of_family_a() -> None:
    from lmx.config.compose import compose

    model = compose(["model=rope_4l", "model.vocab_size=40479", "data=wikitext2"]).model
    assert parameter_counts(model).total == 39_605_248


def test_chinchilla_accounting() -> None:
    """EXPERIMENTS.md D: exp 1 trains on 2.70 tokens a parameter, not the 0.279 of its validation split."""
    first = chinchilla(869_153, 2_347_038)
    assert first.ratio == pytest.approx(2.70, abs=0.005)
    assert first.optimal_parameters == pytest.approx(117_351.9)
    assert first.optimal_tokens == 17_383_060
    assert first.status == "few tokens for this size"
    assert chinchilla(869_153, 115_716_078).status == "many tokens for this size"
    assert chinchilla(1_000_000, 20_000_000).status == "near compute-optimal"
    with pytest.raises(ValueError, match="parameters: got 0"):
        chinchilla(0, 1)
