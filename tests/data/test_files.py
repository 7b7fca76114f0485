"""Local files: what a document is in each, and how bad ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmx.config import DataError
from lmx.data.files import by_split, find_files, read_documents


def documents(path: Path, content: bytes, field: str = "text") -> list[str]:
    path.write_bytes(content)
    return list(read_documents(path, field))


def test_wikitext_rows_keep_their_newline_and_blank_lines_become_empty(tmp_path: Path) -> None:
    assert documents(tmp_path / "a.raw", b" \n = Title = \n \n A line . \n") == [
        "",
        " = Title = \n",
        "",
        " A line . \n",
    ]


def test_text_is_cut_at_blank_lines_of_either_kind(tmp_path: Path) -> None:
    content = b"one\ntwo\n\n\n \t\nthree\r\n\r\nfour"
    assert documents(tmp_path / "a.txt", content) == ["one\ntwo", "three", "four"]


def test_text_with_markers_is_cut_there_only(tmp_path: Path) -> None:
    content = b"one\n\ntwo\n<|endoftext|>\nthree\n<|endoftext|>\n"
    assert documents(tmp_path / "a.txt", content) == ["one\n\ntwo", "three"]


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert documents(tmp_path / "a.txt", b"\xef\xbb\xbfone") == ["one"]


def test_jsonl_and_parquet_give_their_text_field(tmp_path: Path) -> None:
    rows = [{"text": "one", "n": 1}, {"text": "zwei\nü", "n": 2}]
    lines = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    assert documents(tmp_path / "a.jsonl", lines.encode()) == ["one", "zwei\nü"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(read_documents(tmp_path / "a.parquet", "text")) == ["one", "zwei\nü"]


def test_one_long_line_is_one_document(tmp_path: Path) -> None:
    assert documents(tmp_path / "a.txt", b"word " * 500_000) == ["word " * 500_000]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.txt", b"fine\nna\xefve", r"a\.txt: not UTF-8 at byte 7;"),
        ("a.txt", "text".encode("utf-16"), r"not UTF-8 at byte 0; it looks like UTF-16"),
        ("a.txt", b"fine\nb\0d", r"a\.txt: a NUL at byte 6, allowed: text"),
        ("a.raw", b"\xef\xbb\xbfok\xff", r"not UTF-8 at byte 5"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: got list, allowed: a JSON object with 'text'"),
        (
            "a.jsonl",
            b'{"txt": "a"}\n',
            r"data\.text_field: got 'text', not in .*:1; allowed: txt; did you mean 'txt'",
        ),
        ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl:1: field 'text' is int, allowed: a string"),
        ("a.parquet", b"PAR1 this is none", r"a\.parquet: not a whole parquet file"),
    ],
)
def test_bad_content_is_named_with_its_place(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    with pytest.raises(DataError, match=text):
        documents(tmp_path / name, content)


def test_parquet_columns_are_checked(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": ["a"], "number": [1]}), tmp_path / "a.parquet")
    with pytest.raises(
        DataError, match=r"got 'contents', not in .*allowed: content, number; did you mean 'content'"
    ):
        list(read_documents(tmp_path / "a.parquet", "contents"))
    with pytest.raises(DataError, match=r"column 'number' is int64, allowed: string"):
        list(read_documents(tmp_path / "a.parquet", "number"))
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"row 2: field 'text' is NoneType"):
        list(read_documents(tmp_path / "b.parquet", "text"))


def test_parquet_with_damaged_pages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"story {i}" for i in range(5000)]}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[100:2000] = bytes(1900)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read \(.*[Cc]orrupt"):
        list(read_documents(path, "text"))


def test_files_are_found_by_folder_file_and_glob(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl", "sub/c.txt", "readme.md", ".hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [p.name for p in find_files("data.files", str(tmp_path))] == ["a.jsonl", "b.txt", "c.txt"]
    assert [p.name for p in find_files("data.files", str(tmp_path / "*.txt"))] == ["b.txt"]
    assert [p.name for p in find_files("data.files", str(tmp_path / "b.txt"))] == ["b.txt"]


def test_missing_files_name_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "stories").mkdir()
    with pytest.raises(
        DataError, match=r"data\.files: got '.*storys', which does not exist; did you mean 'stories'"
    ):
        find_files("data.files", str(tmp_path / "storys"))
    with pytest.raises(DataError, match=r"in the folder is no file that ends in \.txt"):
        find_files("data.files", str(tmp_path / "stories"))
    with pytest.raises(DataError, match=r"among the files that match is no file"):
        find_files("data.files", str(tmp_path / "*.txt"))
    (tmp_path / "a.csv").write_text("a")
    with pytest.raises(DataError, match=r"allowed: a file that ends in \.txt \.jsonl"):
        find_files("data.files", str(tmp_path / "a.csv"))


def test_splits_are_read_from_names() -> None:
    names = {
        "wiki.train.tokens": "train",
        "wiki.valid.raw": "validation",
        "data/validation-00000-of-00001.parquet": "validation",
        "TinyStoriesV2-GPT4-train.txt": "train",
        "dev.jsonl": "validation",
        "test/part.txt": "test",
        "latest.txt": "",
        "train-test.txt": "",
    }
    root = Path("/corpus")
    found = by_split([root / name for name in names], root)
    assert {str(path.relative_to(root)): split for split, paths in found.items() for path in paths} == names
