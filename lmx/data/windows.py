"""One split as the model meets it: windows of T inputs and T targets, and what their targets stand for."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from lmx.data.layout import FILLER, IGNORE, Arrays, Layout
from lmx.data.store import StoredSplit

__all__ = ["FILLER", "IGNORE", "Windows"]

COUNTED_AT_ONCE = 4096  # windows


class Windows:
    """The windows of a split, in reading order, as numpy arrays."""

    def __init__(self, split: StoredSplit, layout: Layout, length: int, token_bytes: np.ndarray) -> None:
        """`length` is T; `token_bytes` (V,) is the tokenizer's."""
        self.split = split
        self.name = split.name
        self.layout = layout
        self.length = length
        self._token_bytes = token_bytes

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.layout)

    def __getitem__(self, index: int) -> Arrays:
        """Return one window: `tokens` and `targets`, (T,) int64 each, and what else the packing gives."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: window {index} of {len(self)}")
        return {name: array[0] for name, array in self.gather(np.array([index % len(self)])).items()}

    def gather(self, indices: np.ndarray) -> Arrays:
        """Return `tokens`, `targets` (B, T), `index` (B,), int64; a FILLER row's targets are all IGNORE."""
        filler = indices == FILLER
        arrays = self.layout.gather(np.where(filler, 0, indices))
        arrays["targets"][filler] = IGNORE
        return {**arrays, "index": indices.astype(np.int64)}

    def target_counts(self, indices: np.ndarray) -> np.ndarray:
        """Return how many targets of each window count, (B,) → (B,); none of a FILLER row."""
        return np.where(indices == FILLER, 0, self.layout.target_counts(np.maximum(indices, 0)))

    @cached_property
    def targets(self) -> int:
        """How many targets of the split count."""
        return int(self.target_counts(np.arange(len(self))).sum())

    @cached_property
    def scored_bytes(self) -> int:
        """Bytes of the original text that the counted targets stand for; special tokens stand for none.

        Exact for tokenizers that keep every byte; others are scaled so that all tokens stand for all bytes.
        """
        return round(self._scored_share * self.split.facts["bytes"])

    @cached_property
    def scored_words(self) -> int:
        """Words (runs without white space) of the original text, in proportion to the scored bytes."""
        return round(self._scored_share * self.split.facts["words"])

    @cached_property
    def _scored_share(self) -> float:
        """Share of the split's bytes that the counted targets stand for; above 1 where some count twice."""
        scored = total = 0
        for start in range(0, len(self), COUNTED_AT_ONCE):
            indices = np.arange(start, min(start + COUNTED_AT_ONCE, len(self)))
            targets = self.layout.gather(indices)["targets"]
            scored += int(self._token_bytes[targets[targets != IGNORE]].sum())
        step = COUNTED_AT_ONCE * self.length
        for start in range(0, self.split.num_tokens, step):
            stop = min(start + step, self.split.num_tokens)
            total += int(self._token_bytes[self.split.take(slice(start, stop))].sum())
        return scored / total if total else 0.0

    @property
    def floor_bits_per_byte(self) -> float | None:
        """Entropy of the text itself, where the corpus knows it: no model of it can be better on average."""
        bits = self.split.facts["floor_bits"]
        return None if bits is None else bits / self.split.facts["bytes"]
