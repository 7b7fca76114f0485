"""Small corpora and the settings for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx.config import DataConfig, TokenizerConfig
from lmx.data import Corpus, prepare
from lmx.data.store import StoredSplit

BYTE = TokenizerConfig(name="byte", kind="byte")
EOS = 256


def bpe(vocab_size: int = 300) -> TokenizerConfig:
    return TokenizerConfig(name="bpe", kind="bpe", vocab_size=vocab_size)


def real_data() -> Path:
    """The folder of real corpora; the test is skipped without it."""
    folder = os.environ.get("LMX_TEST_DATA")
    if not folder:
        pytest.skip("set LMX_TEST_DATA to a folder with wikitext-2, tinystories and tokenizers to run this")
    return Path(folder)


def gpt2() -> TokenizerConfig:
    return TokenizerConfig(name="gpt2", kind="pretrained", path=str(real_data() / "tokenizers/gpt2"))


def write_splits(folder: Path, train: str, validation: str, suffix: str = ".txt") -> DataConfig:
    """Write two files and return the settings that read them as bytes in windows of 8."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"train{suffix}").write_bytes(train.encode())
    (folder / f"valid{suffix}").write_bytes(validation.encode())
    return files_config(str(folder))


def files_config(files: str, **changes: Any) -> DataConfig:
    return DataConfig(**{"name": "small", "source": "files", "files": files, "sequence_length": 8, **changes})


def silent(text: str) -> None:
    pass


def prepared(data: DataConfig, cache: Path, tokenizer: TokenizerConfig = BYTE) -> Corpus:
    return prepare(data, tokenizer, cache, silent)


def split_of(tokens: Sequence[int], ends: Sequence[int] = ()) -> StoredSplit:
    """A split that is not on disk: byte tokens and where documents end."""
    split = StoredSplit(Path("nowhere"), "train", "uint16", 257, {"tokens": len(tokens)})
    split.__dict__["tokens"] = np.array(tokens, dtype=np.uint16)
    split.__dict__["offsets"] = np.array([0, *ends], dtype=np.int64)
    return split
