"""From a corpus to batches: source → documents → tokenizer → packing → token store → sampler → DataModule.

Names are looked up when first used, so that asking for facts of a prepared store imports neither torch nor
Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmx.data.corpus import Corpus, prepare
    from lmx.data.datamodule import TokenDataModule
    from lmx.data.tokenizers import Tokenizer
    from lmx.data.windows import Windows

_HOMES = {
    "Corpus": "corpus",
    "prepare": "corpus",
    "TokenDataModule": "datamodule",
    "Tokenizer": "tokenizers",
    "Windows": "windows",
}

__all__ = ["Corpus", "TokenDataModule", "Tokenizer", "Windows", "prepare"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
