"""Preparing a token store: documents stream through once, in batches, into files."""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from lmx.config import DataConfig, DataError, TokenizerConfig
from lmx.data.documents import Document, Source
from lmx.data.overlap import Overlap
from lmx.data.packing import PACKINGS, Packing, Piece, chunks
from lmx.data.progress import Progress
from lmx.data.sources import read
from lmx.data.store import TOKENIZER, Store, lock, open_store, seal, writing
from lmx.data.tokenizers import Tokenizer
from lmx.data.vocabulary import SAMPLE_BYTES, obtain

Say = Callable[[str], None]
BATCH_CHARACTERS = 2**21  # tokenized at a time
MANY_WORDS = 2**16  # in one text: looked through at once for leaks


def build_store(
    folder: Path,
    identity: dict[str, Any],
    data: DataConfig,
    config: TokenizerConfig,
    source: Source,
    cache: Path,
    say: Say,
) -> Store:
    """Prepare the store in `folder`, unless another process has meanwhile; return it.

    Written beside its place and renamed when whole. Raises DataError for a corpus that cannot be used,
    SpaceError when the disk is full, ConfigError when the cache cannot be written.
    """
    store = _opened(folder, say)
    if store is not None:
        return store
    with writing(cache):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock(folder.with_name(f".{folder.name}.lock")):
            store = _opened(folder, lambda text: None)
            if store is None:
                _discard_leftovers(folder)
                temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
                try:
                    _write(temporary, identity, data, config, source, cache, say)
                    if folder.exists():
                        shutil.rmtree(folder)
                    os.rename(temporary, folder)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
                store = open_store(folder)
    assert store is not None
    return store


def _opened(folder: Path, say: Say) -> Store | None:
    try:
        return open_store(folder)
    except DataError as error:
        say(f"{error}; preparing it again")
        return None


def _discard_leftovers(folder: Path) -> None:
    """Remove what a killed preparation left; we hold the lock, so nobody is at work there."""
    for path in folder.parent.glob(f".{folder.name}.*"):
        if path.is_dir():
            shutil.rmtree(path)


def _write(
    folder: Path,
    identity: dict[str, Any],
    data: DataConfig,
    config: TokenizerConfig,
    source: Source,
    cache: Path,
    say: Say,
) -> None:
    folder.mkdir()
    splits = source.splits()
    for note in source.notes:
        say(f"{data.name}: {note}")
    train = read(data, source, "train")
    sample = deque(_first_bytes(train, SAMPLE_BYTES)) if config.kind == "bpe" else deque()
    if config.kind == "bpe" and not sample:
        raise _empty(data, "train")
    tokenizer = obtain(config, [document.text for document in sample], cache, say)
    tokenizer.save(folder / TOKENIZER)
    packing = PACKINGS[data.packing](data, tokenizer.eos_id, tokenizer.pad_id)
    check = Overlap()
    facts: dict[str, Any] = {}
    for split in sorted(splits, key="train".__eq__):  # train last, when what is held out is known
        progress = Progress(split, None if data.max_documents else source.size(split), say)
        documents = chain(_drained(sample), train) if split == "train" else read(data, source, split)
        facts[split] = _SplitWriter(folder, split, tokenizer, packing, check, progress).write(documents)
        if facts[split]["documents"] == 0:
            raise _empty(data, split)
    manifest = {
        **identity,
        "dtype": _dtype(tokenizer.vocab_size),
        "tokenizer": {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size},
        "splits": {split: facts[split] for split in splits},
        "overlap": check.facts(),
    }
    manifest["fingerprint"] = _fingerprint(manifest)
    seal(folder, manifest)
    say(f"{data.name}: prepared {sum(fact['tokens'] for fact in facts.values()):,} tokens")


