"""The decoder as a whole: its parameters, ties, flags, and what each position may see."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from model_helpers import VARIANTS, random_tokens, tiny_config, tiny_model
from torch import nn

from lmx.config import ConfigError, ModelConfig
from lmx.config.compose import compose
from lmx.model import Decoder, parameter_group_of
from lmx.model.parameters import PARAMETER_GROUPS


def on_meta(config: ModelConfig) -> Decoder:
    with torch.device("meta"):
        return Decoder(config)


def test_the_preset_of_family_a_has_the_published_number_of_parameters() -> None:
    config = compose(["model=rope_4l"]).model
    config.vocab_size, config.context_length = 40_479, 255
    model = on_meta(config)
    assert model.num_parameters() == 39_605_248
    assert model.num_parameters(with_embedding=False) == 18_880_000


FAMILY_B = {"vocab_size": 10_000, "tie_embeddings": False}
FAMILY_D = {
    "vocab_size": 50_257,
    "context_length": 512,
    "norm": "layernorm",
    "norm_bias": True,
    "attention_bias": True,
    "mlp_bias": True,
    "activation": "relu",
    "position": "learned",
    "head_bias": True,
}
FAMILY_E = {"vocab_size": 49_152, "activation": "silu", "scale_embedding": True}


@pytest.mark.parametrize(
    ("shape", "options", "parameters"),
    [
        ((512, 16, 1344, 4), FAMILY_B, 22_696_448),
        ((768, 12, 3072, 12), FAMILY_B, 128_625_408),
        ((16, 2, 64, 2), FAMILY_D, 869_153),
        ((128, 8, 512, 4), FAMILY_D, 7_342_033),
        ((256, 8, 1024, 4), FAMILY_D, 16_206_673),
        ((256, 8, 1024, 8), FAMILY_D, 19_365_713),
        ((512, 8, 2048, 12), FAMILY_D, 63_873_617),
        ((384, 6, 1536, 12), FAMILY_E, 40_117_632),
        ((256, 4, 1024, 8), FAMILY_E, 18_878_720),
    ],
)
def test_recorded_numbers_of_parameters(
    shape: tuple[int, int, int, int], options: dict[str, Any], parameters: int
) -> None:
    width, heads, inner, layers = shape
    sizes = {"hidden_size": width, "num_heads": heads, "intermediate_size": inner, "num_layers": layers}
    assert on_meta(tiny_config(**(sizes | options))).num_parameters() == parameters


def test_names_of_parameters_and_their_groups() -> None:
    model = tiny_model(
        position="learned", qk_norm=True, tie_embeddings=False, head_bias=True, attention_bias=True
    )
    block = [
        *("attention_norm.weight", "feed_forward_norm.weight"),
        *(
            f"attention.{name}.{kind}"
            for name in ("query", "key", "value", "output")
            for kind in ("weight", "bias")
        ),
        *("attention.query_norm.weight", "attention.key_norm.weight"),
        *(f"feed_forward.{name}.weight" for name in ("gate", "up", "down")),
    ]
    outside = [
        "embedding.weight",
        "position_embedding.weight",
        "final_norm.weight",
        "head.weight",
        "head.bias",
    ]
    expected = {*outside, *(f"blocks.{i}.{name}" for i in range(2) for name in block)}
    assert {name for name, _ in model.named_parameters()} == expected
    groups = {name: parameter_group_of(name) for name in expected}
    assert set(groups.values()) == set(PARAMETER_GROUPS)
    assert groups["position_embedding.weight"] == "embedding"
    assert groups["blocks.1.attention.output.bias"] == "attention"
    assert groups["blocks.1.attention.key_norm.weight"] == groups["final_norm.weight"] == "norm"
    assert groups["blocks.0.feed_forward.down.weight"] == "feed_forward"
    assert groups["head.bias"] == "head"


def test_tied_weights_stay_tied() -> None:
    model = tiny_model(head_bias=True)
    assert "head.weight" not in model.state_dict()
    other = tiny_model(seed=7, head_bias=True)
    other.load_state_dict(model.state_dict())
    for decoder in (model, copy.deepcopy(model), other, tiny_model().to(torch.bfloat16)):
        assert decoder.head_weight is decoder.embedding.weight
    assert torch.equal(other.head_weight, model.head_weight)
    untied = tiny_model(tie_embeddings=False)
    assert untied.head_weight is untied.head.weight
    assert untied.head_weight is not untied.embedding.weight


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_no_position_sees_a_later_one(options: dict[str, Any]) -> None:
    model = tiny_model(**options)
    tokens = random_tokens(1, 10)
    embedded: list[torch.Tensor] = []
    model.embedding.register_forward_hook(
        lambda _, __, output: embedded.append(output.requires_grad_()) or None
    )
    hidden = model(tokens)
    for place in range(10):
        (gradient,) = torch.autograd.grad(hidden[0, place].sum(), embedded[0], retain_graph=True)
        assert not gradient[0, place + 1 :].any()
        assert gradient[0, place].any()


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm", "none"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("activation", ["swiglu", "relu"])
def test_every_parameter_receives_a_gradient(norm: str, norm_position: str, activation: str) -> None:
    model = tiny_model(
        norm=norm,
        norm_position=norm_position,
        norm_bias=norm == "layernorm",
        activation=activation,
        mlp_bias=True,
        qk_norm=True,
        position="learned",
        head_bias=True,
    )
    model.logits(model(random_tokens(2, 16))).log_softmax(-1)[..., 0].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_a_block_is_its_two_sublayers_on_the_residual_stream(norm_position: str) -> None:
    model = tiny_model(
        norm_position=norm_position, final_norm=False, position="none", num_layers=1, init="normal"
    )
    tokens = random_tokens(1, 1)  # one token attends to itself: attention is output(value(x))
    block, x = model.blocks[0], model.embedding(tokens)
    norms = [lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()] * 2

    def attention(x: torch.Tensor) -> torch.Tensor:
        return block.attention.output(block.attention.value(x))

    def feed_forward(x: torch.Tensor) -> torch.Tensor:
        gate = block.feed_forward.gate(x)
        return block.feed_forward.down(gate * torch.sigmoid(gate) * block.feed_forward.up(x))

    for norm, sublayer in zip(norms, (attention, feed_forward), strict=True):
        x = norm(x + sublayer(x)) if norm_position == "post" else x + sublayer(norm(x))
    torch.testing.assert_close(model(tokens), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        ("gelu", lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))),
        ("gelu_tanh", lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        ("relu", lambda x: x.clamp(min=0)),
        ("silu", lambda x: x * torch.sigmoid(x)),
        ("swiglu", lambda x: x * torch.sigmoid(x)),
        ("geglu", lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))),
    ],
)
def test_feed_forward_formulas(activation: str, formula: Any) -> None:
    layer = tiny_model(activation=activation, mlp_bias=True).blocks[0].feed_forward
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    gated = activation in ("swiglu", "geglu")
    inner = formula(layer.gate(x)) * layer.up(x) if gated else formula(layer.up(x))
    torch.testing.assert_close(layer(x), layer.down(inner), rtol=1e-5, atol=1e-6)


def test_flags_of_embedding_and_head() -> None:
    tokens = random_tokens()
    scaled = tiny_model(scale_embedding=True, num_layers=0, final_norm=False)
    torch.testing.assert_close(scaled(tokens), scaled.embedding(tokens) * math.sqrt(24))
    plain, capped = tiny_model(head_bias=True), tiny_model(head_bias=True, logit_softcap=2.0)
    for model in (plain, capped):
        nn.init.normal_(model.head.bias)  # type: ignore[arg-type]
    assert plain.head_bias is plain.head.bias
    hidden = plain(tokens)
    logits = hidden @ plain.head_weight.T + plain.head.bias
    torch.testing.assert_close(plain.logits(hidden), logits)
    capped.load_state_dict(plain.state_dict())
    torch.testing.assert_close(capped.logits(hidden), 2 * torch.tanh(logits / 2))


@pytest.mark.parametrize("name", ["embedding", "attention", "residual", "mlp"])
def test_each_dropout_acts_in_training_alone(name: str) -> None:
    model, plain = tiny_model(**{f"{name}_dropout": 0.5}), tiny_model()
    tokens = random_tokens()
    assert torch.equal(model(tokens), plain(tokens))
    model.train()
    assert not torch.allclose(model(tokens), plain(tokens))
    assert not torch.equal(model(tokens), model(tokens))


def test_residual_dropout_takes_both_branches() -> None:
    tokens = random_tokens()
    pre = tiny_model(residual_dropout=1.0, final_norm=False).train()
    assert torch.equal(pre(tokens), pre.embedding(tokens))
    post = tiny_model(residual_dropout=1.0, final_norm=False, norm_position="post").train()
    x = post.embedding(tokens)
    for block in post.blocks:
        x = block.feed_forward_norm(block.attention_norm(x))
    assert torch.equal(post(tokens), x)


@pytest.mark.parametrize("options", [{}, {"position": "alibi", "sliding_window": 4}], ids=["rope", "alibi"])
def test_checkpointed_gradients_are_the_same_bits(options: dict[str, Any]) -> None:
    dropouts = {f"{name}_dropout": 0.3 for name in ("embedding", "attention", "residual", "mlp")}
    results = []
    for checkpointing in (False, True):
        model = tiny_model(activation_checkpointing=checkpointing, **dropouts, **options).train()
        torch.manual_seed(5)
        hidden = model(random_tokens())
        hidden.square().sum().backward()
        results.append([hidden, *(parameter.grad for parameter in model.parameters())])
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)


def test_checkpointing_keeps_less_for_the_backward_pass() -> None:
    kept = []
    for checkpointing in (False, True):
        sizes: list[int] = []
        model = tiny_model(activation_checkpointing=checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, s=sizes: (s.append(x.numel()), x)[1], lambda x: x
        ):
            model(random_tokens())
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 5


def test_autocast_runs_without_warnings(recwarn: pytest.WarningsRecorder) -> None:
    model = tiny_model(qk_norm=True, num_kv_heads=2)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(random_tokens())
    exact = model(random_tokens())
    assert (hidden - exact).abs().max() < 0.1 * exact.abs().max()
    assert not recwarn.list


def test_a_sequence_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got 17 tokens, allowed: at most model.context_length=16"):
        tiny_model()(random_tokens(1, 17))


def test_the_smallest_and_the_longest_input() -> None:
    model = tiny_model()
    assert model(random_tokens(1, 1)).shape == (1, 1, 24)
    full = random_tokens(2, 16)
    torch.testing.assert_close(model(full)[:, :1], model(full[:, :1]), rtol=1e-5, atol=1e-5)
