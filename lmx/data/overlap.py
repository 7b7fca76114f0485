"""Leak check: how much of a held-out split occurs in the train split, word for word.

Sequences of 13 words are the usual measure of contamination (Brown et al., 2020, appendix C); windows of 50
words are whole passages (Lee et al., 2022). A sequence lies within one document. Words are what
`str.split()` gives; texts pass through as arrays of bytes, without a Python object a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np

from lmx.data.characters import NUL, with_plain_spaces

SIZES = (13, 50)  # words, ascending
# Of more sequences than this the ones with the smallest hashes are kept: an even sample, in bounded memory
KEPT = 2**20
END = NUL  # of a document, in a text of several
_TABLE_BITS = range(16, 25)  # of the table that tells most hashes of train from those looked for
_BASE = np.uint64(0x9E3779B97F4A7C15)  # of the polynomials; odd, so that it has an inverse modulo 2⁶⁴
_INVERSE = np.uint64(pow(int(_BASE), -1, 2**64))
_LONG = 32  # bytes; a longer word, which is rare, is hashed by itself


class Overlap:
    """Collects the held-out splits first, then sees the train split pass by."""

    def __init__(self) -> None:
        self._held: dict[str, dict[int, np.ndarray]] = {}
        self._sketches: dict[int, _Sketch] = {}

    def hold_out(self, split: str, found: Sequences) -> None:
        """Add sequences of a held-out split."""
        kept = self._held.setdefault(split, {size: np.empty(0, np.uint64) for size in SIZES})
        for size in SIZES:
            kept[size] = np.union1d(kept[size], found.hashes(size))[:KEPT]

    def pass_by(self, found: Sequences) -> None:
        """Mark the held-out sequences that occur in the train split."""
        starts = None
        for size in SIZES:
            if size not in self._sketches:
                self._sketches[size] = _Sketch([kept[size] for kept in self._held.values()])
            starts = found.starts(size, starts)
            met = self._sketches[size].mark(found.hashes(size, starts))
            if not self._sampled(size):
                starts = starts[met]  # a longer sequence is looked for only where a shorter one was met

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

    def _sampled(self, size: int) -> bool:
        return any(len(kept[size]) == KEPT for kept in self._held.values())


def overlap(train: Iterable[str], held_out: Iterable[str]) -> dict[str, Any]:
    """Return for each size how many distinct word sequences of `held_out` occur in `train`."""
    check = Overlap()
    check.hold_out("held_out", Sequences(END.join(held_out).encode()))
    check.pass_by(Sequences(END.join(train).encode()))
    found: dict[str, Any] = check.facts()["held_out"]
    return found


class Sequences:
    """The word sequences of a text in UTF-8 whose documents END separates, as hashes of 64 bits.

    The hash of a sequence x₀ x₁ … of word hashes is Σ xᵢ·bⁱ modulo 2⁶⁴, mixed.
    """

    def __init__(self, text: bytes) -> None:
        raw = np.frombuffer(text, np.uint8)
        starts, lengths = _words(with_plain_spaces(raw))
        hashes = _word_hashes(text, raw, starts, lengths)
        self.words = len(hashes)
        self._sums, self._inverses = _sums(hashes)
        document_ends = np.append(np.searchsorted(starts, np.flatnonzero(raw == ord(END))), self.words)
        # how many words of its document there are from each word on
        self._left = np.repeat(document_ends, np.diff(document_ends, prepend=0)) - np.arange(self.words)

    def starts(self, size: int, among: np.ndarray | None = None) -> np.ndarray:
        """Return the words, of all or `among` some, at which a sequence of `size` begins; (N,) int64."""
        if among is None:
            return np.flatnonzero(self._left >= size)
        return among[self._left[among] >= size]

    def hashes(self, size: int, starts: np.ndarray | None = None) -> np.ndarray:
        """Return the hash of the sequence of `size` at each start, by default at all; (N,) uint64."""
        starts = self.starts(size) if starts is None else starts
        return _mixed((self._sums[starts + size] - self._sums[starts]) * self._inverses[starts])


def _words(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the words of ASCII-spaced bytes (N,) start, and their lengths; (words,) int64 each."""
    places = np.flatnonzero(raw <= ord(" "))
    places = places[_ascii_spaces()[raw[places]]]
    starts = np.concatenate([[0], places + 1])
    lengths = np.append(places, len(raw)) - starts
    words = np.flatnonzero(lengths)
    return starts[words], lengths[words]


def _word_hashes(text: bytes, raw: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return a hash of each word, (words,) uint64, taken eight bytes at a time."""
    padded = np.concatenate([raw, np.zeros(8, np.uint8)])
    eights = np.ndarray((len(raw) + 1,), "<u8", padded, strides=(1,))  # the eight bytes from each byte on
    hashes = _mixed(_first_bytes(eights[starts], lengths))
    for offset in range(8, _LONG, 8):
        more = np.flatnonzero(lengths > offset)
        further = _first_bytes(eights[starts[more] + offset], lengths[more] - offset)
        hashes[more] = _mixed(hashes[more] * _BASE + further)
    for word in np.flatnonzero(lengths > _LONG).tolist():
        digest = blake2b(text[starts[word] : starts[word] + lengths[word]], digest_size=8).digest()
        hashes[word] = int.from_bytes(digest)
    return hashes


def _first_bytes(eights: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Leave of eight bytes, read as a number, the first `lengths`."""
    beyond = (8 * (8 - np.minimum(lengths, 8))).astype(np.uint64)
    return eights << beyond


def _sums(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of xᵢ·bⁱ before each place, and the inverse of each bⁱ; (N + 1,) uint64 each."""
    powers, inverses = _powers(1 << len(values).bit_length())
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return sums, inverses[: len(sums)]


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Spread, in place, what tells numbers apart over all bits; nothing is lost."""
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
def _ascii_spaces() -> np.ndarray:
    """Return which bytes up to the blank separate words, as `str.split` has it."""
    return np.array([chr(code).isspace() or chr(code) == END for code in range(ord(" ") + 1)])


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

    def mark(self, hashes: np.ndarray) -> np.ndarray:
        """Remember which hashes were met; return which of the given ones are in the set, by place."""
        places = (hashes >> self._shift).view(np.int64)  # what `take` takes as it is
        likely = np.flatnonzero(self._table.take(places))
        at = np.searchsorted(self.hashes, hashes[likely])
        at[at == len(self.hashes)] = 0
        met = self.hashes[at] == hashes[likely] if len(likely) else likely
        self.seen[at[met]] = True
        return likely[met]

    def count_seen(self, hashes: np.ndarray) -> int:
        return int(self.seen[np.searchsorted(self.hashes, hashes)].sum())
