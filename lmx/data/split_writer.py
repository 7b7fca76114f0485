"""Writing one split of a store: documents stream through once, in batches that threads work on."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lmx.config.cores import cores
from lmx.data.documents import Document
from lmx.data.overlap import END, Overlap, Sequences
from lmx.data.packing import Packing, Piece, chunks
from lmx.data.progress import Progress
from lmx.data.tokenizers import Tokenizer

A = TypeVar("A")
R = TypeVar("R")
BATCH_CHARACTERS = 2**18  # worked on at a time: what that takes stays in the cache of a core
BATCHES_A_THREAD = 3  # under way or waiting, so that no thread waits for the one that reads


class Tokens(NamedTuple):
    """A batch of pieces, tokenized."""

    ids: np.ndarray  # (N,) of the store's dtype, each EOS in its place
    document_ends: np.ndarray  # (documents,) int64: where documents end in `ids`
    bytes: int


class SplitWriter:
    """Writes one split and counts what goes through.

    Tokenizers and numpy leave Python's lock free, so threads serve where Python's part is to read documents.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        dtype: str,
        tokenizer: Tokenizer,
        packing: Packing,
        check: Overlap,
        progress: Progress,
    ) -> None:
        """Write below `folder`; the leak check `check` has seen the held-out splits before train."""
        self.folder = folder
        self.split = split
        self.dtype = dtype
        self.tokenizer = tokenizer
        self.packing = packing
        self.check = check
        self.progress = progress
        self.documents = self.words = self.bytes = self.tokens = self.longest = 0
        self.bits = 0.0
        self.text_hash = hashlib.sha256()
        self.token_hash = hashlib.sha256()

    def write(self, documents: Iterable[Document]) -> dict[str, Any]:
        """Write tokens and offsets; return the facts of the split."""
        with (
            open(self.folder / f"{self.split}.tokens", "wb") as tokens,
            open(self.folder / f"{self.split}.offsets", "wb") as offsets,
            InOrder() as line,
        ):

            def put(found: Tokens) -> None:
                offsets.write((self.tokens + found.document_ends).tobytes())
                self._put(tokens, found.ids)
                self.bytes += found.bytes
                self.progress.update(self.documents, self.bytes)

            if self.packing.leads_with_eos:
                self._put(tokens, np.array([self.tokenizer.eos_id], dtype=self.dtype))
            offsets.write(np.int64(self.tokens).tobytes())
            for batch in _batches(self.packing.pieces(self._counted(documents, line))):
                line.submit(self._encoded, batch, put)
        return self._facts()

    def _counted(self, documents: Iterable[Document], line: InOrder) -> Iterator[str]:
        """Yield the text of documents, after counting it."""
        parts: list[str] = []
        size = 0
        for text, bits in documents:
            self.bits += math.nan if bits is None else bits
            self.documents += bool(text) and not text.isspace()
            if 4 * len(text) > self.longest:  # no character takes more than four bytes
                self.longest = max(self.longest, len(text.encode()))
            for part in chunks(text):
                parts.append(part)
                size += len(part)
                if size >= BATCH_CHARACTERS:
                    self._look_through("".join(parts), line)
                    parts, size = [], 0
            parts.append(END)
            yield text
        self._look_through("".join(parts), line)

    def _look_through(self, text: str, line: InOrder) -> None:
        """Hash a text, and have its words counted and checked for leaks."""
        raw = text.encode()
        self.text_hash.update(raw)
        line.submit(Sequences, raw, self._take_words)

    def _take_words(self, found: Sequences) -> None:
        self.words += found.words
        if self.split == "train":
            self.check.pass_by(found)
        else:
            self.check.hold_out(self.split, found)

    def _encoded(self, batch: list[Piece]) -> Tokens:
        ids, ends, size = self.tokenizer.encode_batch([piece.text for piece in batch])
        document_ends = ends[np.array([piece.last for piece in batch])]
        if self.packing.adds_eos:
            ids = np.insert(ids, document_ends, self.tokenizer.eos_id)  # type: ignore[arg-type]
            document_ends = document_ends + np.arange(1, len(document_ends) + 1)
        return Tokens(ids.astype(self.dtype), document_ends, size)

    def _put(self, file: Any, ids: np.ndarray) -> None:
        raw = ids.tobytes()
        file.write(raw)
        self.token_hash.update(raw)
        self.tokens += len(ids)

    def _facts(self) -> dict[str, Any]:
        known = not math.isnan(self.bits) and self.packing.keeps_text
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "words": self.words,
            "longest_document_bytes": self.longest,
            "floor_bits": self.bits if known else None,
            "text_sha256": self.text_hash.hexdigest(),
            "tokens_sha256": self.token_hash.hexdigest(),
        }


class InOrder:
    """Threads whose results are taken in the order in which their work was submitted.

    Only a few batches are under way at a time: submitting one more takes the oldest result first.
    """

    def __init__(self) -> None:
        self._threads = cores()
        self._pool = ThreadPoolExecutor(self._threads)
        self._waiting: deque[tuple[Future[Any], Callable[[Any], None]]] = deque()

    def submit(self, work: Callable[[A], R], argument: A, take: Callable[[R], None]) -> None:
        """Have `work` done by a thread; `take` gets its result here, in this thread."""
        while len(self._waiting) >= BATCHES_A_THREAD * self._threads:
            self._take_oldest()
        self._waiting.append((self._pool.submit(work, argument), take))

    def _take_oldest(self) -> None:
        future, take = self._waiting.popleft()
        take(future.result())

    def __enter__(self) -> InOrder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._waiting and error is None:
                self._take_oldest()
        finally:
            self._pool.shutdown(cancel_futures=True)


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
