"""Leak check: how much of a held-out split occurs in the train split, word for word.

Sequences of 13 words are the usual measure of contamination (Brown et al., 2020, appendix C); windows of 50
words are whole passages (Lee et al., 2022). A sequence lies within one document. Words are what
`str.split()` gives; texts pass through as arrays of code points, without a Python object a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from lmx.data.characters import NUL, code_points, space_table

SIZES = (13, 50)  # words
# Of more sequences than this the ones with the smallest hashes are kept: an even sample, in bounded memory
KEPT = 2**20
END = NUL  # of a document, in a text of several
_TABLE_BITS = range(16, 25)  # of the table that tells most hashes of train from those looked for
_BASE = np.uint64(0x9E3779B97F4A7C15)  # of the polynomials; odd, so that it has an inverse modulo 2⁶⁴
_INVERSE = np.uint64(pow(int(_BASE), -1, 2**64))


class Sequences(NamedTuple):
    """What the leak check needs to know of a text."""

    words: int
    hashes: dict[int, np.ndarray]  # size in SIZES → the hash of each sequence, (N,) uint64


class Overlap:
    """Collects the held-out splits first, then sees the train split pass by."""

    def __init__(self) -> None:
        self._held: dict[str, dict[int, np.ndarray]] = {}
        self._sketches: dict[int, _Sketch] = {}

    def hold_out(self, split: str, found: Sequences) -> None:
        """Add sequences of a held-out split."""
        kept = self._held.setdefault(split, {size: np.empty(0, np.uint64) for size in SIZES})
        for size, hashes in found.hashes.items():
            kept[size] = np.union1d(kept[size], hashes)[:KEPT]

    def pass_by(self, found: Sequences) -> None:
        """Mark the held-out sequences that occur in the train split."""
        for size, hashes in found.hashes.items():
            if size not in self._sketches:
                self._sketches[size] = _Sketch([kept[size] for kept in self._held.values()])
            self._sketches[size].mark(hashes)

    def facts(self) -> dict[str, Any]:
        """Return for each split and size the distinct sequences looked for and how many were seen."""
        return {
            split: {f"{size}_words": self._share(size, hashes) for size, hashes in kept.items()}
            for split, kept in self._held.items()
        }

    def _share(self, size: int, hashes: np.ndarray) -> dict[str, Any]:
        sketch = self._sketches.get(size)
        shared = 0 if sketch is None else sketch.count_seen(hashes)
        return {"sequences": len(hashes), "shared": shared, "sampled": len(hashes) == KEPT}


def overlap(train: Iterable[str], held_out: Iterable[str]) -> dict[str, Any]:
    """Return for each size how many distinct word sequences of `held_out` occur in `train`."""
    check = Overlap()
    check.hold_out("held_out", sequences(END.join(held_out)))
    check.pass_by(sequences(END.join(train)))
    found: dict[str, Any] = check.facts()["held_out"]
    return found


def sequences(text: str) -> Sequences:
    """Return the words and the hash of each sequence in `text`, whose documents END separates.

    The hash of a run x₀ x₁ … is Σ xᵢ·bⁱ modulo 2⁶⁴, mixed: a word is a run of code points, a sequence one of
    words.
    """
    codes = code_points(text)
    edges = np.flatnonzero(np.diff(_spaces().take(codes, mode="clip"), prepend=True, append=True))
    starts, stops = edges[::2], edges[1::2]
    sums, inverses = _sums(codes)
    words = _mixed(sums[stops] - sums[starts], inverses[starts])
    document_ends = np.append(np.searchsorted(starts, np.flatnonzero(codes == ord(END))), len(words))
    left = np.repeat(document_ends, np.diff(document_ends, prepend=0)) - np.arange(len(words))
    sums, inverses = _sums(words)
    hashes = {}
    for size in SIZES:
        count = max(0, len(words) - size + 1)
        every = _mixed(sums[size:] - sums[:-size], inverses[:count])
        hashes[size] = every[left[:count] >= size]  # where so many words are left in the document
    return Sequences(len(words), hashes)


def _sums(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of xᵢ·bⁱ before each place, and the inverse of each bⁱ; (N + 1,) uint64 each."""
    powers, inverses = _powers(1 << len(values).bit_length())
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return sums, inverses[: len(sums)]


def _mixed(sums: np.ndarray, inverses: np.ndarray) -> np.ndarray:
    """Return the hashes of runs from their sums, which start at the power that `inverses` undo."""
    hashes = sums * inverses
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(32)
    return hashes


@cache
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the powers of the base and of its inverse, (count,) uint64 each."""
    ones = np.full((2, count), [[_BASE], [_INVERSE]])
    ones[:, 0] = 1
    return tuple(np.cumprod(ones, axis=1))


@cache
def _spaces() -> np.ndarray:
    """Return which code points separate words."""
    return space_table(lambda c: c.isspace() or c == END)


class _Sketch:
    """A set of hashes that remembers which of them were met."""

    def __init__(self, sets: list[np.ndarray]) -> None:
        self.hashes = np.unique(np.concatenate(sets)) if sets else np.empty(0, np.uint64)
        self.seen = np.zeros(len(self.hashes), dtype=bool)
        # most hashes of the train split are in none: a table that fits the cache tells so before the search
        bits = min(max(len(self.hashes).bit_length() + 5, _TABLE_BITS[0]), _TABLE_BITS[-1])
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(2**bits, dtype=bool)
        self._table[self.hashes >> self._shift] = True

    def mark(self, hashes: np.ndarray) -> None:
        places = (hashes >> self._shift).view(np.int64)  # what `take` takes as it is
        likely = hashes[np.flatnonzero(self._table.take(places))]
        if len(likely):
            at = np.minimum(np.searchsorted(self.hashes, likely), len(self.hashes) - 1)
            self.seen[at[self.hashes[at] == likely]] = True

    def count_seen(self, hashes: np.ndarray) -> int:
        return int(self.seen[np.searchsorted(self.hashes, hashes)].sum())
