"""The token store: whole or not there, shared by processes, checked, and prepared again when damaged."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import BYTE, bpe, files_config, prepared, silent, write_splits

from lmx.config import ConfigError, DataConfig, DataError, SpaceError
from lmx.data import packing, prepare, split_writer
from lmx.data.manifest import find, open_prepared
from lmx.data.store import MANIFEST, open_store
from lmx.data.tokenizers import ByteTokenizer

TRAIN = "\n\n".join(f"story number {i} about the cat" for i in range(50))


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    return write_splits(tmp_path / "corpus", TRAIN, "a held out story\n\nand another")


def test_facts_are_those_of_the_text(data: DataConfig, tmp_path: Path) -> None:
    corpus = prepared(data, tmp_path / "cache")
    train = corpus.facts["splits"]["train"]
    texts = TRAIN.split("\n\n")
    assert train["documents"] == 50
    assert train["bytes"] == sum(map(len, texts))
    assert train["words"] == sum(len(text.split()) for text in texts)
    assert train["tokens"] == train["bytes"] + 51  # an EOS first and after each document
    assert train["longest_document_bytes"] == max(map(len, texts))
    assert train["floor_bits"] is None
    assert json.loads(json.dumps(corpus.facts)) == corpus.facts
    assert corpus.steps_per_epoch(10, drop_last=False) == -(-len(corpus.splits["train"]) // 10)
    assert corpus.steps_per_epoch(10, drop_last=True) == len(corpus.splits["train"]) // 10
    assert "50 documents" in corpus.describe()


def test_all_of_a_store_is_flushed_before_it_has_its_name(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not leave tokens of zeros between ends that are right."""
    flushed: dict[int, int] = {}  # inode → bytes
    fsync, rename = os.fsync, os.rename

    def flush(handle: int) -> None:
        fsync(handle)
        flushed[os.fstat(handle).st_ino] = os.fstat(handle).st_size

    def name(source: Path, target: Path) -> None:
        files = [path.stat() for path in Path(source).rglob("*") if path.is_file()]
        assert len(files) >= 6
        assert all(flushed.get(file.st_ino) == file.st_size for file in files)
        rename(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "rename", name)
    prepared(data, tmp_path / "cache")
    assert flushed


def test_prepared_once_and_opened_after(data: DataConfig, tmp_path: Path) -> None:
    said: list[str] = []
    first = prepare(data, BYTE, tmp_path / "cache", said.append)
    spoken = len(said)
    second = prepare(data, BYTE, tmp_path / "cache", said.append)
    assert len(said) == spoken > 0
    assert first.fingerprint == second.fingerprint
    data.sequence_length = 16  # windows are cut on opening
    assert prepare(data, BYTE, tmp_path / "cache", said.append).store.folder == first.store.folder
    assert len(said) == spoken


def test_fingerprint_is_of_the_content_wherever_it_lies(data: DataConfig, tmp_path: Path) -> None:
    first = prepared(data, tmp_path / "cache", bpe())
    shutil.copytree(tmp_path / "corpus", tmp_path / "moved")
    moved = prepared(files_config(str(tmp_path / "moved")), tmp_path / "other", bpe())
    assert moved.fingerprint == first.fingerprint
    (tmp_path / "moved/train.txt").write_text(TRAIN.replace("cat", "dog"))
    assert (
        prepared(files_config(str(tmp_path / "moved")), tmp_path / "other", bpe()).fingerprint
        != first.fingerprint
    )


def test_changed_file_is_prepared_again(data: DataConfig, tmp_path: Path) -> None:
    first = prepared(data, tmp_path / "cache")
    (tmp_path / "corpus/train.txt").write_text(TRAIN + "\n\nmore")
    assert prepared(data, tmp_path / "cache").facts["splits"]["train"]["documents"] == 51
    assert first.facts["splits"]["train"]["documents"] == 50


def damage_truncate(folder: Path) -> None:
    os.truncate(folder / "train.tokens", 100)


def damage_flip(folder: Path) -> None:
    content = bytearray((folder / "train.tokens").read_bytes())
    content[-1] ^= 1
    (folder / "train.tokens").write_bytes(content)


def damage_missing(folder: Path) -> None:
    (folder / "validation.offsets").unlink()


def damage_manifest(folder: Path) -> None:
    path = folder / MANIFEST
    path.write_text(path.read_text().replace('"documents": 50', '"documents": 51'))


def damage_half_manifest(folder: Path) -> None:
    os.truncate(folder / MANIFEST, 200)


def damage_tokenizer(folder: Path) -> None:
    (folder / "tokenizer/rules.json").write_text("{}")


