"""Preparing a corpus: from settings to windows, through the token store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmx.config import DataConfig, TokenizerConfig
from lmx.data.manifest import cache_folder, facts_of, identity, store_folder, windows_of
from lmx.data.sources import open_source
from lmx.data.store import TOKENIZER, Store
from lmx.data.tokenizers import Tokenizer
from lmx.data.windows import Windows
from lmx.data.writing import Preparation


@dataclass
class Corpus:
    """A prepared corpus.

    `splits`: train, validation and perhaps test. `facts`: plain values for records and reports.
    `fingerprint`: a hash of all tokens and of the tokenizer, the same wherever the files lie.
    """

    tokenizer: Tokenizer
    splits: dict[str, Windows]
    fingerprint: str
    facts: dict[str, Any]
    store: Store

    def steps_per_epoch(self, batch_size: int, drop_last: bool) -> int:
        """Number of batches of `batch_size` train windows; a partial last one counts unless dropped."""
        windows = len(self.splits["train"])
        return windows // batch_size if drop_last else -(-windows // batch_size)

    def describe(self) -> str:
        """Say in one line what it is."""
        train, held = self.facts["splits"]["train"], self.facts["splits"]["validation"]
        return (
            f"{self.facts['name']}: {train['tokens']:,} train and {held['tokens']:,} validation tokens of "
            f"{self.tokenizer.vocab_size:,}, {train['documents']:,} documents, store {self.store.folder.name}"
        )


def prepare(
    data: DataConfig, tokenizer: TokenizerConfig, cache: str | Path, say: Callable[[str], None]
) -> Corpus:
    """Return the corpus of a configuration, from its token store or after preparing that.

    With a store or local files nothing is asked of the network. Raises DataError for a corpus or tokenizer
    that cannot be used, ConfigError for a cache that cannot be written, SpaceError when the disk is full.
    """
    source = open_source(data)
    parts = identity(data, tokenizer, source)
    folder = store_folder(cache, parts["key"])
    preparation = Preparation(data, tokenizer, source, parts, cache_folder(cache), folder, say)
    store = preparation.store()
    own = preparation.tokenizer or Tokenizer.load(store.folder / TOKENIZER)
    splits = windows_of(store, data, own)
    return Corpus(own, splits, store.manifest["fingerprint"], facts_of(store, data, splits), store)
