"""Byte-level BPE in GPT-2's manner, run by tiktoken: the same ids several times faster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tokenizers

NUL = "\0"  # in no document: marks in a text begin with it
END = NUL + "e"  # between texts
CUT = NUL + "c"  # before the last of several characters of white space, which belongs to the word after it

_LAST_SPACE = 0x3000
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

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the ids of all texts, (N,) uint32, and where each text ends, (texts,) int64.

        None where a text holds a NUL, or a byte that has no token.
        """
        if any(NUL in text for text in texts):
            return None
        text = END.join(texts)
        if self._cuts:
            text = _cut(text)
        ids = self._encoding.encode_to_numpy(text, allowed_special="all", disallowed_special=())
        marks = np.flatnonzero(ids >= self._size)
        kinds = ids[marks] - self._size
        if (kinds > 1).any():
            return None
        ends = np.append((marks - np.arange(len(marks)))[kinds == 0], len(ids) - len(marks))
        return np.delete(ids, marks), ends[: len(texts)]


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


def _cut(text: str) -> str:
    """Put CUT before the last of several characters of white space, where a word comes after them."""
    codes = _code_points(text)
    space = _white_space().take(codes, mode="clip")
    places = np.flatnonzero((space[:-2] & space[1:-1]) > space[2:]) + 1
    places = places[codes[places + 1] != ord(NUL)]
    if not len(places):
        return text
    return CUT.join([text[a:b] for a, b in pairwise([0, *places.tolist(), len(text)])])


def _code_points(text: str) -> np.ndarray:
    """Return the characters of a text, (N,) uint8 where all are ASCII, else uint32."""
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


@cache
def _white_space() -> np.ndarray:
    """Return which code points are what Unicode, and `\\s` in tiktoken, calls white space.

    The table ends one above the last of them: `take(…, mode="clip")` serves all. Python calls four control
    characters white space too.
    """
    return np.array([chr(c).isspace() and not 0x1C <= c <= 0x1F for c in range(_LAST_SPACE + 2)])


def byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte in byte-level vocabularies (Radford et al., 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