@pytest.mark.parametrize(
    "damage",
    [damage_truncate, damage_flip, damage_missing, damage_manifest, damage_half_manifest, damage_tokenizer],
)
def test_damage_is_said_and_mended(data: DataConfig, tmp_path: Path, damage: Any) -> None:
    first = prepared(data, tmp_path / "cache")
    tokens = first.splits["train"].split.tokens.copy()
    damage(first.store.folder)
    with pytest.raises(DataError, match=str(first.store.folder)):
        open_store(first.store.folder)
    said: list[str] = []
    again = prepare(data, BYTE, tmp_path / "cache", said.append)
    assert "preparing it again" in said[0]
    np.testing.assert_array_equal(again.splits["train"].split.tokens, tokens)
    assert again.store.problems() == []


def test_full_check_finds_a_bit_in_the_middle(data: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "corpus/train.txt").write_text("word " * 10_000)
    store = prepared(data, tmp_path / "cache").store
    content = bytearray((store.folder / "train.tokens").read_bytes())
    content[50_001] = 0xFF
    (store.folder / "train.tokens").write_bytes(content)
    opened = open_prepared(data, BYTE, tmp_path / "cache")
    assert opened is not None
    assert len(opened.problems()) == 1
    assert "train.tokens: SHA-256 is" in opened.problems()[0]
    windows = prepared(data, tmp_path / "cache").splits["train"]
    with pytest.raises(DataError, match=r"train holds token 65\d+, allowed: below 257; the store is damaged"):
        windows.gather(np.arange(len(windows)))


def _prepare(data: DataConfig, cache: Path, lines: Any) -> None:
    lines.put(prepare(data, bpe(), cache, lines.put).fingerprint)


