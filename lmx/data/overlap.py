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

SIZES = (13, 50)  # words
# Of more sequences than this the ones with the smallest hashes are kept: an even sample, in bounded memory
KEPT = 2**20
END = "\0"  # of a document, in a text of several
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
    codes = _codes(text)
    edges = np.flatnonzero(np.diff(_spaces().take(codes, mode="clip"), prepend=True, append=True))
    starts, stops = edges[::2], edges[1::2]
    words = _runs(codes, starts, stops)
    document_ends = np.append(np.searchsorted(starts, np.flatnonzero(codes == ord(END))), len(words))
    left = np.repeat(document_ends, np.diff(document_ends, prepend=0)) - np.arange(len(words))
    hashes = {}
    for size in SIZES:
        first = np.flatnonzero(left >= size)  # where so many words are left in the document
        hashes[size] = _runs(words, first, first + size)
    return Sequences(len(words), hashes)


def _codes(text: str) -> np.ndarray:
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _runs(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Return the mixed hash of each values[start:stop], (N,) uint64."""
    powers, inverses = _powers(1 << len(values).bit_length())
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    hashes = (sums[stops] - sums[starts]) * inverses[starts]
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    return hashes ^ (hashes >> np.uint64(32))


@cache
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the powers of the base and of its inverse, (count,) uint64 each."""
    ones = np.full((2, count), [[_BASE], [_INVERSE]])
    ones[:, 0] = 1
    return tuple(np.cumprod(ones, axis=1))


_LAST_SPACE = 0x3000


@cache
def _spaces() -> np.ndarray:
    """Return which code points up to one above the last space separate words."""
    return np.array([chr(code).isspace() or chr(code) == END for code in range(_LAST_SPACE + 2)])


class _Sketch:
    """A set of hashes that remembers which of them were met."""

    def __init__(self, sets: list[np.ndarray]) -> None:
        self.hashes = np.unique(np.concatenate(sets)) if sets else np.empty(0, np.uint64)
        self.seen = np.zeros(len(self.hashes), dtype=bool)
        # most hashes of the train split are in none: a table that fits the cache tells so before the search
        bits = min(max(len(self.hashes).bit_length() + 3, _TABLE_BITS[0]), _TABLE_BITS[-1])
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(2**bits, dtype=bool)
        self._table[self.hashes >> self._shift] = True

    def mark(self, hashes: np.ndarray) -> None:
        likely = hashes[self._table[hashes >> self._shift]]
        if len(likely):
            at = np.minimum(np.searchsorted(self.hashes, likely), len(self.hashes) - 1)
            self.seen[at[self.hashes[at] == likely]] = True

    def count_seen(self, hashes: np.ndarray) -> int:
        return int(self.seen[np.searchsorted(self.hashes, hashes)].sum())
