"""The cache against the uncached pass, and generation by its options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_helpers import VARIANTS, random_tokens, tiny_model

from lmx.config import ConfigError
from lmx.model import Decoder, GenerationOptions, generate, lay_out_for_generation
from lmx.model.sampling import filter_logits, next_tokens

GREEDY = {"temperature": 0.0}


def slow_greedy(model: Decoder, prompt: list[int], steps: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(steps):
        logits = model.logits(model(torch.tensor([tokens])))
        tokens.append(int(logits[0, -1].argmax()))
    return tokens


@pytest.mark.parametrize("pieces", [[11], [1] * 11, [4, 3, 1, 3]], ids=["whole", "single", "mixed"])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_cached_equals_uncached(options: dict[str, Any], pieces: list[int]) -> None:
    model, tokens = tiny_model(**options), random_tokens()
    cache = model.new_cache(capacity=11)
    with torch.no_grad():
        parts = [model(piece, cache=cache) for piece in tokens.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=1e-5, atol=1e-5)
    assert cache.length == 11
    with pytest.raises(ConfigError, match="got 12 tokens, allowed: at most the cache's capacity of 11"):
        model(tokens[:, :1], cache=cache)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_greedy_rows_of_unequal_length_equal_each_row_alone_without_a_cache(options: dict[str, Any]) -> None:
    model = tiny_model(**options)
    prompts = [[5], [1, 2, 3, 4, 5, 6, 7], [9, 8, 7]]
    rows = generate(model, prompts, GenerationOptions(max_new_tokens=9, **GREEDY))
    assert rows == [slow_greedy(model, prompt, 9) for prompt in prompts]


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_layout_by_columns_changes_no_value_and_no_text(options: dict[str, Any]) -> None:
    plain, laid = tiny_model(**options), lay_out_for_generation(tiny_model(**options))
    for name, parameter in plain.named_parameters():
        other = laid.get_parameter(name)
        assert torch.equal(parameter, other)
        assert other.ndim == 1 or other.T.is_contiguous()
    assert laid.head_weight is laid.embedding.weight
    prompts = [[5], [1, 2, 3]]
    greedy = GenerationOptions(max_new_tokens=12, **GREEDY)
    assert generate(laid, prompts, greedy) == generate(plain, prompts, greedy)


def test_stop_tokens_end_a_row_and_the_callback_sees_what_is_returned() -> None:
    model = tiny_model()
    prompts = [[5], [1, 2, 3]]
    free = generate(model, prompts, GenerationOptions(max_new_tokens=9, **GREEDY))
    stop = free[0][4]
    heard: list[list[int]] = [[], []]
    rows = generate(
        model,
        prompts,
        GenerationOptions(max_new_tokens=9, stop_tokens=(stop,), **GREEDY),
        on_token=lambda row, token: heard[row].append(token),
    )
    for row, full, prompt, tokens in zip(rows, free, prompts, heard, strict=True):
        new = full[len(prompt) :]
        expected = new[: new.index(stop) + 1] if stop in new else new
        assert row == prompt + expected
        assert tokens == expected
    assert len(rows[0]) <= 5


def test_the_seed_decides_and_temperature_matters() -> None:
    model = tiny_model()
    draws = [
        generate(model, [[1]], GenerationOptions(max_new_tokens=12, seed=seed, temperature=5.0))
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]
    cold = generate(model, [[1]], GenerationOptions(max_new_tokens=12, temperature=1e-6))
    assert cold == generate(model, [[1]], GenerationOptions(max_new_tokens=12, **GREEDY))
    assert generate(model, [[1]], GenerationOptions(max_new_tokens=12, top_k=1, temperature=5.0)) == cold


def kept(probabilities: list[float], **options: Any) -> list[int]:
    logits = filter_logits(torch.tensor([probabilities]).log(), GenerationOptions(**options))
    return logits[0].isfinite().nonzero().flatten().tolist()


def test_filters_keep_what_their_definitions_say() -> None:
    probabilities = [0.05, 0.4, 0.1, 0.3, 0.15]
    assert kept(probabilities) == [0, 1, 2, 3, 4]
    assert kept(probabilities, top_k=2) == [1, 3]
    assert kept(probabilities, top_k=99) == [0, 1, 2, 3, 4]
    assert kept(probabilities, top_p=0.69) == [1, 3]
    assert kept(probabilities, top_p=0.71) == [1, 3, 4]
    assert kept(probabilities, top_p=0.01) == [1]
    assert kept(probabilities, min_p=0.3) == [1, 3, 4]
    assert kept(probabilities, top_k=3, top_p=0.8) == [1, 3]  # of 0.85 kept by top-k


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().repeat(20_000, 1)
    drawn = next_tokens(logits, None, GenerationOptions(), torch.Generator().manual_seed(0))
    shares = drawn.bincount(minlength=3) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.02, rtol=0)


def test_filters_and_penalty_equal_transformers() -> None:
    from transformers import (
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits = torch.randn(4, 61, generator=torch.Generator().manual_seed(0)) * 3
    options = GenerationOptions(temperature=0.7, top_k=20, top_p=0.9, min_p=0.02)
    theirs = logits
    for warper in (
        TemperatureLogitsWarper(0.7),
        TopKLogitsWarper(20),
        TopPLogitsWarper(0.9),
        MinPLogitsWarper(0.02),
    ):
        theirs = warper(None, theirs)
    torch.testing.assert_close(filter_logits(logits / 0.7, options), theirs)

    context = random_tokens(4, 6)
    seen = torch.zeros(4, 61, dtype=torch.bool).scatter(1, context, True)
    options = GenerationOptions(temperature=0.0, repetition_penalty=50.0)
    chosen = next_tokens(logits, seen, options, torch.Generator())
    assert torch.equal(chosen, RepetitionPenaltyLogitsProcessor(50.0)(context, logits.clone()).argmax(-1))
    assert not seen.gather(1, chosen[:, None]).any()


def test_a_penalty_stops_repetition_in_generation() -> None:
    row = generate(
        tiny_model(), [[1, 2]], GenerationOptions(max_new_tokens=14, repetition_penalty=1e9, **GREEDY)
    )[0]
    assert len(set(row)) == len(row)


def test_a_training_model_is_left_training_and_without_gradients() -> None:
    model = tiny_model(residual_dropout=0.5).train()
    rows = generate(model, [[1]], GenerationOptions(max_new_tokens=5, **GREEDY))
    assert model.training
    assert rows == generate(model.eval(), [[1]], GenerationOptions(max_new_tokens=5, **GREEDY))


def test_nothing_to_do() -> None:
    assert generate(tiny_model(), [], GenerationOptions()) == []
    assert generate(tiny_model(), [[3]], GenerationOptions(max_new_tokens=0)) == [[3]]


@pytest.mark.parametrize(
    ("prompts", "text"),
    [
        ([[1], []], "prompt 1: got no tokens, allowed: at least one"),
        ([[1, 61]], "prompt 0: got token 61, allowed: 0 to 60"),
        ([[-1]], "prompt 0: got token -1, allowed: 0 to 60"),
        (
            [[1] * 9],
            "prompt 0: got 9 tokens and max_new_tokens=8, allowed: together at most model.context_length=16",
        ),
    ],
)
def test_prompts_that_cannot_be_continued(prompts: list[list[int]], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{text}$"):
        generate(tiny_model(), prompts, GenerationOptions(max_new_tokens=8))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": -0.1}, "generation.temperature: got -0.1, allowed: ≥ 0"),
        ({"top_k": 0}, "generation.top_k: got 0, allowed: ≥ 1"),
        ({"top_p": 1.5}, "generation.top_p: got 1.5, allowed: > 0 and ≤ 1"),
        ({"repetition_penalty": 0.0}, "generation.repetition_penalty: got 0.0, allowed: > 0"),
        (
            {"max_new_tokens": -1, "min_p": 2.0},
            "max_new_tokens: got -1, allowed: ≥ 0; generation.min_p: got 2.0",
        ),
    ],
)
def test_options_out_of_bounds(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        GenerationOptions(**options)