def test_two_processes_prepare_one_store(data: DataConfig, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    lines = context.Queue()
    workers = [context.Process(target=_prepare, args=(data, tmp_path / "cache", lines)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    said = [lines.get(timeout=10) for _ in range(lines.qsize())]
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert sum("prepared" in line for line in said) == 1
    fingerprints = [line for line in said if len(line) == 16]
    assert len(fingerprints) == 3
    assert len(set(fingerprints)) == 1
    assert len([path for path in (tmp_path / "cache/stores").iterdir() if path.is_dir()]) == 1


def test_killed_preparation_leaves_nothing_in_the_way(data: DataConfig, tmp_path: Path) -> None:
    # an endless corpus: the child is killed while it writes
    script = (
        "import sys, itertools, lmx.data.writing as w\n"
        "from lmx.config import DataConfig, TokenizerConfig\n"
        "from lmx.data import prepare\n"
        "from lmx.data.documents import Document\n"
        "counts = {'train': 10**9, 'validation': 20}\n"
        "w.read = lambda data, source, split: itertools.repeat(Document('text ' * 1000), counts[split])\n"
        f"prepare(DataConfig(name='small', source='files', files={data.files!r}),\n"
        f"    TokenizerConfig(name='byte', kind='byte'), {str(tmp_path / 'cache')!r}, print)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script])
    stores = tmp_path / "cache/stores"
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 10**6 for path in stores.glob(".*/train.tokens")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(stores.glob(".*/train.tokens"))
    corpus = prepared(data, tmp_path / "cache")
    assert corpus.facts["splits"]["train"]["documents"] == 50
    assert [path.name for path in stores.iterdir() if path.is_dir()] == [corpus.store.folder.name]


def test_full_disk_is_one_line_and_leaves_nothing(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(split_writer.SplitWriter, "_put", full)
    with pytest.raises(SpaceError, match=r"paths\.cache: the disk of .*cache is full"):
        prepared(data, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache/stores").iterdir() if path.is_dir()]


def test_cache_that_cannot_be_written(data: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"paths\.cache: .*file/cache cannot be written"):
        prepared(data, tmp_path / "file/cache")


def test_empty_and_short_corpora(tmp_path: Path) -> None:
    data = write_splits(tmp_path / "a", "text enough for several windows", "")
    with pytest.raises(DataError, match=r"small: the validation split has no documents"):
        prepared(data, tmp_path / "cache")
    data.min_characters = 1000
    with pytest.raises(DataError, match=r"has no documents of at least data\.min_characters=1000"):
        prepared(data, tmp_path / "cache", bpe())
    data = write_splits(tmp_path / "b", "short", "also short")
    with pytest.raises(
        DataError,
        match=r"data\.sequence_length: got 8, but the train split of small .7 tokens, .* gives no window",
    ):
        prepared(data, tmp_path / "cache")


@pytest.mark.parametrize("separator", ["eos", "newlines", "none"])
def test_batches_chunks_and_threads_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str
) -> None:
    """One long line, many short ones: the tokens and counts are those of each text tokenized whole."""
    texts = ["word " * 3000 + "end", *(f"story {i}, naïve  and\nlong" for i in range(400)), "x" * 5000]
    data = write_splits(tmp_path / "c", "\n\n".join(texts), "held out\n\nagain")
    data.separator = separator
    tokenizer = bpe(400)
    whole = prepared(data, tmp_path / "whole", tokenizer)
    monkeypatch.setattr(split_writer, "BATCH_CHARACTERS", 500)
    monkeypatch.setattr(packing, "CHUNK", 700)
    monkeypatch.setattr(packing, "LIMIT", 10_000)
    parts = prepared(data, tmp_path / "parts", tokenizer)
    assert parts.fingerprint == whole.fingerprint
    encode, eos = whole.tokenizer.encode, whole.tokenizer.eos_id
    if separator == "eos":
        expected = [eos, *(i for text in texts for i in (*encode(text), eos))]
    else:
        expected = encode(("\n\n" if separator == "newlines" else "").join(texts))
    assert whole.splits["train"].split.tokens.tolist() == expected
    facts = parts.facts["splits"]["train"]
    assert facts["words"] == sum(len(text.split()) for text in texts)
    assert facts["documents"] == len(texts)
    for name in ("text_sha256", "longest_document_bytes", "floor_bits"):
        assert facts[name] == whole.facts["splits"]["train"][name]
    if separator == "eos":  # what stands between documents counts where it is text
        assert facts["bytes"] == sum(len(text.encode()) for text in texts)


def test_error_of_a_thread_is_the_error_of_preparing(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: ByteTokenizer, texts: list[str]) -> None:
        raise DataError("tokenizer: cannot go on")

    monkeypatch.setattr(ByteTokenizer, "encode_batch", broken)
    with pytest.raises(DataError, match="cannot go on"):
        prepared(data, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache/stores").iterdir() if path.is_dir()]


def test_second_process_says_that_it_waits(data: DataConfig, tmp_path: Path) -> None:
    folder = prepared(data, tmp_path / "cache").store.folder
    shutil.rmtree(folder)
    ready = tmp_path / "ready"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, pathlib, sys, time\n"
            "file = open(sys.argv[1], 'w')\n"
            "fcntl.flock(file, fcntl.LOCK_EX)\n"
            "pathlib.Path(sys.argv[2]).touch()\n"
            "time.sleep(60)\n",
            str(folder.with_name(f".{folder.name}.lock")),
            str(ready),
        ]
    )
    while not ready.exists():
        time.sleep(0.01)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if "waiting" in text:
            holder.kill()  # the kernel drops its lock

    assert prepare(data, BYTE, tmp_path / "cache", say).store.folder == folder
    holder.wait()
    assert said[0] == "small: another process is preparing it; waiting"


def test_one_document_cannot_be_held_out(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a single document of some length")
    with pytest.raises(DataError, match=r"small: the validation split has no documents"):
        prepared(files_config(str(tmp_path)), tmp_path / "cache")


def test_find_tells_the_facts_without_torch(data: DataConfig, tmp_path: Path) -> None:
    assert find(data, BYTE, tmp_path / "cache") is None
    facts = prepared(data, tmp_path / "cache").facts
    assert find(data, BYTE, tmp_path / "cache") == facts
    script = (
        "import sys\nfrom lmx.config import DataConfig, TokenizerConfig\nfrom lmx.data.manifest import find\n"
        f"data = DataConfig(name='small', source='files', files={data.files!r}, sequence_length=8)\n"
        f"found = find(data, TokenizerConfig(name='byte', kind='byte'), {str(tmp_path / 'cache')!r})\n"
        "heavy = {'torch', 'lightning', 'transformers', 'datasets', 'tokenizers'} & set(sys.modules)\n"
        "print(found['fingerprint'], heavy)\n"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == f"{facts['fingerprint']} set()"


def test_storyworld_knows_its_floor(tmp_path: Path) -> None:
    data = DataConfig(
        name="storyworld", source="storyworld", stories=60, held_out_stories=30, sequence_length=64
    )
    corpus = prepare(data, bpe(500), tmp_path, silent)
    held = corpus.splits["validation"]
    floor = held.floor_bits_per_byte
    assert floor is not None
    assert floor == pytest.approx(held.split.facts["floor_bits"] / held.scored_bytes, rel=1e-12)
    assert 0.1 < floor < 1.0
    for changes in ({"packing": "sentences"}, {"collapse_whitespace": True}, {"packing": "documents"}):
        other = DataConfig(**{**data.__dict__, **changes})
        assert prepare(other, bpe(500), tmp_path, silent).splits["validation"].floor_bits_per_byte is None
