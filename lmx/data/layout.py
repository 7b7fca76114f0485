"""Where each window lies in a split's tokens, and how many windows become one batch of arrays. Numpy only."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lmx.data.store import StoredSplit

IGNORE = -100  # a target that counts neither in the loss nor in any measure
FILLER = -1  # index of a row that is there only to keep the shape
Arrays = dict[str, np.ndarray]


class Layout(Protocol):
    """Windows of a split: T inputs and T targets each."""

    def __len__(self) -> int:
        """Return the number of windows."""
        ...

    def target_counts(self, indices: np.ndarray) -> np.ndarray:
        """Return how many targets of each window count, (B,) → (B,) int64."""
        ...

    def gather(self, indices: np.ndarray) -> Arrays:
        """Return `tokens` and `targets` (B, T) int64, and what else the packing says of them."""
        ...


class Chosen:
    """Some windows of another layout."""

    def __init__(self, layout: Layout, indices: np.ndarray) -> None:
        """Window i is window `indices[i]` of `layout`."""
        self.layout = layout
        self.indices = indices

    def __len__(self) -> int:
        """Return the number of chosen windows."""
        return len(self.indices)

    def target_counts(self, indices: np.ndarray) -> np.ndarray:
        """Ask the layout they were chosen from."""
        return self.layout.target_counts(self.indices[indices])

    def gather(self, indices: np.ndarray) -> Arrays:
        """Ask the layout they were chosen from."""
        return self.layout.gather(self.indices[indices])


class Strided:
    """Window i is tokens i·step … i·step + T of the split."""

    def __init__(
        self, split: StoredSplit, length: int, step: int, count: int, fresh: int | None, filler: int
    ) -> None:
        """`fresh`: the number of targets, from the end, that count in windows after the first; None: all."""
        self.split = split
        self.length = length
        self.step = step
        self.count = count
        self.skipped = 0 if fresh is None else length - fresh
        self.filler = filler

    def __len__(self) -> int:
        """Return the number of windows."""
        return self.count

    def target_counts(self, indices: np.ndarray) -> np.ndarray:
        """Count the targets that are new and not beyond the end."""
        before_end = np.minimum(self.length, self.split.num_tokens - 1 - indices * self.step)
        return np.maximum(0, before_end - np.where(indices > 0, self.skipped, 0))

    def gather(self, indices: np.ndarray) -> Arrays:
        """Return tokens and targets, each (B, T)."""
        where = indices[:, None] * self.step + np.arange(self.length + 1)  # (B, T + 1)
        beyond = where >= self.split.num_tokens
        ids = self.split.take(np.minimum(where, self.split.num_tokens - 1))
        ids[beyond] = self.filler
        targets = np.where(beyond[:, 1:], IGNORE, ids[:, 1:])
        if self.skipped:
            targets[indices > 0, : self.skipped] = IGNORE
        return {"tokens": ids[:, :-1], "targets": targets}


class Packed:
    """Row i is the pieces that a packing put into it, one after the other, then padding."""

    def __init__(
        self,
        split: StoredSplit,
        length: int,
        starts: np.ndarray,
        lengths: np.ndarray,
        rows: np.ndarray,
        filler: int,
        *,
        mask_padding: bool,
        mask_crossing: bool,
        with_documents: bool,
    ) -> None:
        """`starts`, `lengths`, `rows` (N,): each piece's place in the tokens and its row; rows ascend."""
        self.split = split
        self.length = length
        self.starts = starts
        self.lengths = lengths
        self.filler = filler
        self.mask_padding = mask_padding
        self.mask_crossing = mask_crossing
        self.with_documents = with_documents
        count = int(rows[-1]) + 1 if len(rows) else 0
        self.first = np.searchsorted(rows, np.arange(count + 1))  # row → its first piece
        self.counts = self._count_targets(np.bincount(rows, lengths, minlength=count).astype(np.int64))

    def _count_targets(self, used: np.ndarray) -> np.ndarray:
        counts = used - 1
        padding = self.length - counts
        if not self.mask_padding:
            counts = counts + padding
        if self.mask_crossing:
            counts = counts - (np.diff(self.first) - 1)
            if not self.mask_padding:  # from the last piece into the padding
                counts = counts - (padding > 0)
        return counts

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.counts)

    def target_counts(self, indices: np.ndarray) -> np.ndarray:
        """Look the counts up."""
        return self.counts[indices]

    def gather(self, indices: np.ndarray) -> Arrays:
        """Return tokens and targets, and where asked for document numbers and positions, each (B, T).

        Padding is a document of its own, numbered after the last.
        """
        size = self.length + 1
        ids = np.full((len(indices), size), self.filler, dtype=np.int64)
        documents = np.zeros((len(indices), size), dtype=np.int64)
        positions = np.zeros((len(indices), size), dtype=np.int64)
        padding = np.ones((len(indices), size), dtype=bool)
        for row, index in enumerate(indices.tolist()):
            at = 0
            pieces = range(self.first[index], self.first[index + 1])
            for number, piece in enumerate(pieces):
                start, length = self.starts[piece], self.lengths[piece]
                ids[row, at : at + length] = self.split.take(slice(start, start + length))
                documents[row, at : at + length] = number
                positions[row, at : at + length] = np.arange(length)
                at += length
            documents[row, at:] = len(pieces)
            positions[row, at:] = np.arange(size - at)
            padding[row, :at] = False
        targets = ids[:, 1:].copy()
        if self.mask_padding:
            targets[padding[:, 1:]] = IGNORE
        if self.mask_crossing:
            targets[documents[:, 1:] != documents[:, :-1]] = IGNORE
        arrays = {"tokens": ids[:, :-1], "targets": targets}
        if self.with_documents:
            arrays |= {"documents": documents[:, :-1], "positions": positions[:, :-1]}
        return arrays
