"""Calls of the Hub's clients: they end in time and quietly, and what went wrong is said in a few words."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.1
ROUNDS = 2  # a file that arrived damaged is fetched once more
_RETRYING = ("huggingface_hub.utils._http", "datasets.utils.file_utils")  # loggers that say why they retry


def watched(action: Callable[[], T], seconds: float, progress: Callable[[], int] = lambda: 0) -> T:
    """Run `action` in a thread; give up when it neither ends nor progresses for `seconds`.

    Raises what `action` raises, and TimeoutError for waiting too long. The thread of a client that hangs is
    left behind, to end with the process.
    """
    results: list[T] = []
    failures: list[Exception] = []
    _remarks.last = ""

    def target() -> None:
        try:
            results.append(action())
        except Exception as error:  # whatever the client raises is the caller's
            failures.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    last, since = progress(), time.monotonic()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        if (now := progress()) != last:
            last, since = now, time.monotonic()
        elif thread.is_alive() and time.monotonic() - since > seconds:
            raise TimeoutError(f"no progress in {seconds:g} s")
    if failures:
        raise failures[0]
    return results[0]


def cause(error: BaseException, group: str, seconds: float) -> str:
    """Say in a few words what stood between a client and its data.

    `group`: whose revision it was, "data" or "tokenizer"; `seconds`: the time that it had.
    """
    chain = _chain(error)
    for link in chain:
        status = getattr(getattr(link, "response", None), "status_code", None)
        if status is not None:
            return _status(int(status), link, group)
    if any("Timeout" in type(link).__name__ for link in chain):
        last = f" ({_remarks.last})" if _remarks.last else ""
        return f"no answer in data.timeout_seconds={seconds:g}{last}"
    for link in chain:
        if type(link).__name__ in ("ConnectError", "ConnectionError", "ConnectionRefusedError"):
            return f"no connection ({_first_line(link)})"
    return f"{type(error).__name__}: {_first_line(error)}"


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def quiet() -> None:
    """Silence the clients' progress bars and retries: lmx says what matters in its own lines."""
    import datasets
    import huggingface_hub

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()
    for name in _RETRYING:
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        logger.handlers = [_remarks]


def downloads(kind: str, repository: str) -> Path:
    """Return the folder in which the client keeps a repository; `kind` is "datasets" or "models"."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"{kind}--{repository.replace('/', '--')}"


def arrived(folder: Path) -> int:
    """Return the bytes below a folder into which a client may be writing."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.lstat().st_size
        except OSError:  # renamed between listing and asking
            continue
    return total


def remove_damaged(folder: Path) -> list[str]:
    """Delete what was downloaded into `folder` and is not what its name, a hash, says; return the names."""
    damaged = []
    for blob in folder.glob("blobs/*"):
        if re.fullmatch("[0-9a-f]{64}|[0-9a-f]{40}", blob.name) and _hash(blob) != blob.name:
            damaged.append(blob.name[:12])
            for link in folder.glob("snapshots/**/*"):
                if link.is_symlink() and link.resolve() == blob.resolve():
                    link.unlink()
            blob.unlink()
    return damaged


class _Remarks(logging.Handler):
    """Keeps the status for which a client tried again, to be told when the time is over."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.match(r"HTTP Error \d+", record.getMessage()):
            self.last = found[0]


_remarks = _Remarks()


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and what it came from, the latest first."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    return chain


def _status(status: int, error: BaseException, group: str) -> str:
    if type(error).__name__ == "RevisionNotFoundError":
        return f"it has no such revision ({group}.revision)"
    reasons = {
        401: "it does not exist, or is private (401)",
        403: "access is refused (403)",
        404: "it does not exist (404)",
        429: "too many requests (429), try later",
    }
    return reasons.get(status, f"the Hub answers {status}")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _hash(path: Path) -> str:
    """Return what the Hub would name a file: its SHA-256, or of a small one the id that git gives it."""
    with path.open("rb") as file:
        if len(path.name) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        content = file.read()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
