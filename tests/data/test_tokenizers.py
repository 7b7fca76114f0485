"""Tokenizers: ids, bytes, special tokens, and where they come from."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from data_helpers import BYTE, bpe, gpt2, real_data, silent

from lmx.config import DataError, TokenizerConfig
from lmx.data.tokenizers import ByteTokenizer, SubwordTokenizer, Tokenizer
from lmx.data.vocabulary import obtain, stamp, train_bpe

TEXTS = [
    'Once upon a time, a naïve cat sat.\n\nIt said: "hello" 123  times… 日本 🙂',
    "<|endoftext|> is text",
    "",
    " \n ",
]
SAMPLE = [
    "the cat sat on the mat and the cat ate the rat",
    "a hat for the cat",
    "that is the end of that",
] * 5


def test_bytes_are_bytes() -> None:
    tokenizer = obtain(BYTE, [], Path("unused"), silent)
    assert tokenizer.encode("aé") == [97, 0xC3, 0xA9]
    assert tokenizer.decode([97, 0xC3, 0xA9, 256]) == "aé"
    assert (tokenizer.vocab_size, tokenizer.eos_id, int(tokenizer.token_bytes.sum())) == (257, 256, 256)


def test_trained_bpe_has_specials_first_then_bytes_then_merges() -> None:
    tokenizer = train_bpe(bpe(300), SAMPLE)
    vocab = tokenizer._inner.get_vocab()
    assert (vocab["<|endoftext|>"], vocab["<pad>"]) == (tokenizer.eos_id, tokenizer.pad_id) == (0, 1)
    assert sorted(i for token, i in vocab.items() if len(token) == 1) == list(range(2, 258))
    # by hand: "at" is the commonest pair of the sample (11 of 32 a's neighbours), so it is the first merge
    assert vocab["at"] == 258
    assert tokenizer.vocab_size <= 300


def test_training_is_deterministic_and_cached_by_content(tmp_path: Path) -> None:
    said: list[str] = []
    first = obtain(bpe(), SAMPLE, tmp_path, said.append)
    again = obtain(bpe(), SAMPLE, tmp_path, said.append)
    assert first.fingerprint == again.fingerprint == train_bpe(bpe(), SAMPLE).fingerprint
    assert sum("training a BPE" in line for line in said) == 1
    other = obtain(bpe(), [*SAMPLE, "something new"], tmp_path, said.append)
    assert other.fingerprint != first.fingerprint
    for file in tmp_path.rglob("tokenizer.json"):
        file.write_text("damaged")
    assert obtain(bpe(), SAMPLE, tmp_path, said.append).fingerprint == first.fingerprint
    assert any("training it again" in line for line in said)


@pytest.mark.parametrize("make", [ByteTokenizer, lambda: train_bpe(bpe(), SAMPLE)])
def test_every_text_survives_and_never_becomes_special(make, tmp_path: Path) -> None:
    tokenizer = make()
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert tokenizer.decode(ids.tolist()) == text
        assert tokenizer.eos_id not in ids
        assert int(tokenizer.token_bytes[ids].sum()) == len(text.encode())
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert (
        pickle.loads(pickle.dumps(tokenizer)).encode(TEXTS[0])
        == loaded.encode(TEXTS[0])
        == tokenizer.encode(TEXTS[0])
    )


def test_fast_path_gives_the_ids_of_the_plain_one() -> None:
    for tokenizer in (train_bpe(bpe(400), SAMPLE), obtain(gpt2(), [], Path("unused"), silent)):
        assert isinstance(tokenizer, SubwordTokenizer)
        assert tokenizer._fast is not None
        fast = tokenizer.encode_batch(TEXTS)
        tokenizer.__dict__["_fast"] = None
        for one, other in zip(fast, tokenizer.encode_batch(TEXTS), strict=True):
            np.testing.assert_array_equal(one, other)


def test_gpt2_and_smollm_equal_transformers_on_real_text() -> None:
    from transformers import PreTrainedTokenizerFast

    rows = (
        (real_data() / "wikitext-2/wiki.valid.raw")
        .read_text(encoding="utf-8")
        .splitlines(keepends=True)[:400]
    )
    for name, size, eos in (("gpt2", 50257, 50256), ("smollm", 49152, 2)):
        folder = real_data() / "tokenizers" / name
        tokenizer = obtain(
            TokenizerConfig(name=name, kind="pretrained", path=str(folder)), [], folder, silent
        )
        reference = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        assert (tokenizer.vocab_size, tokenizer.eos_id) == (size, eos)
        expected = [reference(row, add_special_tokens=False)["input_ids"] for row in rows]
        assert [ids.tolist() for ids in tokenizer.encode_batch(rows)] == expected
        assert sum(int(tokenizer.token_bytes[ids].sum()) for ids in expected) == sum(
            len(row.encode()) for row in rows
        )


def test_sentencepiece_like_tokenizer_counts_its_bytes() -> None:
    config = TokenizerConfig(name="s", kind="pretrained", path=str(real_data() / "stories260K"))
    tokenizer = obtain(config, [], Path("unused"), silent)
    text = "Once upon a time 🙂"
    # it puts one space before every text
    assert int(tokenizer.token_bytes[tokenizer.encode(text)].sum()) == len(text.encode()) + 1
    assert tokenizer.eos_id == 2


def test_pretrained_folder_errors(tmp_path: Path) -> None:
    def get(path: Path | str) -> Tokenizer:
        return obtain(TokenizerConfig(name="p", kind="pretrained", path=str(path)), [], tmp_path, silent)

    (tmp_path / "gpt2").mkdir()
    with pytest.raises(
        DataError, match=r"tokenizer\.path: got .*gpt3', allowed: an existing folder.*did you mean 'gpt2'"
    ):
        get(tmp_path / "gpt3")
    (tmp_path / "gpt2/tokenizer.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(DataError, match=r"tokenizer\.path: .*tokenizer\.json cannot be used: "):
        get(tmp_path / "gpt2")
    with pytest.raises(DataError, match=r"no whole tokenizer of lmx in it"):
        Tokenizer.load(tmp_path)


def test_stamp_of_a_folder_changes_with_its_files(tmp_path: Path) -> None:
    config = TokenizerConfig(name="p", kind="pretrained", path=str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    before = stamp(config)
    (tmp_path / "tokenizer.json").write_text("{ }")
    assert stamp(config) != before
