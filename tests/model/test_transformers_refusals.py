"""Checkpoints that cannot be read exactly: one line that names what is wrong."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_helpers import tiny_model
from safetensors.torch import load_file, save_file

from lmx.config import CheckpointError
from lmx.model.from_transformers import config_from_transformers, from_transformers
from lmx.model.to_transformers import save_transformers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llama checkpoint that can be read."""
    save_transformers(tiny_model(num_kv_heads=2), tmp_path)
    assert from_transformers(str(tmp_path)).config.num_kv_heads == 2
    return tmp_path


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"model_type": "lama"},
            r"model_type: got 'lama', allowed: gpt2, llama, qwen3; did you mean 'llama'\?",
        ),
        ({"model_type": None}, "model_type: got None"),
        ({"hidden_act": "relu"}, "hidden_act: got 'relu', allowed: silu, swish, gelu"),
        ({"pretraining_tp": 2}, "pretraining_tp: got 2, allowed: 1"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling: got .*'linear'.*, allowed: rope_type",
        ),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters: got .*'yarn'"),
        ({"attention_sinks": 4}, "attention_sinks: got 4, a setting that lmx does not know"),
        (
            {"quantization_config": {"bits": 4}},
            "quantization_config: got .*, a setting that lmx does not know",
        ),
        ({"num_key_value_heads": 3}, "model.num_kv_heads: got 3, allowed: a divisor"),
        ({"num_hidden_layers": "many"}, "model.num_layers: got 'many', allowed: a whole number"),
        ({"hidden_size": -8}, "model.hidden_size: got -8, allowed: ≥ 1"),
        ({"layer_types": ["sliding_attention"]}, "layer_types: got .*, allowed: full_attention"),
    ],
)
def test_settings_that_cannot_be_represented(folder: Path, changes: dict[str, Any], text: str) -> None:
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=text) as caught:
        config_from_transformers(str(folder))
    assert "\n" not in str(caught.value)


def test_all_problems_come_in_one_message(folder: Path) -> None:
    change_config(folder, hidden_act="relu", attention_sinks=4)
    with pytest.raises(CheckpointError, match=r"hidden_act: .*; attention_sinks: "):
        from_transformers(str(folder))


def test_a_needed_setting_is_missing(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["hidden_size"]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="hidden_size: got nothing, a value is needed"):
        from_transformers(str(folder))


def test_older_forms_are_read(folder: Path) -> None:
    change_config(folder, rope_parameters=None, rope_theta=500.0, rope_scaling=None, torch_dtype="float32")
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3)}
    change_tensors(folder, lambda tensors: tensors.update(old))
    assert from_transformers(str(folder)).config.rope_theta == 500.0


def test_bf16_weights_are_read_exactly(folder: Path) -> None:
    halved = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(halved, folder / "model.safetensors")
    weight = from_transformers(str(folder)).embedding.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, halved["model.embed_tokens.weight"].float())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop("model.norm.weight"), "tensors do not fit: final_norm.weight: missing"),
        (lambda t: t.update(extra=torch.ones(2)), "extra: unexpected"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(5)}),
            r"final_norm.weight: got shape \(5,\), allowed: \(24,\)",
        ),
        (lambda t: t.update({"lm_head.weight": torch.ones(61, 24)}), "tie_word_embeddings: got true, but"),
        (lambda t: [t.pop(name) for name in list(t)[:9]], "; and 4 more"),
    ],
)
def test_tensors_that_do_not_fit(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], text: str
) -> None:
    change_tensors(folder, change)
    with pytest.raises(CheckpointError, match=text):
        from_transformers(str(folder))


def test_a_tied_head_saved_twice_is_read(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert from_transformers(str(folder)).head.weight is None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_weights(folder: Path, share: float) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"model.safetensors: damaged or not safetensors"):
        from_transformers(str(folder))


def test_a_pickle_is_refused_unopened(folder: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (folder / "opened",)

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is a pickle"):
        from_transformers(str(folder))
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="damaged or not safetensors"):
        from_transformers(str(folder))
    assert not (folder / "opened").exists()


def test_shards_are_read_and_stay_in_their_folder(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / shard)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(from_transformers(str(folder)).embedding.weight, tensors["model.embed_tokens.weight"])
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "../secret.safetensors")}))
    with pytest.raises(CheckpointError, match="got a file outside its folder"):
        from_transformers(str(folder))
    index.write_text(json.dumps({"weight_map": ["model-1.safetensors"]}))
    with pytest.raises(
        CheckpointError, match="weight_map: got a list, allowed: tensor names and their files"
    ):
        from_transformers(str(folder))


def test_a_folder_without_or_with_a_broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json: not JSON"):
        from_transformers(str(folder))
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="got a list, allowed: an object of settings"):
        from_transformers(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config.json: cannot be read: No such file"):
        from_transformers(str(folder))
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        from_transformers(str(folder / "nowhere"))
