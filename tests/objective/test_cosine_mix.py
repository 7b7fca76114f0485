"""The cosine mix against its formula on materialised logits, and the way from the configuration."""

from __future__ import annotations

import pytest
import torch
from objective_reference import assert_gradients, assert_sums, make_batch, plain, sums_of

from lmx.config import ModelConfig, ObjectiveConfig
from lmx.objective import CosineMix, FusedObjective, Settings, Tiling, build_objective

MIXES = [
    CosineMix(0.5, 1.0, 7),
    CosineMix(0.5, 0.7, 16),
    CosineMix(0.25, 1.5, None),
    CosineMix(1.0, 1.0, None),
    CosineMix(0.75, 1.0, 1000),
]


@pytest.mark.parametrize("mix", MIXES, ids=str)
@pytest.mark.parametrize("embedding", ["own", "tied"])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("tiling", [None, Tiling(7, 13)], ids=str)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-11), (torch.float32, 3e-6)], ids=str)
def test_equals_formula(mix, embedding, softcap, tiling, dtype, rtol):
    reference = make_batch(40, 8, 61, bias=True, embedding=embedding, spread=0.8)
    exact = CosineMix(mix.alpha, mix.temperature, None) if mix.top_k == 1000 else mix
    expected = plain(reference, softcap, exact, scale=0.1)
    expected["loss"].backward()
    batch = reference.to(dtype)
    result = FusedObjective(Settings(softcap=softcap, mix=mix, tiling=tiling))(
        batch.hidden, batch.targets, scale=0.1, **batch.head
    )
    result.loss.backward()
    assert_sums(result, expected, rtol)
    assert_gradients(batch, reference, rtol)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_gradcheck(temperature):
    batch = make_batch(6, 4, 9, bias=True, embedding="own", spread=0.8)
    token_weight = torch.linspace(0.5, 2, 6, dtype=torch.float64)
    objective = FusedObjective(Settings(softcap=3.0, mix=CosineMix(0.4, temperature, 5), tiling=Tiling(4, 4)))

    def loss(hidden, weight, bias, embedding):
        head = {"weight": weight, "bias": bias, "embedding": embedding}
        return objective(hidden, batch.targets, token_weight=token_weight, scale=0.3, **head).loss

    assert torch.autograd.gradcheck(loss, (batch.hidden, batch.weight, batch.bias, batch.embedding))


def test_extreme_logits_at_low_temperature():
    """Powers of exponentials do not overflow, and no p vanishes that counts."""
    mix = CosineMix(0.5, 0.05, 5)
    reference = make_batch(30, 8, 61, embedding="own", spread=10.0)
    expected = plain(reference, None, mix)
    expected["loss"].backward()
    batch = reference.to(torch.float32)
    result = FusedObjective(Settings(mix=mix, tiling=Tiling(7, 13)))(
        batch.hidden, batch.targets, **batch.head
    )
    result.loss.backward()
    assert_sums(result, expected, 1e-4)  # logits of 1e3 are known to 1e-4 in float32
    assert_gradients(batch, reference, 1e-3)


@pytest.mark.parametrize("mix", [CosineMix(0.5, 1.0, 20), CosineMix(0.5, 1.5, None)], ids=str)
def test_bfloat16_is_as_exact_as_plain(mix):
    """Against float64, over six batches: the gradients' errors, and those of autocast on the formula."""
    errors = torch.zeros(2, 2, dtype=torch.float64)
    for seed in range(6):
        reference = make_batch(100, 32, 301, embedding="tied", spread=0.2, seed=seed)
        plain(reference, None, mix, scale=0.01)["loss"].backward()
        fused, simple = reference.to(torch.float32), reference.to(torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            objective = FusedObjective(Settings(mix=mix))
            loss = objective(fused.hidden, fused.targets, scale=0.01, **fused.head).loss
            simple_loss = plain(simple, None, mix, scale=0.01)["loss"]
        loss.backward()
        simple_loss.backward()
        for row, batch in enumerate((fused, simple)):
            # the hidden states', and the tied weight's
            parts = list(zip(batch.gradients, reference.gradients, strict=True))[:2]
            errors[row] += torch.stack([(mine - theirs).square().sum() for mine, theirs in parts])
    assert (errors[0].sqrt() <= errors[1].sqrt() * 1.1).all(), errors.sqrt()


def test_all_targets_ignored():
    batch = make_batch(10, embedding="tied")
    batch.targets.fill_(-100)
    result = FusedObjective(Settings(mix=CosineMix(0.5, 1.0, 4)))(batch.hidden, batch.targets, **batch.head)
    result.loss.backward()
    assert all(value == 0 for value in sums_of(result).values())
    assert all((gradient == 0).all() for gradient in batch.gradients)


def test_evaluation_equals_training():
    batch = make_batch(60, embedding="tied").to(torch.float32)
    objective = FusedObjective(Settings(mix=CosineMix(0.5, 0.8, 6)))
    with torch.no_grad():
        evaluated = objective(batch.hidden, batch.targets, **batch.head)
    trained = objective(batch.hidden, batch.targets, **batch.head)
    for name, value in sums_of(evaluated).items():
        assert torch.equal(value, sums_of(trained)[name].detach()), name


def model_config(**changes) -> ModelConfig:
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}
    return ModelConfig(name="small", **(sizes | changes))


def test_build_takes_kind_and_softcap():
    config = ObjectiveConfig(name="m", kind="cosine_mix", alpha=0.3, temperature=0.7, top_k=None)
    built = build_objective(config, model_config(logit_softcap=30.0))
    assert built.settings == Settings(softcap=30.0, mix=CosineMix(0.3, 0.7, None))
    built = build_objective(ObjectiveConfig(name="cross_entropy"), model_config())
    assert built.settings == Settings()


def test_alpha_zero_is_cross_entropy():
    batch = make_batch(embedding="tied")
    mixed = build_objective(ObjectiveConfig(name="m", kind="cosine_mix", alpha=0.0), model_config())
    result = mixed(batch.hidden, batch.targets, **batch.head)
    assert mixed.settings == Settings()
    assert result.cosine is None
    assert_sums(result, plain(batch), 1e-12)
