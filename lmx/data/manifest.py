"""What identifies a token store, and what is known of one without preparing it. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lmx.config import DataConfig, DataError, TokenizerConfig
from lmx.data.documents import Source
from lmx.data.packing import PACKINGS
from lmx.data.sources import open_source
from lmx.data.store import FORMAT, TOKENIZER, Store, open_store
from lmx.data.tokenizers import Tokenizer
from lmx.data.vocabulary import stamp
from lmx.data.windows import Windows, hold_out

STORES = "stores"


def cache_folder(cache: str | Path) -> Path:
    """Return `paths.cache` as an absolute path."""
    return Path(cache).expanduser().absolute()


def identity(data: DataConfig, config: TokenizerConfig, source: Source) -> dict[str, Any]:
    """Return everything that decides the content of a store; its hash is the name of the folder.

    `data.sequence_length` is not in it: windows are cut when the store is opened.
    """
    parts = {
        "format": FORMAT,
        "source": source.stamp(),
        "documents": {
            "max_documents": data.max_documents,
            **({"max_held_out_documents": held_out} if (held_out := data.max_held_out_documents) else {}),
            "min_characters": data.min_characters,
            "collapse_whitespace": data.collapse_whitespace,
        },
        "form": PACKINGS[data.packing].form(data),
        "tokenizer_settings": stamp(config),
    }
    plain: dict[str, Any] = json.loads(json.dumps(parts))
    return {"key": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16], **plain}


def store_folder(cache: str | Path, key: str) -> Path:
    """Return where the store of an identity lies."""
    return cache_folder(cache) / STORES / key


def windows_of(store: Store, data: DataConfig, tokenizer: Tokenizer) -> dict[str, Windows]:
    """Cut each split of a store into windows.

    Raises DataError when the train split is shorter than one window, or a held-out one has no target.
    """
    packing = PACKINGS[data.packing](data, tokenizer.eos_id, tokenizer.pad_id)
    splits = {}
    for name in store.manifest["splits"]:
        split = store.split(name)
        layout = packing.layout(split, held_out=name != "train")
        if len(layout) == 0:
            raise DataError(
                f"data.sequence_length: got {data.sequence_length}, but the {name} split of {data.name} "
                f"({split.num_tokens:,} tokens, packing={data.packing}) gives no window"
            )
        splits[name] = Windows(split, layout, data.sequence_length, tokenizer.token_bytes)
    if "validation" not in splits:
        splits |= hold_out(splits["train"], data)
    if data.held_out_batch is not None:
        splits |= {
            name: windows.whole_batches(data.held_out_batch)
            for name, windows in splits.items()
            if name != "train"
        }
    for name, windows in splits.items():
        if len(windows) == 0:
            raise DataError(
                f"data.held_out_batch: got {data.held_out_batch}, but the {name} split of {data.name} has "
                "fewer whole windows"
            )
    return splits


def facts_of(store: Store, data: DataConfig, splits: dict[str, Windows]) -> dict[str, Any]:
    """Return what a run's record says of its corpus, as plain values."""
    manifest = store.manifest
    return {
        "name": data.name,
        "fingerprint": manifest["fingerprint"],
        "store": str(store.folder),
        "packing": data.packing,
        "sequence_length": data.sequence_length,
        "tokenizer": manifest["tokenizer"],
        "splits": {
            name: {
                **windows.split.facts,
                "windows": len(windows),
                "targets": windows.targets,
                "floor_bits_per_byte": windows.floor_bits_per_byte,
            }
            for name, windows in splits.items()
        },
        "overlap": manifest["overlap"],
    }


def open_prepared(data: DataConfig, tokenizer: TokenizerConfig, cache: str | Path) -> Store | None:
    """Return the store that a configuration would use, or None where it is not prepared.

    Raises DataError when local files are missing or the store is damaged.
    """
    return open_store(store_folder(cache, identity(data, tokenizer, open_source(data))["key"]))


def find(data: DataConfig, tokenizer: TokenizerConfig, cache: str | Path) -> dict[str, Any] | None:
    """Return the facts (as `facts_of`) of the store that a configuration would use; None: it is not prepared.

    Raises DataError as `open_prepared` and `windows_of` do.
    """
    store = open_prepared(data, tokenizer, cache)
    if store is None:
        return None
    return facts_of(store, data, windows_of(store, data, Tokenizer.load(store.folder / TOKENIZER)))
