"""Perplexity, bits per byte and their kin against their definitions."""

from __future__ import annotations

import math

import pytest

from lmx.measure import (
    bits_per_byte,
    digits,
    distinct_n,
    lower_is_better,
    perplexity,
    updates,
    word_perplexity,
)


def test_a_uniform_model_has_its_choices_as_perplexity() -> None:
    tokens, choices, num_bytes, words = 1000, 50, 4000, 300
    nats = tokens * math.log(choices)
    assert perplexity(nats, tokens) == pytest.approx(choices)
    assert bits_per_byte(nats, num_bytes) == pytest.approx(tokens * math.log2(choices) / num_bytes)
    assert word_perplexity(nats, words) == pytest.approx(choices ** (tokens / words))
    assert 2 ** (bits_per_byte(nats, num_bytes) * num_bytes / words) == pytest.approx(
        word_perplexity(nats, words)
    )


def test_uniform_bytes_are_eight_bits() -> None:
    assert bits_per_byte(10 * math.log(256), 10) == pytest.approx(8.0)


def test_recorded_perplexity_per_word() -> None:
    """EXPERIMENTS.md D: 28.05 a token of WikiText-103 is about 41.1 a word, with 1.115 tokens a word."""
    tokens, words = 242_643, 217_646
    assert word_perplexity(tokens * math.log(28.05), words) == pytest.approx(41.1, abs=0.2)


def test_overflow_is_infinite_and_nan_stays() -> None:
    assert perplexity(1e6, 1) == math.inf
    assert word_perplexity(1e308, 1) == math.inf
    assert math.isnan(perplexity(math.nan, 3))


@pytest.mark.parametrize(
    ("measure", "what"), [(perplexity, "tokens"), (bits_per_byte, "bytes"), (word_perplexity, "words")]
)
def test_nothing_to_divide_by(measure: object, what: str) -> None:
    with pytest.raises(ValueError, match=f"{what}: got 0, needed: at least one"):
        measure(1.0, 0)  # type: ignore[operator]


def test_distinct_n() -> None:
    words = ["the", "cat", "and", "the", "cat", "and", "the", "dog"]
    assert distinct_n(words, 1) == 4 / 8
    assert distinct_n(words, 2) == 4 / 7
    assert distinct_n([1, 2, 3], 3) == 1.0
    assert math.isnan(distinct_n(words, 9))


@pytest.mark.parametrize(
    ("name", "lower"),
    [
        ("val/loss", True),
        ("val/perplexity", True),
        ("val/bits_per_byte", True),
        ("val/accuracy", False),
        ("val/accuracy_top5", False),
        ("train/log_pi", False),
        ("train/pi", False),
        ("speed/tokens_per_second", False),
        ("speed/step_seconds", True),
        ("val/excess_bits_per_byte", True),
    ],
)
def test_direction(name: str, lower: bool) -> None:
    assert lower_is_better(name) is lower


def test_updates_in_a_horizon() -> None:
    assert updates(600, "steps", 1, None) == 600
    assert updates(327_680_000, "tokens", 128 * 256, None) == 10_000
    assert updates(100, "tokens", 64, None) == 2
    assert updates(1.5, "epochs", 1, 573) == 860
    assert updates(3, "epochs", 1, None) is None
    assert updates(0.5, "hours", 1, 10) is None


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (50_257.0, ",.2f", "50,257.00"),
        (999_999.0, ",.2f", "999,999.00"),
        (1e6, ",.2f", "1e+06"),
        (9.7812e53, ",.2f", "9.78e+53"),
        (-3.5e7, ".4f", "-3.5e+07"),
        (math.inf, ",.2f", "inf"),
        (math.nan, ".4f", "nan"),
        (12_345_678, ",", "12,345,678"),
    ],
)
def test_digits_stay_readable(value: float, spec: str, text: str) -> None:
    assert digits(value, spec) == text
