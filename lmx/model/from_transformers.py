"""Weights of transformers' GPT-2, Llama and Qwen3 into our decoder: safetensors only, exact or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmx.config import CheckpointError, ModelConfig
from lmx.model.decoder import Decoder
from lmx.model.families import GPT2, Family, config_from_theirs, family_of, parameter_names, split_gpt2

# buffers that older versions saved beside the weights: masks, their fill value, rotary frequencies
BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def config_from_transformers(source: str | Path) -> ModelConfig:
    """Return the configuration of the checkpoint in the folder `source`.

    Raises CheckpointError where it is missing, unreadable, or cannot be represented exactly.
    """
    return config_from_theirs(_read_json(_folder(source) / "config.json"), str(source))


def from_transformers(source: str | Path) -> Decoder:
    """Return a decoder in fp32 with configuration and weights of the checkpoint in the folder `source`.

    Raises CheckpointError where the checkpoint is missing, unreadable or a pickle, where a setting cannot
    be represented exactly, and where a tensor is missing, left over or of another shape.
    """
    folder, name = _folder(source), str(source)
    theirs = _read_json(folder / "config.json")
    config = config_from_theirs(theirs, name)
    with torch.device("meta"):
        model = Decoder(config)
    state = _translated(_read_tensors(folder, name), family_of(theirs, name), config, name)
    _check(model, state, name)
    model.load_state_dict(state, assign=True)
    return model


def _folder(source: str | Path) -> Path:
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"{source}: no such folder")
    return folder


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: got a {type(content).__name__}, allowed: an object of settings")
    return content


def _read_tensors(folder: Path, source: str) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            got = type(weight_map).__name__
            raise CheckpointError(f"{index}: weight_map: got a {got}, allowed: tensor names and their files")
        names = sorted({str(name) for name in weight_map.values()})
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{index}: got a file outside its folder")
    else:
        names = ["model.safetensors"]
    tensors: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).is_file():
            pickles = sorted(path.name for path in folder.glob("*.bin"))
            told = f"; {pickles[0]} is a pickle, which can run code" if pickles else ""
            raise CheckpointError(f"{source}: got no {name}, allowed: weights in safetensors{told}")
        tensors |= _read_safetensors(folder / name)
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or not safetensors: {error}") from error


def _translated(
    tensors: dict[str, Tensor], family: Family, config: ModelConfig, source: str
) -> dict[str, Tensor]:
    """Return the tensors under our names, in fp32; tensors we have no name for keep theirs."""
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(BUFFERS)}
    if family is GPT2:
        prefixed = {
            name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": tensor
            for name, tensor in tensors.items()
        }
        tensors = split_gpt2(prefixed)
    ours = {theirs: name for name, theirs in parameter_names(family, config).items()}
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        state[f"{ours[module]}.{kind}" if module in ours else name] = tensor.float().contiguous()
    if config.tie_embeddings and "head.weight" in state:
        head = state.pop("head.weight")
        if not torch.equal(head, state.get("embedding.weight", head)):
            raise CheckpointError(
                f"{source}: tie_word_embeddings: got true, but lm_head and embedding differ"
            )
    return state


def _check(model: Decoder, state: dict[str, Tensor], source: str) -> None:
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    problems = [f"{name}: missing" for name in expected if name not in state]
    problems += [f"{name}: unexpected" for name in state if name not in expected]
    problems += [
        f"{name}: got shape {tuple(state[name].shape)}, allowed: {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"{source}: tensors do not fit: {'; '.join(problems[:5])}{more}")
