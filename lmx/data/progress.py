"""What preparing says while it works."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_SECONDS = 2.0


class Progress:
    """Says every two seconds how far a split is, how fast, and how long it will take."""

    def __init__(self, split: str, size: tuple[int, str] | None, say: Callable[[str], None]) -> None:
        """`size`: what there is to do in "documents" or "bytes", None where nobody knows."""
        self.split = split
        self.size = size
        self.say = say
        self._start = self._said = time.monotonic()

    def update(self, documents: int, size_bytes: int) -> None:
        """Say where the split is, if it is time."""
        now = time.monotonic()
        if now - self._said < EVERY_SECONDS:
            return
        self._said = now
        seconds = now - self._start
        megabytes = size_bytes / 1e6
        text = f"{self.split}: {documents:,} documents, {megabytes:,.1f} MB, {megabytes / seconds:.1f} MB/s"
        if self.size is not None:
            total, unit = self.size
            done = documents if unit == "documents" else size_bytes
            if done:
                text += f", {max(0.0, seconds * (total - done) / done):,.0f} s left"
        self.say(text)
