"""Writing whole files so that a reader, or a crash, sees the old content or the new and nothing between."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmx.config.errors import SpaceError, disk_full


@contextmanager
def space_guard(path: Path) -> Iterator[None]:
    """Turn the operating system's "disk full" into a SpaceError that names the file."""
    try:
        yield
    except Exception as error:
        if full := disk_full(error):
            raise SpaceError(f"{path}: cannot be written, the disk is full ({full.strerror})") from error
        raise


def write_atomic(path: Path, content: str | bytes) -> Path:
    """Write `content` to `path` through a temporary file beside it, flushed to disk and renamed.

    Makes missing parent folders. Raises SpaceError when the disk is full; the old file is then untouched.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with space_guard(path), open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write `value` atomically as indented, strict JSON: NaN and infinities become null."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False, default=str)
    return write_atomic(path, text + "\n")


def plain(value: Any) -> Any:
    """Return `value` with numpy and torch scalars as Python's, tuples as lists, non-finite floats as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    value = scalar(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scalar(value: Any) -> Any:
    """Return a numpy or torch scalar as the Python number it holds, anything else as it is."""
    if isinstance(value, str | int | float | None):
        return float(value) if isinstance(value, float) else value
    return value.item() if hasattr(value, "item") else value


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, so that a power cut cannot take them back."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)


def sync(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to the disk; a name needs its folder flushed too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
