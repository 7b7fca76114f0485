"""How documents become one array of tokens, and the array windows of T inputs and T targets.

| mode | text | window i |
|---|---|---|
| stream | documents joined (eos, a blank line, or nothing between) | tokens i·T … i·T + T |
| rows | each document stripped, nothing between | the same |
| blocks | documents as they are, nothing between | T + 1 tokens of its own; the remainder is dropped |
| stride | as stream | tokens i·k … i·k + T; held out, only targets not seen before count |
| sentences | pieces at full stops, each with an EOS | sorted by length, next-fit into rows of T + 1 |
| documents | each document with an EOS | best-fit into rows of T + 1, each attending to itself |

In stream, rows and stride neighbouring windows share one token, so that each token is a target once. A train
split drops its last, partial window; held out it is kept, and what is beyond the end is no target.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from lmx.config import ConfigError, DataConfig, DataError
from lmx.data.layout import Layout, Packed, Strided
from lmx.data.store import StoredSplit

CHUNK = 2**20  # characters tokenized at a time; longer documents are cut where no token can cross
LIMIT = 2**22  # characters after which a text without such a place is cut all the same, to bound the memory
# before a single space or after a single newline between visible characters: usual tokenizers start a word
_SAFE = re.compile(r"(?<=\S)(?= \S)|(?<=\S\n)(?=\S)")


class Piece(NamedTuple):
    """A text that is tokenized by itself; `last`: a document (or sentence) ends here."""

    text: str
    last: bool = True


class Packing(ABC):
    """One way from documents to windows."""

    adds_eos = False  # after each piece that is a document's last
    leads_with_eos = False  # before the first
    keeps_text = True  # all of each document's text becomes targets
    cuts = True  # long texts are tokenized in parts; False where the tokenizer does not allow that

    def __init__(self, data: DataConfig, eos_id: int | None, pad_id: int | None) -> None:
        """Raises DataError when the tokenizer lacks a special token that this packing writes."""
        self.data = data
        self.length = data.sequence_length
        self.filler = pad_id if pad_id is not None else eos_id if eos_id is not None else 0
        if self.adds_eos and eos_id is None:
            raise DataError(
                f"tokenizer: has no end-of-text token, which {self.form(data)} writes after each text"
            )

    @classmethod
    def form(cls, data: DataConfig) -> str:
        """Name how the text is laid down: packings of one form share a token store."""
        return f"packing={data.packing}"

    @abstractmethod
    def pieces(self, texts: Iterable[str]) -> Iterator[Piece]:
        """Cut documents into the pieces that are tokenized one by one."""

    @abstractmethod
    def layout(self, split: StoredSplit, held_out: bool) -> Layout:
        """Return where each window lies in the tokens of a split."""

    def _documents(self, texts: Iterable[str]) -> Iterator[Piece]:
        for text in texts:
            if text:
                *parts, end = chunks(text) if self.cuts else [text]
                yield from (Piece(part, last=False) for part in parts)
                yield Piece(end)

    def _joined(self, texts: Iterable[str], between: str) -> Iterator[Piece]:
        """Yield the joined documents in chunks that tokenize as the whole would."""
        parts: list[str] = []
        size, wanted = 0, CHUNK
        for number, text in enumerate(texts):
            part = between + text if number else text
            parts.append(part)
            size += len(part)
            if self.cuts and size > wanted:
                *whole, rest = chunks("".join(parts))
                yield from map(Piece, whole)
                parts, size = [rest], len(rest)
                wanted = max(CHUNK, 2 * size)  # where no place is safe, look again when there is much more
        if rest := "".join(parts):
            yield Piece(rest)


class Stream(Packing):
    """Documents joined, in windows one after the other."""

    def __init__(self, data: DataConfig, eos_id: int | None, pad_id: int | None) -> None:
        """Take the separator from `data`."""
        self.adds_eos = self.leads_with_eos = data.separator == "eos"
        super().__init__(data, eos_id, pad_id)

    @classmethod
    def form(cls, data: DataConfig) -> str:
        """Name the separator: stream and stride lay the same tokens down."""
        return f"separator={data.separator}"

    def pieces(self, texts: Iterable[str]) -> Iterator[Piece]:
        """Yield documents, or with text or nothing between them the joined text in chunks."""
        if self.adds_eos:
            return self._documents(texts)
        return self._joined(texts, "\n\n" if self.data.separator == "newlines" else "")

    def layout(self, split: StoredSplit, held_out: bool) -> Layout:
        """Step by T: neighbours share one token."""
        return _strided(split, self.length, self.length, held_out, self.filler)


class Stride(Stream):
    """Windows that overlap (family E's recorded form; held out, the sliding evaluation of long contexts)."""

    def __init__(self, data: DataConfig, eos_id: int | None, pad_id: int | None) -> None:
        """Raises ConfigError when windows would leave tokens out."""
        super().__init__(data, eos_id, pad_id)
        if data.stride is None or data.stride > data.sequence_length:
            raise ConfigError(
                f"data.stride: got {data.stride}, allowed: 1 to data.sequence_length={data.sequence_length}"
            )

    def layout(self, split: StoredSplit, held_out: bool) -> Layout:
        """Step by k; held out, a window after the first has k targets."""
        assert self.data.stride is not None
        return _strided(split, self.length, self.data.stride, held_out, self.filler)


class Rows(Packing):
    """Each document stripped, empty ones dropped, nothing between (family D)."""

    def pieces(self, texts: Iterable[str]) -> Iterator[Piece]:
        """Yield stripped documents."""
        return self._documents(text.strip() for text in texts)

    def layout(self, split: StoredSplit, held_out: bool) -> Layout:
        """Step by T: neighbours share one token."""
        return _strided(split, self.length, self.length, held_out, self.filler)


class Blocks(Packing):
    """Blocks of T + 1 tokens that share none, the remainder dropped in every split (family C)."""

    def pieces(self, texts: Iterable[str]) -> Iterator[Piece]:
        """Yield documents."""
        return self._documents(texts)

    def layout(self, split: StoredSplit, held_out: bool) -> Layout:
        """Step by T + 1."""
        step = self.length + 1
        return Strided(split, self.length, step, split.num_tokens // step, None, self.filler)


class Sentences(Packing):
    """Pieces at full stops, longest first, next-fit into rows (family A)."""

    adds_eos = True
    keeps_text = False

    def pieces(self, texts: Iterable[str]) -> Iterator[Piece]:
        """Yield each piece with its full stop back; an empty piece is a full stop alone, as recorded."""
        for text in texts:
            if text.strip():
                for part in text.replace("\n", " ").split("."):
                    yield Piece(part.strip() + ".")

    def layout(self, split: StoredSplit, held_out: bool) -> Layout:
        """Sort by length, longest first and stable, and fill rows so; longer pieces are dropped."""
        lengths = np.diff(split.offsets)
        size = self.length + 1
        order = np.argsort(-lengths, kind="stable")
        order = order[(lengths[order] > 1) & (lengths[order] <= size)]
        rows = next_fit(lengths[order], size)
        return Packed(
            split, self.length, split.offsets[order], lengths[order], rows, self.filler,
            mask_padding=self.data.mask_padding, mask_crossing=False, with_documents=False,
        )  # fmt: skip


class Documents(Packing):
    """Whole documents best-fit into rows (Ding et al., 2024), each with its own positions.

    A document longer than a row is cut into rows that share one token.
    """

    adds_eos = True

    def __init__(self, data: DataConfig, eos_id: int | None, pad_id: int | None) -> None:
        """Where crossing targets are masked, the first token of a document is no target."""
        super().__init__(data, eos_id, pad_id)
        self.keeps_text = not data.mask_crossing

    def pieces(self, texts: Iterable[str]) -> Iterator[Piece]:
        """Yield documents."""
        return self._documents(texts)

    def layout(self, split: StoredSplit, held_out: bool) -> Layout:
        """Cut, sort by length, and put each into the fullest row that has room."""
        starts, lengths = cut(split.offsets, self.length)
        order = np.argsort(-lengths, kind="stable")
        rows = best_fit(lengths[order], self.length + 1)
        order = order[np.argsort(rows, kind="stable")]
        return Packed(
            split, self.length, starts[order], lengths[order], np.sort(rows), self.filler,
            mask_padding=self.data.mask_padding, mask_crossing=self.data.mask_crossing, with_documents=True,
        )  # fmt: skip


PACKINGS: dict[str, type[Packing]] = {
    "stream": Stream,
    "rows": Rows,
    "sentences": Sentences,
    "blocks": Blocks,
    "documents": Documents,
    "stride": Stride,
}


def next_fit(lengths: np.ndarray, size: int) -> np.ndarray:
    """Return the row of each piece: the current one while it has room, else the next. (N,) → (N,) int64."""
    rows = np.empty(len(lengths), dtype=np.int64)
    row, used = 0, 0
    for i, length in enumerate(lengths.tolist()):
        if used + length > size:
            row, used = row + 1, 0
        rows[i] = row
        used += length
    return rows


def best_fit(lengths: np.ndarray, size: int) -> np.ndarray:
    """Return the row of each piece: the one that it fills best, or a new one. (N,) → (N,) int64."""
    rows = np.empty(len(lengths), dtype=np.int64)
    with_room: dict[int, list[int]] = {}  # free tokens → rows
    frees: list[int] = []  # the keys of with_room, sorted
    count = 0
    for i, length in enumerate(lengths.tolist()):
        at = bisect_left(frees, length)
        if at < len(frees):
            free = frees[at]
            row = with_room[free].pop()
            if not with_room[free]:
                del with_room[free], frees[at]
        else:
            row, free, count = count, size, count + 1
        rows[i] = row
        if free > length:
            if free - length not in with_room:
                insort(frees, free - length)
                with_room[free - length] = []
            with_room[free - length].append(row)
    return rows


def cut(offsets: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (starts, lengths) of pieces of 2 to length + 1 tokens; neighbours share one token."""
    sizes = np.diff(offsets)
    counts = np.maximum(0, -(-(sizes - 1) // length))  # a document of one token has no target
    document = np.repeat(np.arange(len(sizes)), counts)
    within = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = offsets[document] + within * length
    return starts, np.minimum(length + 1, offsets[document + 1] - starts)


def _strided(split: StoredSplit, length: int, step: int, held_out: bool, filler: int) -> Strided:
    beyond = split.num_tokens - 1 - length  # targets that the first window does not hold
    if held_out:
        return Strided(
            split, length, step, 0 if split.num_tokens < 2 else 1 + max(0, -(-beyond // step)), step, filler
        )
    return Strided(split, length, step, max(0, beyond // step + 1), None, filler)


def chunks(text: str) -> Iterable[str]:
    """Cut a long text at safe places, or where there is none at the LIMIT."""
    return [text] if len(text) <= CHUNK else _cut(text)


def _cut(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > CHUNK:
        at = start + _last_safe(text[start : start + CHUNK + 2])
        if at == start:
            further = _SAFE.search(text, start + CHUNK, start + LIMIT)
            at = further.start() if further else start + LIMIT
        yield text[start:at]
        start = at
    if start < len(text):
        yield text[start:]


def _last_safe(text: str) -> int:
    """Return the last safe place to cut, 0 where there is none."""
    start = len(text)
    while start > 0:  # from the end, by growing tails: the place is nearly always near
        start = max(0, len(text) - 2 * (len(text) - start) - 64)
        found = [match.start() for match in _SAFE.finditer(text, start)]
        if found:
            return found[-1]
    return 0
