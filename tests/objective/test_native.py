"""The walk over a tile in C++ against the plain one, and the whole objective with either."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmx.native import left_out
from lmx.objective import FusedObjective, Settings, Tiling, native
from lmx.objective.tile import Seen, Tile, TilePass


def tile(rows: int, width: int, *, bias: bool, rank: bool) -> Tile:
    """Return what a walk is given: some rows have their target in the tile, the others elsewhere."""
    draw = torch.Generator().manual_seed(0)
    return Tile(
        product=(4 * torch.randn(rows, width, generator=draw)).bfloat16(),
        bias=torch.randn(width, generator=draw) if bias else None,
        column=torch.randint(-2, width + 2, (rows,), generator=draw),
        rivals=torch.randn(rows, generator=draw) if rank else None,
        keep=None,
    )


def seen_before(rows: int) -> Seen:
    draw = torch.Generator().manual_seed(1)
    reference, peak, target, above = torch.randn(4, rows, generator=draw)
    return Seen(reference, peak, target, above.abs().round())


def plain_walk(tile_pass: TilePass, inputs: Tile, seen: Seen):
    shape = inputs.product.shape
    return tile_pass(inputs, seen, torch.empty(shape), torch.empty(shape))


@pytest.mark.parametrize("softcap", [None, 3.0, 0.01])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rank", [False, True])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (5, 7), (64, 33), (40, 1031)])
def test_equals_the_plain_walk(softcap, bias, rank, rows, width):
    inputs = tile(rows, width, bias=bias, rank=rank)
    tile_pass = TilePass(softcap, sloped=softcap is not None, headroom=6.0)  # some references move, some stay
    kept = [torch.zeros(rows, width + 9, dtype=torch.bfloat16) for _ in range(2)]
    wanted = plain_walk(tile_pass, inputs._replace(keep=kept[0][:, 4 : 4 + width]), seen_before(rows))
    torch.set_num_threads(2)  # back to one at the end of the module
    got = native.walk(tile_pass, inputs._replace(keep=kept[1][:, 4 : 4 + width]), seen_before(rows))
    for name, one, other in zip(Seen._fields, got[0], wanted[0], strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6, msg=name)
    torch.testing.assert_close(got[1], wanted[1], rtol=3e-6, atol=0)
    # a moment is a sum of terms of both signs
    torch.testing.assert_close(got[2], wanted[2], rtol=3e-6, atol=3e-6 * float(wanted[1].max()))
    assert not kept[1][:, :4].any() and not kept[1][:, 4 + width :].any(), "beside the tile"  # noqa: PT018
    # rounded up or down: a hair decides; of a softcap that is reached, 1 − (x / c)² is rounding alone
    torch.testing.assert_close(kept[1].float(), kept[0].float(), rtol=2**-7, atol=1e-5)


def test_exponentials_are_exact_to_float32():
    x = torch.linspace(-60, 39, 4001).bfloat16()[:, None]
    seen = Seen(*(torch.zeros(len(x)) for _ in Seen._fields))
    inputs = Tile(product=x, bias=None, column=torch.full((len(x),), -1), rivals=None, keep=None)
    _, total, _ = native.walk(TilePass(None, False, 40.0), inputs, seen)
    error = total.double() / x[:, 0].double().exp() - 1
    assert error.abs().max() < 4e-6  # that of x · log₂e in float32, the same as torch's own exp2 of it
    assert error[x[:, 0].abs() < 10].abs().max() < 8e-7


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(value):
    inputs = tile(4, 40, bias=False, rank=True)
    inputs.product[2, 17] = value
    _, total, _ = native.walk(TilePass(None, False, 40.0), inputs, seen_before(4))
    assert total.isfinite().tolist() == [True, True, False, True]


def test_an_impossible_token_adds_nothing():
    inputs = tile(3, 64, bias=False, rank=False)
    inputs.product[1, 5] = -math.inf
    tile_pass = TilePass(None, False, 40.0)
    _, total, _ = native.walk(tile_pass, inputs, seen_before(3))
    without = inputs._replace(product=inputs.product.clone())
    without.product[1, 5] = -200.0
    _, expected, _ = native.walk(tile_pass, without, seen_before(3))
    torch.testing.assert_close(total, expected, rtol=0, atol=0)


def measured(objective: FusedObjective) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(24, 16, generator=draw).bfloat16().requires_grad_()
    weight = torch.randn(70, 16, generator=draw).bfloat16().requires_grad_()
    targets = torch.randint(70, (24,), generator=draw)
    sums = objective(hidden, targets, weight=weight)
    sums.loss.backward()
    return [
        sums.nats,
        sums.entropy,
        sums.correct,
        sums.correct_top5,
        sums.confidence,
        hidden.grad,
        weight.grad,
    ]


SETTINGS = Settings(tiling=Tiling(rows=12, columns=32))


def test_without_it_the_plain_walk_serves():
    compiled = measured(FusedObjective(SETTINGS))
    with left_out():
        plain = measured(FusedObjective(SETTINGS))
    for got, wanted in zip(plain, compiled, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("sure", [0.0, 6.0, 12.0])
def test_gradients_are_as_exact_as_the_plain_walks(sure: float):
    """Against float64: neither a larger error nor a bias, for targets from unlikely to all but certain."""
    draw = torch.Generator().manual_seed(2)
    weight = 0.3 * torch.randn(700, 48, generator=draw)
    targets = torch.randint(700, (512,), generator=draw)
    rows = weight[targets]
    hidden = torch.randn(512, 48, generator=draw) + sure * rows / rows.square().sum(-1, keepdim=True)

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        inputs = [tensor.to(dtype, copy=True).requires_grad_() for tensor in (hidden, weight)]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            FusedObjective(SETTINGS)(inputs[0], targets, weight=inputs[1]).loss.backward()
        return [tensor.grad.double() for tensor in inputs]

    exact, compiled = gradients(torch.float64), gradients(torch.float32)
    with left_out():
        plains = gradients(torch.float32)
    assert any(not got.equal(plain) for got, plain in zip(compiled, plains, strict=True))
    for wanted, got, plain in zip(exact, compiled, plains, strict=True):
        error, usual = (got - wanted), (plain - wanted)
        assert 0 < error.norm() < 1.01 * usual.norm()
        along = [(part * wanted).sum() / wanted.square().sum() for part in (error, usual)]
        assert abs(along[0] - along[1]) < 1e-5, "a gradient too long or too short"


def test_a_softcap_that_is_a_whole_number():
    one, two = (
        measured(FusedObjective(Settings(softcap=softcap, tiling=SETTINGS.tiling))) for softcap in (30, 30.0)
    )
    assert all(a.equal(b) for a, b in zip(one, two, strict=True))
