"""Text to token ids and back: bytes, a byte-level BPE trained on the corpus, or a pretrained tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmx.config import DataError
from lmx.data.files import END_OF_TEXT

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

Ids = np.ndarray  # (N,) uint32
RULES = "rules.json"
TOKENIZER = "tokenizer.json"
# said aloud, so that data workers that fork later do not print a warning about it
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


class Tokenizer(ABC):
    """Turns text into ids below `vocab_size`. Text never becomes a special token, whatever it says."""

    vocab_size: int
    eos_id: int | None
    pad_id: int | None

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text."""

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
    def save(self, folder: str | Path) -> None:
        """Write into `folder` what `load` reads."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text."""
        ids: list[int] = self.encode_batch([text])[0].tolist()
        return ids

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

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Return the UTF-8 bytes of each text."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.uint32) for text in texts]

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

    def save(self, folder: str | Path) -> None:
        """Write the kind: there is nothing else to know."""
        _save(Path(folder), {"kind": "byte", "eos_id": self.eos_id, "pad_id": self.pad_id})


class SubwordTokenizer(Tokenizer):
    """Any tokenizer of the `tokenizers` library, trained here or pretrained.

    Byte-level BPE in GPT-2's manner is run by tiktoken, which gives the same ids several times faster.
    """

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
        self._rules = json.loads(text)
        self._text = text
        self.vocab_size = max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if self.vocab_size < 2:
            raise ValueError("its vocabulary is empty")
        self.eos_id = eos_id
        self.pad_id = pad_id

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text."""
        if self._fast is not None:
            encode = self._fast.encode_to_numpy
            return [encode(text, disallowed_special=()) for text in texts]
        encoded = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype=np.uint32) for one in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        text: str = self._inner.decode(list(ids), skip_special_tokens=True)
        return text

    @cached_property
    def _fast(self) -> tiktoken.Encoding | None:
        return _tiktoken(self._inner, self._rules)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Bytes of each token's text."""
        counts = np.zeros(self.vocab_size, dtype=np.int64)
        # in a byte-level vocabulary each character of a token's name is one byte
        byte_level = "ByteLevel" in json.dumps(self._rules.get("decoder"))
        for token, i in self._inner.get_vocab(with_added_tokens=False).items():
            hexadecimal = len(token) == 6 and token.startswith("<0x")
            counts[i] = (
                len(token) if byte_level else 1 if hexadecimal else len(token.replace("▁", " ").encode())
            )
        for i, added in self._inner.get_added_tokens_decoder().items():
            counts[i] = 0 if added.special else len(added.content.encode())
        return counts

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the rules and of the special tokens used here."""
        rules = json.dumps([self._rules, self.eos_id, self.pad_id], sort_keys=True)
        return hashlib.sha256(rules.encode()).hexdigest()[:16]

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


def _tiktoken(inner: tokenizers.Tokenizer, rules: dict[str, Any]) -> tiktoken.Encoding | None:
    """Return an equivalent of a GPT-2-like byte-level BPE, or None for every other kind.

    tiktoken merges by the id of the result, `tokenizers` by the order of merges: the same where ids grow with
    that order and no two merges give the same token.
    """
    model = rules["model"]
    pre = rules.get("pre_tokenizer") or {}
    plain = (
        model["type"] == "BPE"
        and pre.get("type") == "ByteLevel"
        and pre.get("use_regex", True)
        and not pre.get("add_prefix_space")
        and rules.get("normalizer") is None
        and not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and not model.get("ignore_merges")
        and all(token["special"] for token in rules.get("added_tokens", []))
    )
    if not plain:
        return None
    merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    products = [model["vocab"]["".join(pair)] for pair in merges]
    letters = byte_letters()
    if any(b <= a for a, b in pairwise(products)) or not set(letters.values()) <= set(model["vocab"]):
        return None
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str

    byte_of = {letter: byte for byte, letter in letters.items()}
    special = {token["content"] for token in rules.get("added_tokens", [])}
    ranks = {
        bytes(byte_of[c] for c in token): i for token, i in model["vocab"].items() if token not in special
    }
    return tiktoken.Encoding("lmx", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})


def byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte in byte-level vocabularies (Radford et al., 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def specials_of(text: str, config: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return (eos id, pad id) of a tokenizer.json with the tokenizer_config.json beside it."""
    rules = json.loads(text)
    ids = {token["content"]: token["id"] for token in rules.get("added_tokens", [])}
    vocab = rules["model"].get("vocab")
    known = {**vocab, **ids} if isinstance(vocab, dict) else ids

    def of(key: str, default: str | None = None) -> int | None:
        token = config.get(key, default)
        return known.get(token["content"] if isinstance(token, dict) else token)

    return of("eos_token", END_OF_TEXT), of("pad_token")
