"""What a user reads: one line with the key, what was got, what is allowed, and the nearest valid name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from config_helpers import changed, options

from lmx.config import ConfigError
from lmx.config.compose import compose
from lmx.config.overrides import given_keys


def refusal(*overrides: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(overrides, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


MODELS = ", ".join(options("model"))

# an override line, and the whole of what is said about it
LINES = {
    # groups
    "model=rope_5l": f"model: got 'rope_5l', allowed: {MODELS}; did you mean 'rope_4l'?",
    "model=": f"model: got '', allowed: {MODELS}",
    "model=null": f"model: got null, allowed: {MODELS}",
    "model=3": f"model: got 3, allowed: {MODELS}",
    "model=schema": f"model: got 'schema', allowed: {MODELS}",
    "model=../model/tiny": f"model: got '../model/tiny', allowed: {MODELS}",
    "model=[tiny]": f"model: got ['tiny'], allowed: {MODELS}; did you mean 'tiny'?",
    "logger=[csv,tensorbord]": (
        "logger: got 'tensorbord', allowed: csv, none, tensorboard; did you mean 'tensorboard'?"
    ),
    "optimzer=adamw": "optimzer: unknown key; did you mean 'optimizer'?",
    "+data=text": "+data: one is chosen already, allowed: data=text",
    "++data=text": "++data: one is chosen already, allowed: data=text",
    "data@foo=text": "data@foo: the place of a group is fixed, allowed: data=NAME",
    "model/rope_4l=x": "model/rope_4l: unknown group; allowed: model, optimizer, .*",
    "~model": f"~model: got nothing in its place, allowed: model=NAME with one of {MODELS}",
    # keys
    "model.hiden_size=256": "model.hiden_size: unknown key; did you mean 'model.hidden_size'?",
    "+model.hiden_size=256": "model.hiden_size: unknown key; did you mean 'model.hidden_size'?",
    "++model.hiden_size=256": "model.hiden_size: unknown key; did you mean 'model.hidden_size'?",
    "model={hiden_size: 256}": "model.hiden_size: unknown key; did you mean 'model.hidden_size'?",
    "objective.zzz=1": "objective.zzz: unknown key; allowed: name, kind, alpha, temperature, top_k",
    "+objective.zzz=1": "objective.zzz: unknown key; allowed: name, kind, alpha, temperature, top_k",
    "optimizer.betas=[0.9,0.99]": (
        "optimizer.betas: unknown key; allowed: name, lr, weight_decay, decay, update, rest, sharpness_rho "
        "(options of the class itself: optimizer.update.betas)"
    ),
    "lr=0.1": "lr: unknown key; did you mean 'optimizer.lr'?",
    "train.lr=0.1": "train.lr: unknown key; did you mean 'optimizer.lr'?",
    "hiden_size=64": "hiden_size: unknown key; did you mean 'model.hidden_size'?",
    "zzzzzz=1": "zzzzzz: unknown key; allowed: name, seed, model, .*",
    "seed.low=1": "seed.low: unknown key, seed holds a single value and has no keys below it",
    "callbacks.sample.prompts=[a]": (
        "callbacks.sample: not in this composition; did you mean 'callbacks.samples'?"
    ),
    "callbacks.samples.promts=[a]": (
        "callbacks.samples.promts: not in this composition (+callbacks.samples.promts=[a] adds it); "
        "did you mean 'callbacks.samples.prompts'?"
    ),
    "optimizer.update.zzz=1": (
        "optimizer.update.zzz: not in this composition (+optimizer.update.zzz=1 adds it); "
        "allowed: _target_, betas, eps, fused"
    ),
    "optimizer.rest.lr=1": (
        "optimizer.rest.lr: optimizer.rest is null in this composition, and has no keys to set"
    ),
    "~callbacks.sample": "~callbacks.sample: not in this composition; did you mean '~callbacks.samples'?",
    "~seed": "~seed: cannot be taken away, allowed: entries of optimizer.update, .*callbacks, logger",
    "+seed=1": "+seed: is there already, allowed: seed=value",
    "+data.splits.vali=x": "data.splits.vali: unknown split; did you mean 'data.splits.validation'?",
    # what cannot be read
    "model rope_4l": "'model rope_4l': not an override, it cannot hold ' ' there, allowed: key=value, .*",
    "--seed=3": "'--seed=3': not an override, it cannot hold '-' there, .*",
    "name='a": '"name=\'a": not an override, .*',
    "name=é": "'name=é': not an override, it cannot hold 'é' there, .*needs quotes: name=\"'…'\"",
    "=3": "'=3': got no key, allowed: key=value",
    "seed=1,2": "seed: got 1,2, allowed: one value, a list [a,b], or -m to try each",
    "seed=range(1,3)": "seed: got range(1,3), allowed: one value, a list [a,b], or -m to try each",
    "seed=" + "9" * 5000: "'seed=9+'…: not an override (Exceeds the limit .*",
    "model.hidden_size=" + "[" * 300 + "]" * 300: "the overrides are nested too deeply",
    # whole sections
    "train=5": "train: got 5, allowed: a group of keys, such as train.horizon",
    "train=null": "train: got null, allowed: a group of keys, such as train.horizon",
    "seed={a: 1}": "seed: got {'a': 1}, allowed: a single value",
    # types
    "model.hidden_size=abc": "model.hidden_size: got 'abc', allowed: a whole number",
    "model.hidden_size=true": "model.hidden_size: got true, allowed: a whole number",
    "model.hidden_size=2.5": "model.hidden_size: got 2.5, allowed: a whole number",
    "model.hidden_size=null": "model.hidden_size: got null, allowed: a whole number",
    "model.hidden_size=???": "model.hidden_size: got nothing, allowed: a whole number",
    "model.hidden_size='64'": "model.hidden_size: got '64', allowed: a whole number",
    "optimizer.lr=fast": "optimizer.lr: got 'fast', allowed: a number",
    "train.clip_grad_norm=false": "train.clip_grad_norm: got false, allowed: a number or null",
    "data.shuffle=1": "data.shuffle: got 1, allowed: true or false",
    "name=3": "name: got 3, allowed: text (as text: name=\"'3'\")",
    "train.horizon=600": "train.horizon: got 600, allowed: a number above 0 and its unit (.*), such as .*",
    "hardware.compile=false": "hardware.compile: got false, allowed: auto, on, off (YAML reads .* quotes)",
    "+data.splits.test=3": "data.splits: got {.*'test': 3}, allowed: a group of keys with text",
    "callbacks.samples=5": "callbacks.samples: got 5, allowed: null, or _target_ and its options",
    "callbacks.samples.prompts=[a,???]": "callbacks.samples.prompts.1: got nothing, a value is needed",
    # references
    "train.horizon=${train.horizn}": (
        "train.horizon: got a reference that leads nowhere (Interpolation key 'train.horizn' not found), "
        "allowed: a value, or ${key} of another; did you mean 'train.horizon'?"
    ),
    "name=${name}": "name: got a reference that leads nowhere (Recursive interpolation detected), .*",
    "name=${oc.env:LMX_NO_SUCH_VARIABLE}": "name: got a reference that leads nowhere (.*LMX_NO.*), .*",
    "train.batch_size=${name}": "train.batch_size: got 'storyworld_tiny', allowed: a whole number",
    # without effect
    "optimizer.update.lr=1": "optimizer.update.lr: not in this composition .*",
    "+optimizer.update.lr=1": "optimizer.update.lr: got 1, allowed: none here, it is optimizer.lr",
    # Hydra's own settings
    "hydra.run.dir=/tmp/x": "hydra.run.dir: not a key of lmx, allowed of Hydra's own: hydra/sweeper, .*",
    "hydra/launcher=basic": "hydra/launcher: not a key of lmx, .*",
    "hydra/sweeper=basicc": "hydra/sweeper: got 'basicc', allowed: basic; did you mean 'basic'?",
}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:40])
def test_the_line_that_refuses_an_override(line: str) -> None:
    pattern = re.escape(LINES[line]).replace(r"\.\*", ".*").replace(r"9\+", "9+")
    assert re.fullmatch(pattern, refusal(line)), refusal(line)


# values that a schema forbids, and the line about each
VALUES: list[tuple[dict[str, Any], str]] = [
    ({"seed": -1}, "seed: got -1, allowed: 0 to 2147483647"),
    ({"name": "../../x"}, "name: got '../../x', allowed: printable names of folders, joined by '/'"),
    ({"name": "/etc/x"}, "name: got '/etc/x', allowed: printable names"),
    ({"name": "a//b"}, "name: got 'a//b', allowed: printable names"),
    ({"name": "a\nb"}, r"name: got 'a\\nb', allowed: printable names"),
    ({"name": "x" * 300}, "name: got 'x+…, allowed: printable names"),
    ({"name": "\udc80"}, "name: got .*, allowed: printable names"),
    ({"paths.outputs": "a\0b"}, r"paths.outputs: got 'a\\x00b', allowed: text"),
    ({"model.hidden_size": 0}, "model.hidden_size: got 0, allowed: ≥ 1"),
    ({"model.hidden_size": 10**30}, "model.hidden_size: got 10+, allowed: ≤ 2147483647"),
    (
        {"model.num_heads": 3},
        "model.num_heads: got 3, allowed: a divisor of model.hidden_size=128 such as 2 or 4, or any",
    ),
    ({"model.num_kv_heads": 3}, "model.num_kv_heads: got 3, allowed: a divisor of model.num_heads=4"),
    ({"model.head_dim": 7}, "model.head_dim: got 7, allowed with position=rope: an even number"),
    (
        {"model.norm_bias": True},
        "model.norm_bias: got true with model.norm=rmsnorm, allowed: false, or norm=layernorm",
    ),
    (
        {"model.activation": "swigluu"},
        "model.activation: got 'swigluu', allowed: swiglu, .*; did you mean 'swiglu'?",
    ),
    (
        {"model.attend_within_documents": True},
        "model.attend_within_documents: got true with data.packing=stream, allowed",
    ),
    ({"model.context_length": 64}, "data.sequence_length: got 256, allowed: at most model.context_length=64"),
    ({"model.vocab_size": 100}, "model.vocab_size: got 100, allowed: at least tokenizer.vocab_size=1024"),
    ({"optimizer.lr": float("nan")}, "optimizer.lr: got nan, allowed: ≥ 0"),
    ({"optimizer.lr": -0.5}, "optimizer.lr: got -0.5, allowed: ≥ 0"),
    ({"optimizer.lr": 10**400}, "optimizer.lr: got 10+…, allowed: a number"),
    (
        {"optimizer.update": {}},
        "optimizer.update._target_: got nothing, allowed: the dotted name of an optimizer",
    ),
    (
        {"optimizer.rest": {}},
        "optimizer.rest._target_: got nothing, .*; optimizer.rest.lr: got nothing, allowed: the rate",
    ),
    (
        {"schedule.warmup_steps": 5},
        "schedule.warmup_fraction: got 0.1 beside schedule.warmup_steps=5, allowed: one of",
    ),
    ({"schedule.final_fraction": 1.5}, "schedule.final_fraction: got 1.5, allowed: ≥ 0 and ≤ 1"),
    ({"train.batch_size": 0}, "train.batch_size: got 0, allowed: ≥ 1"),
    ({"train.horizon": "0steps"}, "train.horizon: got '0steps', allowed: a number above 0 and its unit"),
    ({"train.horizon": "1.5steps"}, "train.horizon: got '1.5steps', allowed: a whole number of steps"),
    (
        {"train.horizon": "10 parsecs"},
        "train.horizon: got '10 parsecs', allowed: a number above 0 and its unit",
    ),
    (
        {"train.horizon": "1e999steps"},
        "train.horizon: got '1e999steps', allowed: a number above 0 and its unit",
    ),
    (
        {"train.horizon": "1hours"},
        "train.horizon: got '1hours' with schedule.kind=cosine, allowed: steps, epochs",
    ),
    (
        {"train.horizon": "1hours", "schedule.kind": "constant"},
        "schedule.warmup_fraction: got 0.1 with train.horizon=1hours, allowed: 0, with schedule.warmup_steps",
    ),
    (
        {"checkpoint.best": "loss"},
        "checkpoint.best: got 'loss', allowed: val/loss, .*; did you mean 'val/loss'?",
    ),
    (
        {"data.source": "files"},
        "data.files: got nothing with data.source=files, allowed: a folder, a file or a glob",
    ),
    ({"data.source": "hub"}, "data.repository: got nothing with data.source=hub, allowed: namespace/name"),
    (
        {"data.streaming": True, "data.splits": {"train": "train[9:]", "validation": "x"}},
        r"data.splits.train: got 'train\[9:\]' with data.streaming=true, allowed: whole splits",
    ),
    (
        {"data.packing": "stride"},
        "data.stride: got nothing with data.packing=stride, allowed: a number of tokens",
    ),
    (
        {"tokenizer.kind": "pretrained"},
        "tokenizer.path: got nothing with tokenizer.kind=pretrained, allowed: a folder",
    ),
    ({"tokenizer.vocab_size": 100}, "tokenizer.vocab_size: got 100 with tokenizer.kind=bpe, allowed: ≥ 258"),
    (
        {"tokenizer.vocab_size": None},
        "tokenizer.vocab_size: got null with tokenizer.kind=bpe, allowed: ≥ 258",
    ),
    (
        {"hardware.devices": 2},
        "hardware.devices: got 2 with hardware.strategy=single, allowed: 1, or hardware.strategy=ddp",
    ),
    (
        {"hardware.accelerator": "cpu", "hardware.precision": "fp16"},
        "hardware.precision: got 'fp16' with hardware.accelerator=cpu, allowed: fp32, bf16, auto",
    ),
    (
        {"hardware.micro_batch_size": 5},
        r"train.batch_size: got \d+, allowed: a multiple of hardware.devices=1 × hardware.micro_batch_size=5",
    ),
]


@pytest.mark.parametrize(
    ("changes", "line"), VALUES, ids=lambda value: str(value)[:40].encode("ascii", "replace").decode()
)
def test_the_line_that_refuses_a_value(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}"):
        changed(changes)


def test_all_problems_are_told_at_once() -> None:
    assert refusal("model.hiden_size=1", "sed=3", "data=wikitex2") == (
        "model.hiden_size: unknown key; did you mean 'model.hidden_size'?; sed: unknown key; did you "
        "mean 'seed'?; "
        "data: got 'wikitex2', allowed: cosmopedia, hub, openwebtext, storyworld, text, tinystories, "
        "wikitext103, wikitext2; did you mean 'wikitext2'?"
    )
    assert refusal("train.batch_size=abc", "model.qk_norm=3", "seed=x") == (
        "seed: got 'x', allowed: a whole number; model.qk_norm: got 3, allowed: true or false; "
        "train.batch_size: got 'abc', allowed: a whole number"
    )
    assert refusal("train.batch_size=0", "model.hidden_size=0", "seed=-1").count("; ") == 2


def test_an_unknown_experiment_names_the_nearest_in_folders_too(tmp_path: Path) -> None:
    assert "allowed: " in refusal("experiment=zzz")
    for name in ("own/adamw", "own/muon", "own/zebra"):
        file = tmp_path / "experiment" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("# @package _global_\nseed: 1\n")
    text = refusal("experiment=own/adaw", folder=str(tmp_path))
    assert re.fullmatch(
        r"experiment: got 'own/adaw', allowed: .*own/zebra.*; did you mean 'own/adamw'\?", text
    ), text
    assert refusal("experiment/own=adamw", folder=str(tmp_path)) == (
        "experiment/own: unknown group; did you mean 'experiment=own/adamw'?"
    )


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            "model: {hiden_size: 3, num_layers: x}",
            r"model.hiden_size: unknown key; did you mean 'model.hidden_size'\?; "
            "model.num_layers: got 'x', allowed: a whole number",
        ),
        (
            "defaults:\n  - override /model: rope_5",
            r"model: got 'rope_5', allowed: .*; did you mean 'rope_4l'\?",
        ),
        ("model: 5", "model: got 5, allowed: a group of keys, such as model.name"),
        ("hardware: {compile: off}", "hardware.compile: got false, allowed: auto, on, off .YAML reads"),
        ("a: [", r'while parsing a flow node .* in ".*x.yaml", line 3'),
        ("- 1\n- 2", ".*x.*"),
        ("1: 2", "1: unknown key; allowed: name, .*"),
    ],
)
def test_faults_in_files_of_ones_own(tmp_path: Path, content: str, line: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "x.yaml").write_text(f"# @package _global_\n{content}\n")
    assert re.match(line, refusal("experiment=x", folder=str(tmp_path)))


def test_a_file_of_ones_own_cannot_take_the_place_of_ours(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tiny.yaml").write_text("name: mine\n")
    assert refusal(folder=str(tmp_path)) == (
        f"--config-dir: got model/tiny.yaml in '{tmp_path}', a name that lmx has, allowed: others"
    )


def test_missing_folders_and_files_to_start_from(tmp_path: Path) -> None:
    assert refusal(folder=str(tmp_path / "no")) == (
        f"--config-dir: got '{tmp_path / 'no'}', allowed: a folder of configurations"
    )
    assert refusal(config_name="trian") == "--config-name: got 'trian', allowed: train; did you mean 'train'?"


@pytest.mark.parametrize(
    ("lines", "keys"),
    [
        (["seed=1", "model.rope_theta=2"], ["seed", "model.rope_theta"]),
        (["+model.rope_theta=2", "++model.qk_norm=true"], ["model.rope_theta", "model.qk_norm"]),
        (["model={position: none, rope_theta: 3}"], ["model.position", "model.rope_theta"]),
        (["model=tiny", "callbacks=none", "experiment=x", "~callbacks.samples"], []),
        (
            ["+callbacks.samples.top_k=3", "optimizer.update={eps: 1}"],
            ["callbacks.samples.top_k", "optimizer.update"],
        ),
        (["hydra.sweep.dir=x", "hydra/sweeper=basic"], []),
    ],
)
def test_the_keys_that_were_given(lines: list[str], keys: list[str]) -> None:
    assert given_keys(lines) == keys
