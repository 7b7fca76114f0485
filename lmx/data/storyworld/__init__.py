"""Storyworld, the embedded corpus: simple English stories whose exact probability is known.

A story is written by a program that draws every choice from a random generator. Each text has exactly one
derivation, so its log-probability is the sum over its choices, and a corpus has the entropy floor
``-sum(log2 p) / bytes`` in bits per byte: no model can expect to need fewer on stories it has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from lmx.data.storyworld.program import GRAMMAR, tell_story
from lmx.data.storyworld.teller import NotDerivedError, Reader, Writer

__all__ = ["Story", "generate_stories", "generate_story", "log2_probability"]


@dataclass(frozen=True, slots=True)
class Story:
    """A text and the logarithm of its probability, in bits (≤ 0)."""

    text: str
    log2_probability: float


def generate_story(rng: Random) -> Story:
    """Write one story with the generator given."""
    writer = Writer(GRAMMAR, rng)
    tell_story(writer)
    return Story(writer.text(), writer.log2_probability)


def generate_stories(count: int, seed: int, start: int = 0) -> Iterator[Story]:
    """Write stories `start` to `start + count - 1` of the endless corpus of `seed`.

    Story i is a pure function of (seed, i): any slice equals the same slice of the whole.
    """
    for index in range(start, start + count):
        yield generate_story(Random(f"{seed}:{index}"))


def log2_probability(text: str) -> float:
    """Read a text and return its log-probability in bits; -inf when the generator cannot write it."""
    reader = Reader(GRAMMAR, text)
    try:
        tell_story(reader)
        reader.finish()
    except NotDerivedError:
        return -math.inf
    return reader.log2_probability
