"""Where documents come from: the embedded corpus, local files, or the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from lmx.config import DataConfig, DataError
from lmx.config.corpus import SPLITS
from lmx.data.documents import Document, Source, is_held_out
from lmx.data.files import by_split, find_files, read_documents
from lmx.data.hub import HubSource
from lmx.data.storyworld import generate_stories


def open_source(data: DataConfig) -> Source:
    """Return the source of a configuration; touches no network.

    Raises DataError when local files are missing or do not make up the splits.
    """
    if data.source == "storyworld":
        return StorySource(data)
    if data.source == "files":
        return _files(data)
    if data.local_dir is not None:
        return _local_dir(data)
    return HubSource(data)


def read(data: DataConfig, source: Source, split: str) -> Iterator[Document]:
    """Yield the documents of a split as the configuration wants them: collapsed, long enough, the first N.

    Raises DataError for text that cannot be UTF-8 or holds a NUL.
    """
    limit = data.max_documents
    if split != "train" and data.max_held_out_documents is not None:
        limit = data.max_held_out_documents
    return islice(_kept(data, source, split), limit)


def _kept(data: DataConfig, source: Source, split: str) -> Iterator[Document]:
    for number, document in enumerate(source.documents(split), start=1):
        text = document.text
        if "\0" in text:
            raise DataError(f"{data.name} {split}: a NUL in document {number:,}, allowed: text")
        try:
            if not text.isascii():
                text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{data.name} {split}: document {number:,} has half a surrogate pair, not UTF-8"
            ) from error
        if data.collapse_whitespace:
            document = Document(" ".join(text.split()))
        if len(document.text) >= data.min_characters:
            yield document


class StorySource:
    """The embedded corpus. Validation and test are its first stories, whatever the number for training."""

    def __init__(self, data: DataConfig) -> None:
        """Take counts and seed from `data`."""
        held = data.held_out_stories
        self.seed = data.story_seed
        self.ranges = {"validation": (0, held), "test": (held, held), "train": (2 * held, data.stories)}
        self.notes: list[str] = []

    def stamp(self) -> dict[str, Any]:
        """Return seed and ranges, and a hash of the code that writes the stories."""
        code = hashlib.sha256()
        for file in sorted((Path(__file__).parent / "storyworld").glob("*.py")):
            code.update(file.read_bytes())
        return {"storyworld": self.seed, "ranges": self.ranges, "code": code.hexdigest()[:16]}

    def splits(self) -> list[str]:
        """Return all three."""
        return list(SPLITS)

    def documents(self, split: str) -> Iterator[Document]:
        """Yield stories with the information in each."""
        start, count = self.ranges[split]
        for story in generate_stories(count, self.seed, start):
            yield Document(story.text, -story.log2_probability)

    def size(self, split: str) -> tuple[int, str] | None:
        """Return the number of stories."""
        return self.ranges[split][1], "documents"


class FileSource:
    """Local files, sorted into splits; without files for validation a share of the documents is held out."""

    def __init__(
        self, files: dict[str, list[Path]], text_field: str, fraction: float | None, notes: list[str]
    ) -> None:
        """`fraction` of the train documents is for validation, chosen by their content; None: nothing is."""
        self.files = files
        self.text_field = text_field
        self.fraction = fraction
        self.notes = notes

    def stamp(self) -> dict[str, Any]:
        """Return name, size and time of change of each file."""
        root = os.path.commonpath([file.parent for files in self.files.values() for file in files])
        return {
            "files": {
                split: [
                    [os.path.relpath(file, root), (stat := file.stat()).st_size, stat.st_mtime_ns]
                    for file in files
                ]
                for split, files in self.files.items()
            },
            "text_field": self.text_field,
            "validation_fraction": self.fraction,
        }

    def splits(self) -> list[str]:
        """Return the splits that have files, and validation where a share of the documents is for it."""
        return [split for split in SPLITS if split in self.files or (split == "validation" and self.fraction)]

    def documents(self, split: str) -> Iterator[Document]:
        """Yield the documents of a split, file by file."""
        held_out = self.fraction is not None and split != "test"
        for file in self.files["train" if held_out else split]:
            for text in read_documents(file, self.text_field):
                if not held_out or is_held_out(text, self.fraction or 0.0) == (split == "validation"):
                    yield Document(text)

    def size(self, split: str) -> tuple[int, str] | None:
        """Return the bytes of the files, unless they are compressed."""
        files = self.files.get(split, self.files["train"])
        if any(file.suffix == ".parquet" for file in files):
            return None
        return sum(file.stat().st_size for file in files), "bytes"


def _files(data: DataConfig) -> FileSource:
    assert data.files is not None
    files = find_files("data.files", data.files)
    if data.validation_files is not None:
        validation = find_files("data.validation_files", data.validation_files)
        both = {file.resolve() for file in files} & {file.resolve() for file in validation}
        if both:
            raise DataError(
                f"data.validation_files: {min(both)} is in data.files too: it would be trained on"
            )
        return FileSource({"train": files, "validation": validation}, data.text_field, None, [])
    path = Path(data.files).expanduser()
    # the name of a single file says nothing: it was asked for
    named = {"": files} if path.is_file() else by_split(files, path if path.is_dir() else path.parent)
    rest = named.pop("", [])
    notes = []
    if "train" in named and rest:
        notes.append(f"not used: {', '.join(file.name for file in rest)}, whose name says no split")
    named.setdefault("train", rest)
    if not named["train"]:
        raise DataError(
            f"data.files: got {data.files!r}, with files for {', '.join(named)} but none for train"
        )
    fraction = None
    if "validation" not in named and data.holdout == "documents":
        fraction = data.validation_fraction
        notes.append(f"validation: {fraction:.1%} of the documents held out, chosen by a hash of their text")
    return FileSource(named, data.text_field, fraction, notes)


def _local_dir(data: DataConfig) -> FileSource:
    """Take the one form (suffix) of the corpus that is complete; never mix the raw and the tokenised."""
    assert data.local_dir is not None
    root = Path(data.local_dir).expanduser()
    if not root.is_dir() and root.exists():
        raise DataError(
            f"data.local_dir: got {data.local_dir!r}, a file; allowed: a folder (data=text takes files)"
        )
    if data.subset and (root / data.subset).is_dir():
        root = root / data.subset
    forms: dict[str, dict[str, list[Path]]] = {}
    for split, files in by_split(find_files("data.local_dir", str(root)), root).items():
        for file in files:
            forms.setdefault(file.suffix, {}).setdefault(split, []).append(file)
    preferred = [".raw", ".tokens"] if "raw" in (data.subset or "raw") else [".tokens", ".raw"]
    for suffix in [*preferred, ".parquet", ".jsonl", ".txt"]:
        splits = {split: files for split, files in forms.get(suffix, {}).items() if split}
        if {"train", "validation"} <= splits.keys():
            return FileSource(splits, data.text_field, None, [f"{root}: {', '.join(splits)} from *{suffix}"])
    seen = sorted(f"{split or 'no split'}: *{suffix}" for suffix, splits in forms.items() for split in splits)
    raise DataError(
        f"data.local_dir: got {data.local_dir!r}, allowed: a folder with train and valid(ation) files of one "
        f"form; found {'; '.join(seen)}"
    )
