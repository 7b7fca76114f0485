"""A tied table's gradient is the sum of both its uses, whichever way it is taken."""

from __future__ import annotations

import pytest
import torch
from model_helpers import random_tokens, tiny_model
from torch import Tensor

from lmx.model import Decoder


def decoder(**changes: object) -> Decoder:
    return tiny_model(tie_embeddings=True, **changes).double()


def gradients(model: Decoder, *, looked_up: bool) -> dict[str, Tensor]:
    """Gradients of a loss that uses every logit; the table from `look_up`, or as two uses of a parameter."""
    model.zero_grad()
    rows, weight = model.look_up(random_tokens()) if looked_up else (None, model.head_weight)
    hidden = model(random_tokens(), rows=rows)
    (hidden @ weight.T).logsumexp(-1).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False}, {"position": "learned"}], ids=str)
def test_gradients_are_those_of_two_uses(changes: dict[str, object]) -> None:
    model = tiny_model(**({"tie_embeddings": True} | changes)).double()
    wanted, got = (gradients(model, looked_up=way) for way in (False, True))
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-12, atol=1e-12)


def test_a_kept_graph_gives_the_same_twice() -> None:
    model = decoder()
    rows, weight = model.look_up(random_tokens())
    loss = (model(random_tokens(), rows=rows) @ weight.T).logsumexp(-1).sum()
    first, second = (
        torch.autograd.grad(loss, model.embedding.weight, retain_graph=True)[0] for _ in range(2)
    )
    assert torch.equal(first, second)


def test_rows_alone_have_a_gradient() -> None:
    model = decoder()
    rows, _ = model.look_up(random_tokens())
    rows.sum().backward()
    counts = torch.bincount(random_tokens().flatten(), minlength=61)
    assert model.embedding.weight.grad is not None
    assert torch.equal(model.embedding.weight.grad, counts[:, None].expand(-1, 24).double())


def test_nothing_is_tied_without_gradients() -> None:
    model = decoder()
    with torch.no_grad():
        rows, weight = model.look_up(random_tokens())
    assert weight is model.embedding.weight
    assert torch.equal(rows, model.embedding(random_tokens()))
