"""Measures of a whole text from sums: perplexity, bits per byte, word perplexity, repetition.

Defined as EleutherAI's lm-evaluation-harness defines `bits_per_byte` and `word_perplexity`: quotients of
totals over the split, never means of batches' values. Bytes and words are those of the original text.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence


def perplexity(nats: float, tokens: float) -> float:
    """Return exp(nats / tokens); infinite where that overflows. Compares only under one tokenizer.

    Raises ValueError where there are no tokens.
    """
    return _exp(_quotient(nats, tokens, "tokens"))


def bits_per_byte(nats: float, num_bytes: float) -> float:
    """Return nats / (bytes · ln 2), which compares across tokenizers. Raises ValueError where bytes are 0."""
    return _quotient(nats, num_bytes, "bytes") / math.log(2)


def word_perplexity(nats: float, words: float) -> float:
    """Return exp(nats / words); infinite where that overflows. Raises ValueError where there are no words."""
    return _exp(_quotient(nats, words, "words"))


def distinct_n(words: Sequence[Hashable], n: int) -> float:
    """Return the distinct n-grams over all n-grams (Li et al. 2016): low where text repeats itself.

    NaN for fewer than n words.
    """
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def _quotient(nats: float, count: float, what: str) -> float:
    if count <= 0:
        raise ValueError(f"{what}: got {count}, needed: at least one")
    return nats / count


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
