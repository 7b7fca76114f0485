"""`data` and `tokenizer`: from a corpus to windows of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

from lmx.config.fields import choice, field_problems, number, unknown_name

SPLITS = ("train", "validation", "test")
HUB_FIELDS = ("repository", "revision", "streaming", "timeout_seconds", "splits")


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
    # which of the repository's splits serve as train, validation and test; null: none
    splits: dict[str, str | None] = field(
        default_factory=lambda: {"train": "train", "validation": "validation"}
    )
    local_dir: str | None = None
    streaming: bool = False
    timeout_seconds: float = number(30.0, above=0)  # the longest wait on the hub before one clear line
    # files: a folder, a file or a glob; without validation files a share of the documents is held out
    files: str | None = None
    validation_files: str | None = None
    validation_fraction: float = number(0.05, above=0, high=0.5)
    # what is held out of a train split that has no validation beside it: whole documents; a random share of
    # its windows, whose neighbours are trained on; none, so that validation is the train split itself
    holdout: str = choice("documents", "documents", "windows", "none")
    # storyworld
    stories: int = number(20_000, low=1)
    held_out_stories: int = number(250, low=1)
    story_seed: int = number(0, low=0)
    # documents
    max_documents: int | None = number(None, low=1)  # the first N of each split
    max_held_out_documents: int | None = number(None, low=1)  # of validation and test; null: max_documents
    min_characters: int = number(0, low=0)  # shorter documents are dropped
    collapse_whitespace: bool = False
    # packing into windows of sequence_length + 1 tokens (inputs and the targets shifted by one)
    packing: str = choice("stream", "stream", "rows", "sentences", "blocks", "documents", "stride")
    sequence_length: int = number(256, low=1)
    # between documents, where the packing joins them
    separator: str = choice("eos", "eos", "newlines", "none")
    stride: int | None = number(None, low=1)  # packing=stride: step between windows
    mask_padding: bool = True  # padding targets count neither in the loss nor in the measures
    mask_crossing: bool = True  # likewise targets in another document than their input (packing=documents)
    # batches
    shuffle: bool = True
    drop_last: bool = False  # drop an epoch's last, partial batch
    # null: every held-out token is evaluated; N: only what fills whole windows and whole batches of N of them
    held_out_batch: int | None = number(None, low=1)
    num_workers: int = number(0, low=0)

    def problems(self) -> Iterator[str]:
        """Yield one line for each contradiction inside the data settings."""
        yield from field_problems(self, "data")
        if self.source == "hub" and not self.repository:
            yield "data.repository: got nothing with data.source=hub, allowed: namespace/name of a dataset"
        for split, name in self.splits.items():
            if split not in SPLITS:
                yield unknown_name(f"data.splits.{split}", list(SPLITS), "unknown split")
            if self.streaming and "[" in (name or ""):
                yield f"data.splits.{split}: got {name!r} with data.streaming=true, allowed: whole splits"
        if self.source == "files" and not self.files:
            yield "data.files: got nothing with data.source=files, allowed: a folder, a file or a glob"
        if self.packing == "stride" and self.stride is None:
            yield "data.stride: got nothing with data.packing=stride, allowed: a number of tokens"

    def useless(self) -> Iterator[tuple[str, str]]:
        """Yield (field, reason) for each field that has no effect with the others' values."""
        if self.source != "hub":
            for name in (*HUB_FIELDS, "subset", "local_dir"):
                yield name, f"data.source={self.source}"
        elif self.local_dir is not None:
            for name in HUB_FIELDS:
                yield name, f"data.local_dir={self.local_dir}"
        if self.source != "files":
            yield "files", f"data.source={self.source}"
            yield "validation_files", f"data.source={self.source}"
        yield from self._useless_holdout()
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

    def _useless_holdout(self) -> Iterator[tuple[str, str]]:
        """A share is held out of files without their own for validation, or of a split that serves twice."""
        reason = None
        if self.source == "storyworld":
            reason = "data.source=storyworld"
        elif self.source == "files" and self.validation_files is not None:
            reason = f"data.validation_files={self.validation_files}"
        elif self.source == "hub" and self.local_dir is not None:
            reason = f"data.local_dir={self.local_dir}"
        elif self.source == "hub" and not self.shares_train:
            reason = "data.splits.validation other than data.splits.train"
        if reason is not None:
            yield "validation_fraction", reason
            yield "holdout", reason
        elif self.holdout == "none":
            yield "validation_fraction", "data.holdout=none"

    @property
    def shares_train(self) -> bool:
        """Whether one split of the repository serves as train and as validation."""
        return self.splits.get("validation") == self.splits.get("train")


SMALLEST_BPE = 256 + 2  # the bytes, eos and pad


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
            yield "tokenizer.path: got nothing with tokenizer.kind=pretrained, allowed: a folder or Hub name"
        if self.kind == "bpe" and self.vocab_size is None:
            yield f"tokenizer.vocab_size: got null with tokenizer.kind=bpe, allowed: ≥ {SMALLEST_BPE}"
        if self.kind == "bpe" and self.vocab_size is not None and self.vocab_size < SMALLEST_BPE:
            yield (
                f"tokenizer.vocab_size: got {self.vocab_size} with tokenizer.kind=bpe, allowed: "
                f"≥ {SMALLEST_BPE} (256 bytes and two special tokens)"
            )

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
