"""Windows: fixed shapes, filler rows, and the exact text that scored targets stand for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from data_helpers import bpe, files_config, gpt2, prepared, real_data, write_splits

from lmx.data.layout import FILLER, IGNORE

TEXT = "\n\n".join(f"Söme story nr {i}, of the cat 🙂 and the dog" for i in range(30))


@pytest.mark.parametrize("packing", ["stream", "rows", "stride"])
def test_held_out_all_bytes_are_scored_once(tmp_path: Path, packing: str) -> None:
    data = write_splits(tmp_path / "c", TEXT, TEXT.replace("story", "tale"))
    data.packing = packing
    data.stride = 3 if packing == "stride" else None
    corpus = prepared(data, tmp_path / "cache", bpe())
    held = corpus.splits["validation"]
    texts = TEXT.replace("story", "tale").split("\n\n")
    ids = [corpus.tokenizer.encode(text) for text in texts]
    total = sum(len(text.encode()) for text in texts)
    if packing in ("stream", "stride"):
        assert held.targets == sum(map(len, ids)) + 30
        assert (held.scored_bytes, held.scored_words) == (total, sum(len(text.split()) for text in texts))
    else:  # nothing predicts the first token
        assert held.scored_bytes == total - int(corpus.tokenizer.token_bytes[ids[0][0]])


def test_scored_bytes_are_those_of_the_decoded_targets(tmp_path: Path) -> None:
    data = write_splits(tmp_path / "c", TEXT, TEXT.replace("story", "tale"))
    for packing in ("blocks", "sentences", "documents"):
        data.packing, data.sequence_length = packing, 40
        corpus = prepared(data, tmp_path / "cache", bpe())
        for windows in corpus.splits.values():
            targets = windows.gather(np.arange(len(windows)))["targets"]
            kept = targets[targets != IGNORE]
            inner = corpus.tokenizer._inner  # type: ignore[attr-defined]
            expected = sum(len(inner.id_to_token(i)) for i in kept.tolist() if i > 1)
            assert windows.scored_bytes == expected


def test_filler_rows_have_no_targets_and_the_shape_of_others(tmp_path: Path) -> None:
    windows = prepared(write_splits(tmp_path / "c", TEXT, TEXT), tmp_path / "cache").splits["train"]
    indices = np.array([3, FILLER, 0])
    batch = windows.gather(indices)
    assert batch["tokens"].shape == batch["targets"].shape == (3, 8)
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}
    assert (batch["targets"][1] == IGNORE).all()
    assert batch["index"].tolist() == [3, -1, 0]
    assert windows.target_counts(indices).tolist() == [8, 0, 8]
    np.testing.assert_array_equal(batch["tokens"][0], windows[3]["tokens"])
    with pytest.raises(IndexError, match=r"train: window \d+ of \d+"):
        windows[len(windows)]


def test_words_are_those_of_lm_evaluation_harness(tmp_path: Path) -> None:
    """Its word count of a text is len(re.split(r"\\s+", text)), its byte count the UTF-8 length."""
    story = "He said:  “no”.\nThen he left\tthe room"
    data = write_splits(tmp_path / "c", TEXT, story)
    held = prepared(data, tmp_path / "cache").splits["validation"]
    assert held.scored_words == len(re.split(r"\s+", story))
    assert held.scored_bytes == len(story.encode())


def test_real_text_is_scored_to_the_byte(tmp_path: Path) -> None:
    path = real_data() / "wikitext-2/wiki.valid.raw"
    data = files_config(
        str(real_data() / "wikitext-2/wiki.test.tokens"), validation_files=str(path), sequence_length=512,
        separator="none", max_documents=500,
    )  # fmt: skip
    corpus = prepared(data, tmp_path, gpt2())
    held = corpus.splits["validation"]
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:500]
    text = "".join(line for line in lines if line.strip())
    ids = corpus.tokenizer.encode(text)
    assert held.targets == len(ids) - 1
    assert held.scored_bytes == len(text.encode()) - int(corpus.tokenizer.token_bytes[ids[0]])
    assert held.scored_words == len(text.split())


def test_tokenizer_that_adds_bytes_is_scaled_to_the_text(tmp_path: Path) -> None:
    from lmx.config import TokenizerConfig

    config = TokenizerConfig(name="s", kind="pretrained", path=str(real_data() / "stories260K"))
    data = write_splits(tmp_path / "c", TEXT, TEXT.replace("story", "tale"))
    held = prepared(data, tmp_path / "cache", config).splits["validation"]
    assert held.scored_bytes == sum(
        len(text.encode()) for text in TEXT.replace("story", "tale").split("\n\n")
    )
