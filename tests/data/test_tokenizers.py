"""Tokenizers: ids, bytes, special tokens, and where they come from."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import BYTE, bpe, real_data, silent

from lmx.config import DataError, TokenizerConfig
from lmx.data.tokenizers import ByteTokenizer, SubwordTokenizer, Tokenizer
from lmx.data.vocabulary import obtain, stamp, train_bpe

TEXTS = [
    'Once upon a time, a naïve cat sat.\n\nIt said: "hello" 123  times… 日本 🙂',
    "<|endoftext|> is text",
    "",
    " \n ",
]
# where expressions for words differ: digits, spaces before them, spaces of several kinds, contractions
WEIRD = [
    "  7",
    "a  1 b",
    "\n\n 12 ",
    "½ x  ½",
    "it's 1's '7 's",
    "x\u00a0\u00a09",
    "\t\t3\n\n",
    "１２ ٣",
    "a\u20282",
]
WEIRD += ["a\x85b  c", "\x1c \x1d", "\U000f0000 x", "…!?  !", "\r\n\r\nb", " " * 50, "a" * 50]
# white space of all kinds at both ends of texts and between all kinds of characters
LETTERS = "aés7½'!日  \n\t\x1c\x85\u00a0\u2003\u3000"
WEIRD += ["".join(random.Random(seed).choices(LETTERS, k=seed % 9)) for seed in range(400)]
SAMPLE = [
    "the cat sat on the mat and the cat ate the rat",
    "a hat for the cat",
    "that is the end of that",
] * 5


def each(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """The ids of each text."""
    ids, ends, size = tokenizer.encode_batch(texts)
    assert size == len("".join(texts).encode())
    return np.split(ids, ends[:-1])


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
    for text, ids in zip(TEXTS, each(tokenizer, TEXTS), strict=True):
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
    # with tokens of several characters of white space
    trained = train_bpe(bpe(600), [*SAMPLE, *WEIRD * 5])
    rules = json.loads(json.dumps(trained._rules))
    rules["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, rules["pre_tokenizer"]],
    }
    for tokenizer in (trained, SubwordTokenizer(json.dumps(rules), 0, 1)):
        assert_fast_is_plain(tokenizer, [*TEXTS, *WEIRD])


def test_fast_path_of_gpt2_and_smollm_gives_the_ids_of_the_plain_one() -> None:
    folder = real_data()
    rows = (folder / "wikitext-2/wiki.valid.raw").read_text(encoding="utf-8").splitlines(keepends=True)
    for name in ("gpt2", "smollm"):
        config = TokenizerConfig(name=name, kind="pretrained", path=str(folder / "tokenizers" / name))
        tokenizer = obtain(config, [], Path("unused"), silent)
        assert isinstance(tokenizer, SubwordTokenizer)
        # SmolLM has no token for some bytes, as that of the last text
        assert_fast_is_plain(tokenizer, [*rows[:500], *TEXTS, *WEIRD, "a \U0007fffd b"])


def assert_fast_is_plain(tokenizer: SubwordTokenizer, texts: list[str]) -> None:
    assert tokenizer._fast is not None
    batches = ([], [""], ["", ""], ["a\0b", "c"], texts, *([text] for text in texts[-len(WEIRD) :]))
    fast = [tokenizer.encode_batch(batch) for batch in batches]
    tokenizer.__dict__["_fast"] = None
    for batch, found in zip(batches, fast, strict=True):
        for ours, plain in zip(found, tokenizer.encode_batch(batch), strict=True):
            np.testing.assert_array_equal(ours, plain, str(batch[:3]))


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {
            "pre_tokenizer": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            }
        },
        {
            "pre_tokenizer": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": False,
            }
        },
        {
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": "x"},
                "behavior": "Isolated",
                "invert": False,
            }
        },
        {"added_tokens": [{"id": 400, "content": "cat", "special": False}]},
    ],
)
def test_other_rules_take_the_plain_way(change: dict[str, Any]) -> None:
    rules = json.loads(json.dumps(train_bpe(bpe(300), SAMPLE)._rules))
    common = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for token in change.get("added_tokens", []):
        token.update(common)
    tokenizer = SubwordTokenizer(json.dumps({**rules, **change}), 0, 1)
    assert tokenizer._fast is None
    assert tokenizer.encode("the cat sat") == tokenizer._inner.encode("the cat sat").ids


def test_vocabulary_whose_tokens_do_not_come_out_of_their_letters_takes_the_plain_way() -> None:
    rules = json.loads(json.dumps(train_bpe(bpe(300), SAMPLE)._rules))
    model = rules["model"]
    # "bc" merges first, so "abc" = "ab" + "c" is never made of a, b, c
    model["merges"] = [["b", "c"], ["a", "b"], ["ab", "c"]]
    letters = {token: i for token, i in model["vocab"].items() if i < 258}
    model["vocab"] = {**letters, "bc": 258, "ab": 259, "abc": 260}
    tokenizer = SubwordTokenizer(json.dumps(rules), 0, 1)
    assert tokenizer._fast is None
    assert [tokenizer.decode([i]) for i in tokenizer.encode("abc")] == ["a", "bc"]


def test_texts_are_cut_only_where_the_tokenizer_allows_it() -> None:
    assert train_bpe(bpe(300), SAMPLE).joins
    assert ByteTokenizer().joins
    llama = TokenizerConfig(name="s", kind="pretrained", path=str(real_data() / "stories260K"))
    assert not obtain(llama, [], Path("unused"), silent).joins


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
        assert [ids.tolist() for ids in each(tokenizer, rows)] == expected
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
