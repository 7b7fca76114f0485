"""Text to token ids and back: bytes, a byte-level BPE trained on the corpus, or a pretrained tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmx.config import DataError
from lmx.data.byte_level import ByteLevelBPE, byte_letters, byte_level_bpe
from lmx.data.files import END_OF_TEXT

RULES = "rules.json"
TOKENIZER = "tokenizer.json"
# said aloud, so that data workers that fork later do not print a warning about it
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


class Encoded(NamedTuple):
    """The tokens of several texts, one text after the other."""

    ids: np.ndarray  # (N,) uint32
    ends: np.ndarray  # (texts,) int64: where the tokens of each text end
    bytes: int  # of all texts in UTF-8


class Tokenizer(ABC):
    """Turns text into ids below `vocab_size`. Text never becomes a special token, whatever it says."""

    vocab_size: int
    eos_id: int | None
    pad_id: int | None

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> Encoded:
        """Return the tokens of texts, each tokenized by itself."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special tokens are left out, incomplete characters are U+FFFD."""

    @property
    @abstractmethod
    def token_bytes(self) -> np.ndarray:
        """Bytes of text that each id stands for, (vocab_size,) int64; 0 for special tokens."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of everything that decides which ids a text gets."""

    @abstractmethod
    def definition(self) -> str:
        """Return the tokenizer.json of the `tokenizers` library that gives these ids and adds none."""

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write into `folder` what `load` reads."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text."""
        ids: list[int] = self.encode_batch([text]).ids.tolist()
        return ids

    @cached_property
    def joins(self) -> bool:
        """Whether texts cut between words give the tokens of the whole; not where each text gets a prefix."""
        whole, parts = (
            self.encode_batch(["one two\nthree"]).ids,
            self.encode_batch(["one", " two\n", "three"]).ids,
        )
        return np.array_equal(whole, parts)

    def continuation(self, start: Sequence[int], new: Sequence[int]) -> str:
        """Return the text that `new` ids add to that of `start`: some vocabularies drop a first space."""
        return self.decode([*start, *new])[len(self.decode(start)) :]

    @staticmethod
    def load(folder: str | Path) -> Tokenizer:
        """Return the tokenizer that `save` wrote into `folder`.

        Raises DataError when there is none, or it is damaged.
        """
        path = Path(folder)
        try:
            rules = json.loads((path / RULES).read_text())
            if rules["kind"] == "byte":
                return ByteTokenizer()
            return SubwordTokenizer(
                (path / TOKENIZER).read_text(encoding="utf-8"), rules["eos_id"], rules["pad_id"]
            )
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path}: no whole tokenizer of lmx in it ({error})") from error


