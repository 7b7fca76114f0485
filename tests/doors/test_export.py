"""`python -m lmx.export`: what transformers loads is the run, and what stops it is named."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lmx import export
from lmx.config import ConfigError, ModelConfig, SpaceError, TokenizerConfig
from lmx.config.compose import compose
from lmx.data import Tokenizer
from lmx.data.tokenizers import ByteTokenizer, SubwordTokenizer
from lmx.data.vocabulary import train_bpe
from lmx.model import Decoder, GenerationOptions, generate
from lmx.model.from_transformers import from_transformers
from lmx.runs import RunFolder
from lmx.training import train
from lmx.training.restore import Restored, restore

SHAPE = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 48, "init_std": 0.2}
BIASES = {"norm_bias": True, "attention_bias": True, "mlp_bias": True}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        {"norm": "layernorm", "activation": "gelu_tanh", "position": "learned", **BIASES},
    ),
    "llama": ("LlamaForCausalLM", {"num_kv_heads": 1, "tie_embeddings": False}),
    "qwen3": ("Qwen3ForCausalLM", {"qk_norm": True, "head_dim": 24}),
}
TEXTS = ["", "Once upon a time", "  two  spaces\n\nand\ttabs ", "Zoë, 日本語, 🙂", "don't we'll 1234"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of one step."""
    place = tmp_path_factory.mktemp("export")
    overrides = [
        *("data.stories=4", "data.held_out_stories=3", "tokenizer=byte", "data.sequence_length=48"),
        *("model.hidden_size=32", "model.num_layers=1", "model.num_heads=2", "model.intermediate_size=64"),
        *("hardware=cpu", "hardware.threads=1", "train.batch_size=8", "train.horizon=1steps", "logger=none"),
        *("callbacks=none", f"paths.outputs={place / 'outputs'}", f"paths.cache={place / 'cache'}"),
    ]
    threads = torch.get_num_threads()
    made = train(compose(overrides), overrides).folder
    torch.set_num_threads(threads)
    return made


def small_bpe() -> SubwordTokenizer:
    config = TokenizerConfig(name="bpe", kind="bpe", vocab_size=300)
    return train_bpe(config, ["Once upon a time there was a time. We'll see, 1234 times."] * 3)


def restored(tokenizer: Tokenizer, **changes: Any) -> Restored:
    torch.manual_seed(3)
    values = {"name": "test", "vocab_size": tokenizer.vocab_size, "context_length": 40, **SHAPE, **changes}
    model = Decoder(ModelConfig(**values)).eval()
    return Restored(model, tokenizer)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_transformers_loads_the_same_logits_ids_and_text(family: str, kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    architecture, changes = FAMILIES[family]
    tokenizer = ByteTokenizer() if kind == "byte" else small_bpe()
    ours = restored(tokenizer, **changes)
    assert export.export(ours, tmp_path / "out") == architecture
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert type(model).__name__ == architecture
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ids == tokenizer.encode(text)
        assert theirs.decode(ids) == text
    assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)
    assert theirs.model_max_length == 40
    tokens = torch.randint(257, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = ours.model.logits(ours.model(tokens))
        torch.testing.assert_close(model(tokens).logits, expected, rtol=1e-5, atol=1e-5)
    prompt = theirs("Once upon", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=20, do_sample=False)
    assert model.generation_config.eos_token_id == tokenizer.eos_id
    assert tokenizer.eos_id is not None
    options = GenerationOptions(max_new_tokens=20, temperature=0.0, stop_tokens=(tokenizer.eos_id,))
    assert generate(ours.model, prompt["input_ids"].tolist(), options) == written.tolist()


def test_the_way_there_and_back_is_the_same_bits(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert export.main([str(run.path), str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{out}: LlamaForCausalLM, ")
    assert f'AutoModelForCausalLM.from_pretrained("{out}")' in shown
    names = ["config.json", "generation_config.json", "model.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "tokenizer.json", "tokenizer_config.json"]
    assert len({stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()}) == 1
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    model, again = restore(run.path, None, lambda text: None).model, from_transformers(str(out))
    assert model.state_dict().keys() == again.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_pretrained_tokenizer_leaves_as_lmx_used_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    rules = json.loads(small_bpe().definition())
    start = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    rules["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }
    rules["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    tokenizer = SubwordTokenizer(json.dumps(rules), eos_id=None, pad_id=None)
    export.export(restored(tokenizer), tmp_path)
    ids = AutoTokenizer.from_pretrained(tmp_path)("Once upon a time")["input_ids"]
    assert ids == tokenizer.encode("Once upon a time")


def test_what_has_no_counterpart_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    ours = restored(ByteTokenizer(), position="alibi", logit_softcap=3.0)
    text = r"for llama: model\.position: got 'alibi', allowed: 'rope'; model\.logit_softcap: got 3\.0"
    with pytest.raises(ConfigError, match=text):
        export.export(ours, tmp_path / "new" / "out")
    assert not list(tmp_path.iterdir())


def test_places_that_are_refused(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    refused = {
        "run": (str(run.path), "a folder that is not empty; allowed: a new folder, or an empty one"),
        "file": (str(tmp_path / "file"), "a file; allowed: a new folder, or an empty one"),
        "below a file": (str(tmp_path / "file" / "out"), "which cannot be written (Not a directory: "),
    }
    for place, message in refused.values():
        assert export.main([str(run.path), place]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith(f"lmx: OUT: got {place!r}, ")
        assert message in error
    assert export.main([str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    assert "no such run folder" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lmx.runs.files.write_json", full)
    with pytest.raises(SpaceError, match="out: cannot be written, the disk is full"):
        export.export(restored(ByteTokenizer()), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_help_comes_without_torch() -> None:
    code = (
        "import sys, lmx.export\ntry: lmx.export.main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: python -m lmx.export" in done.stdout
    assert done.stdout.strip().endswith("False")
