"""The families of transformers that the decoder can be exactly: GPT-2, Llama and Qwen3, as tables.

One table serves both ways: a setting or a tensor without a counterpart is refused by name, never dropped.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmx.config import CheckpointError, ConfigError, ModelConfig, bad_choice
from lmx.config.fields import type_problem

# our settings that shape training only: they change nothing in the logits of the trained weights
TRAINING_ONLY = (
    *("name", "init", "init_std", "activation_checkpointing", "attend_within_documents"),
    *("embedding_dropout", "attention_dropout", "residual_dropout", "mlp_dropout"),
)
# their settings that change nothing in the logits
HARMLESS = frozenset(
    (
        *("architectures", "model_type", "transformers_version", "torch_dtype", "dtype", "use_cache"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "initializer_range", "n_ctx"),
        *("id2label", "label2id", "return_dict", "task_specific_params", "chunk_size_feed_forward"),
        *("is_llama_config", "max_window_layers"),
    )
)
HARMLESS_PREFIXES = ("_", "summary_", "output_", "transformers.js")
REQUIRED = object()


@dataclass(frozen=True)
class Family:
    """One architecture of transformers in terms of ours."""

    model_type: str
    architecture: str
    settings: Mapping[str, tuple[str, Any]]  # their key → our field, their default
    activation_key: str
    activations: Mapping[str, str]  # their name → ours; the first of a kind is the one written
    only: Mapping[str, Any]  # their settings that must have this value, which is also their default
    ours: Mapping[str, Any]  # our fields that the family fixes
    parameters: Mapping[str, str]  # our module → theirs, {i} the layer


_COMMON = {
    "norm_position": "pre",
    "final_norm": True,
    "sliding_window": None,
    "attention_softcap": None,
    "head_bias": False,
    "scale_embedding": False,
    "logit_softcap": None,
    "mup_base_width": None,
}
_ROTARY = {**_COMMON, "norm": "rmsnorm", "norm_bias": False, "position": "rope", "rope_layout": "half"}
_LLAMA_SETTINGS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", REQUIRED),
    "max_position_embeddings": ("context_length", REQUIRED),
    "hidden_size": ("hidden_size", REQUIRED),
    "num_hidden_layers": ("num_layers", REQUIRED),
    "num_attention_heads": ("num_heads", REQUIRED),
    "num_key_value_heads": ("num_kv_heads", None),
    "head_dim": ("head_dim", None),
    "intermediate_size": ("intermediate_size", REQUIRED),
    "rms_norm_eps": ("norm_eps", 1e-6),
    "rope_theta": ("rope_theta", 1e4),
    "attention_bias": ("attention_bias", False),
    "attention_dropout": ("attention_dropout", 0.0),
    "tie_word_embeddings": ("tie_embeddings", False),
}
_LLAMA_PARAMETERS = {
    "embedding": "model.embed_tokens",
    "blocks.{i}.attention_norm": "model.layers.{i}.input_layernorm",
    "blocks.{i}.attention.query": "model.layers.{i}.self_attn.q_proj",
    "blocks.{i}.attention.key": "model.layers.{i}.self_attn.k_proj",
    "blocks.{i}.attention.value": "model.layers.{i}.self_attn.v_proj",
    "blocks.{i}.attention.output": "model.layers.{i}.self_attn.o_proj",
    "blocks.{i}.feed_forward_norm": "model.layers.{i}.post_attention_layernorm",
    "blocks.{i}.feed_forward.gate": "model.layers.{i}.mlp.gate_proj",
    "blocks.{i}.feed_forward.up": "model.layers.{i}.mlp.up_proj",
    "blocks.{i}.feed_forward.down": "model.layers.{i}.mlp.down_proj",
    "final_norm": "model.norm",
    "head": "lm_head",
}
_GATED = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu"}

GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    settings={
        "vocab_size": ("vocab_size", 50257),
        "n_positions": ("context_length", 1024),
        "n_embd": ("hidden_size", 768),
        "n_layer": ("num_layers", 12),
        "n_head": ("num_heads", 12),
        "n_inner": ("intermediate_size", None),  # null: four times the width
        "layer_norm_epsilon": ("norm_eps", 1e-5),
        "embd_pdrop": ("embedding_dropout", 0.1),
        "attn_pdrop": ("attention_dropout", 0.1),
        "resid_pdrop": ("residual_dropout", 0.1),
        "tie_word_embeddings": ("tie_embeddings", True),
    },
    activation_key="activation_function",
    activations={
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "gelu": "gelu",
        "relu": "relu",
        "silu": "silu",
        "swish": "silu",
    },
    only={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
    ours={
        **_COMMON,
        "norm": "layernorm",
        "norm_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "position": "learned",
        "qk_norm": False,
    },
    parameters={
        "embedding": "transformer.wte",
        "position_embedding": "transformer.wpe",
        "blocks.{i}.attention_norm": "transformer.h.{i}.ln_1",
        "blocks.{i}.attention.query": "transformer.h.{i}.attn.q_attn",  # fused in the file: split_gpt2
        "blocks.{i}.attention.key": "transformer.h.{i}.attn.k_attn",
        "blocks.{i}.attention.value": "transformer.h.{i}.attn.v_attn",
        "blocks.{i}.attention.output": "transformer.h.{i}.attn.c_proj",
        "blocks.{i}.feed_forward_norm": "transformer.h.{i}.ln_2",
        "blocks.{i}.feed_forward.up": "transformer.h.{i}.mlp.c_fc",
        "blocks.{i}.feed_forward.down": "transformer.h.{i}.mlp.c_proj",
        "final_norm": "transformer.ln_f",
        "head": "lm_head",
    },
)
LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    settings={**_LLAMA_SETTINGS, "mlp_bias": ("mlp_bias", False)},
    activation_key="hidden_act",
    activations=_GATED,
    only={"pretraining_tp": 1, "rope_interleaved": False},
    ours={**_ROTARY, "qk_norm": False},
    parameters=_LLAMA_PARAMETERS,
)
QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    settings={**_LLAMA_SETTINGS, "head_dim": ("head_dim", 128)},
    activation_key="hidden_act",
    activations=_GATED,
    only={"use_sliding_window": False},
    ours={**_ROTARY, "qk_norm": True, "mlp_bias": False},
    parameters={
        **_LLAMA_PARAMETERS,
        "blocks.{i}.attention.query_norm": "model.layers.{i}.self_attn.q_norm",
        "blocks.{i}.attention.key_norm": "model.layers.{i}.self_attn.k_norm",
    },
)
FAMILIES = {family.model_type: family for family in (GPT2, LLAMA, QWEN3)}


def config_from_theirs(theirs: Mapping[str, Any], source: str) -> ModelConfig:
    """Return our configuration of a transformers `config.json`.

    Raises CheckpointError naming every setting that the decoder cannot represent exactly.
    """
    family = family_of(theirs, source)
    values, problems = _normalised(theirs, family)
    ours: dict[str, Any] = {"name": family.model_type, **family.ours}
    for key, (name, default) in family.settings.items():
        ours[name] = values.pop(key, default)
        if ours[name] is REQUIRED:
            problems.append(f"{key}: got nothing, a value is needed")
    activation = values.pop(family.activation_key, next(iter(family.activations)))
    if activation in family.activations:
        ours["activation"] = family.activations[activation]
    else:
        problems.append(bad_choice(family.activation_key, activation, family.activations))
    for key, value in values.items():
        if key in family.only and value != family.only[key]:
            problems.append(f"{key}: got {value!r}, allowed: {family.only[key]!r}")
        elif key not in family.only and value not in (None, False) and not _harmless(key):
            problems.append(f"{key}: got {value!r}, a setting that lmx does not know")
    if problems:
        raise CheckpointError(f"{source}: {'; '.join(problems)}")
    if ours["intermediate_size"] is None:
        ours["intermediate_size"] = 4 * ours["hidden_size"]
    config = ModelConfig(**ours)
    wrong = _type_problems(config) or list(config.problems())
    if wrong:
        raise CheckpointError(f"{source}: {'; '.join(wrong)}")
    return config


def config_to_theirs(config: ModelConfig) -> tuple[Family, dict[str, Any]]:
    """Return the family that is exactly `config`, and its `config.json`.

    Raises ConfigError naming what stops the family that comes closest.
    """
    obstacles = {model_type: _obstacles(config, family) for model_type, family in FAMILIES.items()}
    closest = min(obstacles, key=lambda model_type: len(obstacles[model_type]))
    if obstacles[closest]:
        raise ConfigError(
            f"no family of transformers is this model; for {closest}: {'; '.join(obstacles[closest])}"
        )
    family = FAMILIES[closest]
    theirs: dict[str, Any] = {"model_type": closest, "architectures": [family.architecture]}
    theirs |= {key: getattr(config, name) for key, (name, _) in family.settings.items()}
    names = {ours: name for name, ours in reversed(list(family.activations.items()))}
    theirs[family.activation_key] = names[config.activation]
    # the family's own defaults would name tokens of another vocabulary
    theirs |= {"bos_token_id": None, "eos_token_id": None}
    if "rope_theta" in theirs:
        theirs["rope_parameters"] = {"rope_theta": theirs.pop("rope_theta"), "rope_type": "default"}
        theirs["num_key_value_heads"] = config.resolved_kv_heads
        theirs["head_dim"] = config.resolved_head_dim
    return family, theirs


def family_of(theirs: Mapping[str, Any], source: str) -> Family:
    """Return the family that a `config.json` names, or raise CheckpointError."""
    model_type = theirs.get("model_type")
    if model_type not in FAMILIES:
        raise CheckpointError(f"{source}: {bad_choice('model_type', model_type, FAMILIES)}")
    return FAMILIES[model_type]


def parameter_names(family: Family, config: ModelConfig) -> dict[str, str]:
    """Return our modules and their names, layer by layer: ``blocks.0.attention.query`` → ``…q_proj``."""
    return {
        ours.format(i=layer): theirs.format(i=layer)
        for ours, theirs in family.parameters.items()
        for layer in range(config.num_layers if "{i}" in ours else 1)
    }


def split_gpt2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn GPT-2's fused, transposed matrices into one (out, in) matrix each."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        tensor = tensor.T if kind == "weight" and module.endswith(("c_attn", "c_proj", "c_fc")) else tensor
        if module.endswith("c_attn"):
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                result[f"{module.removesuffix('c_attn')}{letter}_attn.{kind}"] = part
        else:
            result[name] = tensor
    return result


def join_gpt2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `split_gpt2`."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if module.endswith("q_attn"):
            stem = module.removesuffix("q_attn")
            tensor = torch.cat([tensors[f"{stem}{letter}_attn.{kind}"] for letter in "qkv"])
            module = f"{stem}c_attn"
        if module.endswith(("k_attn", "v_attn")):
            continue
        matrix = kind == "weight" and module.endswith(("c_attn", "c_proj", "c_fc"))
        result[f"{module}.{kind}"] = tensor.T.contiguous() if matrix else tensor
    return result


def _normalised(theirs: Mapping[str, Any], family: Family) -> tuple[dict[str, Any], list[str]]:
    """Return their settings with `rope_theta` in one place, and what stands against an exact import."""
    values, problems = dict(theirs), []
    for key in ("rope_parameters", "rope_scaling"):
        rope = values.pop(key, None) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        unknown = [name for name in rope if name not in ("rope_theta", "rope_type", "type")]
        if kind != "default" or unknown:
            problems.append(f"{key}: got {rope!r}, allowed: rope_type 'default' and rope_theta")
        if "rope_theta" in rope:
            values["rope_theta"] = rope["rope_theta"]
    layers = values.pop("layer_types", None) or []
    if set(layers) - {"full_attention"}:
        problems.append(f"layer_types: got {sorted(set(layers))}, allowed: full_attention")
    if family is QWEN3 and not values.get("use_sliding_window"):
        values.pop("sliding_window", None)  # without effect there
    return values, problems


def _type_problems(config: ModelConfig) -> list[str]:
    hints = typing.get_type_hints(ModelConfig)
    problems = (
        type_problem(f"model.{spec.name}", getattr(config, spec.name), spec, hints[spec.name])
        for spec in dataclasses.fields(config)
    )
    return [problem for problem in problems if problem is not None]


def _harmless(key: str) -> bool:
    return key in HARMLESS or key.startswith(HARMLESS_PREFIXES)


def _obstacles(config: ModelConfig, family: Family) -> list[str]:
    represented = {name for name, _ in family.settings.values()} | {*TRAINING_ONLY, "activation"}
    allowed: dict[str, Any] = dict(family.ours)
    if family is GPT2:
        allowed |= {"num_kv_heads": config.num_heads, "head_dim": config.hidden_size / config.num_heads}
    lines = []
    for spec in dataclasses.fields(config):
        value = getattr(config, spec.name)
        if spec.name == "num_kv_heads":
            value = config.resolved_kv_heads
        if spec.name == "head_dim":
            value = config.resolved_head_dim
        idle = spec.name.startswith("rope_") and config.position != "rope"
        if spec.name in allowed and value != allowed[spec.name]:
            lines.append(f"model.{spec.name}: got {value!r}, allowed: {allowed[spec.name]!r}")
        elif spec.name not in allowed and spec.name not in represented and not idle:
            lines.append(f"model.{spec.name}: has no counterpart")
    if config.activation not in family.activations.values():
        lines.append(
            bad_choice("model.activation", config.activation, dict.fromkeys(family.activations.values()))
        )
    return lines
