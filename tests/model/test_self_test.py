"""The self-test: quiet on every sound decoder, and loud on each way of being broken."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_helpers import VARIANTS, tiny_model
from torch import Tensor

import lmx.model.decoder
import lmx.native
from lmx.model import Decoder
from lmx.model.attention import Attention
from lmx.model.mask import AttentionPlan, plan_attention
from lmx.model.position import rope_rotation, rotate
from lmx.model.self_test import SelfTest, self_test
from lmx.native import left_out

MORE: dict[str, dict[str, Any]] = {
    "gpt2": {
        "norm": "layernorm",
        "norm_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "position": "learned",
        "activation": "gelu_tanh",
    },
    "post_norm": {"norm_position": "post", "position": "none"},
    "no_norm": {"norm": "none", "activation": "relu", "head_bias": True, "tie_embeddings": False},
    "checkpointing": {"activation_checkpointing": True},
    "two_tokens": {"vocab_size": 2},
    "window_of_two": {"sliding_window": 2},
    "window_of_one": {"sliding_window": 1},
    "context_of_one": {"context_length": 1},
    "no_blocks": {"num_layers": 0, "position": "learned"},
    "faint": {"init_std": 1e-5},
    "mup": {"mup_base_width": 8, "init_std": 0.02},
}


def contradictions(model: Decoder) -> str:
    return "; ".join(self_test(model).contradictions(model.config))


@pytest.mark.parametrize("options", (VARIANTS | MORE).values(), ids=VARIANTS | MORE)
def test_a_sound_decoder_is_what_it_says(options: dict[str, Any]) -> None:
    model = tiny_model(**options)
    seen = self_test(model)
    assert not list(seen.contradictions(model.config))
    order = options.get("position") != "none" and model.config.num_layers > 0
    order = order and min(model.config.sliding_window or 16, model.context_length) > 2
    assert (seen.claims_positions, seen.sees_order, seen.sees_future) == (order, order, False)


def along_heads(x: Tensor, rotation: object, layout: str) -> Tensor:
    """The fault of the recorded experiments: the angle follows the head."""
    heads = torch.arange(x.shape[1])[None]
    return rotate(x.transpose(1, 2), rope_rotation(heads, x.shape[-1], 1e4), layout).transpose(1, 2)


def unrotated(x: Tensor, rotation: object, layout: str) -> Tensor:
    return x


def from_the_start(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    return rope_rotation(torch.zeros_like(positions), head_dim, theta)


@pytest.mark.parametrize(
    ("place", "broken"),
    [
        ("lmx.model.attention.rotate", along_heads),
        ("lmx.model.attention.rotate", unrotated),
        ("lmx.model.decoder.rope_rotation", from_the_start),
    ],
)
def test_rope_that_gives_no_positions(
    place: str, broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, broken)
    expected = "model.position=rope, but attention does not see the order of its input"
    if "attention" in place:  # whose plain torch is broken, but not what is in C++
        assert contradictions(tiny_model()).startswith(f"{expected}; layers in C++ are ")
    with left_out():
        assert contradictions(tiny_model()) == expected
    # deep enough to see order through the causal mask, so that the whole model's output tells nothing
    model = tiny_model(num_layers=4)
    tokens = torch.randint(61, (1, 9), generator=torch.Generator().manual_seed(0))
    swapped = tokens[:, [1, 0, 2, 3, 4, 5, 6, 7, 8]]
    assert not torch.allclose(model(tokens)[:, -1], model(swapped)[:, -1], atol=1e-3)


class Blind(Attention):
    """An attention that forgets to rotate."""

    def forward(self, x: Tensor, plan: AttentionPlan, *_: Any) -> Tensor:
        return super().forward(x, plan)


def test_one_blind_block_among_others() -> None:
    model = tiny_model(num_layers=3)
    model.blocks[1].attention.__class__ = Blind
    assert "does not see the order" in contradictions(model)


def test_positions_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(position="none", num_layers=1)
    biased = tiny_model(position="alibi").config
    monkeypatch.setattr(
        lmx.model.decoder, "plan_attention", lambda config, *rest: plan_attention(biased, *rest)
    )
    assert contradictions(model) == "model.position=none, but attention sees the order of its input"


@pytest.mark.parametrize("diagonal", [1, 7], ids=["next", "all"])
def test_a_mask_that_shows_later_positions(diagonal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(config: object, length: int, *_: object) -> AttentionPlan:
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1 + diagonal)
        return AttentionPlan(torch.zeros(1, 1, length, length).masked_fill(hidden, float("-inf")), False)

    monkeypatch.setattr(lmx.model.decoder, "plan_attention", leaking)
    with left_out():  # what C++ does sees nothing later, whatever the mask says
        assert contradictions(tiny_model()) == "a position sees a later one"
    assert contradictions(tiny_model()).startswith("layers in C++ are ")


@pytest.mark.parametrize("wrong", [0.01, math.nan], ids=["larger", "nan"])
@pytest.mark.parametrize("function", ["norm_backward", "activation", "softmax", "heads_backward"])
def test_a_kernel_that_is_wrong(wrong: float, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = {"norm_backward": 7, "activation": 4, "softmax": 0, "heads_backward": 10}
    call = lmx.native.call

    def broken(name: str, *arguments: Any) -> None:
        call(name, *arguments)
        if name == function:
            arguments[results[name]].view(-1)[0] += wrong * arguments[results[name]].abs().max()

    monkeypatch.setattr(lmx.native, "call", broken)
    assert "layers in C++ are " in contradictions(tiny_model())


@pytest.mark.parametrize("std", [0.02, 0.2])
def test_a_deep_model_that_multiplies_its_rounding(std: float) -> None:
    model = tiny_model(hidden_size=128, num_layers=12, norm_position="post", init_std=std)
    assert self_test(model).native_error < 10


def test_parameters_without_a_gradient() -> None:
    model = tiny_model(mlp_bias=True)
    down = model.blocks[1].feed_forward.down
    model.blocks[1].feed_forward.register_forward_hook(lambda *_: torch.ones(1) * down.bias)
    seen = self_test(model)
    feed_forward = [f"blocks.1.feed_forward.{name}.{kind}" for name in ("gate", "up") for kind in "wb"]
    expected = [name[:-1] + {"w": "weight", "b": "bias"}[name[-1]] for name in feed_forward]
    norm = "blocks.1.feed_forward_norm.weight"
    assert set(seen.dead_parameters) == {norm, *expected, "blocks.1.feed_forward.down.weight"}
    [line] = seen.contradictions(model.config)
    assert line.startswith("no gradient reaches blocks.1.")
    assert line.endswith(" and 3 more")


def test_a_tied_embedding_that_only_the_head_uses() -> None:
    model = tiny_model()
    model.blocks[0].register_forward_hook(lambda _, __, output: torch.ones_like(output))
    dead = self_test(model).dead_parameters
    assert dead[0] == "embedding.weight"
    assert all(name.startswith(("embedding", "blocks.0", "blocks.1.attention")) for name in dead)


def test_the_first_loss_and_whether_it_is_plain() -> None:
    flat = self_test(tiny_model(init_std=1e-4, tie_embeddings=False))
    assert flat.initial_loss == pytest.approx(flat.log_vocab, rel=1e-3)
    assert flat.plain_loss
    wild = self_test(tiny_model(hidden_size=256, num_heads=4, init="torch_default"))
    assert wild.initial_loss > 5 * wild.log_vocab
    assert not wild.plain_loss


def test_nothing_is_disturbed() -> None:
    model = tiny_model(residual_dropout=0.5).train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first, again = self_test(model), self_test(model)
    assert isinstance(first, SelfTest)
    assert first.initial_loss == again.initial_loss
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad
        assert parameter.grad is not None
        assert (parameter.grad == 1).all()
        assert torch.equal(parameter, before[name])
