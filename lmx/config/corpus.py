"""`data` and `tokenizer`: from a corpus to windows of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

from lmx.config.fields import choice, field_problems, number


@dataclass
class DataConfig:
    """Source → documents → packing; `conf/data/*.yaml` name the usual corpora."""

    name: str = MISSING
    source: str = choice("hub", "storyworld", "hub", "files")
    # hub: which repository; local_dir takes the same corpus from a folder instead
    repository: str | None = None
    subset: str | None = None
    revision: str | None = None
    text_field: str = "text"
    splits: dict[str, str] = field(
        default_factory=lambda: {"train": "train", "validation": "validation", "test": "test"}
    )
    local_dir: str | None = None
    streaming: bool = False
    timeout_seconds: float = number(30.0, above=0)  # the longest wait on the hub before one clear line
    # files: a folder, a file or a glob; without validation files a share of the documents is held out
    files: str | None = None
    validation_files: str | None = None
    validation_fraction: float = number(0.05, above=0, high=0.5)
    # storyworld
    stories: int = number(20_000, low=1)
    held_out_stories: int = number(500, low=1)
    story_seed: int = number(0, low=0)
    # documents
    max_documents: int | None = number(None, low=1)  # the first N of each split
    min_characters: int = number(0, low=0)  # shorter documents are dropped
    collapse_whitespace: bool = False
    # packing into windows of sequence_length + 1 tokens (inputs and the targets shifted by one)
    packing: str = choice("stream", "stream", "rows", "sentences", "blocks", "documents", "stride")
    sequence_length: int = number(256, low=1)
    separator: str = choice("eos", "eos", "newlines", "none")  # between documents, where the packing joins them
    stride: int | None = number(None, low=1)  # packing=stride: step between windows
    mask_padding: bool = True  # padding targets count neither in the loss nor in the measures
    mask_crossing: bool = True  # likewise targets in another document than their input (packing=documents)
    # batches
    shuffle: bool = True
    drop_last: bool = False  # drop an epoch's last, partial batch
    num_workers: int = number(0, low=0)

    def problems(self) -> Iterator[str]:
        """Yield one line for each contradiction inside the data settings."""
        yield from field_problems(self, "data")
        if self.source == "hub" and not self.repository:
            yield "data.repository: got nothing with data.source=hub, allowed: namespace/name of a dataset"
        if self.source == "files" and not self.files:
            yield "data.files: got nothing with data.source=files, allowed: a folder, a file or a glob"
        if self.packing == "stride" and self.stride is None:
            yield "data.stride: got nothing with data.packing=stride, allowed: a number of tokens"

    def useless(self) -> Iterator[tuple[str, str]]:
        """Yield (field, reason) for each field that has no effect with the others' values."""
        if self.source != "hub":
            for name in ("repository", "subset", "revision", "streaming", "timeout_seconds", "splits", "local_dir"):
                yield name, f"data.source={self.source}"
        elif self.local_dir is not None:
            for name in ("streaming", "timeout_seconds", "revision"):
                yield name, f"data.local_dir={self.local_dir}"
        if self.source != "files":
            for name in ("files", "validation_files", "validation_fraction"):
                yield name, f"data.source={self.source}"
        elif self.validation_files is not None:
            yield "validation_fraction", f"data.validation_files={self.validation_files}"
        if self.source == "storyworld":
            yield "text_field", "data.source=storyworld"
        else:
            for name in ("stories", "held_out_stories", "story_seed"):
                yield name, f"data.source={self.source}"
        if self.packing != "stride":
            yield "stride", f"data.packing={self.packing}"
        if self.packing not in ("sentences", "documents"):
            yield "mask_padding", f"data.packing={self.packing}"
        if self.packing != "documents":
            yield "mask_crossing", f"data.packing={self.packing}"
        if self.packing not in ("stream", "stride"):
            yield "separator", f"data.packing={self.packing}"


@dataclass
class TokenizerConfig:
    """Bytes, a byte-level BPE trained on the train split, or any tokenizer of transformers."""

    name: str = MISSING
    kind: str = choice("bpe", "bpe", "byte", "pretrained")
    vocab_size: int | None = number(None, low=2)  # null: whatever the pretrained tokenizer has
    path: str | None = None  # pretrained: a folder or the name on the hub
    revision: str | None = None
    eos_token: str | None = "<|endoftext|>"
    pad_token: str | None = "<pad>"

    def problems(self) -> Iterator[str]:
        """Yield one line for each contradiction inside the tokenizer settings."""
        yield from field_problems(self, "tokenizer")
        if self.kind == "pretrained" and not self.path:
            yield "tokenizer.path: got nothing with tokenizer.kind=pretrained, allowed: a folder or a hub name"
        if self.kind == "bpe" and self.vocab_size is None:
            yield "tokenizer.vocab_size: got nothing with tokenizer.kind=bpe, allowed: a number ≥ 258"
        if self.kind == "bpe" and self.vocab_size is not None and self.vocab_size < 258:
            yield f"tokenizer.vocab_size: got {self.vocab_size}, allowed with kind=bpe: ≥ 258 (256 bytes, 2 specials)"

    def useless(self) -> Iterator[tuple[str, str]]:
        """Yield (field, reason) for each field that has no effect with the others' values."""
        if self.kind != "pretrained":
            yield "path", f"tokenizer.kind={self.kind}"
            yield "revision", f"tokenizer.kind={self.kind}"
        else:
            yield "pad_token", "tokenizer.kind=pretrained"
            yield "eos_token", "tokenizer.kind=pretrained"
            yield "vocab_size", "tokenizer.kind=pretrained"
        if self.kind == "byte":
            for name in ("vocab_size", "eos_token", "pad_token"):
                yield name, "tokenizer.kind=byte"
