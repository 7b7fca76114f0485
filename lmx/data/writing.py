"""Preparing a token store, unless it is there: written beside its place and renamed when whole."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from lmx.config import DataConfig, DataError, TokenizerConfig
from lmx.data.documents import Document, Source
from lmx.data.overlap import Overlap
from lmx.data.packing import PACKINGS
from lmx.data.progress import Progress
from lmx.data.sources import read
from lmx.data.split_writer import SplitWriter
from lmx.data.store import TOKENIZER, Store, lock, open_store, seal, writing
from lmx.data.tokenizers import Tokenizer
from lmx.data.vocabulary import SAMPLE_BYTES, obtain


@dataclass
class Preparation:
    """What a store is made of and where it belongs."""

    data: DataConfig
    config: TokenizerConfig
    source: Source
    identity: dict[str, Any]
    cache: Path
    folder: Path  # below the cache
    say: Callable[[str], None]
    tokenizer: Tokenizer | None = None  # once something was tokenized

    def store(self) -> Store:
        """Return the store in `folder`, prepared unless it is there or another process is at it.

        Raises DataError for a corpus that cannot be used, SpaceError when the disk is full, ConfigError when
        the cache cannot be written.
        """
        folder = self.folder
        store = self._opened()
        if store is not None:
            return store
        with writing(self.cache):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with lock(folder.with_name(f".{folder.name}.lock"), self._say_waiting):
                store = self._opened()
                if store is None:
                    self._discard_leftovers()
                    self._prepare()
                    store = open_store(folder)
        assert store is not None
        return store

    def _say_waiting(self) -> None:
        self.say(f"{self.data.name}: another process is preparing it; waiting")

    def _opened(self) -> Store | None:
        try:
            return open_store(self.folder)
        except DataError as error:
            self.say(f"{error}; preparing it again")
            return None

    def _discard_leftovers(self) -> None:
        """Remove what a killed preparation left; we hold the lock, so nobody is at work there."""
        for path in self.folder.parent.glob(f".{self.folder.name}.*"):
            if path.is_dir():
                shutil.rmtree(path)

    def _prepare(self) -> None:
        temporary = self.folder.with_name(f".{self.folder.name}.{secrets.token_hex(4)}")
        temporary.mkdir()
        try:
            seal(temporary, self._write(temporary))
            if self.folder.exists():
                shutil.rmtree(self.folder)
            os.rename(temporary, self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _write(self, folder: Path) -> dict[str, Any]:
        """Write tokenizer and splits into `folder`; return the manifest."""
        data, begun = self.data, time.monotonic()
        splits = self.source.splits()
        for note in self.source.notes:
            self.say(f"{data.name}: {note}")
        train = read(data, self.source, "train")
        sample = self._sample(train)
        texts = [document.text for document in sample]
        tokenizer = obtain(self.config, texts, self.cache, self.say, data.timeout_seconds)
        tokenizer.save(folder / TOKENIZER)
        self.tokenizer = tokenizer
        packing = PACKINGS[data.packing](data, tokenizer.eos_id, tokenizer.pad_id)
        packing.cuts = tokenizer.joins
        check = Overlap()
        dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
        facts: dict[str, Any] = {}
        for split in sorted(splits, key="train".__eq__):  # train last, when what is held out is known
            progress = Progress(split, None if data.max_documents else self.source.size(split), self.say)
            documents = chain(_drained(sample), train) if split == "train" else read(data, self.source, split)
            writer = SplitWriter(folder, split, dtype, tokenizer, packing, check, progress)
            facts[split] = writer.write(documents)
            if facts[split]["documents"] == 0:
                raise self._empty(split)
        tokens, size = (sum(fact[name] for fact in facts.values()) for name in ("tokens", "bytes"))
        seconds = time.monotonic() - begun
        self.say(
            f"{data.name}: prepared {tokens:,} tokens, {size / 1e6:,.1f} MB, in {seconds:,.1f} s "
            f"({size / 1e6 / seconds:,.1f} MB/s)"
        )
        return {
            **self.identity,
            "dtype": dtype,
            "tokenizer": {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size},
            "splits": {split: facts[split] for split in splits},
            "overlap": check.facts(),
            "fingerprint": _fingerprint(tokenizer, facts),
        }

    def _sample(self, train: Iterator[Document]) -> deque[Document]:
        """Take from the train split what a tokenizer is trained on; nothing where none is."""
        if self.config.kind != "bpe":
            return deque()
        sample = deque(_first_bytes(train, SAMPLE_BYTES))
        if not sample:
            raise self._empty("train")
        return sample

    def _empty(self, split: str) -> DataError:
        least = self.data.min_characters
        floor = f" of at least data.min_characters={least}" if least else ""
        return DataError(f"{self.data.name}: the {split} split has no documents{floor}")


def _fingerprint(tokenizer: Tokenizer, facts: dict[str, Any]) -> str:
    """Return a hash of what a model sees: the same wherever the files lay."""
    parts = [tokenizer.fingerprint]
    parts += [f"{name} {fact['tokens_sha256']}" for name, fact in sorted(facts.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


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
