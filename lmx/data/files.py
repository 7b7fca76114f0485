"""Local files of text: which of them belong to which split, and the documents in each.

| suffix | a document is |
|---|---|
| .raw .tokens | a line with its newline, as WikiText is published; a blank line is the empty text |
| .txt | what stands between lines of `<|endoftext|>` where the file has them, else between blank lines |
| .jsonl .parquet | the text field of a row |
"""

from __future__ import annotations

import codecs
import glob
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lmx.config import DataError, nearest

END_OF_TEXT = "<|endoftext|>"
PROBED_BYTES = 2**20  # how much of a .txt file is searched for END_OF_TEXT
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


def read_documents(path: Path, text_field: str) -> Iterator[str]:
    """Yield the documents of one file, in order.

    Raises DataError naming file and place where the file is not what its suffix says.
    """
    try:
        yield from READERS[path.suffix](path, text_field)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def find_files(key: str, pattern: str) -> list[Path]:
    """Return the files of text that a folder, a file or a glob stands for, sorted.

    Raises DataError, naming `key` and the nearest existing name, when there is none.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        if path.suffix not in READERS:
            raise DataError(f"{key}: got {pattern!r}, allowed: a file that ends in {' '.join(READERS)}")
        return [path]
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")]
        place = "in the folder"
    elif glob.has_magic(pattern):
        found = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
        place = "among the files that match"
    else:
        siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{key}: got {pattern!r}, which does not exist{nearest(path.name, siblings)}")
    known = sorted(file for file in found if file.suffix in READERS)
    if not known:
        raise DataError(f"{key}: got {pattern!r}, {place} is no file that ends in {' '.join(READERS)}")
    return known


def by_split(files: Iterable[Path], root: Path) -> dict[str, list[Path]]:
    """Sort files by the split that their name below `root` speaks of; '' where it names none or several."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        name = file.relative_to(root).with_suffix("") if file.is_relative_to(root) else Path(file.stem)
        named = {
            _SPLIT_WORDS[word] for word in re.findall("[a-z]+", str(name).lower()) if word in _SPLIT_WORDS
        }
        splits.setdefault(named.pop() if len(named) == 1 else "", []).append(file)
    return splits


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (byte offset, line with its newline); UTF-8 or nothing."""
    offset = 0
    with path.open("rb") as file:
        for raw in file:
            body = raw
            if offset == 0 and raw.startswith(codecs.BOM_UTF8):
                body = raw[len(codecs.BOM_UTF8) :]
            try:
                line = body.decode("utf-8")
            except UnicodeDecodeError as error:
                place = offset + len(raw) - len(body) + error.start
                hint = (
                    "; it looks like UTF-16"
                    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                    else ""
                )
                raise DataError(f"{path}: not UTF-8 at byte {place:,}{hint}; convert it first") from error
            if "\0" in line:
                place = offset + raw.index(b"\0")
                raise DataError(
                    f"{path}: a NUL at byte {place:,}, allowed: text; is it a binary file or UTF-16?"
                )
            yield offset, line
            offset += len(raw)


def _rows(path: Path, text_field: str) -> Iterator[str]:
    for _, line in _lines(path):
        yield line if line.strip() else ""


def _text(path: Path, text_field: str) -> Iterator[str]:
    with path.open("rb") as file:
        marked = END_OF_TEXT.encode() in file.read(PROBED_BYTES)
    lines: list[str] = []
    for _, line in _lines(path):
        line = line.removesuffix("\r\n") + "\n" if line.endswith("\r\n") else line
        if (line.strip() == END_OF_TEXT) if marked else not line.strip():
            yield from _document(lines)
            lines = []
        else:
            lines.append(line)
    yield from _document(lines)


def _document(lines: list[str]) -> Iterator[str]:
    text = "".join(lines).strip("\n")
    if text.strip():
        yield text


def _jsonl(path: Path, text_field: str) -> Iterator[str]:
    decode = json.JSONDecoder().raw_decode
    for number, (_, line) in enumerate(_lines(path), start=1):
        line = line.strip()
        if not line:
            continue
        try:
            row, end = decode(line)
            if end < len(line):
                json.loads(line)  # says what is wrong with the rest
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}:{number}: got {type(row).__name__}, allowed: a JSON object with {text_field!r}"
            )
        text = row.get(text_field)
        if not isinstance(text, str):
            raise _unusable(row, text_field, f"{path}:{number}")
        yield text


def _unusable(row: dict[str, object], text_field: str, place: str) -> DataError:
    if text_field not in row:
        return missing_field(text_field, row, place)
    return DataError(f"{place}: field {text_field!r} is {type(row[text_field]).__name__}, allowed: a string")


def missing_field(text_field: str, names: Iterable[str], place: str) -> DataError:
    """Return the error for rows without `data.text_field`."""
    names = list(names)
    return DataError(
        f"data.text_field: got {text_field!r}, not in {place}; allowed: {', '.join(names) or 'none'}"
        f"{nearest(text_field, names)}"
    )


def _parquet(path: Path, text_field: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if text_field not in schema.names:
                raise missing_field(text_field, schema.names, str(path))
            kind = schema.field(text_field).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise DataError(f"{path}: column {text_field!r} is {kind}, allowed: string")
            for batch in file.iter_batches(batch_size=1024, columns=[text_field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    if not isinstance(text, str):
                        raise _unusable({text_field: text}, text_field, f"{path}: row {number}")
                    yield text
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a whole parquet file of text, after row {number} ({reason})") from error


READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _text,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    ".raw": _rows,
    ".tokens": _rows,
}
