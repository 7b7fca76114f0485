"""White space in UTF-8, as arrays of bytes."""

from __future__ import annotations

from functools import cache

import numpy as np

NUL = "\0"  # in no document: it separates what is worked on in one go
_LAST_SPACE = 0x3000


def with_plain_spaces(raw: np.ndarray) -> np.ndarray:
    """Return UTF-8 bytes (N,) uint8 with blanks in place of the white space that is not ASCII."""
    first, last = min(_other_spaces())[0], max(_other_spaces())[0]
    places = np.flatnonzero(raw - np.uint8(first) <= last - first)
    places = places[_leads()[raw[places]]]
    for width, codes in _space_codes().items():
        here = places[places + width <= len(raw)]
        code = sum(raw[here + offset].astype(np.uint32) << 8 * offset for offset in range(width))
        here = here[np.isin(code, codes)]
        if len(here):
            raw = raw.copy()
            raw[here[:, None] + np.arange(width)] = ord(" ")
    return raw


@cache
def _other_spaces() -> list[bytes]:
    return [chr(code).encode() for code in range(0x80, _LAST_SPACE + 1) if chr(code).isspace()]


@cache
def _leads() -> np.ndarray:
    """Return for each byte whether such white space may begin with it."""
    return np.isin(np.arange(256), [space[0] for space in _other_spaces()])


@cache
def _space_codes() -> dict[int, list[int]]:
    """Return the numbers that white space of 2 and of 3 bytes is, first byte lowest."""
    spaces = _other_spaces()
    return {n: [int.from_bytes(space, "little") for space in spaces if len(space) == n] for n in (2, 3)}
