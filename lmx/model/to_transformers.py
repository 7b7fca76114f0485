"""Our decoder as a folder that `AutoModelForCausalLM.from_pretrained` loads, with the same logits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lmx.model.decoder import Decoder
from lmx.model.families import GPT2, config_to_theirs, join_gpt2, parameter_names


def to_transformers(model: Decoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the `config.json` and the tensors, under their names, of the family that is exactly `model`.

    Dropouts that the family lacks are left out: they change nothing in the logits.

    Raises ConfigError naming every setting that stops the closest family.
    """
    family, theirs = config_to_theirs(model.config)
    names = parameter_names(family, model.config)
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        tensors[f"{names[module]}.{kind}"] = tensor.detach().cpu().contiguous()
    if family is GPT2:
        tensors = join_gpt2(tensors)
    theirs["dtype"] = str(model.head_weight.dtype).removeprefix("torch.")
    return theirs, tensors


def save_transformers(
    model: Decoder, folder: Path, special_ids: Mapping[str, int | None] | None = None
) -> dict[str, Any]:
    """Write `config.json` and `model.safetensors` into `folder`, made where it is missing; return the former.

    `special_ids` names the tokenizer's: bos_token_id, eos_token_id, pad_token_id.

    Raises ConfigError, before anything is written, where no family is exactly `model`.
    """
    from safetensors.torch import save_file

    theirs, tensors = to_transformers(model)
    theirs |= special_ids or {}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(theirs, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    # which it makes readable for its owner alone
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)
    return theirs
