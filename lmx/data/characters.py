"""Texts as arrays of code points, and kinds of characters as tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

NUL = "\0"  # in no document: it separates what is worked on in one go
_LAST_SPACE = 0x3000


def code_points(text: str) -> np.ndarray:
    """Return the characters of a text, (N,) uint8 where all are ASCII, else uint32."""
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def space_table(belongs: Callable[[str], bool]) -> np.ndarray:
    """Return which code points up to one above the last space belong: `take(…, mode="clip")` serves all."""
    return np.array([belongs(chr(code)) for code in range(_LAST_SPACE + 2)])
