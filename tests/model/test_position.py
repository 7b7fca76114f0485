"""Positions: closed forms, relative angles, and whether order is seen where it should be."""

from __future__ import annotations

import math

import pytest
import torch
from model_helpers import random_tokens, tiny_model

from lmx.model.position import alibi_slopes, positions_in_documents, rope_rotation, rotate
from lmx.native import left_out


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_rotation_preserves_lengths_and_sees_distance_only(layout: str) -> None:
    query, key = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0)).unbind(0)

    def score(i: int, j: int) -> float:
        turned = [
            rotate(x, rope_rotation(torch.tensor([[place]]), 16, 1e4), layout)
            for x, place in ((query, i), (key, j))
        ]
        assert turned[0].norm() == pytest.approx(query.norm().item(), rel=1e-5)
        return (turned[0] * turned[1]).sum().item()

    assert score(7, 3) == pytest.approx(score(104, 100), rel=1e-4)
    assert score(7, 3) != pytest.approx(score(7, 1), rel=1e-2)


def test_the_layouts_differ_by_a_permutation_of_the_dims() -> None:
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    rotation = rope_rotation(torch.arange(5)[None], 8, 1e4)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    assert torch.equal(
        rotate(x, rotation, "interleaved")[..., order], rotate(x[..., order], rotation, "half")
    )


def test_slopes_of_a_power_of_two_are_a_geometric_row() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-h for h in range(1, 9)]


def test_slopes_of_other_numbers_of_heads_are_the_papers() -> None:
    eight = [2.0**-h for h in range(1, 9)]
    assert alibi_slopes(12).tolist() == pytest.approx([*eight, *(2 ** (-h / 2) for h in (1, 3, 5, 7))])
    assert alibi_slopes(1).tolist() == [2.0**-8]


def test_positions_start_again_with_each_document() -> None:
    documents = torch.tensor([[5, 5, 5, 2, 2, 5, 5], [0, 1, 2, 2, 2, 2, 2]])
    assert positions_in_documents(documents).tolist() == [[0, 1, 2, 0, 1, 0, 1], [0, 0, 0, 1, 2, 3, 4]]


@pytest.mark.parametrize("position", ["rope", "learned", "alibi", "none"])
def test_order_is_seen_exactly_by_models_with_positions(position: str) -> None:
    # with one layer the last position of a model without positions sees a set: only there the claim can fail;
    # the causal mask alone tells deeper models the order
    model = tiny_model(num_layers=1, position=position)
    tokens = random_tokens(1, 9)
    shuffled = tokens[:, [3, 0, 7, 1, 2, 6, 5, 4, 8]]
    difference = (model(tokens)[:, -1] - model(shuffled)[:, -1]).abs().max().item()
    assert difference < 1e-5 if position == "none" else difference > 1e-2


def test_a_rotation_along_the_heads_gives_no_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    # the fault of family E: the angle followed the head, so the probe above must call it positionless
    def along_heads(x: torch.Tensor, rotation: object, layout: str) -> torch.Tensor:
        places = torch.arange(x.shape[1])[None]
        return rotate(x.transpose(1, 2), rope_rotation(places, x.shape[-1], 1e4), layout).transpose(1, 2)

    monkeypatch.setattr("lmx.model.attention.rotate", along_heads)
    model = tiny_model(num_layers=1)
    tokens = random_tokens(1, 9)
    shuffled = tokens[:, [3, 0, 7, 1, 2, 6, 5, 4, 8]]
    with left_out():
        torch.testing.assert_close(model(tokens)[:, -1], model(shuffled)[:, -1], rtol=1e-5, atol=1e-5)


def test_a_cast_of_the_model_does_not_touch_the_angles() -> None:
    cos, sin = rope_rotation(torch.tensor([[1001]]), 64, 1e4)
    assert cos.dtype == torch.float32
    assert cos[0, 0, 0, 0].item() == pytest.approx(math.cos(1001), abs=1e-6)
    assert sin[0, 0, 0, -1].item() == pytest.approx(math.sin(1001 * 1e4 ** (-62 / 64)), abs=1e-6)
    model = tiny_model().to(torch.bfloat16)
    assert not list(model.buffers())
    exact = tiny_model().to(torch.bfloat16).float()
    tokens = random_tokens()
    assert (model(tokens).float() - exact(tokens)).abs().max() < 0.1 * exact(tokens).abs().max()


def test_given_positions_are_used() -> None:
    model = tiny_model(position="learned")
    tokens = random_tokens(2, 4)
    columns = torch.arange(4).expand(2, 4)
    assert torch.equal(model(tokens, positions=columns), model(tokens))
    assert not torch.allclose(model(tokens, positions=columns + 3), model(tokens))
