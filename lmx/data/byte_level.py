"""Byte-level BPE in GPT-2's manner, run by tiktoken: the same ids several times faster."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lmx.data.characters import NUL, with_plain_spaces

if TYPE_CHECKING:
    import tokenizers

# marks in a text; no document has a NUL
END = NUL + "e"  # between texts
CUT = NUL + "c"  # before the last of several characters of white space, which belongs to the word after it

_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"
_WORDS_AND_DIGITS = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?=\p{N})|\s+(?!\S)|\s"
)


class ByteLevelBPE:
    """An equivalent of a tokenizer of the `tokenizers` library.

    GPT-2's expression for words looks ahead, to leave the last of several characters of white space to the
    word after it. Cut there beforehand, a text needs an expression that looks nowhere, which takes half the
    time.
    """

    def __init__(self, ranks: dict[bytes, int], pattern: str, vocab_size: int) -> None:
        """`ranks`: bytes → id; bytes that have no token become ids above the two that marks become."""
        import tiktoken

        self._cuts = pattern == _WORDS
        self._size = vocab_size
        missing = [bytes([byte]) for byte in range(256) if bytes([byte]) not in ranks]
        self._encoding = tiktoken.Encoding(
            "lmx",
            pat_str=pattern,
            mergeable_ranks=ranks | {byte: vocab_size + 2 + i for i, byte in enumerate(missing)},
            special_tokens={END: vocab_size, CUT: vocab_size + 1},
        )

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, int] | None:
        """Return the ids of all texts, (N,) uint32, where each text ends, (texts,) int64, and their bytes.

        None where a text holds a NUL, or a byte that has no token.
        """
        text = END.join(texts)
        raw = text.encode()
        separators = max(0, len(texts) - 1)
        if raw.count(0) != separators:
            return None
        if self._cuts:
            text = _cut(text, raw)
        ids = self._encoding.encode_to_numpy(text, allowed_special="all", disallowed_special=())
        marks = np.flatnonzero(ids >= self._size)
        kinds = ids[marks] - self._size
        if (kinds > 1).any():
            return None
        ends = np.append((marks - np.arange(len(marks)))[kinds == 0], len(ids) - len(marks))
        return np.delete(ids, marks), ends[: len(texts)], len(raw) - separators * len(END)


def byte_level_bpe(
    inner: tokenizers.Tokenizer, rules: dict[str, Any], vocab_size: int
) -> ByteLevelBPE | None:
    """Return the equivalent of `inner`, whose tokenizer.json says `rules`; None for other kinds.

    tiktoken takes a word that is a token as it is, and merges by the id of the result; `tokenizers` always
    merges, in the order of its merges. That is the same where ids grow with that order, no two merges give
    one token, and each token comes out of its own letters.
    """
    model, pattern = rules["model"], _pattern(rules.get("pre_tokenizer") or {})
    plain = (
        model["type"] == "BPE"
        and rules.get("normalizer") is None
        and not any(
            model.get(key)
            for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "unk_token")
        )
        and all(token["special"] for token in rules.get("added_tokens", []))
    )
    if not plain or pattern is None:
        return None
    vocab = model["vocab"]
    merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    products = [vocab["".join(pair)] for pair in merges]
    special = {token["content"] for token in rules.get("added_tokens", [])}
    words = [token for token in vocab if token not in special]
    byte_of = {ord(letter): byte for byte, letter in byte_letters().items()}
    spelled = byte_of.keys() >= set(map(ord, set("".join(words))))
    rising = all(a < b for a, b in pairwise(products))
    if not (spelled and rising and all(len(inner.model.tokenize(word)) == 1 for word in words)):
        return None
    return ByteLevelBPE(
        {word.translate(byte_of).encode("latin-1"): vocab[word] for word in words}, pattern, vocab_size
    )


def _pattern(pre: dict[str, Any]) -> str | None:
    """Return the expression that cuts text into words as a pre-tokenizer does; None where it is another.

    GPT-2's, or that with every digit by itself and white space before a digit in one piece (SmolLM).
    """
    steps = pre.get("pretokenizers", [pre])
    if not steps or steps[-1].get("type") != "ByteLevel" or not steps[-1].get("use_regex", True):
        return None
    if any(step.get("add_prefix_space") for step in steps):
        return None
    match steps[:-1]:
        case []:
            return _WORDS
        case [{"type": "Digits", "individual_digits": True}]:
            return _WORDS_AND_DIGITS
        case _:
            return None


def _cut(text: str, raw: bytes) -> str:
    """Put CUT into a text, which is `raw` in UTF-8, before the last of several characters of white space.

    Only where a word comes after them.
    """
    codes = np.frombuffer(raw, np.uint8)
    white = _is_white(with_plain_spaces(codes))
    last = np.flatnonzero((white[:-2] & white[1:-1]) > white[2:]) + 1  # byte of white space
    last = last[codes[last + 1] != ord(NUL)]
    for _ in range(2):  # back to the first byte of a character
        last -= codes[last] & 0xC0 == 0x80
    last = last[white[last - 1] & (last > 0)]
    if not len(last):
        return text
    return CUT.encode().join([raw[a:b] for a, b in pairwise([0, *last.tolist(), len(raw)])]).decode()


def _is_white(codes: np.ndarray) -> np.ndarray:
    """Return which ASCII bytes `\\s` in tiktoken matches; `str.isspace` has four more."""
    return (codes - np.uint8(ord("\t")) <= ord("\r") - ord("\t")) | (codes == ord(" "))


def byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte in byte-level vocabularies (Radford et al., 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
