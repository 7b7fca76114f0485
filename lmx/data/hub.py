"""Corpora of the Hugging Face Hub, through the `datasets` library, with failures that are short and clear."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from lmx.config import DataConfig, DataError, nearest
from lmx.config.corpus import SPLITS
from lmx.data.client import ROUNDS, arrived, cause, downloads, offline, quiet, remove_damaged, watched
from lmx.data.documents import Document, is_held_out
from lmx.data.files import missing_field

T = TypeVar("T")
ROWS = 1000  # fetched at a time


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
        return self.data.shares_train and self.data.holdout == "documents"

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
        if self.data.shares_train and not self._held_out():
            del names["validation"]  # the windows of train serve
        for split, name in names.items():
            if name.partition("[")[0] not in available:
                raise DataError(f"data.splits.{split}: got {name!r}, {allowed}{nearest(name, available)}")
        for split in ("train", "validation"):
            if not self.data.splits.get(split):
                raise DataError(f"data.splits.{split}: got nothing, {allowed}")
        return names

    def _available(self) -> list[str]:
        from datasets import load_dataset_builder

        quiet()
        self._commit = self.data.revision if offline() else self._reach()
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
        chosen = dataset if columns is None else dataset.select_columns([field])
        batches = chosen.iter(batch_size=ROWS)
        while batch := self._watched(lambda: next(batches, None)):
            if field not in batch:
                raise missing_field(field, batch, self.repository)
            yield from batch[field]

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
        if self.data.streaming or offline():
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

        prepared = Path(config.HF_DATASETS_CACHE) / self.repository.replace("/", "___").lower()
        return [downloads("datasets", self.repository), prepared]

    def _fetched_bytes(self) -> int:
        return sum(map(arrived, self._folders()))

    def _remove_damaged(self) -> list[str]:
        """Delete downloads that are not what the Hub announced, and what was made of them; return names."""
        fetched, prepared = self._folders()
        damaged = remove_damaged(fetched)
        if damaged:
            shutil.rmtree(prepared, ignore_errors=True)
        return damaged

    def _watched(self, action: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """Run `action` while it progresses; the client's own errors become DataErrors of one line."""
        try:
            return watched(action, self.data.timeout_seconds, progress)
        except DataError:
            raise
        except Exception as error:  # whatever the client raises
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> DataError:
        text = str(error)
        if "BuilderConfig" in text or "Config name is missing" in text:
            names = re.findall(r"'([^']+)'", text.partition("vailable")[2])
            allowed = (
                f", allowed: {', '.join(names)}{nearest(self.data.subset or '', names)}" if names else ""
            )
            return DataError(f"data.subset: got {self.data.subset!r} for {self.repository}{allowed}")
        return self._error(cause(error, "data", self.data.timeout_seconds))

    def _error(self, reason: str) -> DataError:
        off = " (HF_HUB_OFFLINE is set)" if offline() else ""
        name = f"hub data.repository={self.repository}" if self.data.name == "hub" else self.data.name
        return DataError(
            f"data.repository: {self.repository} cannot be read: {reason}{off}; with network, once: "
            f"python -m lmx.data prepare data={name}; or data.local_dir=DIR"
        )
