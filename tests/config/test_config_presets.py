"""Every file in conf/ composes, and says what it says it does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from config_helpers import changed, composed, presets

from lmx.config import ConfigError, Experiment
from lmx.config.compose import compose, config_dir, load
from lmx.config.fields import shown
from lmx.config.keys import schema_keys
from lmx.config.validate import to_dict, validate

# what an option needs beside itself
NEEDS = {
    "data=text": ["data.files=corpus.txt"],
    "data=hub": ["data.repository=namespace/name"],
    "tokenizer=pretrained": ["tokenizer.path=folder"],
}


@pytest.mark.parametrize("preset", presets())
def test_every_preset_composes_and_comes_back_from_plain_values(preset: str) -> None:
    experiment = composed(preset, *NEEDS.get(preset, []))
    group, _, option = preset.partition("=")
    if group in ("model", "optimizer", "schedule", "objective", "data", "tokenizer", "hardware"):
        assert getattr(experiment, group).name == option
    # what safe_dump writes, several times faster
    written = yaml.dump(to_dict(experiment), Dumper=yaml.CSafeDumper)
    assert validate(yaml.load(written, Loader=yaml.CSafeLoader)) == experiment


def test_presets_are_found_at_all() -> None:
    assert {"model=tiny", "data=wikitext2", "optimizer=muon", "debug=fast"} <= set(presets())


def one_of_each_family() -> list[str]:
    """Every experiment of its own, and of those in a folder the first."""
    first: dict[str, str] = {}
    for preset in presets():
        if preset.startswith("experiment="):
            family, _, _ = preset.rpartition("/")
            first.setdefault(family or preset, preset)
    return list(first.values())


@pytest.mark.parametrize("experiment", one_of_each_family())
@pytest.mark.parametrize(
    "choice", ["model=gpt2_small", "data=storyworld", "hardware=ddp_cpu", "logger=[csv,tensorboard]"]
)
def test_an_experiment_takes_another_choice(experiment: str, choice: str) -> None:
    overrides = [experiment, choice]
    if choice == "hardware=ddp_cpu":
        overrides.append("hardware.micro_batch_size=1")
    if choice == "model=gpt2_small":
        overrides.append("model.num_layers=2")
    composed = compose(overrides)
    group, _, name = choice.partition("=")
    assert name in (getattr(getattr(composed, group), "name", None), "[csv,tensorboard]")


def test_a_corpus_brings_its_tokenizer_unless_another_is_asked_for() -> None:
    assert compose(["data=wikitext2"]).tokenizer.name == "bpe_40k"
    assert compose(["data=wikitext2", "tokenizer=byte"]).tokenizer.name == "byte"
    assert compose(["tokenizer=byte", "data=wikitext2"]).tokenizer.name == "byte"


def test_callbacks_add_up() -> None:
    composed = compose(["callbacks=early_stopping", "~callbacks.samples", "callbacks.throughput=null"])
    assert "early_stopping" in composed.callbacks
    assert "samples" not in composed.callbacks
    assert composed.callbacks["throughput"] is None
    assert set(compose(["logger=[csv,tensorboard]"]).logger) == {"csv", "tensorboard"}
    assert compose(["callbacks=none", "~logger"]).callbacks == {}


def test_the_cache_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMX_CACHE", "/somewhere/else")
    assert compose().paths.cache == "/somewhere/else"


def test_configurations_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "experiment" / "own").mkdir(parents=True)
    (tmp_path / "model").mkdir()
    (tmp_path / "experiment" / "own" / "adamw.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: wide\nname: own/adamw\n"
        "model: {position: none, rope_theta: 3}\n"
    )
    (tmp_path / "model" / "wide.yaml").write_text(
        "defaults: [schema]\nname: wide\nhidden_size: 256\nnum_layers: 1\nnum_heads: 4\n"
        "intermediate_size: 8\n"
    )
    (tmp_path / "mine.yaml").write_text("defaults: [train, _self_]\nseed: 5\n")
    folder = str(tmp_path)
    composed = compose(["experiment=own/adamw"], folder=folder)
    assert (composed.name, composed.model.name, composed.model.hidden_size) == ("own/adamw", "wide", 256)
    assert composed.model.rope_theta == 3.0, "a preset's key without effect is idle, not an error"
    assert compose(config_name="mine", folder=folder).seed == 5


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    own, start = tmp_path / "model" / "own.yaml", "defaults: [tiny]\nname: own\nhidden_size: "

    def width() -> int:
        return compose(["model=own"], folder=str(tmp_path)).model.hidden_size

    own.write_text(f"{start}128\n")
    assert [width(), width()] == [128, 128]
    own.write_text(f"{start}256\n")
    assert width() == 256
    own.unlink()
    with pytest.raises(ConfigError, match=r"^model: got 'own'"):
        width()


def test_what_one_caller_changes_no_other_sees() -> None:
    first = load(["model=tiny"])
    first.model.hidden_size = 1
    assert load(["model=tiny"]).model.hidden_size == 128


def test_every_value_stands_once_and_has_its_declared_type() -> None:
    experiment = compose()
    for key in schema_keys():
        node = experiment
        for part in key.split("."):
            node = getattr(node, part)
        assert shown(node) != "'???'", key
    assert isinstance(experiment.optimizer.lr, float)
    assert isinstance(changed({"train.clip_grad_norm": 1}).train.clip_grad_norm, float)


def test_validation_does_not_change_what_it_is_given() -> None:
    config = to_dict(compose())
    before = yaml.safe_dump(config)
    validate(config)
    assert yaml.safe_dump(config) == before


def test_composing_twice_gives_the_same() -> None:
    assert compose(["model=llama_tiny"]) == compose(["model=llama_tiny"])
    assert isinstance(compose(), Experiment)


def test_composing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lmx.config.compose import compose; compose(['model=rope_4l', 'data=wikitext2']);"
        "import lmx.train, lmx.config.entry, lmx.launch;"
        "print([n for n in ('torch', 'numpy', 'lightning', 'transformers', 'datasets') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_comments_in_yaml_name_keys_that_exist() -> None:
    """A `key=value` that a comment shows must work."""
    keys = schema_keys()
    for file in config_dir().rglob("*.yaml"):
        for comment in re.findall(r"#(.*)", file.read_text()):
            for key in re.findall(r"\b((?:data|model|train|hardware|tokenizer)\.\w+)=", comment):
                assert key in keys, f"{file.name}: {key}"
