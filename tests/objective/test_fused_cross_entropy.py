"""Sums and gradients of the fused cross-entropy against the formula in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from objective_reference import Batch, assert_gradients, assert_sums, make_batch, plain, sums_of

from lmx.objective import IGNORE_INDEX, FusedObjective, Settings, Tiling

TILINGS = [None, Tiling(7, 13), Tiling(64, 1000), Tiling(50, 101), Tiling(5, 1)]
EXACT = {torch.float64: 1e-12, torch.float32: 1e-6}


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_equals_formula(dtype, bias, softcap, tiling):
    reference = make_batch(bias=bias, spread=0.7)
    expected = plain(reference, softcap, scale=0.01)
    expected["loss"].backward()
    batch = reference.to(dtype)
    result = FusedObjective(Settings(softcap=softcap, tiling=tiling))(
        batch.hidden, batch.targets, scale=0.01, **batch.head
    )
    result.loss.backward()
    assert_sums(result, expected, EXACT[dtype])
    assert_gradients(batch, reference, 2 * EXACT[dtype])
    assert result.loss.dtype == dtype


@pytest.mark.parametrize(
    ("tokens", "vocabulary"), [(1, 1), (1, 3), (3, 2), (17, 1031), (600, 7), (1100, 1025)]
)
def test_odd_sizes(tokens, vocabulary):
    reference = make_batch(tokens, 5, vocabulary, ignored=False)
    expected = plain(reference)
    expected["loss"].backward()
    batch = reference.to(torch.float64)
    result = FusedObjective(Settings())(batch.hidden, batch.targets, **batch.head)
    result.loss.backward()
    assert_sums(result, expected, 1e-11)
    if vocabulary > 1:  # else nothing is to be learned: all gradients are 0
        assert_gradients(batch, reference, 1e-11)


def test_equals_pytorch():
    batch = make_batch(64, 8, 33, spread=0.5)
    batch = batch.to(torch.float32)
    result = FusedObjective(Settings())(batch.hidden, batch.targets, **batch.head)
    logits = (batch.hidden @ batch.weight.t()).double()
    expected = F.cross_entropy(logits, batch.targets, reduction="sum", ignore_index=IGNORE_INDEX)
    entropy = torch.distributions.Categorical(logits=logits[batch.targets != IGNORE_INDEX]).entropy().sum()
    torch.testing.assert_close(result.nats, expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(result.entropy, entropy.detach(), rtol=1e-6, atol=0)


def test_token_weights_and_tensor_scale():
    reference = make_batch(bias=True)
    token_weight = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = plain(reference, token_weight=token_weight, scale=0.25)
    expected["loss"].backward()
    batch = reference.to(torch.float64)
    result = FusedObjective(Settings(tiling=Tiling(16, 40)))(
        batch.hidden, batch.targets, token_weight=token_weight, scale=torch.tensor(0.25), **batch.head
    )
    result.loss.backward()
    assert_sums(result, expected, 1e-12)
    assert_gradients(batch, reference, 1e-12)


@pytest.mark.parametrize("tokens", [0, 12])
def test_nothing_to_predict(tokens):
    batch = make_batch(tokens, bias=True)
    batch.targets.fill_(IGNORE_INDEX)
    result = FusedObjective(Settings())(batch.hidden, batch.targets, scale=0.5, **batch.head)
    result.loss.backward()
    assert all(value == 0 for value in sums_of(result).values())
    assert len(batch.gradients) == 3
    assert all((gradient == 0).all() for gradient in batch.gradients)


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
@pytest.mark.parametrize("ascending", [False, True])
def test_extreme_logits(tiling, ascending):
    """±1e4: nothing overflows, whichever tile holds the largest logit."""
    reference = make_batch(bias=True)
    slope = torch.linspace(-1e4, 1e4, 101, dtype=torch.float64)
    with torch.no_grad():
        reference.bias.copy_(slope if ascending else slope.flip(0))
    expected = plain(reference)
    expected["loss"].backward()
    batch = reference.to(torch.float32)
    result = FusedObjective(Settings(tiling=tiling))(batch.hidden, batch.targets, **batch.head)
    result.loss.backward()
    assert_sums(result, expected, 1e-6)
    assert_gradients(batch, reference, 2e-3)  # logits of 1e4 are known to 1e-3 in float32


def test_a_tie_is_no_hit():
    """An untrained head of zeros predicts nothing; integers make the ties exact."""
    zeros = Batch(torch.ones(4, 3), torch.tensor([0, 1, 5, 9]), torch.zeros(10, 3))
    result = FusedObjective(Settings(tiling=Tiling(4, 3)))(zeros.hidden, zeros.targets, **zeros.head)
    assert (result.correct, result.correct_top5) == (0, 0)
    values = torch.tensor([[7.0], [3.0], [3.0], [3.0], [2.0], [1.0]])
    ranks = {0: (1, 1), 1: (0, 1), 4: (0, 1), 5: (0, 0)}
    for target, hits in ranks.items():
        result = FusedObjective(Settings(tiling=Tiling(4, 2)))(
            torch.ones(1, 1), torch.tensor([target]), weight=values
        )
        assert (result.correct, result.correct_top5) == hits


def test_without_details_only_ranks_are_missing():
    batch = make_batch()
    objective = FusedObjective(Settings())
    full = sums_of(objective(batch.hidden, batch.targets, **batch.head))
    brief = sums_of(objective(batch.hidden, batch.targets, details=False, **batch.head))
    for name in full:
        if name.startswith("correct"):
            assert brief[name].isnan()
        else:
            assert torch.equal(brief[name], full[name])


def test_target_outside_the_vocabulary():
    for target in (101, -1):
        batch = make_batch()
        batch.targets[3] = target
        with pytest.raises(IndexError, match="out of range"):
            FusedObjective(Settings())(batch.hidden, batch.targets, **batch.head)


def test_evaluation_equals_training_and_does_not_spoil_it():
    batch = make_batch(300, 16, 1500).to(torch.float32)
    objective = FusedObjective(Settings())
    with torch.inference_mode():  # first: its buffers are the ones that training then writes to
        evaluated = objective(batch.hidden, batch.targets, **batch.head)
    assert not evaluated.loss.requires_grad
    trained = objective(batch.hidden, batch.targets, **batch.head)
    trained.loss.backward()
    for name, value in sums_of(evaluated).items():
        assert torch.equal(value, sums_of(trained)[name].detach()), name


def test_sums_do_not_depend_on_the_cut_of_the_batch():
    batch = make_batch(331, 16, 257).to(torch.float32)
    objective = FusedObjective(Settings())
    whole = sums_of(objective(batch.hidden, batch.targets, **batch.head))
    total = dict.fromkeys(whole, 0.0)
    for part in torch.arange(331).split(23):
        for name, value in sums_of(objective(batch.hidden[part], batch.targets[part], **batch.head)).items():
            total[name] += float(value.detach())
    for name, value in whole.items():
        assert float(value.detach()) == pytest.approx(total[name], rel=1e-6), name
