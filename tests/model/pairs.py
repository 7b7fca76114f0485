"""Models of transformers with random weights, and ours read from their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmx.model import Decoder
from lmx.model.families import FAMILIES, parameter_names, split_gpt2
from lmx.model.from_transformers import from_transformers

_SHAPE = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
}
_GPT2 = {"vocab_size": 61, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 16}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", _GPT2),
    "gpt2-untied-relu": (
        "GPT2",
        {**_GPT2, "n_inner": 50, "activation_function": "relu", "tie_word_embeddings": False},
    ),
    "gpt2-exact-gelu": ("GPT2", {**_GPT2, "activation_function": "gelu", "layer_norm_epsilon": 1e-3}),
    "llama": ("Llama", _SHAPE),
    "llama-grouped": ("Llama", {**_SHAPE, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama-wide-heads": (
        "Llama",
        {**_SHAPE, "head_dim": 10, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True},
    ),
    "llama-geglu-theta": (
        "Llama",
        {**_SHAPE, "hidden_act": "gelu", "rope_parameters": {"rope_type": "default", "rope_theta": 123.0}},
    ),
    "qwen3": ("Qwen3", {**_SHAPE, "head_dim": 8, "num_key_value_heads": 4}),
    "qwen3-family-a": (
        "Qwen3",
        {
            **_SHAPE,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "tie_word_embeddings": True,
        },
    ),
}


def build_pair(name: str, folder: Path) -> tuple[Any, Decoder]:
    """Return one of transformers' models with random weights, and ours read from its folder."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    family, options = CASES[name]
    architecture = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    config = getattr(transformers, f"{family}Config")(**options, bos_token_id=None, eos_token_id=None)
    torch.manual_seed(0)
    theirs = getattr(transformers, architecture)(config).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, mean=0.05, std=0.2)
    theirs.save_pretrained(folder)
    return theirs, from_transformers(folder).eval()


def padded_logits(theirs: Any, ours: Decoder, tokens: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits of the real tokens (N, V), ours and theirs, with `padding` (B,) fillers on the left."""
    length = tokens.shape[1]
    real = torch.arange(length) >= padding[:, None]
    places = (torch.arange(length) - padding[:, None]).clamp(min=0)
    expected = theirs(tokens, attention_mask=real.long(), position_ids=places).logits
    got = ours.logits(ours(tokens, cache=ours.new_cache(length, padding)))
    return got[real], expected[real]


def gradients(theirs: Any, ours: Decoder, tokens: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return ours and theirs of the next-token loss, by our names."""
    for model, logits in ((theirs, lambda: theirs(tokens).logits), (ours, lambda: ours.logits(ours(tokens)))):
        model.zero_grad()
        loss = nn.functional.cross_entropy(logits()[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    if theirs.config.model_type == "gpt2":
        expected = split_gpt2(expected)
    names = parameter_names(FAMILIES[theirs.config.model_type], ours.config)
    result = {}
    for name, parameter in ours.named_parameters():
        module, _, kind = name.rpartition(".")
        assert parameter.grad is not None
        result[name] = (parameter.grad, expected[f"{names[module]}.{kind}"])
    return result
