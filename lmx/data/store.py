"""The token store: a folder of memory-mapped tokens whose manifest, written last, says what must be in it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lmx.config import ConfigError, DataError, SpaceError

FORMAT = 2  # of the folder; a store of another format is prepared again
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"  # folder of the tokenizer in a store
PROBE_BYTES = 4096  # read at both ends of each file when a store is opened
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@dataclass
class StoredSplit:
    """One split in a store: its tokens, where its documents end, and what is known of its text."""

    folder: Path
    name: str
    dtype: str
    vocab_size: int
    facts: dict[str, Any]

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return int(self.facts["tokens"])

    @cached_property
    def tokens(self) -> np.ndarray:
        """All tokens, (N,) uint16 or uint32, mapped from the file."""
        return _mapped(self.folder / f"{self.name}.tokens", self.dtype)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each document begins, and the end of the last: (documents + 1,) int64."""
        return _mapped(self.folder / f"{self.name}.offsets", "int64")

    def take(self, where: np.ndarray | slice) -> np.ndarray:
        """Return tokens at positions, int64.

        Raises DataError for an id outside the vocabulary: the file is damaged.
        """
        ids = self.tokens[where].astype(np.int64)
        if ids.size and int(ids.max()) >= self.vocab_size:
            raise DataError(
                f"{self.folder}: {self.name} holds token {int(ids.max())}, allowed: below {self.vocab_size}; "
                "the store is damaged: delete the folder, it is prepared again"
            )
        return ids

    def __getstate__(self) -> dict[str, Any]:
        """Leave the maps out: a worker maps the files itself."""
        return {name: value for name, value in self.__dict__.items() if name not in ("tokens", "offsets")}


@dataclass
class Store:
    """A whole store, opened."""

    folder: Path
    manifest: dict[str, Any]

    def split(self, name: str) -> StoredSplit:
        """Return one split."""
        manifest = self.manifest
        facts = manifest["splits"][name]
        return StoredSplit(self.folder, name, manifest["dtype"], manifest["tokenizer"]["vocab_size"], facts)

    def problems(self) -> list[str]:
        """Return what a full check of all hashes finds wrong, a line each."""
        found = []
        for name, entry in self.manifest["files"].items():
            try:
                digest = sha256(self.folder / name)
            except OSError as error:
                found.append(f"{self.folder / name}: cannot be read ({error.strerror})")
                continue
            if digest != entry["sha256"]:
                found.append(
                    f"{self.folder / name}: SHA-256 is {digest[:12]}…, written was {entry['sha256'][:12]}…"
                )
        return found


def open_store(folder: Path) -> Store | None:
    """Return the store in `folder`, or None where there is none.

    Checks the manifest's own hash, and size and both ends of each file. Raises DataError naming what is
    damaged.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(manifest, dict) or manifest.pop("sha256", None) != manifest_hash(manifest):
        raise DataError(f"{path}: damaged, its hash is another")
    if manifest["format"] != FORMAT:
        raise DataError(f"{path}: got format {manifest['format']}, allowed: {FORMAT}")
    for name, entry in manifest["files"].items():
        try:
            same = ends(folder / name) == (entry["bytes"], entry["ends"])
        except OSError as error:
            raise DataError(f"{folder / name}: cannot be read ({error.strerror})") from error
        if not same:
            raise DataError(f"{folder / name}: damaged, not as it was written")
    return Store(folder, manifest)


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a folder whose files are all there: with their hashes, and its own.

    All of it is flushed to the disk first: a power cut must not leave a manifest of files that are not whole,
    for opening a store looks at their ends alone.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    manifest = {"format": FORMAT, **manifest}
    manifest["files"] = {
        str(file.relative_to(folder)): dict(
            zip(("bytes", "ends"), ends(file), strict=True), sha256=sha256(file)
        )
        for file in files
    }
    manifest["sha256"] = manifest_hash(manifest)
    for path in files:
        _sync(path)
    with open(folder / MANIFEST, "w") as file:
        json.dump(manifest, file, indent=1)
    _sync(folder / MANIFEST)


def manifest_hash(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its own hash."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def ends(path: Path) -> tuple[int, int]:
    """Return (size in bytes, CRC-32 of the first and last PROBE_BYTES) of a file."""
    with path.open("rb") as file:
        crc = zlib.crc32(file.read(PROBE_BYTES))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - PROBE_BYTES))
        return size, zlib.crc32(file.read(), crc)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock on `path`, calling `waiting` first where another process holds it.

    The kernel drops it when its process dies.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def writing(cache: Path) -> Iterator[None]:
    """Turn "disk full" and "not allowed" below the cache into one line.

    Raises SpaceError or ConfigError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise SpaceError(f"paths.cache: the disk of {cache} is full ({error.strerror})") from error
        if error.errno in _REFUSED:
            raise ConfigError(f"paths.cache: {cache} cannot be written ({error.strerror})") from error
        raise


def _sync(path: Path) -> None:
    """Flush a file's content to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _mapped(path: Path, dtype: str) -> np.ndarray:
    if path.stat().st_size == 0:
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, "r"))
