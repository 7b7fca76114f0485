"""Each packing against hand-made cases, slow references and the counts of the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import EOS, bpe, files_config, gpt2, prepared, real_data, split_of, write_splits

from lmx.config import ConfigError, DataConfig, DataError
from lmx.data import packing as packing_module
from lmx.data.layout import IGNORE, Layout
from lmx.data.packing import PACKINGS, Packing, best_fit, cut, next_fit


def packer(mode: str, length: int, pad: int | None = 0, **changes: Any) -> Packing:
    data = DataConfig(name="d", packing=mode, sequence_length=length, **changes)
    return PACKINGS[mode](data, EOS, pad)


def rows(layout: Layout) -> list[tuple[list[int], list[int]]]:
    arrays = layout.gather(np.arange(len(layout)))
    return list(zip(arrays["tokens"].tolist(), arrays["targets"].tolist(), strict=True))


def pieces(mode: str, texts: list[str], **changes: Any) -> list[tuple[str, bool]]:
    return [tuple(piece) for piece in packer(mode, 4, **changes).pieces(texts)]  # type: ignore[misc]


# ---- what is tokenized


def test_pieces_of_each_mode() -> None:
    texts = ["One. Two\nthree.", "", "  x. "]
    assert pieces("stream", texts) == [("One. Two\nthree.", True), ("  x. ", True)]
    assert pieces("stream", texts, separator="none") == [("One. Two\nthree.  x. ", True)]
    assert pieces("stream", texts, separator="newlines") == [("One. Two\nthree.\n\n\n\n  x. ", True)]
    assert pieces("rows", texts) == [("One. Two\nthree.", True), ("x.", True)]
    assert pieces("blocks", texts) == [("One. Two\nthree.", True), ("  x. ", True)]
    assert pieces("documents", texts) == [("One. Two\nthree.", True), ("  x. ", True)]
    sentences = [
        "One.",
        "Two three.",
        ".",
        "x.",
        ".",
    ]  # the empty rest after the last full stop is a full stop
    assert pieces("sentences", texts) == [(sentence, True) for sentence in sentences]


def test_long_texts_are_cut_where_no_token_crosses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing_module, "CHUNK", 100)
    text = "".join(f"word{i}  and\n\nmore, it's {i * 7} é🙂" for i in range(60))
    for mode, changes in (("stream", {"separator": "none"}), ("documents", {})):
        parts = pieces(mode, [text], **changes)
        assert "".join(part for part, _ in parts) == text
        assert len(parts) > 10
        assert all(len(part) <= 100 for part, _ in parts)
    assert [last for _, last in parts] == [False] * (len(parts) - 1) + [True]
    # no safe place before the limit: a later one, or the limit
    monkeypatch.setattr(packing_module, "LIMIT", 150)
    long = ["x" * 120 + " " + "x" * 150 + "x" * 150 + "x"]
    assert [len(part) for part, _ in pieces("documents", long)] == [120, 150, 150, 2]
    assert [part for part, _ in pieces("documents", ["x" * 99 + "\n" + "y" * 99])] == [
        "x" * 99 + "\n",
        "y" * 99,
    ]


def test_joined_chunks_tokenize_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    path = real_data() / "wikitext-2/wiki.valid.raw"
    tokenizer = gpt2()
    from lmx.data.vocabulary import obtain

    encode = obtain(tokenizer, [], Path("unused"), print).encode_batch
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:600]
    texts = [line if line.strip() else "" for line in lines]
    whole = encode(["\n\n".join(texts)]).ids
    monkeypatch.setattr(packing_module, "CHUNK", 3000)
    chunks = [part for part, _ in pieces("stream", texts, separator="newlines")]
    assert len(chunks) > 20
    np.testing.assert_array_equal(encode(chunks).ids, whole)


# ---- windows


def test_stream_windows_share_one_token_and_evaluation_keeps_the_rest() -> None:
    split = split_of(range(10))
    assert rows(packer("stream", 4).layout(split, held_out=False)) == [
        ([0, 1, 2, 3], [1, 2, 3, 4]),
        ([4, 5, 6, 7], [5, 6, 7, 8]),
    ]
    x = IGNORE
    assert rows(packer("stream", 4).layout(split, held_out=True))[2] == ([8, 9, 0, 0], [9, x, x, x])
    assert len(packer("stream", 4).layout(split_of(range(9)), held_out=True)) == 2


@pytest.mark.parametrize("mode", ["stream", "rows", "stride"])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 9, 10, 21])
def test_held_out_each_token_but_the_first_is_a_target_once(mode: str, count: int) -> None:
    tokens = np.random.default_rng(count).integers(0, 256, count).tolist()
    for stride in range(1, 5):
        layout = packer(mode, 4, stride=stride).layout(split_of(tokens), held_out=True)
        targets = np.concatenate([target for _, target in rows(layout)])
        assert targets[targets != IGNORE].tolist() == tokens[1:]


def test_stride_windows_overlap_in_training() -> None:
    layout = packer("stride", 4, stride=3).layout(split_of(range(12)), held_out=False)
    assert [tokens for tokens, _ in rows(layout)] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert len(packer("stride", 4, stride=1).layout(split_of(range(12)), held_out=False)) == 12 - 4
    with pytest.raises(ConfigError, match=r"data\.stride: got 5, allowed: 1 to data\.sequence_length=4"):
        packer("stride", 4, stride=5)


def test_blocks_share_nothing_and_drop_the_remainder() -> None:
    for held_out in (False, True):
        assert rows(packer("blocks", 3).layout(split_of(range(11)), held_out)) == [
            ([0, 1, 2], [1, 2, 3]),
            ([4, 5, 6], [5, 6, 7]),
        ]


def test_sentences_are_sorted_and_next_fit_into_rows() -> None:
    # lengths 3, 2, 5, 1 (dropped), 6 (longer than a row: dropped), 2
    split = split_of(range(19), ends=[3, 5, 10, 11, 17, 19])
    x = IGNORE
    layout = packer("sentences", 4, pad=99).layout(split, held_out=False)
    assert rows(layout) == [
        ([5, 6, 7, 8], [6, 7, 8, 9]),
        ([0, 1, 2, 3], [1, 2, 3, 4]),
        ([17, 18, 99, 99], [18, x, x, x]),
    ]
    counted = packer("sentences", 4, pad=99, mask_padding=False).layout(split, held_out=False)
    assert rows(counted)[2] == ([17, 18, 99, 99], [18, 99, 99, 99])


def test_documents_are_best_fit_with_their_own_positions() -> None:
    # lengths 4, 2, 1 (no target: dropped), 7 (cut into 5 and 3 that share a token), 3
    split = split_of(range(17), ends=[4, 6, 7, 14, 17])
    layout = packer("documents", 4, pad=99).layout(split, held_out=True)
    arrays = {name: array.tolist() for name, array in layout.gather(np.arange(len(layout))).items()}
    x = IGNORE
    assert arrays["tokens"] == [[7, 8, 9, 10], [0, 1, 2, 3], [11, 12, 13, 99], [14, 15, 16, 4]]
    assert arrays["targets"] == [[8, 9, 10, 11], [1, 2, 3, x], [12, 13, x, x], [15, 16, x, 5]]
    assert arrays["documents"] == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    assert arrays["positions"] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 2, 0]]
    crossing = packer("documents", 4, pad=99, mask_crossing=False).layout(split, held_out=True)
    assert crossing.gather(np.array([3]))["targets"].tolist() == [[15, 16, 4, 5]]


def slow_best_fit(lengths: list[int], size: int) -> list[int]:
    free: list[int] = []
    rows_ = []
    for length in lengths:
        room = min((f for f in free if f >= length), default=None)
        if room is None:
            free.append(size)
            row = len(free) - 1
        else:
            row = max(i for i, f in enumerate(free) if f == room)
        free[row] -= length
        rows_.append(row)
    return rows_


def test_fits_equal_slow_references() -> None:
    rng = np.random.default_rng(0)
    for size in (5, 17, 64):
        lengths = -np.sort(-rng.integers(2, size + 1, 300))
        used = np.bincount(best_fit(lengths, size), lengths)
        expected = np.bincount(slow_best_fit(lengths.tolist(), size), lengths)
        # which of several rows with equal room is taken does not matter
        assert sorted(used) == sorted(expected)
        assert used.max() <= size
        filled, row = [0], 0
        for length, got in zip(lengths, next_fit(lengths, size), strict=True):
            if filled[row] + length > size:
                row += 1
                filled.append(0)
            filled[row] += length
            assert got == row


def test_cut_covers_each_target_once() -> None:
    offsets = np.array([0, 1, 3, 14, 14, 19])
    starts, lengths = cut(offsets, 4)
    covered = [
        t for start, length in zip(starts, lengths, strict=True) for t in range(start + 1, start + length)
    ]
    assert covered == [2, *range(4, 14), *range(15, 19)]
    assert lengths.max() <= 5


@pytest.mark.parametrize("mode", list(PACKINGS))
@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("mask_crossing", [True, False])
def test_counts_are_those_of_the_targets(mode: str, mask_padding: bool, mask_crossing: bool) -> None:
    rng = np.random.default_rng(3)
    ends = np.cumsum(rng.integers(1, 15, 40)).tolist()
    split = split_of(rng.integers(0, 256, ends[-1]).tolist(), ends)
    for held_out in (True, False):
        layout = packer(mode, 7, stride=3, mask_padding=mask_padding, mask_crossing=mask_crossing).layout(
            split, held_out
        )
        everything = np.arange(len(layout))
        targets = layout.gather(everything)["targets"]
        np.testing.assert_array_equal(layout.target_counts(everything), (targets != IGNORE).sum(1))


def test_missing_end_of_text_is_refused() -> None:
    data = DataConfig(name="d", packing="documents")
    with pytest.raises(
        DataError, match=r"tokenizer: has no end-of-text token, which packing=documents writes"
    ):
        PACKINGS["documents"](data, None, None)


# ---- end to end


def test_stream_with_eos_makes_every_text_token_a_target(tmp_path: Path) -> None:
    corpus = prepared(write_splits(tmp_path / "c", "ab\n\ncde\n\nfghi", "xy\n\nz"), tmp_path / "cache")
    held = corpus.splits["validation"]
    assert held.split.tokens.tolist() == [EOS, 120, 121, EOS, 122, EOS]
    assert held[0]["targets"].tolist() == [120, 121, EOS, 122, EOS, IGNORE, IGNORE, IGNORE]
    assert corpus.splits["train"].split.offsets.tolist() == [1, 4, 8, 13]


def test_recorded_count_of_wikitext_rows(tmp_path: Path) -> None:
    files = str(real_data() / "wikitext-2/wiki.valid.raw")
    data = files_config(files, packing="rows", sequence_length=512)
    facts = prepared(data, tmp_path, gpt2()).facts["splits"]
    assert sum(facts[split]["tokens"] for split in ("train", "validation")) == 242_643


def test_recorded_blocks_of_family_c(tmp_path: Path) -> None:
    files = str(real_data() / "wikitext-2/wiki.valid.raw")
    for documents, blocks in ((50, 29), (100, 56)):
        data = files_config(
            files,
            validation_files=str(real_data() / "wikitext-2/wiki.test.tokens"),
            packing="blocks",
            sequence_length=255,
            collapse_whitespace=True,
            min_characters=128,
            max_documents=documents,
        )
        assert len(prepared(data, tmp_path, gpt2()).splits["train"]) == blocks


def test_family_a_rows_on_the_real_file(tmp_path: Path) -> None:
    """The rule of EXPERIMENTS.md, written plainly, on real text with the store's own tokenizer."""
    folder = real_data() / "wikitext-2"
    data = files_config(
        str(folder / "wiki.valid.raw"),
        validation_files=str(folder / "wiki.valid.tokens"),
        packing="sentences",
        sequence_length=255,
        max_documents=1500,
    )
    corpus = prepared(data, tmp_path, bpe(2000))
    encode, eos, pad = corpus.tokenizer.encode, corpus.tokenizer.eos_id, corpus.tokenizer.pad_id
    lines = (folder / "wiki.valid.raw").read_text(encoding="utf-8").splitlines(keepends=True)[:1500]
    sentences = [
        [*encode(part.strip() + "."), eos]
        for line in lines
        if line.strip()
        for part in line.replace("\n", " ").split(".")
    ]
    kept = sorted((ids for ids in sentences if 1 < len(ids) <= 256), key=len, reverse=True)
    expected: list[list[int | None]] = [[]]
    for ids in kept:
        if len(expected[-1]) + len(ids) > 256:
            expected.append([])
        expected[-1].extend(ids)
    train = corpus.splits["train"]
    assert len(train) == len(expected)
    for i, row in enumerate(expected):
        padded = row + [pad] * (256 - len(row))
        assert train[i]["tokens"].tolist() == padded[:-1]
        assert train[i]["targets"].tolist() == row[1:] + [IGNORE] * (256 - len(row))
