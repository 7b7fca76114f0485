"""The loss of each token that an objective hands out beside its sums."""

from __future__ import annotations

import pytest
import torch
from objective_reference import make_batch

from lmx.objective import IGNORE_INDEX, CosineMix, FusedObjective, Settings, Tiling


@pytest.mark.parametrize("mix", [None, CosineMix(0.5, 0.7, 7)], ids=str)
@pytest.mark.parametrize("tiling", [None, Tiling(7, 13)], ids=str)
@pytest.mark.parametrize("gradients", [True, False])
def test_token_nats_are_the_plain_cross_entropy(mix, tiling, gradients):
    batch = make_batch(40, 8, 61, bias=True, embedding="own")
    objective = FusedObjective(Settings(mix=mix, tiling=tiling))
    with torch.set_grad_enabled(gradients):
        result = objective(batch.hidden, batch.targets, scale=0.1, **batch.head)
    logits = batch.hidden @ batch.weight.t() + batch.bias
    expected = torch.nn.functional.cross_entropy(
        logits, batch.targets, ignore_index=IGNORE_INDEX, reduction="none"
    )
    assert (batch.targets == IGNORE_INDEX).any()
    torch.testing.assert_close(result.token_nats, expected.detach(), rtol=1e-11, atol=1e-11)
    assert not result.token_nats.requires_grad
    assert float(result.token_nats.sum()) == pytest.approx(float(result.nats), rel=1e-12)


def test_an_ignored_token_has_no_nats_even_where_its_logits_are_not_numbers():
    batch = make_batch(10, 8, 61)
    with torch.no_grad():
        batch.hidden[0] = torch.nan  # position 0 is ignored
        result = FusedObjective(Settings())(batch.hidden, batch.targets, **batch.head)
    assert result.token_nats[0] == 0
    assert result.token_nats.isfinite().all()
