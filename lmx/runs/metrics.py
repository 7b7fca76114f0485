"""`metrics.jsonl`: one JSON object a line, appended while training, cut back when a run resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmx.config.errors import SpaceError
from lmx.runs.files import make_folder, scalar, space_guard, sync, write_atomic

NON_FINITE = "non_finite"  # where a line keeps what JSON has no number for


class MetricsLog:
    """A file of JSON lines that each carry a `step`.

    Every line is strict JSON and arrives in one write, so that a killed process leaves at most one torn line,
    the last. A value that is NaN or infinite stands as null, and the line's `non_finite` object says which it
    was: ``{"train/loss": null, "non_finite": {"train/loss": "nan"}}``; reading restores it. A plain null is
    a value that is not known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ready = False

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line. Raises SpaceError when the disk is full; the file then ends as before."""
        if not self._ready:
            self._prepare()
        data = encode_line(line)
        with space_guard(self.path), open(self.path, "ab", buffering=0) as file:
            before = file.tell()
            if file.write(data) != len(data):
                file.truncate(before)
                raise SpaceError(f"{self.path}: cannot be written, the disk is full")

    def rewind(self, step: int) -> int:
        """Remove every line whose `step` is greater than `step`, and a torn one; return how many went.

        All other lines stay byte for byte. A kill during rewinding leaves the old file or the new.
        """
        return self._keep(lambda line: _step_of(line) <= step)

    def position(self) -> int:
        """Return the length of the file in bytes, after flushing it to disk: what a checkpoint keeps.

        A checkpoint that survives a power cut needs its lines to survive as well.
        """
        if not self.path.exists():
            return 0
        with space_guard(self.path):
            sync(self.path)
            sync(self.path.parent)
        return self.path.stat().st_size

    def rewind_to(self, position: int) -> int:
        """Remove every line after `position`, as a checkpoint kept it; return how many went.

        Exact where `rewind` cannot be: a line of the checkpoint's own step, written after the checkpoint.
        """
        end = 0

        def stands_before(line: bytes) -> bool:
            nonlocal end
            end += len(line)
            return end <= position

        return self._keep(stands_before)

    def missing(self, position: int) -> int:
        """Return how many of the bytes before `position` are gone, those of a torn last line too."""
        raw = self.path.read_bytes() if self.path.exists() else b""
        return max(0, position - sum(map(len, whole_lines(raw))))

    def _keep(self, wanted: Callable[[bytes], bool]) -> int:
        if not self.path.exists():
            return 0
        raw = self.path.read_bytes()
        kept = [line for line in whole_lines(raw) if wanted(line)]
        if b"".join(kept) != raw:
            write_atomic(self.path, b"".join(kept))
        return len(raw.splitlines()) - len(kept)

    def _prepare(self) -> None:
        """Make the folder; drop a line that a killed process left torn, lest the next be glued to it."""
        make_folder(self.path.parent)
        self._keep(lambda line: True)
        self._ready = True


def encode_line(line: Mapping[str, Any]) -> bytes:
    """Return one record as a line of strict JSON; numpy and torch scalars become numbers."""
    values = {key: scalar(value) for key, value in line.items()}
    floats = {key: value for key, value in values.items() if isinstance(value, float)}
    odd = {key: str(value) for key, value in floats.items() if not math.isfinite(value)}
    if odd:
        values |= {**dict.fromkeys(odd), NON_FINITE: odd}
    return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def read_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the records of `path` in order, and a sentence for each thing that was wrong with them.

    A missing file has no records. A torn last line is left out silently: it may be being written.
    """
    try:
        return parse_lines(path.name, whole_lines(path.read_bytes()))
    except FileNotFoundError:
        return [], []


def parse_lines(name: str, texts: list[bytes]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the records of whole lines of the file `name`, and a sentence for each thing wrong with them."""
    lines = _parsed(b"[" + b",".join(texts) + b"]")  # all at once: faster than one by one
    if not isinstance(lines, list) or len(lines) != len(texts):
        lines = [_parsed(text) for text in texts]
    records = [line for line in lines if isinstance(line, dict)]
    for record in records:
        if NON_FINITE in record:
            record.update({key: float(text) for key, text in record.pop(NON_FINITE).items()})
    damaged = len(lines) - len(records)
    return records, [f"{name}: {damaged} damaged line(s) left out"] if damaged else []


def whole_lines(raw: bytes) -> list[bytes]:
    """Return the lines of `raw`, each with its newline, without blank ones and without a torn last one."""
    lines = [line for line in raw.split(b"\n") if line.strip()]
    if lines and not raw.endswith(b"\n") and _parsed(lines[-1]) is None:
        lines.pop()
    return [line + b"\n" for line in lines]


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _step_of(line: bytes) -> float:
    """The step of a line; a damaged one counts as before every step, so that rewinding never removes it."""
    record = _parsed(line)
    step = record.get("step") if isinstance(record, dict) else None
    return step if isinstance(step, int) else -1