class ByteTokenizer(Tokenizer):
    """256 bytes and an end-of-text token, which is the padding too."""

    vocab_size = 257
    eos_id = 256
    pad_id = 256

    def encode_batch(self, texts: Sequence[str]) -> Encoded:
        """Return the UTF-8 bytes of texts."""
        joined = "".join(texts)
        raw = joined.encode()
        lengths = map(len, texts) if len(raw) == len(joined) else (len(text.encode()) for text in texts)
        return Encoded(np.frombuffer(raw, np.uint8).astype(np.uint32), _ends(list(lengths)), len(raw))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of bytes."""
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """One byte each, none for the end of text."""
        return np.array([1] * 256 + [0])

    @property
    def fingerprint(self) -> str:
        """Always the same."""
        return "byte-257"

    def definition(self) -> str:
        """Return a vocabulary of bytes without merges, and the end of text."""
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers

        vocabulary = {letter: byte for byte, letter in byte_letters().items()}
        rules = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        rules.decoder = decoders.ByteLevel()
        rules.add_special_tokens([END_OF_TEXT])
        text: str = rules.to_str()
        return text

    def save(self, folder: str | Path) -> None:
        """Write the kind: there is nothing else to know."""
        _save(Path(folder), {"kind": "byte", "eos_id": self.eos_id, "pad_id": self.pad_id})


class SubwordTokenizer(Tokenizer):
    """Any tokenizer of the `tokenizers` library, run by tiktoken where that can."""

    def __init__(self, text: str, eos_id: int | None, pad_id: int | None) -> None:
        """`text` is a tokenizer.json. Raises ValueError when it is not one."""
        import tokenizers

        try:
            self._inner = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exceptions
            raise ValueError(f"not a tokenizer.json: {error}") from error
        self._inner.encode_special_tokens = True
        self._inner.no_padding()
        self._inner.no_truncation()
        self._text = text
        self.vocab_size = max(_ids(self._rules), default=-1) + 1
        if self.vocab_size < 2:
            raise ValueError("its vocabulary is empty")
        self.eos_id = eos_id
        self.pad_id = pad_id

    @staticmethod
    def configured(text: str, config: dict[str, Any]) -> SubwordTokenizer:
        """Return the tokenizer of a tokenizer.json with the tokenizer_config.json beside it."""
        tokenizer = SubwordTokenizer(text, None, None)

        def id_of(token: Any) -> int | None:
            name = token.get("content") if isinstance(token, dict) else token
            found: int | None = tokenizer._inner.token_to_id(name) if isinstance(name, str) else None
            return found

        tokenizer.eos_id = id_of(config.get("eos_token", END_OF_TEXT))
        tokenizer.pad_id = id_of(config.get("pad_token"))
        return tokenizer

    def encode_batch(self, texts: Sequence[str]) -> Encoded:
        """Return the tokens of texts; where the fast way serves, in one call."""
        found = self._fast.encode_batch(texts) if self._fast is not None else None
        if found is not None:
            return Encoded(*found)
        every = [one.ids for one in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]
        ends = _ends([len(ids) for ids in every])
        ids = np.fromiter(chain.from_iterable(every), np.uint32, ends[-1] if texts else 0)
        return Encoded(ids, ends, len("".join(texts).encode()))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        text: str = self._inner.decode(list(ids), skip_special_tokens=True)
        return text

    @cached_property
    def _rules(self) -> dict[str, Any]:
        rules: dict[str, Any] = json.loads(self._text)
        return rules

    @cached_property
    def _fast(self) -> ByteLevelBPE | None:
        return byte_level_bpe(self._inner, self._rules, self.vocab_size)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Bytes of each token's text."""
        counts = np.zeros(self.vocab_size, dtype=np.int64)
        # in a byte-level vocabulary each character of a token's name is one byte
        byte_level = "ByteLevel" in repr(self._inner.decoder)
        vocab = self._inner.get_vocab(with_added_tokens=False)
        counts[list(vocab.values())] = list(map(len if byte_level else _text_bytes, vocab))
        for i, added in self._inner.get_added_tokens_decoder().items():
            counts[i] = 0 if added.special else len(added.content.encode())
        return counts

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the rules and of the special tokens used here."""
        rules = json.dumps([self._rules, self.eos_id, self.pad_id], sort_keys=True)
        return hashlib.sha256(rules.encode()).hexdigest()[:16]

    def definition(self) -> str:
        """Return its own rules without what they would add to a text."""
        return json.dumps(
            {**self._rules, "truncation": None, "padding": None, "post_processor": None}, ensure_ascii=False
        )

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, and which tokens are end and padding."""
        path = Path(folder)
        _save(path, {"kind": "subword", "eos_id": self.eos_id, "pad_id": self.pad_id})
        (path / TOKENIZER).write_text(self._text, encoding="utf-8")

    def __reduce__(self) -> tuple[Any, ...]:
        return SubwordTokenizer, (self._text, self.eos_id, self.pad_id)


def _save(folder: Path, rules: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RULES).write_text(json.dumps(rules))


def _ids(rules: dict[str, Any]) -> Iterable[int]:
    """Return the ids that a tokenizer.json gives: faster than to ask the library for its vocabulary."""
    vocab = rules["model"]["vocab"]
    added = [token["id"] for token in rules.get("added_tokens", [])]
    return chain(range(len(vocab)) if isinstance(vocab, list) else vocab.values(), added)


def _ends(lengths: list[int]) -> np.ndarray:
    return np.cumsum(lengths, dtype=np.int64)


def _text_bytes(token: str) -> int:
    """Return the bytes of text that a token of SentencePiece stands for."""
    hexadecimal = len(token) == 6 and token.startswith("<0x")
    return 1 if hexadecimal else len(token.replace("▁", " ").encode())
