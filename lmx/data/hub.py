"""Corpora of the Hugging Face Hub, through the `datasets` library, with failures that are short and clear."""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from lmx.config import DataConfig, DataError, nearest
from lmx.data.documents import SPLITS, Document, is_held_out
from lmx.data.files import missing_field

T = TypeVar("T")
ROWS = 1000  # fetched at a time
POLL_SECONDS = 0.1
ROUNDS = 2  # a file that arrived damaged is fetched once more


class HubSource:
    """A dataset of the Hub. Nothing is asked of the network before `splits` or `documents`."""

    def __init__(self, data: DataConfig) -> None:
        """Take repository, subset, revision and splits from `data`."""
        assert data.repository is not None
        self.data = data
        self.repository = data.repository
        self.notes: list[str] = []
        self._commit: str | None = None
        self._names: dict[str, str] | None = None
        self._loaded: dict[str, Any] = {}

    def stamp(self) -> dict[str, Any]:
        """Return the settings: a revision is taken to stay what it is."""
        data = self.data
        stamp: dict[str, Any] = {"hub": self.repository, "subset": data.subset, "revision": data.revision}
        stamp |= {"splits": dict(data.splits), "text_field": data.text_field}
        if self._held_out():
            stamp["validation_fraction"] = data.validation_fraction
        return stamp

    def _held_out(self) -> bool:
        return self.data.splits.get("validation") == self.data.splits.get("train")

    def splits(self) -> list[str]:
        """Return the splits, after asking the Hub whether it has them; no file of them is fetched.

        Raises DataError naming what is missing and the nearest name.
        """
        if self._names is None:
            self._names = self._check(self._available())
        return list(self._names)

    def _check(self, available: list[str]) -> dict[str, str]:
        allowed = f"allowed for {self.repository}: {', '.join(available)}"
        names = {split: name for split in SPLITS if (name := self.data.splits.get(split))}
        for split, name in names.items():
            if name.partition("[")[0] not in available:
                raise DataError(f"data.splits.{split}: got {name!r}, {allowed}{nearest(name, available)}")
        for split in ("train", "validation"):
            if split not in names:
                raise DataError(f"data.splits.{split}: got nothing, {allowed}")
        return names

    def _available(self) -> list[str]:
        from datasets import load_dataset_builder

        _quiet()
        self._commit = self.data.revision if _offline() else self._reach()
        builder = self._watched(
            lambda: load_dataset_builder(self.repository, self.data.subset, revision=self._commit)
        )
        # what is prepared in the client's own cache knows its splits, but no files
        return [str(name) for name in builder.config.data_files or builder.info.splits or ()]

    def _reach(self) -> str | None:
        """Ask once, without the client's retries, whether the repository is there; return its commit."""
        from huggingface_hub import HfApi

        timeout = self.data.timeout_seconds
        api = HfApi()
        return self._watched(
            lambda: api.dataset_info(self.repository, revision=self.data.revision, timeout=timeout).sha
        )

    def size(self, split: str) -> tuple[int, str] | None:
        """Return the number of rows, where all of them were fetched."""
        if self.data.streaming or self._held_out():
            return None
        return len(self._load(split)), "documents"

    def documents(self, split: str) -> Iterator[Document]:
        """Yield the rows of a split.

        Raises DataError with repository and cause when they cannot be fetched.
        """
        dataset = self._load(split)
        held_out = self._held_out() and split != "test"
        for text in self._texts(dataset):
            if not isinstance(text, str):
                raise DataError(
                    f"{self.repository}: field {self.data.text_field!r} is {type(text).__name__}, not text"
                )
            if not held_out or is_held_out(text, self.data.validation_fraction) == (split == "validation"):
                yield Document(text)

    def _texts(self, dataset: Any) -> Iterator[Any]:
        field, columns = self.data.text_field, dataset.column_names
        if columns is not None and field not in columns:
            raise missing_field(field, columns, self.repository)
        rows = iter(dataset if columns is None else dataset.select_columns([field]))
        while batch := self._watched(lambda: list(islice(rows, ROWS))):
            for row in batch:
                if field not in row:
                    raise missing_field(field, row, self.repository)
                yield row[field]

    def _load(self, split: str) -> Any:
        self.splits()
        assert self._names is not None
        name = self._names[split]
        if name not in self._loaded:
            self._loaded[name] = self._fetch(name)
        return self._loaded[name]

    def _fetch(self, name: str) -> Any:
        """Fetch one split; a file that is not what the Hub announced is deleted and fetched once more."""
        from datasets import load_dataset

        options: dict[str, Any] = {"split": name, "revision": self._commit, "streaming": self.data.streaming}
        if self.data.streaming or _offline():
            return self._watched(lambda: load_dataset(self.repository, self.data.subset, **options))
        for _ in range(ROUNDS):
            failure: DataError | None = None
            try:
                dataset = self._watched(
                    lambda: load_dataset(self.repository, self.data.subset, **options), self._fetched_bytes
                )
            except DataError as error:
                failure = error
            damaged = self._remove_damaged()
            if not damaged and failure is not None:
                raise failure
            if not damaged:
                return dataset
            options["download_mode"] = "force_redownload"
        raise self._error(f"what arrived is damaged, {ROUNDS} times: {', '.join(damaged)}")

    def _folders(self) -> list[Path]:
        from datasets import config
        from huggingface_hub import constants

        downloads = Path(constants.HF_HUB_CACHE) / f"datasets--{self.repository.replace('/', '--')}"
        prepared = Path(config.HF_DATASETS_CACHE) / self.repository.replace("/", "___").lower()
        return [downloads, prepared]

    def _fetched_bytes(self) -> int:
        return sum(_size(file) for folder in self._folders() for file in folder.rglob("*"))

    def _remove_damaged(self) -> list[str]:
        """Delete downloads whose SHA-256 is not their name, and what was made of them; return their names."""
        downloads, prepared = self._folders()
        damaged = []
        for blob in downloads.glob("blobs/*"):
            if re.fullmatch("[0-9a-f]{64}", blob.name) and _sha256(blob) != blob.name:
                damaged.append(blob.name[:12])
                for link in downloads.glob("snapshots/**/*"):
                    if link.is_symlink() and link.resolve() == blob.resolve():
                        link.unlink()
                blob.unlink()
        if damaged:
            shutil.rmtree(prepared, ignore_errors=True)
        return damaged

    def _watched(self, action: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """Run `action` in a thread; give up when it neither ends nor progresses for `data.timeout_seconds`.

        Raises DataError: the client's own errors in one line, and one for waiting too long. The thread of a
        client that hangs is left behind, to end with the process.
        """
        results: list[T] = []
        failures: list[Exception] = []

        def target() -> None:
            try:
                results.append(action())
            except Exception as error:  # whatever the client raises becomes one line below
                failures.append(error)

        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        last, since = progress(), time.monotonic()
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            if (now := progress()) != last:
                last, since = now, time.monotonic()
            elif thread.is_alive() and time.monotonic() - since > self.data.timeout_seconds:
                raise self._too_late()
        if failures:
            raise self._translated(failures[0]) from failures[0]
        return results[0]

    def _translated(self, error: Exception) -> DataError:
        if isinstance(error, DataError):
            return error
        text = str(error)
        if "BuilderConfig" in text or "Config name is missing" in text:
            names = re.findall(r"'([^']+)'", text.partition("vailable")[2])
            allowed = (
                f", allowed: {', '.join(names)}{nearest(self.data.subset or '', names)}" if names else ""
            )
            return DataError(f"data.subset: got {self.data.subset!r} for {self.repository}{allowed}")
        if any("Timeout" in type(link).__name__ for link in _chain(error)):
            return self._too_late()
        return self._error(cause(error))

    def _too_late(self) -> DataError:
        return self._error(f"no answer in data.timeout_seconds={self.data.timeout_seconds:g}")

    def _error(self, reason: str) -> DataError:
        offline = " (HF_HUB_OFFLINE is set)" if _offline() else ""
        return DataError(
            f"data.repository: {self.repository} cannot be read: {reason}{offline}; with network, once: "
            f"python -m lmx.data prepare data={self.data.name}; or data.local_dir=DIR"
        )


def cause(error: BaseException) -> str:
    """Say in a few words what stood between a client of the Hub and its data."""
    chain = _chain(error)
    for link in chain:
        status = getattr(getattr(link, "response", None), "status_code", None)
        if status is not None:
            return _status(int(status), link)
    for link in chain:
        if type(link).__name__ in ("ConnectError", "ConnectionError", "ConnectionRefusedError"):
            return f"no connection ({_first_line(link)})"
    return f"{type(error).__name__}: {_first_line(error)}"


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and what it came from, the latest first."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    return chain


def _status(status: int, error: BaseException) -> str:
    if type(error).__name__ == "RevisionNotFoundError":
        return "it has no such revision (data.revision)"
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


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _quiet() -> None:
    """Silence the clients' progress bars and retries: lmx says what matters in its own lines."""
    import datasets
    import huggingface_hub

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # renamed between listing and asking
        return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
