"""Which documents each source yields for each split."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from data_helpers import files_config, write_splits

from lmx.config import DataConfig, DataError
from lmx.data.sources import open_source, read


def texts(data: DataConfig, split: str) -> list[str]:
    return [document.text for document in read(data, open_source(data), split)]


def local(folder: Path, **changes: object) -> DataConfig:
    settings = {"name": "local", "source": "hub", "repository": "a/b", "local_dir": str(folder), **changes}
    return DataConfig(**settings)  # type: ignore[arg-type]


def test_named_files_are_respected(tmp_path: Path) -> None:
    data = write_splits(tmp_path, "a\n\nb", "c")
    assert open_source(data).splits() == ["train", "validation"]
    assert texts(data, "train") == ["a", "b"]
    assert texts(data, "validation") == ["c"]


def test_held_out_share_is_a_partition_by_content(tmp_path: Path) -> None:
    everything = [f"document number {i}" for i in range(400)]
    (tmp_path / "all.txt").write_text("\n\n".join([*everything, "document number 7"]))
    data = files_config(str(tmp_path), validation_fraction=0.2)
    train, held = texts(data, "train"), texts(data, "validation")
    assert set(train) | set(held) == set(everything)
    assert not set(train) & set(held)
    assert 50 < len(held) < 110
    # the same documents in another order, in several files, give the same split
    (tmp_path / "all.txt").write_text("\n\n".join(everything[200:]))
    (tmp_path / "more.txt").write_text("\n\n".join(everything[:200]))
    assert set(texts(data, "validation")) == set(held)


def test_single_file_is_trained_on_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "valid.txt").write_text("\n\n".join(f"text {i}" for i in range(200)))
    data = files_config(str(tmp_path / "valid.txt"), validation_fraction=0.3)
    assert len(texts(data, "train")) + len(texts(data, "validation")) == 200


def test_validation_files_must_be_others(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").write_text("y")
    data = files_config(str(tmp_path / "a.txt"), validation_files=str(tmp_path / "b.txt"))
    assert (texts(data, "train"), texts(data, "validation")) == (["x"], ["y"])
    data.validation_files = str(tmp_path)
    with pytest.raises(DataError, match=r"data\.validation_files: .*a\.txt is in data\.files too"):
        open_source(data)


def test_documents_are_collapsed_filtered_and_counted_in_that_order(tmp_path: Path) -> None:
    data = write_splits(tmp_path, "a  b\n\nlonger   one\n\nx\n\nanother  one\n\nlast one of all", "v")
    data.collapse_whitespace, data.min_characters, data.max_documents = True, 5, 2
    assert texts(data, "train") == ["longer one", "another one"]


def test_local_dir_takes_one_complete_form(tmp_path: Path) -> None:
    for name in ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens", "wiki.valid.raw"):
        (tmp_path / name).write_text(f"{name}\n")
    data = local(tmp_path, subset="wikitext-2-raw-v1")
    source = open_source(data)
    assert source.splits() == ["train", "validation", "test"]
    assert texts(data, "validation") == ["wiki.valid.tokens\n"]
    assert "from *.tokens" in source.notes[0]
    (tmp_path / "wiki.train.raw").write_text("raw\n")
    assert texts(data, "validation") == ["wiki.valid.raw\n"]
    assert texts(local(tmp_path, subset="wikitext-2-v1"), "validation") == ["wiki.valid.tokens\n"]


def test_local_dir_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.local_dir: got .*missing', which does not exist"):
        open_source(local(tmp_path / "missing"))
    (tmp_path / "train.txt").write_text("a")
    with pytest.raises(
        DataError, match=r"data\.local_dir: .*train and valid.*of one form; found train: \*\.txt"
    ):
        open_source(local(tmp_path))
    with pytest.raises(DataError, match=r"data\.local_dir: .*a file; allowed: a folder"):
        open_source(local(tmp_path / "train.txt"))


def test_half_a_surrogate_pair_and_nul_in_json_are_refused(tmp_path: Path) -> None:
    data = write_splits(tmp_path, '{"text": "\\ud800"}\n', '{"text": "a\\u0000b"}\n', ".jsonl")
    with pytest.raises(DataError, match=r"small train: document 1 has half a surrogate pair"):
        texts(data, "train")
    with pytest.raises(DataError, match=r"small validation: a NUL in document 1"):
        texts(data, "validation")


def test_stories_of_the_splits_are_disjoint_and_know_their_information() -> None:
    data = DataConfig(name="storyworld", source="storyworld", stories=40, held_out_stories=20)
    source = open_source(data)
    stories = {split: list(read(data, source, split)) for split in source.splits()}
    assert [len(stories[split]) for split in ("train", "validation", "test")] == [40, 20, 20]
    assert len({story.text for split in stories.values() for story in split}) == 80
    assert all(story.bits is not None and 0 < story.bits < math.inf for story in stories["train"])
    more = DataConfig(name="storyworld", source="storyworld", stories=60, held_out_stories=20)
    assert texts(more, "validation") == [story.text for story in stories["validation"]]
    assert texts(more, "train")[:40] == [story.text for story in stories["train"]]


def test_stamp_changes_with_the_files(tmp_path: Path) -> None:
    data = write_splits(tmp_path, "a", "b")
    before = open_source(data).stamp()
    assert open_source(data).stamp() == before
    (tmp_path / "train.txt").write_text("ab")
    assert open_source(data).stamp() != before
