"""One split as the model meets it: windows of T inputs and T targets, and what their targets stand for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from lmx.config import DataConfig, DataError
from lmx.data.layout import FILLER, IGNORE, Arrays, Chosen, Layout
from lmx.data.store import StoredSplit

COUNTED_AT_ONCE = 4096  # windows
HOLDOUT_SEED = 0  # one choice for every run, whatever its seed: they are evaluated on the same windows


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
        return sum(int(self.target_counts(indices).sum()) for indices in self._parts())

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
        for indices in self._parts():
            targets = self.layout.gather(indices)["targets"]
            scored += int(self._token_bytes[targets[targets != IGNORE]].sum())
        step = COUNTED_AT_ONCE * self.length
        for start in range(0, self.split.num_tokens, step):
            stop = min(start + step, self.split.num_tokens)
            total += int(self._token_bytes[self.split.take(slice(start, stop))].sum())
        return scored / total if total else 0.0

    def _parts(self) -> Iterator[np.ndarray]:
        """Yield the indices of all windows, some thousands at a time: there may be many millions."""
        for start in range(0, len(self), COUNTED_AT_ONCE):
            yield np.arange(start, min(start + COUNTED_AT_ONCE, len(self)))

    @property
    def floor_bits_per_byte(self) -> float | None:
        """Entropy of the text itself, where the corpus knows it: no model of it can be better on average."""
        bits = self.split.facts["floor_bits"]
        return None if bits is None else bits / self.split.facts["bytes"]

    def whole_batches(self, size: int) -> Windows:
        """Return what fills whole windows and whole batches of `size`; the rest of the split is left out."""
        count = len(self)
        if count and self.target_counts(np.array([count - 1]))[0] < self.length:
            count -= 1
        return self.chosen(np.arange(count - count % size))

    def chosen(self, indices: np.ndarray) -> Windows:
        """Return some windows of the split, (N,) → N windows, in that order."""
        return Windows(self.split, Chosen(self.layout, indices), self.length, self._token_bytes)


def hold_out(train: Windows, data: DataConfig) -> dict[str, Windows]:
    """Return train and validation from the windows of a split that has no validation beside it.

    `data.holdout=windows` draws a share of them at random; `none` takes the train split itself. Either way
    what is evaluated was trained on, in part or in full. Raises DataError when nothing is left to train on.
    """
    from lmx.data.sampler import permutation  # with torch, which asking for facts does without

    if data.holdout == "none":
        return {"train": train, "validation": train}
    held = max(1, round(data.validation_fraction * len(train)))
    if held == len(train):
        raise DataError(f"{data.name}: data.holdout=windows needs two windows, the train split gives {held}")
    order = permutation(HOLDOUT_SEED, 0, len(train))
    return {"train": train.chosen(np.sort(order[held:])), "validation": train.chosen(np.sort(order[:held]))}
