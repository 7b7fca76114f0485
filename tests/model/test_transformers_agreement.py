"""The decoder against transformers' GPT-2, Llama and Qwen3 on the same weights, both ways."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from model_helpers import random_tokens, relative_difference, tiny_model
from pairs import CASES, build_pair, gradients, padded_logits
from torch import Tensor, nn

from lmx.config import ConfigError
from lmx.model import Decoder, GenerationOptions, generate
from lmx.model.from_transformers import from_transformers
from lmx.model.to_transformers import save_transformers, to_transformers


@pytest.fixture(scope="module", params=CASES, ids=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Decoder]:
    """One of transformers' models with random weights, and ours read from its folder."""
    return build_pair(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("length", [1, 7, 16])
def test_logits(pair: tuple[Any, Decoder], length: int) -> None:
    theirs, ours = pair
    tokens = random_tokens(3, length)
    with torch.no_grad():
        assert relative_difference(ours.logits(ours(tokens)), theirs(tokens).logits) < 1e-5


def test_padded_batches(pair: tuple[Any, Decoder]) -> None:
    with torch.no_grad():
        got, expected = padded_logits(*pair, random_tokens(3, 9), torch.tensor([0, 4, 8]))
    assert relative_difference(got, expected) < 1e-5


def test_gradients(pair: tuple[Any, Decoder]) -> None:
    for name, (got, expected) in gradients(*pair, random_tokens(2, 16)).items():
        if name.endswith("attention.key.bias"):
            # softmax does not see the part of a key that all keys share: the exact gradient is almost nothing
            torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-3)
        else:
            assert relative_difference(got, expected) < 1e-5, name


def test_bf16_within_its_own_rounding(pair: tuple[Any, Decoder]) -> None:
    theirs, ours = pair
    tokens = random_tokens(2, 16)
    with torch.no_grad():
        exact = theirs(tokens).logits
        with torch.autocast("cpu", torch.bfloat16):
            their_error = relative_difference(theirs(tokens).logits.float(), exact)
            our_error = relative_difference(ours.logits(ours(tokens)).float(), exact)
    assert our_error < 2 * their_error + 2**-8


def test_round_trip_is_the_same_bits(pair: tuple[Any, Decoder], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    theirs, ours = pair
    save_transformers(ours, tmp_path)
    again = from_transformers(str(tmp_path))
    assert again.config == ours.config
    assert again.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = random_tokens(2, 16)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, theirs(tokens).logits)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"position": "alibi"}, r"for llama: model.position: got 'alibi', allowed: 'rope'"),
        ({"rope_layout": "interleaved"}, "for llama: model.rope_layout: got 'interleaved', allowed: 'half'"),
        ({"logit_softcap": 3.0, "qk_norm": True}, "for qwen3: model.logit_softcap: got 3.0, allowed: None"),
        ({"activation": "relu"}, "for llama: model.activation: got 'relu', allowed: swiglu, geglu"),
        ({"mup_base_width": 12}, "for llama: model.mup_base_width: got 12, allowed: None"),
        ({"qk_norm": True, "mlp_bias": True}, "for (llama: model.qk_norm|qwen3: model.mlp_bias): got True"),
    ],
)
def test_export_names_what_stops_it(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        save_transformers(tiny_model(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_of_our_own_gpt2() -> None:
    biases = {"norm_bias": True, "attention_bias": True, "mlp_bias": True}
    model = tiny_model(
        norm="layernorm", activation="gelu_tanh", position="learned", residual_dropout=0.1, **biases
    )
    config, tensors = to_transformers(model)
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert config["activation_function"] == "gelu_new"
    assert config["resid_pdrop"] == 0.1
    assert tensors["transformer.h.1.attn.c_attn.weight"].shape == (24, 72)
    model = tiny_model(norm="layernorm", activation="relu", position="learned", head_bias=True, **biases)
    with pytest.raises(ConfigError, match=r"for gpt2: model.head_bias: got True, allowed: False"):
        to_transformers(model)


@pytest.fixture(scope="module")
def stories() -> Path:
    folder = os.environ.get("LMX_TEST_DATA")
    if not folder:
        pytest.skip("LMX_TEST_DATA names no folder of real data")
    return Path(folder)


def story_tokens(folder: Path, count: int) -> list[Tensor]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "stories260K" / "tokenizer.json"))
    with (folder / "tinystories" / "6235stories.jsonl").open(encoding="utf-8") as lines:
        texts = [json.loads(next(lines)) for _ in range(count)]
    ids = [
        tokenizer.encode(text if isinstance(text, str) else text["text"], add_special_tokens=False)
        for text in texts
    ]
    return [torch.tensor([[1, *encoding.ids][:512]]) for encoding in ids]


def test_real_weights_have_transformers_loss_and_greedy_text(stories: Path) -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(stories / "stories260K").eval()
    ours = from_transformers(str(stories / "stories260K")).eval()
    assert ours.num_parameters() == 260_032
    losses = torch.zeros(2, dtype=torch.float64)
    documents = story_tokens(stories, 40)
    with torch.no_grad():
        for tokens in documents:
            for number, logits in enumerate((theirs(tokens).logits, ours.logits(ours(tokens)))):
                losses[number] += nn.functional.cross_entropy(
                    logits[0, :-1].double(), tokens[0, 1:], reduction="sum"
                )
    losses /= sum(tokens.shape[1] - 1 for tokens in documents)
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-6)
    assert losses[1].item() < 1.4  # the tokenizer belongs to the weights: 1.273 was measured

    prompt = documents[0][:, :8]
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=200, do_sample=False
    )
    options = GenerationOptions(max_new_tokens=200, temperature=0.0, stop_tokens=(2,))
    assert generate(ours, prompt.tolist(), options) == expected.tolist()