def _fingerprint(manifest: dict[str, Any]) -> str:
    """Return a hash of what a model sees: the same wherever the files lay."""
    parts = [manifest["tokenizer"]["fingerprint"]]
    parts += [f"{name} {fact['tokens_sha256']}" for name, fact in sorted(manifest["splits"].items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _empty(data: DataConfig, split: str) -> DataError:
    floor = f" of at least data.min_characters={data.min_characters}" if data.min_characters else ""
    return DataError(f"{data.name}: the {split} split has no documents{floor}")


def _dtype(vocab_size: int) -> str:
    return "uint16" if vocab_size <= 2**16 else "uint32"


def _first_bytes(documents: Iterator[Document], limit: int) -> Iterator[Document]:
    size = 0
    for document in documents:
        yield document
        size += len(document.text.encode())
        if size >= limit:
            return


def _drained(sample: deque[Document]) -> Iterator[Document]:
    while sample:
        yield sample.popleft()


class _SplitWriter:
    """Writes one split and counts what goes through."""

    def __init__(
        self,
        folder: Path,
        split: str,
        tokenizer: Tokenizer,
        packing: Packing,
        check: Overlap,
        progress: Progress,
    ) -> None:
        self.folder = folder
        self.split = split
        self.tokenizer = tokenizer
        self.packing = packing
        self.check = check
        self.progress = progress
        self.dtype = _dtype(tokenizer.vocab_size)
        self.documents = self.words = self.bytes = self.tokens = self.longest = 0
        self.bits = 0.0
        self.text_hash = hashlib.sha256()
        self.token_hash = hashlib.sha256()
        self._waiting: list[list[str]] = []  # documents, as words, that the leak check has not seen

    def write(self, documents: Iterable[Document]) -> dict[str, Any]:
        """Write tokens and offsets; return the facts of the split."""
        with (
            open(self.folder / f"{self.split}.tokens", "wb") as tokens,
            open(self.folder / f"{self.split}.offsets", "wb") as offsets,
        ):
            if self.packing.leads_with_eos:
                self._put(tokens, np.array([self.tokenizer.eos_id]))
            offsets.write(np.int64(self.tokens).tobytes())
            for batch in _batches(self.packing.pieces(self._counted(documents))):
                ids, document_ends = self._encoded(batch)
                offsets.write((self.tokens + document_ends).tobytes())
                self._put(tokens, ids)
                self._look_for_leaks()
                self.progress.update(self.documents, self.bytes)
        return self._facts()

    def _counted(self, documents: Iterable[Document]) -> Iterator[str]:
        for text, bits in documents:
            for part in chunks(text):  # the words of a long text all at once would fill the memory
                words = part.split()
                self.words += len(words)
                self._waiting.append(words)
                if len(words) >= MANY_WORDS:
                    self._look_for_leaks()
            self.bits += math.nan if bits is None else bits
            if text and not text.isspace():
                self.documents += 1
            raw = text.encode()
            self.longest = max(self.longest, len(raw))
            self.text_hash.update(raw)
            self.text_hash.update(b"\0")
            yield text

    def _encoded(self, batch: list[Piece]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of a batch with each EOS, and the end of each document in them."""
        texts = [piece.text for piece in batch]
        self.bytes += sum(len(text.encode()) for text in texts)
        encoded = self.tokenizer.encode_batch(texts)
        if self.packing.adds_eos:
            eos = np.array([self.tokenizer.eos_id], dtype=np.uint32)
            encoded = [
                part
                for ids, piece in zip(encoded, batch, strict=True)
                for part in (ids, eos)[: 1 + piece.last]
            ]
            closes = np.array([part is eos for part in encoded])
        else:
            closes = np.array([piece.last for piece in batch])
        lengths = np.array([len(part) for part in encoded], dtype=np.int64)
        return np.concatenate(encoded), np.cumsum(lengths)[closes]

    def _put(self, file: Any, ids: np.ndarray) -> None:
        raw = ids.astype(self.dtype).tobytes()
        file.write(raw)
        self.token_hash.update(raw)
        self.tokens += len(ids)

    def _look_for_leaks(self) -> None:
        if self.split == "train":
            self.check.pass_by(self._waiting)
        else:
            self.check.hold_out(self.split, self._waiting)
        self._waiting = []

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
