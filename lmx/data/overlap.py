"""Leak check: how much of a held-out split occurs in the train split, word for word.

Sequences of 13 words are the usual measure of contamination (Brown et al., 2020, appendix C); 50 words are
whole passages (Lee et al., 2022). A sequence lies within one document.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

SIZES = (13, 50)  # words
# Of more sequences than this the ones with the smallest hashes are kept: an even sample, in bounded memory
KEPT = 2**20
_TABLE_BITS = 24
_FACTORS = np.random.PCG64(0).random_raw(max(SIZES)) | np.uint64(1)


class Overlap:
    """Collects the held-out splits first, then sees the train split pass by."""

    def __init__(self) -> None:
        self._held: dict[str, dict[int, np.ndarray]] = {}
        self._sketches: dict[int, _Sketch] = {}

    def hold_out(self, split: str, documents: Sequence[list[str]]) -> None:
        """Add documents, each a list of words, of a held-out split."""
        kept = self._held.setdefault(split, {size: np.empty(0, np.uint64) for size in SIZES})
        for size, hashes in _hashes(documents).items():
            kept[size] = np.union1d(kept[size], hashes)[:KEPT]

    def pass_by(self, documents: Sequence[list[str]]) -> None:
        """Mark the held-out sequences that occur in documents of the train split."""
        for size, hashes in _hashes(documents).items():
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
    check.hold_out("held_out", [text.split() for text in held_out])
    check.pass_by([text.split() for text in train])
    found: dict[str, Any] = check.facts()["held_out"]
    return found


class _Sketch:
    """A set of hashes that remembers which of them were met."""

    def __init__(self, sets: list[np.ndarray]) -> None:
        self.hashes = np.unique(np.concatenate(sets)) if sets else np.empty(0, np.uint64)
        self.seen = np.zeros(len(self.hashes), dtype=bool)
        # most hashes of the train split are in none: a small table tells so before the search
        self._table = np.zeros(2**_TABLE_BITS, dtype=bool)
        self._table[self._slots(self.hashes)] = True

    def mark(self, hashes: np.ndarray) -> None:
        likely = hashes[self._table[self._slots(hashes)]]
        if len(likely):
            at = np.minimum(np.searchsorted(self.hashes, likely), len(self.hashes) - 1)
            self.seen[at[self.hashes[at] == likely]] = True

    def count_seen(self, hashes: np.ndarray) -> int:
        return int(self.seen[np.searchsorted(self.hashes, hashes)].sum())

    @staticmethod
    def _slots(hashes: np.ndarray) -> np.ndarray:
        return (hashes >> np.uint64(8)) & np.uint64(2**_TABLE_BITS - 1)


def _hashes(documents: Sequence[list[str]]) -> dict[int, np.ndarray]:
    """Return the hash of each sequence of each size, modulo 2⁶⁴; equal only within one process."""
    lengths = np.array([len(words) for words in documents], dtype=np.int64)
    total = int(lengths.sum())
    words = np.fromiter((hash(word) for words in documents for word in words), np.int64, total).view(
        np.uint64
    )
    words = (words ^ (words >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(total)  # words from here to the document's end
    found = {}
    sums = np.zeros(total, dtype=np.uint64)
    for size in range(1, max(SIZES) + 1):
        count = max(0, total - size + 1)
        sums = sums[:count] + words[size - 1 :][:count] * _FACTORS[size - 1]
        if size in SIZES:
            hashes = sums[left[:count] >= size]
            found[size] = hashes ^ (hashes >> np.uint64(31))
    return found
