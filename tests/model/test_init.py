"""Initialisation schemes by their statistics, and muP by a coordinate check."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from model_helpers import tiny_config, tiny_model
from torch.optim import Adam

from lmx.model import Decoder

WIDE = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "vocab_size": 500,
    "head_bias": True,
    "attention_bias": True,
}


def deviations(model: Decoder) -> dict[str, float]:
    return {name: p.std().item() for name, p in model.named_parameters() if p.ndim > 1}


@pytest.mark.parametrize("init", ["normal", "scaled", "xavier_truncated"])
def test_norms_are_one_and_biases_zero(init: str) -> None:
    for name, parameter in tiny_model(**WIDE, init=init, qk_norm=True).named_parameters():
        if parameter.ndim == 1:
            assert (parameter == (0 if name.endswith("bias") else 1)).all(), name


def test_normal_and_scaled() -> None:
    for init, residual in (("normal", 0.02), ("scaled", 0.02 / math.sqrt(2 * 2))):
        for name, std in deviations(tiny_model(**WIDE, init=init, init_std=0.02)).items():
            back = name.endswith(("attention.output.weight", "down.weight"))
            assert std == pytest.approx(residual if back else 0.02, rel=0.05), name


def test_xavier_truncated() -> None:
    model = tiny_model(**WIDE, init="xavier_truncated", tie_embeddings=False)
    cut = 0.9866  # standard deviation of a unit normal truncated at 3
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            sigma = 1.0 if name == "embedding.weight" else math.sqrt(2 / sum(parameter.shape))
            assert parameter.std().item() == pytest.approx(cut * sigma, rel=0.03), name
            assert parameter.abs().max() <= 3 * sigma, name


def test_torch_default_is_what_the_layers_do_by_themselves() -> None:
    model = tiny_model(**WIDE, init="torch_default", tie_embeddings=False)
    assert model.embedding.weight.std().item() == pytest.approx(1.0, rel=0.02)
    for weight, bias in (
        (model.blocks[0].attention.query.weight, model.blocks[0].attention.query.bias),
        (model.head.weight, model.head.bias),
    ):
        bound = 1 / math.sqrt(128)
        assert weight is not None
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert weight.abs().max() <= bound
        assert 0 < bias.abs().max() <= bound


def test_the_seed_decides() -> None:
    first, again, other = (tiny_model(seed).embedding.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_mup_multipliers_follow_the_adam_table() -> None:
    model = tiny_model(hidden_size=64, mup_base_width=16, qk_norm=True, tie_embeddings=False, mlp_bias=True)
    rates = {name: model.mup_lr_multiplier(name) for name, _ in model.named_parameters()}
    hidden = {
        name for name in rates if name.startswith("blocks") and name.endswith("weight") and "norm" not in name
    }
    assert {name for name, rate in rates.items() if rate == 0.25} == hidden
    assert {rate for name, rate in rates.items() if name not in hidden} == {1.0}
    assert set(map(tiny_model().mup_lr_multiplier, rates)) == {1.0}
    at_base = tiny_model(mup_base_width=24)
    assert {at_base.mup_lr_multiplier(name) for name, _ in at_base.named_parameters()} == {1.0}
    assert model.blocks[0].attention.scale == 1 / 16


def mup_model(width: int, base: int | None, **changes: object) -> tuple[Decoder, Callable[[float], Adam]]:
    """A decoder whose every width grows but that of a head, and its optimizer by rate."""
    torch.manual_seed(0)
    shape = {"hidden_size": width, "num_heads": width // 16, "intermediate_size": 2 * width}
    options = {"init": "normal", "tie_embeddings": False, "mup_base_width": base}
    model = Decoder(tiny_config(**(shape | options | changes)))

    def optimizer(lr: float) -> Adam:
        groups = [
            {"params": [parameter], "lr": lr * model.mup_lr_multiplier(name)}
            for name, parameter in model.named_parameters()
        ]
        return Adam(groups, betas=(0.9, 0.95), fused=True)

    return model, optimizer


def coordinates(width: int, base: int | None) -> dict[str, float]:
    """Mean size of the activations after ten Adam steps, a layer kind."""
    model, optimizer_of = mup_model(width, base, init_std=0.1)
    optimizer = optimizer_of(0.01)
    tokens = torch.randint(61, (4, 17), generator=torch.Generator().manual_seed(0))
    for _ in range(10):
        logits = model.logits(model(tokens[:, :-1]))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
    sizes: dict[str, float] = {}
    block = model.blocks[1]
    for name, module in (
        ("attention", block.attention),
        ("feed_forward", block.feed_forward),
        ("block", block),
    ):
        module.register_forward_hook(
            lambda _, __, out, name=name: sizes.__setitem__(name, out.abs().mean().item())
        )
    with torch.no_grad():
        sizes["logits"] = model.logits(model(tokens[:, :-1])).abs().mean().item()
    return sizes


def test_coordinates_are_flat_over_widths_under_mup_and_grow_without() -> None:
    narrow = coordinates(64, base=64)
    for width in (256, 1024):
        wide = coordinates(width, base=64)
        for name, size in narrow.items():
            assert 0.5 < wide[name] / size < 2, (width, name)
    narrow, wide = coordinates(64, base=None), coordinates(512, base=None)
    assert wide["block"] / narrow["block"] > 4


def chain(rows: int, seed: int) -> torch.Tensor:
    """Rows (rows, 17) of a Markov chain in which each token has a few likely followers."""
    table = torch.randn(61, 61, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(61, (rows, 1), generator=generator)
    for _ in range(16):
        following = torch.multinomial((3 * table).softmax(-1)[tokens[:, -1]], 1, generator=generator)
        tokens = torch.cat((tokens, following), 1)
    return tokens


def best_rate(width: int, base: int | None, rates: list[float], layers: int, steps: int) -> int:
    """Number of the rate that ends with the lowest loss on held-out rows."""
    losses = []
    for rate in rates:
        changes = {"init_std": 0.06, "num_layers": layers, "num_heads": width // 32}
        model, optimizer_of = mup_model(width, base, **changes)
        optimizer = optimizer_of(rate)
        for step in range(steps + 1):
            tokens = chain(64 if step == steps else 8, seed=step)
            logits = model.logits(model(tokens[:, :-1]))
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            if step < steps:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        losses.append(loss.item())
    best = losses.index(min(losses))
    assert 0 < best < len(rates) - 1, losses  # inside the grid, or nothing is known
    return best


@pytest.mark.parametrize(("layers", "steps"), [(1, 15), pytest.param(2, 30, marks=pytest.mark.slow)])
def test_the_best_rate_of_a_narrow_model_is_the_best_of_a_wide_one(layers: int, steps: int) -> None:
    rates = [2.0**-k for k in (9, 8, 7, 6, 5)]
    narrow, wide = (best_rate(width, 128, rates, layers, steps) for width in (128, 512))
    assert abs(narrow - wide) <= 1
