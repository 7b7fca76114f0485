"""A key that the user typed and that has no effect is refused; the same from a preset is idle."""

from __future__ import annotations

from typing import Any

import pytest
from config_helpers import changed

from lmx.config import ConfigError
from lmx.config.compose import compose
from lmx.config.keys import schema_keys

HUB = {"data.source": "hub", "data.repository": "a/b"}
FILES = {"data.source": "files", "data.files": "x"}
PRETRAINED = {"tokenizer.kind": "pretrained", "tokenizer.path": "x"}

# the rest of the configuration, the keys that have no effect in it, and those that do
TABLE: list[tuple[dict[str, Any], str, str]] = [
    (
        {},
        "objective.alpha objective.temperature objective.top_k data.stride data.files",
        "model.rope_theta seed",
    ),
    ({"model.position": "none"}, "model.rope_theta model.rope_layout", "model.norm_eps"),
    (
        {"model.norm": "none"},
        "model.norm_position model.final_norm model.norm_eps",
        "model.qk_norm model.norm_bias",
    ),
    ({"model.norm": "none", "model.qk_norm": True}, "model.norm_position", "model.norm_eps"),
    ({"model.init": "torch_default"}, "model.init_std", "model.init"),
    ({"model.init": "xavier_truncated"}, "model.init_std", "model.init"),
    (
        {"model.num_layers": 0},
        "model.num_heads model.activation model.rope_theta",
        "model.hidden_size model.init",
    ),
    ({"model.sliding_window": 256}, "model.sliding_window", "data.sequence_length"),
    ({"model.sliding_window": 255}, "", "model.sliding_window"),
    ({"init_from": "run"}, "model.init model.init_std", "init_from model.hidden_size"),
    ({"resume": "run", "init_from": "other"}, "init_from", "resume"),
    ({"optimizer.weight_decay": 0.0}, "optimizer.decay", "optimizer.weight_decay"),
    (
        {
            "optimizer.weight_decay": 0.0,
            "optimizer.rest": {"_target_": "torch.optim.AdamW", "lr": 1, "weight_decay": 0.1},
        },
        "",
        "optimizer.decay",
    ),
    (
        {"schedule.kind": "cosine"},
        "schedule.decay_fraction",
        "schedule.final_fraction schedule.warmup_fraction",
    ),
    ({"schedule.kind": "wsd"}, "", "schedule.decay_fraction schedule.decay_steps"),
    (
        {"schedule.kind": "constant"},
        "schedule.final_fraction schedule.decay_steps schedule.decay_fraction",
        "schedule.warmup_fraction",
    ),
    ({"objective.kind": "cosine_mix"}, "", "objective.alpha objective.temperature objective.top_k"),
    (
        {"objective.kind": "cosine_mix", "objective.alpha": 0.0},
        "objective.temperature objective.top_k",
        "objective.alpha",
    ),
    (
        {"data.source": "storyworld"},
        "data.repository data.subset data.revision data.streaming data.timeout_seconds data.splits "
        "data.local_dir "
        "data.files data.validation_files data.validation_fraction data.text_field",
        "data.stories data.held_out_stories data.story_seed data.max_documents data.min_characters "
        "data.collapse_whitespace data.shuffle data.drop_last data.num_workers",
    ),
    (
        HUB,
        "data.stories data.files data.validation_fraction",
        "data.revision data.streaming data.timeout_seconds data.splits data.local_dir data.text_field "
        "data.subset",
    ),
    ({**HUB, "data.splits": {"train": "train", "validation": "train"}}, "", "data.validation_fraction"),
    (
        {**HUB, "data.local_dir": "x"},
        "data.repository data.revision data.streaming data.timeout_seconds data.splits "
        "data.validation_fraction",
        "data.local_dir data.subset data.text_field",
    ),
    (FILES, "data.stories data.repository data.local_dir", "data.validation_fraction data.text_field"),
    ({**FILES, "data.validation_files": "y"}, "data.validation_fraction", "data.validation_files"),
    ({"data.packing": "stream"}, "data.mask_padding data.mask_crossing data.stride", "data.separator"),
    ({"data.packing": "sentences"}, "data.mask_crossing data.separator", "data.mask_padding"),
    ({"data.packing": "documents"}, "data.separator", "data.mask_padding data.mask_crossing"),
    ({"data.packing": "blocks"}, "data.separator data.mask_padding", "data.sequence_length"),
    ({"data.packing": "stride", "data.stride": 8}, "", "data.stride data.separator"),
    (
        {"tokenizer.kind": "bpe"},
        "tokenizer.path tokenizer.revision",
        "tokenizer.vocab_size tokenizer.eos_token",
    ),
    (
        {"tokenizer.kind": "byte"},
        "tokenizer.path tokenizer.revision tokenizer.vocab_size tokenizer.eos_token tokenizer.pad_token",
        "tokenizer.kind",
    ),
    (
        PRETRAINED,
        "tokenizer.vocab_size tokenizer.eos_token tokenizer.pad_token",
        "tokenizer.path tokenizer.revision",
    ),
    # a signal and the end save as well
    ({"checkpoint.every_minutes": None}, "", "checkpoint.best checkpoint.every_steps checkpoint.keep_last"),
    ({"callbacks": {}}, "hardware.peak_tflops", "hardware.compile"),
    ({}, "", "hardware.peak_tflops hardware.threads hardware.deterministic train.clip_grad_norm"),
]


@pytest.mark.parametrize(("changes", "idle", "effective"), TABLE)
def test_keys_without_effect(changes: dict[str, Any], idle: str, effective: str) -> None:
    found = dict(changed(changes).useless())
    assert [key for key in idle.split() if key not in found] == []
    assert [key for key in effective.split() if key in found] == []
    assert set(found) <= set(schema_keys()), "a table names a key that does not exist"


def test_only_what_was_typed_is_refused() -> None:
    changes = {"model.position": "none", "model.rope_theta": 3.0}
    changed(changes)
    changed(changes, given=["model.position", "seed"])
    with pytest.raises(
        ConfigError,
        match=r"^model.rope_theta: got 3.0, which has no effect with model.position=none; leave it out$",
    ):
        changed(changes, given=["model.rope_theta", "model.rope_theta"])


@pytest.mark.parametrize("line", ["model.rope_theta=3", "++model.rope_theta=3", "model={rope_theta: 3}"])
def test_however_it_was_typed(line: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^model.rope_theta: got 3.0, which has no effect with model.position=none"
    ):
        compose([line, "model.position=none"])


def test_a_choice_makes_keys_useless() -> None:
    with pytest.raises(
        ConfigError, match=r"^data.stories: got 5, which has no effect with data.source=hub; leave it out$"
    ):
        compose(["data=wikitext2", "data.stories=5"])
    compose(["data.stories=5"])
