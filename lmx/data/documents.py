"""What a source is, and what it yields."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol


class Document(NamedTuple):
    """A text, and where its source knows them the bits of information in it."""

    text: str
    bits: float | None = None


class Source(Protocol):
    """A corpus: its splits and the documents of each, always in the same order."""

    notes: list[str]  # what was chosen and should be said

    def stamp(self) -> dict[str, Any]:
        """Return what tells this corpus from another unread: settings, or files with size and time."""
        ...

    def splits(self) -> list[str]:
        """Return the splits there are: train and, unless its windows serve, validation; perhaps test."""
        ...

    def documents(self, split: str) -> Iterator[Document]:
        """Yield the documents of a split."""
        ...

    def size(self, split: str) -> tuple[int, str] | None:
        """Return how much `documents` will yield, in "documents" or "bytes", where that is known."""
        ...


def is_held_out(text: str, fraction: float) -> bool:
    """Whether a document is for validation: by a hash of its text, so that equal ones stay together."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) < fraction * 2**64
