"""Where a tokenizer comes from: trained on the corpus and cached, a local folder, or the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmx.config import DataError, TokenizerConfig, nearest
from lmx.data.client import ROUNDS, cause, downloads, offline, quiet, remove_damaged, watched
from lmx.data.tokenizers import TOKENIZER, ByteTokenizer, SubwordTokenizer, Tokenizer

Say = Callable[[str], None]
CONFIG = "tokenizer_config.json"
# a BPE sees this much of the train split: more hardly changes its merges, and memory stays bounded
SAMPLE_BYTES = 64 * 2**20


def stamp(config: TokenizerConfig) -> dict[str, Any]:
    """Return what tells this tokenizer from another without loading it.

    Raises DataError when the folder of a pretrained one is missing.
    """
    if config.kind == "byte":
        return {"kind": "byte"}
    if config.kind == "bpe":
        return {
            "kind": "bpe",
            "vocab_size": config.vocab_size,
            "eos": config.eos_token,
            "pad": config.pad_token,
        }
    folder = _local_folder(config)
    if folder is None:
        return {"kind": "pretrained", "path": config.path, "revision": config.revision}
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and file.suffix in (".json", ".txt", ".model")
    ]
    return {"kind": "pretrained", "files": [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]}


def obtain(
    config: TokenizerConfig, sample: Sequence[str], cache: Path, say: Say, seconds: float = 30.0
) -> Tokenizer:
    """Return the tokenizer of a configuration; a BPE is trained on `sample`, once for it and the settings.

    Raises DataError when a pretrained one cannot be had; from the Hub, after `seconds` without an answer.
    """
    if config.kind == "byte":
        return ByteTokenizer()
    if config.kind == "bpe":
        return _trained(config, sample, cache, say)
    folder = _local_folder(config)
    return _from_folder(folder) if folder is not None else _from_hub(config, seconds)


def _trained(config: TokenizerConfig, sample: Sequence[str], cache: Path, say: Say) -> Tokenizer:
    key = hashlib.sha256(json.dumps(stamp(config), sort_keys=True).encode())
    for text in sample:
        key.update(text.encode() + b"\0")
    folder = cache / "tokenizers" / key.hexdigest()[:16]
    if folder.is_dir():
        try:
            return Tokenizer.load(folder)
        except DataError as error:
            say(f"{error}; training it again")
            shutil.rmtree(folder)
    characters = sum(map(len, sample))
    say(f"tokenizer: training a BPE of {config.vocab_size:,} on {characters / 1e6:,.1f} M characters")
    tokenizer = train_bpe(config, sample)
    if tokenizer.vocab_size < (config.vocab_size or 0):
        say(f"tokenizer: the text has no more pairs to merge, the vocabulary is {tokenizer.vocab_size:,}")
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    tokenizer.save(temporary)
    try:
        os.rename(temporary, folder)
    except OSError:  # another process has just trained the same one
        shutil.rmtree(temporary)
    return tokenizer


def train_bpe(config: TokenizerConfig, sample: Sequence[str]) -> SubwordTokenizer:
    """Train a byte-level BPE: specials first, then the 256 bytes, then the merges in order; deterministic.

    `eos_token` and `pad_token` are ids 0 and 1; null leaves one out. No space is put before a text.
    """
    from tokenizers import Tokenizer as Rules
    from tokenizers import decoders, models, pre_tokenizers, trainers

    specials = [token for token in (config.eos_token, config.pad_token) if token is not None]
    rules = Rules(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rules.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size or 0,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rules.train_from_iterator(sample, trainer)
    eos, pad = (
        None if token is None else rules.token_to_id(token) for token in (config.eos_token, config.pad_token)
    )
    return SubwordTokenizer(rules.to_str(), eos, pad)


def _local_folder(config: TokenizerConfig) -> Path | None:
    """Return the folder that `tokenizer.path` names, or None when it is a name on the Hub."""
    assert config.path is not None
    path = Path(config.path).expanduser()
    if path.is_dir():
        return path
    if path.is_file() and path.name == TOKENIZER:
        return path.parent
    if config.path.count("/") == 1 and not config.path.startswith((".", "~", "/")):
        return None
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(
        f"tokenizer.path: got {config.path!r}, allowed: an existing folder, or namespace/name on the Hub"
        f"{nearest(path.name, siblings)}"
    )


def _from_folder(folder: Path) -> Tokenizer:
    file = folder / TOKENIZER
    if not file.is_file():
        return _converted(str(folder), None)
    try:
        return SubwordTokenizer.configured(file.read_text(encoding="utf-8"), _config(folder / CONFIG))
    except ValueError as error:
        raise DataError(f"tokenizer.path: {file} cannot be used: {error}") from error


def _from_hub(config: TokenizerConfig, seconds: float) -> Tokenizer:
    """Take what was fetched before; else fetch it, and what arrives damaged once more."""
    assert config.path is not None
    quiet()
    try:
        for _ in range(ROUNDS):
            found = watched(lambda: _fetched(config, seconds), seconds)
            damaged = remove_damaged(downloads("models", config.path))
            if not damaged:
                if found is None:
                    return _converted(config.path, config.revision)
                return SubwordTokenizer.configured(*found)
    except DataError:
        raise
    except Exception as error:  # whatever the client raises becomes one line
        remove_damaged(downloads("models", config.path))
        reason = cause(error, "tokenizer", seconds)
    else:
        reason = f"what arrived is damaged, {ROUNDS} times: {', '.join(damaged)}"
    off = " (HF_HUB_OFFLINE is set)" if offline() else ""
    raise DataError(
        f"tokenizer.path: {config.path} cannot be read: {reason}{off}; allowed: a name on the Hub "
        "(with network, once), or a folder with tokenizer.json"
    )


def _fetched(config: TokenizerConfig, seconds: float) -> tuple[str, dict[str, Any]] | None:
    """Return tokenizer.json and its settings; None where the repository has no tokenizer.json."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def get(name: str, local: bool) -> Path:
        file = hf_hub_download(config.path or "", name, revision=config.revision, local_files_only=local)
        return Path(file)

    try:
        file = get(TOKENIZER, local=True)
    except LocalEntryNotFoundError:
        if offline():
            raise
        # asked once, without the client's retries
        HfApi().model_info(config.path or "", revision=config.revision, timeout=seconds)
        try:
            file = get(TOKENIZER, local=False)
        except EntryNotFoundError:
            return None
        with suppress(EntryNotFoundError):
            get(CONFIG, local=False)
    return file.read_text(encoding="utf-8"), _config(file.with_name(CONFIG))


def _converted(name: str, revision: str | None) -> Tokenizer:
    """Let transformers read or convert what has no tokenizer.json."""
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(name, revision=revision)
        return SubwordTokenizer(loaded.backend_tokenizer.to_str(), loaded.eos_token_id, loaded.pad_token_id)
    except Exception as error:  # whatever transformers raises becomes one line
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"tokenizer.path: {name} has no tokenizer that lmx can use: {reason}") from error


def _config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    config = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{file.name} is no JSON object")
    return config
